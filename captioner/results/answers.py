"""Answers to questions, with where the model looked in the picture and in the question."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from captioner.image import Geometry, Picture
from captioner.results.shown import OverPicture, map_key

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True)
class QuestionWord:
    """A word of a question, and how much it mattered for the answer.

    Attributes:
        text: the word, a PTB token.
        weight: the attention to it; the weights of a question sum to 1.
        known: False for a word that the model does not know, which it read as any unknown word.
    """

    text: str
    weight: float
    known: bool = True


@dataclass(frozen=True)
class OtherAnswer:
    """Another answer to the same question.

    Attributes:
        text: the answer.
        probability: of it.
    """

    text: str
    probability: float


@dataclass(frozen=True, kw_only=True, eq=False)
class Answer(OverPicture):
    """An answer to a question about a picture, with where the model looked, in the picture and in the question.

    Attributes:
        text: the answer, one of those that the model chooses from.
        probability: of it, among all of them. A question that has no answer among them gets a wrong one, usually of a
            low probability.
        question: as it was asked.
        words: of the question, each with its weight.
        map: (h, w) float32, row-major like the picture; non-negative, its sum is 1.
        image: the path of the picture, "" for one that came from memory.
        model: the name of the model.
        geometry: where the map's cells lie on the picture.
        alternatives: further answers, the likeliest first, where more than one was asked for.
        source: what was asked about, or an upright copy of it.
    """

    text: str
    probability: float
    question: str
    words: tuple[QuestionWord, ...]
    map: "NDArray[np.float32]" = field(repr=False)
    image: str
    model: str
    geometry: Geometry
    alternatives: tuple[OtherAnswer, ...] = ()
    source: Picture = field(repr=False)

    kind: ClassVar[str] = "answer"
    explain = "attention"  # what the map is made of, as of a caption

    def __str__(self) -> str:
        return self.text

    def __eq__(self, other: object) -> bool:
        """Equal in all that they hold but the picture itself, the map value by value."""
        if not isinstance(other, Answer):
            return NotImplemented
        return self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def _key(self) -> tuple[Any, ...]:
        others = self.text, self.probability, self.question, self.words, self.image, self.model, self.geometry
        return *others, self.alternatives, *map_key(self.map)

    @property
    def maps(self) -> "NDArray[np.float32]":
        """The map alone, (1, h, w), as a caption has one for each word."""
        return self.map[None]

    def _values(self) -> dict[str, Any]:
        return {
            "image": self.image,
            "question": self.question,
            "answer": self.text,
            "probability": round(self.probability, 6),
            "model": self.model,
            "grid": list(self.geometry.grid),
            "size": list(self.geometry.size),
            "map": self.map,
            "words": [
                {"word": word.text, "weight": round(word.weight, 6), **({} if word.known else {"known": False})}
                for word in self.words
            ],
            "alternatives": [
                {"answer": other.text, "probability": round(other.probability, 6)} for other in self.alternatives
            ],
        }
