"""A tiny random model of each foreign family beside a tiny random one of ours: what the border costs.

    python benchmarks/foreign.py [--pieces 12] [--turns 7]

All have 2 layers of width 16 to 32 and see 32 x 32 or 64 x 64 pixels, so that the figures are those of the code around
the arithmetic. Each column is a ratio to ours, from medians of turns in one process on one thread.
"""

import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from set_up import argument_parser

from captioner import checkpoint
from captioner.decoding import decode
from captioner.options import Greedy
from captioner.pipeline import Captioner, load
from captioner.pipeline.word_maps import encode

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the builders are those of the tests

from tests.conftest import tiny_checkpoint
from tests.foreign_models import BUILDERS, write

_PICTURES = 4
_WHAT = ("encode", "a piece", "read")


def seconds(model: Captioner, pieces: int, turns: int) -> tuple[float, float, float]:
    """Medians of encoding, of decoding for each piece, and of reading a caption."""
    generator = np.random.default_rng(0)
    ready = [model.prepare(generator.integers(0, 256, (60, 80, 3), dtype=np.uint8)) for _ in range(_PICTURES)]
    options = Greedy(max_length=pieces, min_length=pieces)
    captions = [[[4, 5, 6, 7, 8]]] * _PICTURES
    times = []
    for _ in range(turns):
        marks = [time.process_time()]
        encoded = encode(model.backend, ready)
        marks.append(time.process_time())
        decode(model.backend, encoded, options)
        marks.append(time.process_time())
        model.backend.score(encoded, captions)
        marks.append(time.process_time())
        times.append(np.diff(marks) / (1, pieces + 1, 1))
    return tuple(statistics.median(column) for column in zip(*times, strict=True))  # type: ignore[return-value]


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--pieces", type=int, default=12)
    parser.add_argument("--turns", type=int, default=7)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as place:
        ours = Path(place) / "ours.safetensors"
        checkpoint.save(ours, tiny_checkpoint("transformer"))
        base = seconds(load(ours, backend="torch", device="cpu"), options.pieces, options.turns)
        times = "  ".join(f"{what} {1e3 * time:6.1f} ms" for what, time in zip(_WHAT, base, strict=True))
        print(f"{'ours, Transformer':<20} {times}, for {_PICTURES} pictures")
        for name in BUILDERS:
            folder = Path(place) / name
            folder.mkdir()
            write(name, folder)
            found = seconds(load(folder, device="cpu"), options.pieces, options.turns)
            ratios = [one / of for one, of in zip(found, base, strict=True)]
            times = "  ".join(f"{what} {ratio:6.2f}   " for what, ratio in zip(_WHAT, ratios, strict=True))
            print(f"{name:<20} {times} of ours")


if __name__ == "__main__":
    main()
