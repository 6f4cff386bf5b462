r"""Make a model file ready to ship: choose its decoding on dev, score it on test once, write both into it.

python -m captioner.training.export \
    runs/first/best.safetensors --data flickr8k/ --output checkpoints/default.safetensors
"""

import argparse
import itertools
import json
import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from captioner import checkpoint
from captioner.data.readers import read
from captioner.data.records import Record, of_split, usable
from captioner.decoding import Beam
from captioner.errors import CaptionerError, CheckpointError
from captioner.metrics import Scores, evaluate, tokenize
from captioner.metrics.description import Description, describe
from captioner.model.grid import Grid
from captioner.training.dev import encode_records, write_captions

WIDTHS = (3, 5)
LENGTH_PENALTIES = (0.6, 0.8, 1.0)
NO_REPEATS = (0, 2)


def as_stored(model: checkpoint.Checkpoint) -> checkpoint.Checkpoint:
    """The model as its file will hold it, in 16 bits: that is whose scores the file claims."""
    with TemporaryDirectory() as folder:
        file = Path(folder) / "stored.safetensors"
        checkpoint.save(file, model)
        try:
            return checkpoint.load(file)
        except CheckpointError:
            raise CheckpointError("the model has weights that do not fit into the file's 16 bits") from None


def choose_decoding(model: checkpoint.Checkpoint, dev: list[Record]) -> tuple[Beam, dict[str, float]]:
    """The beam of the best dev scores that repeats itself no more than people do, and the figures that it reaches.

    The best is the one with the largest sum of BLEU-1, BLEU-4 and CIDEr-D: of captions of about the same CIDEr-D the
    shorter ones are more precise, up to the length of the references.

    Args:
        model: to be scored.
        dev: records of the dev split.
    """
    people = describe([tokenize(caption) for record in dev for caption in record.captions]).repeats
    print(f"dev  {people:.1%} of the references hold a pair of words twice", file=sys.stderr, flush=True)
    tried = {}
    grids = list(encode_records(model.model, dev, device=torch.device("cpu")))
    for width, penalty, no_repeat in itertools.product(WIDTHS, LENGTH_PENALTIES, NO_REPEATS):
        options = Beam(width=width, length_penalty=penalty, no_repeat_ngram=no_repeat)
        scores, looks = score(model, dev, grids, options)
        if looks.repeats <= people:
            tried[options] = scores
        print(
            f"dev  beam {width}  length penalty {penalty}  no {no_repeat} words twice  {_line(scores)}  "
            f"{looks.mean_length:.1f} words, {looks.vocabulary} different, {looks.repeats:.1%} repeat",
            file=sys.stderr,
            flush=True,
        )
    best = max(tried, key=lambda options: tried[options].bleu[0] + tried[options].bleu[3] + tried[options].cider)
    return best, figures(tried[best])


def score(
    model: checkpoint.Checkpoint, records: list[Record], grids: Iterable[Grid], options: Beam
) -> tuple[Scores, Description]:
    """Free-running captions of the records, whose grids are given, against all their references."""
    captions = write_captions(model.model, model.vocabulary, records, grids, options=options)
    scores = evaluate(captions, {record.id: list(record.captions) for record in records})
    return scores, describe([tokenize(caption) for caption in captions.values()])


def figures(scores: Scores) -> dict[str, float]:
    """Scores as papers print them, times 100."""
    bleu = {f"BLEU-{n}": value for n, value in enumerate(scores.bleu, 1)}
    return {
        name: round(100 * value, 4)
        for name, value in (bleu | {"ROUGE-L": scores.rouge_l, "CIDEr": scores.cider}).items()
    }


def _line(scores: Scores) -> str:
    return "  ".join(f"{name} {value:.1f}" for name, value in figures(scores).items())


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m captioner.training.export", description=__doc__)
    parser.add_argument("model", type=Path, help="the model file that a run made")
    parser.add_argument("--data", type=Path, required=True, help="captions with the splits dev and test")
    parser.add_argument("--name", default="", help="how the data is called in the file")
    parser.add_argument("--output", type=Path, required=True, help="the model file to write")
    parser.add_argument("--side", type=int, help="show it pictures of this size, in pixels, from now on")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    try:
        model = as_stored(checkpoint.load(arguments.model))
        if arguments.side is not None:
            model.model.take_side(arguments.side)
        records, _ = usable([record for record in read(arguments.data) if record.split in ("dev", "test")])
        decoding, dev = choose_decoding(model, of_split(records, "dev"))
        held_out = of_split(records, "test")
        grids = encode_records(model.model, held_out, device=torch.device("cpu"))
        test = figures(score(model, held_out, grids, decoding)[0])
        about: dict[str, Any] = {
            **model.about,
            "decoding": {name: getattr(decoding, name) for name in ("width", "length_penalty", "no_repeat_ngram")},
            "dev": {"on": f"{arguments.name} dev", "scores": dev},
            "test": {"on": f"{arguments.name} test", "pictures": len(held_out), "scores": test},
        }
        checkpoint.save(arguments.output, replace(model, about=about))
    except CaptionerError as error:
        print(f"ship: {error}", file=sys.stderr)
        return 2
    print(json.dumps(about["test"]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
