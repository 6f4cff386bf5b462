"""How long a caption takes: from the start of the process, and in a stream on torch; and where the time goes.

    python benchmarks/captioning.py [--pictures FOLDER] [--count 200]

Pictures are drawn scenes where no folder is given. Every model in checkpoints/ is measured, and both decoders at
the shapes of their defaults with random weights and ends left out, so that every caption has 12 words: the time
of a step does not depend on the words. Ratios are within one run; absolute times depend on the machine.
"""

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from set_up import argument_parser

from captioner.backends.torch import TorchBackend
from captioner.checkpoint import Checkpoint
from captioner.data.scenes import draw_scene
from captioner.model.caption_model import CaptionModel, ModelConfig
from captioner.model.encoder import EncoderConfig
from captioner.model.lstm import LSTMConfig
from captioner.model.transformer import TransformerConfig
from captioner.options import Beam
from captioner.pipeline import Captioner, load
from captioner.shipped import shipped_models
from captioner.tokenizer.vocabulary import SPECIAL, Vocabulary

WORDS = 12
VOCABULARY = 3400


def random_model(decoder: LSTMConfig | TransformerConfig) -> Captioner:
    """A model of the default shapes with random weights."""
    words = Vocabulary(SPECIAL + tuple(f"word{i}" for i in range(VOCABULARY)))
    config = ModelConfig(encoder=EncoderConfig(stages=8), decoder=decoder)
    model = CaptionModel(config, vocabulary_size=len(words)).eval()
    return Captioner(TorchBackend(Checkpoint(model=model, vocabulary=words)), name="random")


class Shares:
    """Adds up the time spent in the encoder and in the decoder's steps."""

    def __init__(self, model: CaptionModel) -> None:
        self.encoder = self.decoder = 0.0
        encode, step = model.encode, model.decoder.step
        model.encode = self._timed("encoder", encode)  # type: ignore[method-assign]
        model.decoder.step = self._timed("decoder", step)  # type: ignore[method-assign]

    def _timed(self, name: str, function: Callable) -> Callable:  # type: ignore[type-arg]
        def timed(*arguments):  # type: ignore[no-untyped-def]
            began = time.perf_counter()
            try:
                return function(*arguments)
            finally:
                setattr(self, name, getattr(self, name) + time.perf_counter() - began)

        return timed


def stream(captioner: Captioner, pictures: list[Path]) -> None:
    """Captions per second, and the shares of encoder, decoder and the rest, at three widths."""
    shares = Shares(captioner.model)
    list(captioner.caption_all(pictures[:16]))  # warm
    fastest = None
    for width in (1, 3, 5):
        options = Beam(width=width, min_length=WORDS, max_length=WORDS)
        shares.encoder = shares.decoder = 0.0
        began = time.perf_counter()
        count = sum(1 for _ in captioner.caption_all(pictures, options=options))
        seconds = time.perf_counter() - began
        fastest = fastest or seconds
        rest = seconds - shares.encoder - shares.decoder
        print(
            f"  beam {width}: {count / seconds:6.1f} captions/s  ({seconds / fastest:.2f} x the time of beam 1)   "
            f"encoder {shares.encoder / seconds:4.0%}  decoder {shares.decoder / seconds:4.0%}  "
            f"everything else {rest / seconds:4.0%}"
        )


def start(picture: Path, runs: int) -> None:
    """Seconds from the start of the process to the caption."""
    commands = {
        "python -c 'import torch'": [sys.executable, "-c", "import torch"],
        "captioner --help": [sys.executable, "-m", "captioner", "--help"],
        "captioner caption PICTURE": [sys.executable, "-m", "captioner", "caption", str(picture)],
    }
    for name, command in commands.items():
        seconds = []
        for _ in range(runs):
            began = time.perf_counter()
            subprocess.run(command, check=True, capture_output=True)
            seconds.append(time.perf_counter() - began)
        print(f"  {name:<28} median {statistics.median(seconds):.2f} s, fastest {min(seconds):.2f} s of {runs}")


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--pictures", type=Path)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--runs", type=int, default=5)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if arguments.pictures:
            pictures = sorted(p for p in arguments.pictures.iterdir() if p.suffix == ".jpg")[: arguments.count]
            if not pictures:
                parser.error(f"{arguments.pictures}: no .jpg in it")
        else:
            pictures = [Path(folder) / f"{i}.png" for i in range(arguments.count)]
            for i, path in enumerate(pictures):
                draw_scene(i).image.save(path)
        print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {len(pictures)} pictures")
        if shipped_models():
            print("from the start of the process:")
            start(pictures[0], arguments.runs)
        for name in shipped_models():
            print(f"{name}:")
            stream(load(name, backend="torch"), pictures)  # whose parts can be timed
        for decoder in (LSTMConfig(), TransformerConfig()):
            print(f"{type(decoder).__name__.removesuffix('Config')}, default shape, random weights:")
            stream(random_model(decoder), pictures)


if __name__ == "__main__":
    main()
