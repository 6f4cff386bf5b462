"""Batches of pictures and questions about them. Seed, epoch and step alone decide their content."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from torch import Tensor

from captioner.data.records import Record
from captioner.errors import DataError
from captioner.tokenizer.questions import question_words
from captioner.tokenizer.vocabulary import UNKNOWN, Vocabulary
from captioner.training.batches import Batch, pad
from captioner.training.views import View

Target = tuple[tuple[int, float], ...]
"""The known answers to a question, by their number, each with the share of the people who gave it."""
_SIDES = {"left": "right", "right": "left"}


@dataclass(frozen=True)
class QuestionBatch(Batch):
    """Some pictures, and k questions about each.

    Attributes:
        tokens: (B * k, T), the words of the questions, padded; the k questions of a picture are consecutive rows.
        targets_of: (B * k), the answers to each; a row that only fills up its picture has none.
    """

    targets_of: tuple[Target, ...] = ()

    @property
    def questions(self) -> int:
        """Questions that have an answer."""
        return sum(map(bool, self.targets_of))

    def parts(self, count: int) -> list[Batch]:
        """As `Batch.parts`."""
        edges = [len(self.pictures) * i // count for i in range(count + 1)]
        k = self.copies
        return [
            replace(part, targets_of=self.targets_of[a * k : b * k])  # type: ignore[call-arg]
            for part, (a, b) in zip(super().parts(count), pairwise(edges), strict=True)
        ]


def frequent_answers(records: Sequence[Record], count: int) -> tuple[str, ...]:
    """The most frequent answers to the records' questions, each question's own most frequent one counted.

    Raises:
        DataError: there are no questions.
    """
    found: Counter[str] = Counter()
    for record in records:
        for asked in record.questions:
            found[Counter(asked.answers).most_common(1)[0][0]] += 1
    if not found:
        raise DataError("the data has no questions with answers", remedy="the objective 'answers' trains on questions")
    return tuple(answer for answer, _ in sorted(found.items(), key=lambda one: (-one[1], one[0]))[:count])


class QuestionBatches:
    """Batches of the pictures of a split with some of the questions about each.

    A picture with fewer questions than k is filled up with rows without an answer. A mirrored picture has "left" and
    "right" exchanged in its questions and answers. Every batch is full: the last of an epoch is filled up with the
    epoch's first pictures.
    """

    def __init__(
        self,
        records: Sequence[Record],
        vocabulary: Vocabulary,
        answers: Sequence[str],
        *,
        batch_pictures: int,
        questions_per_picture: int,
        max_length: int,
        horizontal_flip: bool,
        seed: int,
    ) -> None:
        numbers = {answer: i for i, answer in enumerate(answers)}
        self.tokens = [
            [vocabulary.encode(question_words(one.text)[:max_length])[1:-1] or [UNKNOWN] for one in record.questions]
            for record in records
        ]
        self.targets = [[_target(one.answers, numbers) for one in record.questions] for record in records]
        self.batch_pictures, self.questions_per_picture = min(batch_pictures, len(records)), questions_per_picture
        self.horizontal_flip, self.seed = horizontal_flip, seed
        self._sides = {
            vocabulary.ids[a]: vocabulary.ids[b] for a, b in _SIDES.items() if {a, b} <= vocabulary.ids.keys()
        }
        self._answer_sides = {numbers[a]: numbers[b] for a, b in _SIDES.items() if {a, b} <= numbers.keys()}

    @property
    def size(self) -> int:
        """Pictures of a batch."""
        return self.batch_pictures

    def __len__(self) -> int:
        """Batches of an epoch."""
        return -(-len(self.tokens) // self.batch_pictures)

    def epoch(self, number: int, *, start: int = 0, steady: bool = False) -> Iterator[Batch]:
        """The batches of an epoch from index ``start`` on; views are mirrored at most, ``steady`` or not."""
        order = np.random.default_rng((self.seed, number)).permutation(len(self.tokens))
        for step in range(start, len(self)):
            places = np.arange(step * self.batch_pictures, (step + 1) * self.batch_pictures) % len(order)
            draw = np.random.default_rng((self.seed, number, step))
            rows: list[list[int]] = []
            targets: list[Target] = []
            views: list[View] = []
            for picture in order[places].tolist():
                flip = bool(self.horizontal_flip and draw.random() < 0.5)
                views.append(View(flip=flip))
                for tokens, target in self._choose(picture, draw):
                    rows.append([self._sides.get(i, i) for i in tokens] if flip else tokens)
                    targets.append(tuple((self._answer_sides.get(i, i), p) for i, p in target) if flip else target)
            yield QuestionBatch(
                pictures=order[places].tolist(),
                views=views,
                tokens=pad(rows),
                boxes=[{}] * len(rows),
                targets_of=tuple(targets),
            )

    def _choose(self, picture: int, random: np.random.Generator) -> list[tuple[list[int], Target]]:
        """k questions of a picture, filled up where it has fewer."""
        k, own = self.questions_per_picture, len(self.tokens[picture])
        chosen = random.permutation(own)[:k].tolist()
        found = [(self.tokens[picture][i], self.targets[picture][i]) for i in chosen]
        return found + [([UNKNOWN], ())] * (k - len(found))


def _target(answers: Sequence[str], numbers: dict[str, int]) -> Target:
    counts = Counter(answers)
    return tuple((numbers[answer], count / len(answers)) for answer, count in counts.items() if answer in numbers)


def padded_questions(batch: Batch) -> Tensor:
    """The questions of a batch as (B, k, T)."""
    questions: Tensor = batch.tokens.unflatten(0, (len(batch.pictures), batch.copies))
    return questions
