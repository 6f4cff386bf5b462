"""Questions about pictures to answers: open, encode once, answer. `Asker` drives any answering backend."""

import itertools
import math
import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, overload

import numpy as np

import captioner.show.drawings  # noqa: F401  (registers what draws the results)
from captioner.backends.base import AnsweringBackend, Encoded
from captioner.backends.choice import open_answering
from captioner.errors import CaptionerError, CheckpointError, OptionError
from captioner.image import MAX_PIXELS, Picture
from captioner.options import plain_number
from captioner.prepared import Prepared, detached, prepare
from captioner.results import Answer, Failure, OtherAnswer, QuestionWord
from captioner.shipped import DEFAULT_ANSWERING_MODEL, find_model
from captioner.tokenizer.questions import question_words


@dataclass(frozen=True, eq=False)
class EncodedPicture:
    """A picture that a model has encoded, to be asked about any number of times.

    Attributes:
        prepared: the picture, and what the encoder took of it.
        encoded: the grid, behind the border of the backend that made it.
        digest: of the model's file.
    """

    prepared: Prepared
    encoded: Encoded
    digest: str


class Asker:
    """A model that is ready to answer questions.

    Args:
        backend: what computes the model. `load_answering` makes one of a file.
        name: of the model, as `Answer.model` has it.
    """

    def __init__(self, backend: AnsweringBackend, *, name: str = "model") -> None:
        self.backend, self.name = backend, name

    @property
    def answers(self) -> Sequence[str]:
        """The answers that the model chooses from."""
        return self.backend.answers

    @overload
    def ask(
        self, picture: Picture | EncodedPicture, question: str, *, n_best: int = 1, max_pixels: int = MAX_PIXELS
    ) -> Answer: ...
    @overload
    def ask(
        self, picture: Picture | EncodedPicture, question: list[str], *, n_best: int = 1, max_pixels: int = MAX_PIXELS
    ) -> list[Answer]: ...
    def ask(
        self,
        picture: Picture | EncodedPicture,
        question: str | list[str],
        *,
        n_best: int = 1,
        max_pixels: int = MAX_PIXELS,
    ) -> Answer | list[Answer]:
        """Answer a question about a picture, or a list of questions, for which the picture is encoded once.

        Args:
            picture: a path, bytes, a PIL image or an array (see `captioner.image.open_image`), or what `encode`
                returned.
            question: a text, or a list of them, which returns a list.
            n_best: answers to each question, the likeliest first.
            max_pixels: larger pictures are refused.

        Raises:
            ImageError: the picture does not open.
            OptionError: a question is no text, has no word, none that the model knows, or more words than it can read;
                or ``n_best`` is no whole number of at least 1.
            CheckpointError: the model's numbers are not finite, or the picture was encoded by another model.
        """
        several = isinstance(question, list)
        questions: list[str] = question if isinstance(question, list) else [question]
        n_best = plain_number(n_best)
        self.check_number(n_best)
        split = [self.split(one) for one in questions]  # refused before the picture is opened
        if not split:
            return []
        if not isinstance(picture, EncodedPicture):
            picture = self.encode(picture, max_pixels=max_pixels)
        found = self._answer(picture, questions, split, n_best=n_best)
        return found if several else found[0]

    def encode(self, picture: Picture, *, max_pixels: int = MAX_PIXELS, keep: int | None = None) -> EncodedPicture:
        """Encode a picture, for `ask`.

        Args:
            picture: as of `ask`.
            max_pixels: larger pictures are refused.
            keep: keep an upright copy of at most so many pixels a side, and not what was given.

        Raises:
            ImageError: it does not open.
        """
        return self.encode_prepared(prepare(picture, self.backend, max_pixels=max_pixels, keep=keep))

    def encode_all(
        self, pictures: Iterable[Picture], *, max_pixels: int = MAX_PIXELS
    ) -> Iterator[EncodedPicture | Failure]:
        """Encode any number of pictures as they come, on a CPU as many side by side as the backend has threads.

        Yields:
            For each picture, in order, what `encode` returns, or a `Failure` where it raises. What the iterator of the
            pictures raises comes after the pictures before.
        """

        def encode(picture: Picture) -> EncodedPicture | Failure:
            try:
                return self.encode(picture, max_pixels=max_pixels)
            except CaptionerError as error:
                return Failure.of(picture, error)

        raised: list[Exception] = []
        coming = _until_raised(pictures, raised)
        first = list(itertools.islice(coming, 2))
        if len(first) < 2 or self.backend.threads == 1:
            yield from map(encode, itertools.chain(first, coming))
            if raised:
                raise raised[0]
            return
        from concurrent.futures import Future, ThreadPoolExecutor

        coming = itertools.chain(first, coming)
        with ThreadPoolExecutor(max(os.cpu_count() or 1, self.backend.threads), "encode") as pool:
            waiting: deque[Future[EncodedPicture | Failure]] = deque()
            try:
                while True:
                    room = max(1, self.backend.threads) - len(waiting)
                    waiting.extend(pool.submit(encode, one) for one in itertools.islice(coming, max(0, room)))
                    if not waiting:
                        break
                    yield waiting.popleft().result()
            finally:
                for one in waiting:  # whoever stops early does not wait for pictures that nobody will see
                    one.cancel()
        if raised:
            raise raised[0]

    def encode_prepared(self, prepared: Prepared) -> EncodedPicture:
        """As `encode`, of a picture that `captioner.prepared.prepare` opened for this model."""
        encoded = self.backend.encode(np.stack([prepared.pixels]), [prepared.geometry])
        return EncodedPicture(prepared, encoded, self.backend.digest)

    def split(self, question: str) -> list[str]:
        """The words of a question.

        Raises:
            OptionError: it is no text, has no word, none that the model knows, or too many.
        """
        if not isinstance(question, str):
            raise OptionError(f"a question is a text, not {question!r:.60}")
        if any("\ud800" <= letter <= "\udfff" for letter in question):
            raise OptionError(f"the question {question!r:.60} is no Unicode text", remedy="write it in UTF-8")
        words = question_words(question)
        shown = question if len(question) <= 60 else f"{question[:60]}..."
        if not words:
            raise OptionError(f"the question '{shown}' has no words", remedy="ask something")
        if len(words) > self.backend.max_length:
            raise OptionError(
                f"the question '{shown}' has {len(words)} words, and the model '{self.name}' reads "
                f"{self.backend.max_length} at most",
                remedy="ask in fewer",
            )
        if not any(word in self.backend.vocabulary.ids for word in words):
            raise OptionError(
                f"the model '{self.name}' knows no word of the question '{shown}'",
                remedy="ask in English, in other words",
            )
        return words

    def check_number(self, n_best: int) -> None:
        """Raises OptionError: ``n_best`` is no whole number from 1 to the number of answers."""
        if type(n_best) is not int or not 1 <= n_best <= len(self.answers):
            raise OptionError(f"n_best must be a whole number from 1 to {len(self.answers)}, not {n_best!r}")

    def _answer(
        self, picture: EncodedPicture, questions: Sequence[str], split: Sequence[list[str]], *, n_best: int
    ) -> list[Answer]:
        if picture.digest != self.backend.digest:
            raise CheckpointError("the picture was encoded by another model", remedy="encode it with this one")
        ids = self.backend.vocabulary.ids
        rows = [self.backend.vocabulary.encode(words)[1:-1] for words in split]
        (found,) = self.backend.answer(picture.encoded, [rows])
        prepared, answers = picture.prepared, []
        for question, words, scores in zip(questions, split, found, strict=True):
            if not np.isfinite(scores.log_p).all():
                raise CheckpointError("the model's numbers are not finite: its training diverged, or it is damaged")
            order = np.argsort(-scores.log_p, kind="stable")[:n_best].tolist()
            best, *others = [OtherAnswer(self.answers[i], math.exp(float(scores.log_p[i]))) for i in order]
            answers.append(
                Answer(
                    text=best.text,
                    probability=best.probability,
                    question=question,
                    words=tuple(
                        QuestionWord(word, float(weight), word in ids)
                        for word, weight in zip(words, scores.words.tolist(), strict=True)
                    ),
                    map=scores.map,
                    image=prepared.image,
                    model=self.name,
                    geometry=prepared.geometry,
                    alternatives=tuple(others),
                    source=prepared.picture,
                )
            )
        return answers


def _until_raised(pictures: Iterable[Picture], raised: list[Exception]) -> Iterator[Picture]:
    """The pictures; what their iterator raises, the caller's own, is put into ``raised``."""
    try:
        for one in pictures:
            copy: Any = detached(one)  # a buffer may be filled again before it is encoded
            yield copy
    except Exception as error:
        raised.append(error)


def load_answering(
    model: str | os.PathLike[str] = DEFAULT_ANSWERING_MODEL,
    *,
    device: str | None = "auto",
    backend: str = "auto",
    threads: int | None = None,
) -> Asker:
    """An answering model by name or path, or of an exported folder; arguments as of `captioner.pipeline.load`.

    Raises:
        CheckpointError: there is no such model, its file is damaged, or it makes captions.
        OptionError: there is no such device or backend, or what it needs is not installed.
    """
    path = find_model(model, answering=True)
    chosen: dict[str, Any] = {"device": str(device or "auto"), "threads": threads}
    return Asker(open_answering(backend, path, **chosen), name=path.stem)
