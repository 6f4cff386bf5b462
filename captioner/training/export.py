"""A model file for release: decoding is chosen on dev, scores are measured on test, and both are written into it."""

import itertools
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import torch

from captioner import checkpoint
from captioner.data.records import Record, of_split
from captioner.decoding import Beam
from captioner.errors import CheckpointError, DataError
from captioner.metrics import Scores, evaluate, tokenize
from captioner.metrics.description import Description, describe
from captioner.model.grid import Grid
from captioner.training.dev import encode_records, generate_captions

WIDTHS = (3, 5)
LENGTH_PENALTIES = (0.6, 0.8, 1.0)
NO_REPEATS = (0, 2)


_Stored = TypeVar("_Stored", checkpoint.Checkpoint, checkpoint.AnswerCheckpoint)


def as_stored(model: _Stored, *, device: str = "cpu") -> _Stored:
    """The model as its file will hold it, in 16 bits, on a device: the scores must be those of the file.

    Raises:
        CheckpointError: a weight is too large for 16 bits.
    """
    load: Callable[..., Any] = (
        checkpoint.load if isinstance(model, checkpoint.Checkpoint) else checkpoint.load_answering
    )
    with TemporaryDirectory() as folder:
        file = Path(folder) / "stored.safetensors"
        checkpoint.save(file, model)
        try:
            stored: _Stored = load(file, device=device)
        except CheckpointError:
            raise CheckpointError("the model has weights that do not fit into the file's 16 bits") from None
    return stored


def device_of(model: checkpoint.Checkpoint | checkpoint.AnswerCheckpoint) -> torch.device:
    """Where a model's weights are."""
    return next(model.model.parameters()).device


def choose_decoding(model: checkpoint.Checkpoint, dev: list[Record]) -> tuple[Beam, dict[str, float]]:
    """The beam options of the best dev scores whose captions repeat words no more than the references, and the scores.

    The best options have the largest sum of BLEU-1, BLEU-4 and CIDEr-D: of captions of about the same CIDEr-D the
    shorter ones are more precise, up to the length of the references.

    Args:
        model: to be scored.
        dev: records of the dev split.

    Raises:
        DataError: with every choice, captions repeat words more often than the references.
    """
    people = describe([tokenize(caption) for record in dev for caption in record.captions]).repeats
    print(f"dev  {people:.1%} of the references hold a pair of words twice", file=sys.stderr, flush=True)
    tried = {}
    grids = list(encode_records(model.model, dev, device=device_of(model)))
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
    if not tried:
        raise DataError(
            "with every choice of decoding, captions repeat words more often than the references",
            remedy="train longer, or choose the decoding with --decoding",
        )
    best = max(tried, key=lambda options: tried[options].bleu[0] + tried[options].bleu[3] + tried[options].cider)
    return best, figures(tried[best])


def score(
    model: checkpoint.Checkpoint, records: list[Record], grids: Iterable[Grid], options: Beam
) -> tuple[Scores, Description]:
    """Free-running captions of the records, whose grids are given, against all their references."""
    captions = generate_captions(model.model, model.vocabulary, records, grids, options=options)
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


def _stored(decoding: Beam) -> dict[str, Any]:
    """The options that the scores are measured with: the three that are chosen, and others that were given."""
    chosen, usual = ("width", "length_penalty", "no_repeat_ngram"), Beam().as_dict()
    return {name: value for name, value in decoding.as_dict().items() if name in chosen or value != usual[name]}


def export(
    model: checkpoint.Checkpoint, records: Sequence[Record], *, name: str = "", decoding: Beam | None = None
) -> checkpoint.Checkpoint:
    """The model with its decoding options and its scores.

    Args:
        model: as `as_stored` returns it.
        records: of the splits dev and test.
        name: of the data.
        decoding: to use; None to choose it on dev.

    Raises:
        DataError: there are no dev or no test pictures.
    """
    dev, test = of_split(records, "dev"), of_split(records, "test")
    for split, found in (("dev", dev), ("test", test)):
        if not found:
            raise DataError(f"the data has no pictures of the split '{split}'", remedy="export needs dev and test")
    device = device_of(model)
    if decoding is None:
        decoding, dev_figures = choose_decoding(model, dev)
    else:
        dev_figures = figures(score(model, dev, encode_records(model.model, dev, device=device), decoding)[0])
    test_figures = figures(score(model, test, encode_records(model.model, test, device=device), decoding)[0])
    about: dict[str, Any] = {
        **model.about,
        "decoding": _stored(decoding),
        "dev": {"on": f"{name} dev".strip(), "scores": dev_figures},
        "test": {"on": f"{name} test".strip(), "pictures": len(test), "scores": test_figures},
    }
    return replace(model, about=about)
