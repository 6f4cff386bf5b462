"""Batches of pictures and questions about them. Seed, epoch and step alone decide their content."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from torch import Tensor

from captioner.data.records import AnsweredQuestion, Boxes, Record
from captioner.errors import DataError
from captioner.grounding.objects import name_objects
from captioner.tokenizer.questions import question_words
from captioner.tokenizer.vocabulary import UNKNOWN, Vocabulary, is_word
from captioner.training.batches import Batch, pad
from captioner.training.made_questions import KINDS, MadeQuestion
from captioner.training.presence import PresenceQuestions
from captioner.training.transfer_questions import TransferQuestions
from captioner.training.views import View
from captioner.training.word_boxes import NamedBoxes

Target = tuple[tuple[int, float], ...]
"""The known answers to a question, by their number, each with the share of the people who gave it."""
_SIDES = {"left": "right", "right": "left"}


@dataclass(frozen=True)
class QuestionBatch(Batch):
    """Some pictures, and k questions about each.

    Attributes:
        tokens: (B * k, T), the words of the questions, padded; the k questions of a picture are consecutive rows.
        boxes: (B * k), where what the answer names is, by the number 0 of the question's one map.
        targets_of: (B * k), the answers to each; a row that only fills up its picture has none.
        weights: (B * k), of each question in the loss.
        distilled: (B * k), whether a teacher is asked it too.
    """

    targets_of: tuple[Target, ...] = ()
    weights: tuple[float, ...] = ()
    distilled: tuple[bool, ...] = ()

    @property
    def steps(self) -> int:
        """The maps of a question."""
        return 1

    @property
    def questions(self) -> int:
        """Questions that have an answer."""
        return sum(map(bool, self.targets_of))

    @property
    def weight(self) -> float:
        """The sum of the weights of the questions that have an answer."""
        return sum(weight for weight, target in zip(self.weights, self.targets_of, strict=True) if target)

    @property
    def distilled_weight(self) -> float:
        """The sum of the weights of the questions that a teacher is asked."""
        return sum(weight for weight, one in zip(self.weights, self.distilled, strict=True) if one)

    def parts(self, count: int) -> list[Batch]:
        """As `Batch.parts`."""
        edges = [len(self.pictures) * i // count for i in range(count + 1)]
        k = self.copies
        return [
            replace(  # type: ignore[call-arg]
                part,
                targets_of=self.targets_of[a * k : b * k],
                weights=self.weights[a * k : b * k],
                distilled=self.distilled[a * k : b * k],
            )
            for part, (a, b) in zip(super().parts(count), pairwise(edges), strict=True)
        ]


def frequent_answers(records: Sequence[Record], count: int) -> tuple[str, ...]:
    """The most frequent answers to the records' questions, each question's own most frequent one counted.

    An answer that a model file cannot hold (`captioner.tokenizer.vocabulary.is_word`) is none of them.

    Raises:
        DataError: there are no questions.
    """
    found: Counter[str] = Counter()
    for record in records:
        for asked in record.questions:
            found[Counter(asked.answers).most_common(1)[0][0]] += 1
    if not any(map(is_word, found)):
        raise DataError("the data has no questions with answers", remedy="the objective 'answers' trains on questions")
    kept = [(answer, times) for answer, times in found.items() if is_word(answer)]
    return tuple(answer for answer, _ in sorted(kept, key=lambda one: (-one[1], one[0]))[:count])


@dataclass(frozen=True)
class EncodedQuestion:
    """A question as it is trained on: the words' ids, the known answers, boxes of what these name, the weight, and
    whether a teacher is asked it too."""

    tokens: list[int]
    target: Target
    boxes: Boxes = ()
    weight: float = 1.0
    distilled: bool = True


_FILLER = EncodedQuestion([UNKNOWN], (), distilled=False)


class QuestionBatches:
    """Batches of the pictures of a split with some of the questions about each.

    The k questions of a picture are some of its own and those made for the epoch, which get half of the rows, or as
    many as its own leave free. A picture with fewer questions than k is filled up with rows without an answer. A
    mirrored picture has "left" and "right" exchanged in its questions and answers; one where a word or an answer has no
    such counterpart is not mirrored. Every batch is full: the last of an epoch is filled up with the epoch's first
    pictures.

    Args:
        records: the pictures.
        vocabulary: of the questions.
        answers: to choose from.
        batch_pictures: pictures of a batch.
        questions_per_picture: k.
        max_length: words; longer questions are truncated.
        horizontal_flip: mirror half of the pictures.
        seed: of the order and of all choices.
        made: questions made of the captions of each picture; empty for none.
        made_per_picture: how many of these a picture has in an epoch.
        presence: of the same pictures, draws presence questions; None for none.
        presence_per_picture: how many of these a picture has in an epoch, on average.
        made_weight: of made, presence and transfer questions in the loss; that of others is 1.
        transfer: of the same pictures, draws questions that a teacher alone answers, for the rows that are left; None
            for none.
        transfer_per_picture: how many of these a picture has in an epoch, at most.
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
        made: Sequence[Sequence[MadeQuestion]] = (),
        made_per_picture: int = 0,
        presence: PresenceQuestions | None = None,
        presence_per_picture: float = 0.0,
        made_weight: float = 1.0,
        transfer: TransferQuestions | None = None,
        transfer_per_picture: int = 0,
    ) -> None:
        numbers = {answer: i for i, answer in enumerate(answers)}
        self._numbers, self._vocabulary, self._max_length = numbers, vocabulary, max_length
        self.questions = [[self._own(one, record) for one in record.questions] for record in records]
        self.made_weight, self.made_per_picture = made_weight, made_per_picture
        self.made = [
            [(one.kind, self._made(one, named)) for one in some if one.answer in numbers]
            for some, named in zip(made, map(NamedBoxes.of, records), strict=True)
        ] if made else [[] for _ in records]  # fmt: skip
        self.presence, self.presence_per_picture = presence, presence_per_picture
        self.transfer, self.transfer_per_picture = transfer, transfer_per_picture
        self.batch_pictures, self.questions_per_picture = min(batch_pictures, len(records)), questions_per_picture
        self.horizontal_flip, self.seed = horizontal_flip, seed
        self._sides = {
            vocabulary.ids[a]: vocabulary.ids[b] for a, b in _SIDES.items() if {a, b} <= vocabulary.ids.keys()
        }
        mirrored = {answer: _mirrored(answer) for answer in answers}
        self._answer_sides = {numbers[a]: numbers[b] for a, b in mirrored.items() if a != b and b in numbers}
        # What has no counterpart on the other side would be false of the mirrored picture.
        lonely = {vocabulary.ids[word] for word in _SIDES if word in vocabulary.ids} - self._sides.keys()
        lonely_answers = {numbers[a] for a, b in mirrored.items() if b not in numbers}
        self.may_flip = [
            horizontal_flip
            and not any(
                lonely.intersection(one.tokens) or lonely_answers.intersection(number for number, _ in one.target)
                for one in (*own, *(one for _, one in some))
            )
            for own, some in zip(self.questions, self.made, strict=True)
        ]

    @property
    def size(self) -> int:
        """Pictures of a batch."""
        return self.batch_pictures

    @property
    def has_room(self) -> bool:
        """Whether the own questions of some picture leave rows for others."""
        return any(len(own) < self.questions_per_picture for own in self.questions)

    def __len__(self) -> int:
        """Batches of an epoch."""
        return -(-len(self.questions) // self.batch_pictures)

    def epoch(self, number: int, *, start: int = 0, steady: bool = False) -> Iterator[Batch]:
        """The batches of an epoch from index ``start`` on; views are mirrored at most, ``steady`` or not."""
        order = np.random.default_rng((self.seed, number)).permutation(len(self.questions))
        presence = self._presence(np.random.default_rng((self.seed, number, len(self))))
        for step in range(start, len(self)):
            pictures = order[np.arange(step * self.batch_pictures, (step + 1) * self.batch_pictures) % len(order)]
            draw = np.random.default_rng((self.seed, number, step))
            rows: list[EncodedQuestion] = []
            views: list[View] = []
            for picture in pictures.tolist():
                flip = bool(self.horizontal_flip and draw.random() < 0.5) and self.may_flip[picture]
                views.append(View(flip=flip))
                chosen = self._choose(picture, draw, presence.get(picture, ()))
                rows += [self._mirrored(one) for one in chosen] if flip else chosen
            yield QuestionBatch(
                pictures=pictures.tolist(),
                views=views,
                tokens=pad([one.tokens for one in rows]),
                boxes=[{0: one.boxes} if one.boxes else {} for one in rows],
                targets_of=tuple(one.target for one in rows),
                weights=tuple(one.weight for one in rows),
                distilled=tuple(one.distilled for one in rows),
            )

    def ids(self, words: Sequence[str]) -> list[int]:
        """A question's words as ids; at least one."""
        return self._vocabulary.encode(words[: self._max_length])[1:-1] or [UNKNOWN]

    def _own(self, asked: AnsweredQuestion, record: Record) -> EncodedQuestion:
        boxes: Boxes = ()
        if record.objects:
            best = Counter(asked.answers).most_common(1)[0][0]
            named = dict.fromkeys(one.category for one in name_objects(question_words(best)))
            boxes = tuple(box for category in named for box in record.objects.get(category, ()))
        return EncodedQuestion(self.ids(question_words(asked.text)), _target(asked.answers, self._numbers), boxes)

    def _made(self, made: MadeQuestion, named: NamedBoxes) -> EncodedQuestion:
        boxes = named.find(made.noun, made.category)
        return EncodedQuestion(self.ids(made.words), _target((made.answer,), self._numbers), boxes, self.made_weight)

    def _presence(self, random: np.random.Generator) -> dict[int, list[EncodedQuestion]]:
        """The presence questions of an epoch by picture."""
        if self.presence is None:
            return {}
        drawn = self.presence.epoch(random, per_picture=self.presence_per_picture)
        found = {}
        for picture, some in drawn.items():
            found[picture] = [
                EncodedQuestion(
                    self.ids(one.words),
                    _target(("yes" if one.present else "no",), self._numbers),
                    one.boxes,
                    self.made_weight,
                    distilled=False,  # captions and boxes know better than a teacher what is there
                )
                for one in some
            ]
        return found

    def _choose(
        self, picture: int, random: np.random.Generator, presence: Sequence[EncodedQuestion]
    ) -> list[EncodedQuestion]:
        """k questions of a picture, filled up where it has fewer."""
        k, own, made = self.questions_per_picture, self.questions[picture], self.made[picture]
        extra = list(presence)
        if made and self.made_per_picture:
            shares = np.array([KINDS[kind] / sum(kind == other for other, _ in made) for kind, _ in made])
            count = min(self.made_per_picture, len(made))
            drawn = random.choice(len(made), count, replace=False, p=shares / shares.sum())
            extra += [made[i][1] for i in drawn.tolist()]
        chosen = [own[i] for i in random.permutation(len(own)).tolist()]
        room = max(k - len(own), k // 2) if own else k
        rows = [*extra[:room], *chosen][:k]
        if self.transfer is not None and (count := min(self.transfer_per_picture, k - len(rows))):
            drawn_questions = self.transfer.draw(picture, random, count)
            others = [self.questions[other][number] for other, number in drawn_questions]
            rows += [EncodedQuestion(one.tokens, (), weight=self.made_weight) for one in others]
        return rows + [_FILLER] * (k - len(rows))

    def _mirrored(self, one: EncodedQuestion) -> EncodedQuestion:
        """The question about the mirrored picture; a batch mirrors the boxes by its views."""
        tokens = [self._sides.get(i, i) for i in one.tokens]
        return replace(one, tokens=tokens, target=tuple((self._answer_sides.get(i, i), p) for i, p in one.target))


def _mirrored(answer: str) -> str:
    """An answer about the mirrored picture."""
    return " ".join(_SIDES.get(word, word) for word in answer.split(" "))


def _target(answers: Sequence[str], numbers: dict[str, int]) -> Target:
    counts = Counter(answers)
    return tuple((numbers[answer], count / len(answers)) for answer, count in counts.items() if answer in numbers)


def padded_questions(batch: Batch) -> Tensor:
    """The questions of a batch as (B, k, T)."""
    questions: Tensor = batch.tokens.unflatten(0, (len(batch.pictures), batch.copies))
    return questions
