"""Captions, their words with maps, and captions of clips."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from captioner.errors import OptionError
from captioner.image import Geometry, Picture
from captioner.options import plain_number
from captioner.results.shown import OverPicture, map_key
from captioner.tokenizer.detokenize import detokenize

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Word:
    """A word, its probability, and where the model attended: at the step that chose it, or at the next where the maps
    of the model have a delay.

    Attributes:
        text: the word, a PTB token ("dog", "'s").
        probability: of the word, given the picture and the words before it.
        map: (h, w) float32, row-major like the picture; non-negative; its sum over the cells that hold picture is
            ``1 - off_grid``. `Caption.geometry` has the pixels that a cell stands for.
        off_grid: the share of the attention that went to something that is no cell (a sentinel, a memory slot):
            ``1 - off_grid`` is the share that went to the picture. 0 for models without any.
        given: the word was given (``begin`` of the options), and not chosen.
        unknown: the model does not know the word of a caption that it read, and read ``<unk>`` in its place.
        gain: the log-probability of the word less that without the picture, in nats: how much the picture mattered.
            None where it was not computed; see `captioner.pipeline.picture_gain`.
    """

    text: str
    probability: float
    map: "NDArray[np.float32]" = field(repr=False)
    off_grid: float = 0.0
    given: bool = False
    unknown: bool = False
    gain: float | None = None

    def __eq__(self, other: object) -> bool:
        """Equal in all that they hold, the maps value by value."""
        if not isinstance(other, Word):
            return NotImplemented
        return self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def _key(self) -> tuple[Any, ...]:
        others = self.text, self.probability, self.off_grid, self.given, self.unknown, self.gain
        return *others, *map_key(self.map)


@dataclass(frozen=True)
class Alternative:
    """Another caption of the same picture, with words, probabilities and maps of its own.

    Attributes:
        text: the sentence.
        words: its words, each with probability and map.
        score: the length-normalised log-probability.
        finished: False where the length limit cut it off.
    """

    text: str
    words: tuple[Word, ...]
    score: float
    finished: bool

    @classmethod
    def of(
        cls,
        texts: Sequence[str],
        probabilities: Sequence[float],
        maps: "NDArray[np.float32]",
        off_grid: "NDArray[np.float32]",
        *,
        score: float,
        finished: bool = True,
        given: int = 0,
        unknown: Sequence[bool] = (),
        text: str | None = None,
    ) -> "Alternative":
        """The sentence of n words.

        Args:
            texts, probabilities: of the words.
            maps: (n, h, w).
            off_grid: (n,).
            score, finished: of the sentence.
            given: how many words at the beginning were given.
            unknown: for each word, whether the model does not know it; empty where it knows all.
            text: the sentence, where it is not what `captioner.tokenizer.detokenize` makes of the words.
        """
        lost = unknown or [False] * len(texts)
        words = tuple(
            Word(text, probability, map_, float(off), given=i < given, unknown=lost[i])
            for i, (text, probability, map_, off) in enumerate(zip(texts, probabilities, maps, off_grid, strict=True))
        )
        return cls(text=detokenize(texts) if text is None else text, words=words, score=score, finished=finished)


@dataclass(frozen=True, kw_only=True)
class Caption(OverPicture):
    """A caption with the words, probabilities and maps that it was made of.

    Attributes:
        text: the sentence.
        words: its words; ``text`` is the sentence that they make.
        score: the length-normalised log-probability by which the beam chose it.
        finished: False where the length limit cut it off.
        image: the path of the picture, or the name of one that reads its own bytes; "" for one that came from memory.
        model: the name of the model.
        geometry: where the maps' cells lie on the picture.
        explain: what the maps are made of: "attention", "gradient" or "occlusion"; see `captioner.explain`.
        alternatives: further captions, the best first, where more than one was asked for.
        needs_review: whether a person should look at it, because its `confidence` is below what was asked for; None
            where nothing was asked.
        source: what was captioned, or an upright copy of it. A path is opened when `picture` is read, so captions of
            files hold no pixels.
    """

    text: str
    words: tuple[Word, ...]
    score: float
    finished: bool
    image: str
    model: str
    geometry: Geometry
    explain: str = "attention"
    alternatives: tuple[Alternative, ...] = ()
    needs_review: bool | None = None
    source: Picture = field(repr=False, compare=False)

    kind: ClassVar[str] = "caption"

    def __str__(self) -> str:
        return self.text

    @property
    def confidence(self) -> float:
        """How sure the model is: the geometric mean of the probabilities of the words that it chose, 0 to 1. 0 for a
        caption without any, and for one with a word that the model does not know."""
        chosen = [word.probability for word in self.words if not word.given]
        if not chosen or min(chosen) <= 0:
            return 0.0
        return math.exp(sum(map(math.log, chosen)) / len(chosen))

    def reviewed(self, min_confidence: float) -> "Caption":
        """The caption with ``needs_review``: whether its `confidence` is below a minimum.

        Raises:
            OptionError: the minimum is not from 0 to 1.
        """
        min_confidence = plain_number(min_confidence)
        if not isinstance(min_confidence, (int, float)) or not 0 <= min_confidence <= 1:
            raise OptionError(f"min_confidence must be from 0 to 1, not {min_confidence!r}")
        return replace(self, needs_review=self.confidence < min_confidence)

    @cached_property
    def maps(self) -> "NDArray[np.float32]":
        """The maps of all words, (len(words), h, w)."""
        rows, columns = self.geometry.grid
        if not self.words:
            return np.zeros((0, rows, columns), dtype=np.float32)
        return np.stack([word.map for word in self.words])

    def _values(self) -> dict[str, Any]:
        return {
            "image": self.image,
            "caption": self.text,
            "score": round(self.score, 6),
            "finished": self.finished,
            **self._as_reviewed(),
            "model": self.model,
            "explain": self.explain,
            "grid": list(self.geometry.grid),
            "size": list(self.geometry.size),
            **({} if self.geometry.window is None else {"extent": [round(edge, 3) for edge in self.geometry.extent]}),
            "words": [_word_values(word) for word in self.words],
            "alternatives": [
                {
                    "caption": other.text,
                    "score": round(other.score, 6),
                    "finished": other.finished,
                    "words": [_word_values(word) for word in other.words],
                }
                for other in self.alternatives
            ],
        }

    def _as_reviewed(self) -> dict[str, Any]:
        if self.needs_review is None:
            return {}
        return {"confidence": round(self.confidence, 4), "needs_review": self.needs_review}


@dataclass(frozen=True, kw_only=True)
class ClipCaption(Caption):
    """A caption of a clip. Its picture is the filmstrip, the frames row by row, and the words' maps lie on the strip.

    `as_dict` and `as_json` also have the number of frames and, for each word, "frames": the share of each.

    Attributes:
        frames: how many there are.
    """

    frames: int

    @property
    def frame_maps(self) -> "NDArray[np.float32]":
        """The maps of all words on each frame, (len(words), frames, h, w)."""
        return from_strip(self.maps, strip_layout(self.frames))

    def _values(self) -> dict[str, Any]:
        shares = self.frame_maps.sum((2, 3)).round(5).tolist()
        values = super()._values()
        words = [{**word, "frames": share} for word, share in zip(values["words"], shares, strict=True)]
        return {**values, "frames": self.frames, "layout": list(strip_layout(self.frames)), "words": words}


def strip_layout(frames: int) -> tuple[int, int]:
    """Rows and columns of a filmstrip: one row up to 4 frames, else full rows, about twice as many columns as rows."""
    if frames <= 4:
        return 1, frames
    possible = (r for r in range(1, frames) if frames % r == 0 and r * r <= frames)
    rows = min(possible, key=lambda r: abs(frames / r / r - 2))
    return rows, frames // rows


def across_strip(maps: "NDArray[np.float32]", layout: tuple[int, int]) -> "NDArray[np.float32]":
    """Maps of frames (n, frames, h, w) as maps of the strip (n, rows * h, columns * w)."""
    n, _, height, width = maps.shape
    rows, columns = layout
    tiles = maps.reshape(n, rows, columns, height, width).transpose(0, 1, 3, 2, 4)
    return tiles.reshape(n, rows * height, columns * width)


def from_strip(maps: "NDArray[np.float32]", layout: tuple[int, int]) -> "NDArray[np.float32]":
    """The inverse of `across_strip`."""
    rows, columns = layout
    n, height, width = maps.shape[0], maps.shape[1] // rows, maps.shape[2] // columns
    tiles = maps.reshape(n, rows, height, columns, width).transpose(0, 1, 3, 2, 4)
    return tiles.reshape(n, rows * columns, height, width)


def _word_values(word: Word) -> dict[str, Any]:
    return {
        "word": word.text,
        "probability": round(word.probability, 6),
        **({"off_grid": round(word.off_grid, 6)} if word.off_grid else {}),
        **({"given": True} if word.given else {}),
        **({"unknown": True} if word.unknown else {}),
        **({"gain": round(word.gain, 4)} if word.gain is not None else {}),
        "map": word.map,
    }
