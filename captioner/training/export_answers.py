"""An answering model for release: its accuracies on dev and test are measured and written into its file."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from captioner.backends.torch_answering import TorchAnsweringBackend
from captioner.checkpoint import AnswerCheckpoint
from captioner.data.records import AnsweredQuestion, Record, of_split
from captioner.errors import CheckpointError, DataError
from captioner.image import Geometry
from captioner.metrics.vqa import exact_accuracy, vqa_accuracy
from captioner.model.grid import Grid
from captioner.tokenizer.questions import question_words
from captioner.tokenizer.vocabulary import UNKNOWN
from captioner.training.dev import encode_records
from captioner.training.export import device_of

EXACT, OFFICIAL = "accuracy", "VQA accuracy"
_GRAY = 128


def export_answers(model: AnswerCheckpoint, records: Sequence[Record], *, name: str = "") -> AnswerCheckpoint:
    """The model with its scores: ``about["dev"]`` and ``about["test"]``, each where the data have the split.

    Each has "on", the name of the data and the split; "pictures" and "questions", how many; "scores", the accuracies as
    papers print them, times 100, by the source of the questions, and "VQA accuracy" where several people answered;
    "counts", the questions that each of "scores" is the mean of; and "without the picture", the same scores of answers
    about a gray picture.

    Args:
        model: as `captioner.training.export.as_stored` returns it.
        records: with questions, of the splits dev and test.
        name: of the data.

    Raises:
        DataError: neither split has questions.
    """
    found: dict[str, Any] = {}
    for split in ("dev", "test"):
        some = [record for record in of_split(records, split) if record.questions]
        if some:
            found[split] = {"on": f"{name} {split}".strip(), **score(model, some)}
    if not found:
        raise DataError(
            "the data has no questions of the splits 'dev' and 'test'", remedy="export measures accuracy on these"
        )
    return replace(model, about={**{k: v for k, v in model.about.items() if k not in ("dev", "test")}, **found})


def score(model: AnswerCheckpoint, records: Sequence[Record]) -> dict[str, Any]:
    """The accuracies of the answers to the records' questions; see `export_answers`. Raises ImageError."""
    backend = TorchAnsweringBackend(model)
    gray = _gray(backend)
    seen: dict[str, list[float]] = defaultdict(list)
    blind: dict[str, list[float]] = defaultdict(list)
    device, at = device_of(model), 0
    for grid in encode_records(model.model, records, device=device):  # type: ignore[arg-type]
        some = records[at : at + len(grid)]
        at += len(grid)
        questions = [record.questions for record in some]
        for encoded, scores in (
            (grid, seen),
            (gray.select(torch.zeros(len(grid), dtype=torch.long, device=device)), blind),
        ):
            for asked, answer in _answers(backend, encoded, questions):
                for measure, value in _values(asked, answer):
                    scores[measure].append(value)
    return {
        "pictures": len(records),
        "questions": sum(len(record.questions) for record in records),
        "scores": _means(seen),
        "counts": {measure: len(seen[measure]) for measure in _means(seen)},
        "without the picture": _means(blind),
    }


def _gray(backend: TorchAnsweringBackend) -> Grid:
    side = backend.side
    geometry = Geometry(size=(side, side), side=side, grid=backend.grid_shape, pad=backend.pad)
    return backend.encode(np.full((1, side, side, 3), _GRAY, dtype=np.uint8), [geometry])


def _answers(
    backend: TorchAnsweringBackend, encoded: Grid, questions: Sequence[Sequence[AnsweredQuestion]]
) -> Iterator[tuple[AnsweredQuestion, str]]:
    """Each question and its answer, "" for a question that the model refuses: see `captioner.asking.Asker.split`."""
    split = [[question_words(one.text) for one in some] for some in questions]
    known = backend.vocabulary.ids
    rows = [
        [backend.vocabulary.encode(words[: backend.max_length])[1:-1] or [UNKNOWN] for words in some] for some in split
    ]
    for some, words, found in zip(questions, split, backend.answer(encoded, rows), strict=True):
        for asked, own, scores in zip(some, words, found, strict=True):
            if not np.isfinite(scores.log_p).all():
                raise CheckpointError("the model's numbers are not finite: its training diverged")
            readable = len(own) <= backend.max_length and any(word in known for word in own)
            yield asked, backend.answers[int(scores.log_p.argmax())] if readable else ""


def _values(asked: AnsweredQuestion, answer: str) -> Iterable[tuple[str, float]]:
    """What an answer counts, by measure."""
    yield asked.source or EXACT, exact_accuracy(answer, asked.right)
    if len(asked.answers) > 1:
        yield OFFICIAL, vqa_accuracy(answer, asked.answers)


def _means(values: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """Means times 100: the sources in their order, the official accuracy last."""
    ordered = sorted(values, key=lambda measure: (measure == OFFICIAL, measure))
    return {measure: round(100 * sum(values[measure]) / len(values[measure]), 4) for measure in ordered}
