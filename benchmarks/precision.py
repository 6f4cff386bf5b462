"""Exported folders of one model in several precisions: size, speed, and CIDEr on pictures with references.

    python benchmarks/precision.py --data flickr8k/ [--split dev] [--count 1000] FOLDER ...

Folders are those that ``captioner export NAME --output FOLDER --precision ...`` writes; the first is the baseline.
Speed is measured on the first picture, in turns, on one thread, and CIDEr on all of them.
"""

import os
import statistics
import time
from pathlib import Path

from set_up import argument_parser

from captioner.data.readers import read
from captioner.decoding import decode
from captioner.metrics import evaluate
from captioner.pipeline import Captioner, load
from captioner.pipeline.word_maps import encode
from captioner.results import Caption

_TURNS = 15


def speeds(models: dict[str, Captioner], picture: Path) -> dict[str, tuple[float, float]]:
    """Median seconds of encoding and of decoding by folder."""
    prepared = {name: model.prepare(picture) for name, model in models.items()}
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in models}
    for _ in range(_TURNS):
        for name, model in models.items():
            begin = time.perf_counter()
            encoded = encode(model.backend, [prepared[name]])
            middle = time.perf_counter()
            decode(model.backend, encoded, model.default_options)
            times[name].append((middle - begin, time.perf_counter() - middle))
    return {
        name: (statistics.median(a for a, _ in found), statistics.median(b for _, b in found))
        for name, found in times.items()
    }


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--data", required=True, type=Path)
    parser.add_argument("--split", default="dev")
    parser.add_argument("--count", type=int, default=1000)
    options = parser.parse_args()
    records = [record for record in read(options.data) if record.split == options.split][: options.count]
    models = {str(folder): load(folder, device="cpu", threads=1) for folder in options.folders}
    assert isinstance(records[0].image, Path)
    times = speeds(models, records[0].image)
    base = times[str(options.folders[0])]
    print(f"load {os.getloadavg()[0]:.1f}, {len(records)} pictures of {options.split}")
    baseline: dict[str, str] = {}
    for name, model in models.items():
        outcomes = list(model.caption_all([record.image for record in records]))
        texts = {str(i): one.text for i, one in enumerate(outcomes) if isinstance(one, Caption)}
        scores = evaluate(texts, {str(i): list(record.captions) for i, record in enumerate(records)})
        baseline = baseline or texts
        size = sum(file.stat().st_size for file in Path(name).glob("*.onnx"))
        alike = sum(text == baseline[i] for i, text in texts.items())
        print(
            f"{name}: {size / 1e6:.1f} MB; encoder {times[name][0] / base[0]:.2f}, beam search "
            f"{times[name][1] / base[1]:.2f} of the first; CIDEr {100 * scores.cider:.2f}, BLEU-4 "
            f"{100 * scores.bleu[3]:.2f}; {alike} captions of the first"
        )


if __name__ == "__main__":
    main()
