"""Results as plain data: captions, words with their maps, answers to questions, and failures."""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from captioner.errors import CaptionerError, ImageError
from captioner.image import Geometry, Picture, ReadsBytes, open_image
from captioner.tokenizer.detokenize import detokenize

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Word:
    """A word, its probability, and where the model attended when it chose it.

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
            None where it was not computed; see `captioner.picture_gain`.
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
        map_ = np.asarray(self.map, dtype=np.float32) + np.float32(0)  # -0.0 equals 0.0, and so must its bytes
        others = self.text, self.probability, self.off_grid, self.given, self.unknown, self.gain
        return *others, map_.shape, map_.tobytes()


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
class Caption:
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
        """The caption with ``needs_review``: whether its `confidence` is below a minimum."""
        return replace(self, needs_review=self.confidence < min_confidence)

    @property
    def picture(self) -> Image.Image:
        """The upright picture, RGB; the smaller copy if one was kept (``keep`` of `Captioner.prepare`).

        Raises:
            ImageError: its file is no longer there.
        """
        width, height = self.geometry.size
        return open_image(self.source, max_pixels=width * height)

    @cached_property
    def maps(self) -> "NDArray[np.float32]":
        """The maps of all words, (len(words), h, w)."""
        rows, columns = self.geometry.grid
        if not self.words:
            return np.zeros((0, rows, columns), dtype=np.float32)
        return np.stack([word.map for word in self.words])

    def as_dict(self) -> dict[str, Any]:
        """Plain values, the format of the command line's JSON; maps with 5 significant digits."""
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
            "words": [_word_as_dict(word) for word in self.words],
            "alternatives": [
                {
                    "caption": other.text,
                    "score": round(other.score, 6),
                    "finished": other.finished,
                    "words": [_word_as_dict(word) for word in other.words],
                }
                for other in self.alternatives
            ],
        }

    def _as_reviewed(self) -> dict[str, Any]:
        if self.needs_review is None:
            return {}
        return {"confidence": round(self.confidence, 4), "needs_review": self.needs_review}

    def figure(self, path: str | Path | None = None, *, smooth: bool = True) -> "Figure":
        """The picture, then once per word with its map laid over it; see `captioner.show.figure`.

        Args:
            path: where to save it as well: .png, .pdf, .svg or another format of matplotlib.
            smooth: interpolate between cells; False shows the cells as they are.
        """
        from captioner.show.figure import draw_caption, save_figure

        figure = draw_caption(self, smooth=smooth)
        if path is not None:
            save_figure(figure, path)
        return figure

    def page(self, path: str | Path | None = None) -> str:
        """A self-contained HTML document: hover a word and its map glows on the picture; see `captioner.show.page`.

        Args:
            path: where to save it as well, .html.

        Raises:
            ImageError: the picture's file is no longer there.
            OptionError: the path has another ending or cannot be written.
        """
        from captioner.show.page import page, save_page

        document = page([self])
        if path is not None:
            save_page(document, path)
        return document

    def _repr_html_(self) -> str | None:
        """The page, for notebooks; None, which leaves them the text, where the picture is gone."""
        from captioner.show.page import notebook

        try:
            return notebook(self)
        except ImageError:
            return None

    def _repr_jpeg_(self) -> bytes | None:
        """The figure, for what shows notebooks without their pages; small, as notebooks keep it."""
        from captioner.show.figure import small_figure

        try:
            return small_figure(self)
        except ImageError:
            return None


@dataclass(frozen=True, kw_only=True)
class ClipCaption(Caption):
    """A caption of a clip. Its picture is the filmstrip, the frames row by row, and the words' maps lie on the strip.

    Attributes:
        frames: how many there are.
    """

    frames: int

    @property
    def frame_maps(self) -> "NDArray[np.float32]":
        """The maps of all words on each frame, (len(words), frames, h, w)."""
        return from_strip(self.maps, strip_layout(self.frames))

    def as_dict(self) -> dict[str, Any]:
        """As `Caption.as_dict`, with the number of frames and, for each word, "frames": the share of each."""
        shares = self.frame_maps.sum((2, 3)).round(5).tolist()
        plain = super().as_dict()
        words = [{**word, "frames": share} for word, share in zip(plain["words"], shares, strict=True)]
        return {**plain, "frames": self.frames, "layout": list(strip_layout(self.frames)), "words": words}


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
class Answer:
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

    explain = "attention"  # what the map is made of, as of a caption

    def __str__(self) -> str:
        return self.text

    @property
    def picture(self) -> Image.Image:
        """The upright picture, RGB; the smaller copy if one was kept.

        Raises:
            ImageError: its file is no longer there.
        """
        width, height = self.geometry.size
        return open_image(self.source, max_pixels=width * height)

    @property
    def maps(self) -> "NDArray[np.float32]":
        """The map alone, (1, h, w), as a caption has one for each word."""
        return self.map[None]

    def as_dict(self) -> dict[str, Any]:
        """Plain values, the format of the command line's JSON; the map with 5 significant digits."""
        return {
            "image": self.image,
            "question": self.question,
            "answer": self.text,
            "probability": round(self.probability, 6),
            "model": self.model,
            "grid": list(self.geometry.grid),
            "size": list(self.geometry.size),
            "map": _rounded(self.map),
            "words": [
                {"word": word.text, "weight": round(word.weight, 6), **({} if word.known else {"known": False})}
                for word in self.words
            ],
            "alternatives": [
                {"answer": other.text, "probability": round(other.probability, 6)} for other in self.alternatives
            ],
        }

    def figure(self, path: str | Path | None = None, *, smooth: bool = True) -> "Figure":
        """The picture with the map laid over it, and the question's words with their weights.

        Args:
            path: where to save it as well: .png, .pdf, .svg or another format of matplotlib.
            smooth: interpolate between cells; False shows the cells as they are.
        """
        from captioner.show.figure import draw_answers, save_figure

        figure = draw_answers([self], smooth=smooth)
        if path is not None:
            save_figure(figure, path)
        return figure

    def page(self, path: str | Path | None = None) -> str:
        """A self-contained HTML document: the picture with the map, and the question's words by their weights.

        Raises:
            ImageError: the picture's file is no longer there.
            OptionError: the path has another ending or cannot be written.
        """
        from captioner.show.page import page, save_page

        document = page([self])
        if path is not None:
            save_page(document, path)
        return document

    def _repr_html_(self) -> str | None:
        """The page, for notebooks; None, which leaves them the text, where the picture is gone."""
        from captioner.show.page import notebook

        try:
            return notebook(self)
        except ImageError:
            return None

    def _repr_jpeg_(self) -> bytes | None:
        """The figure, for what shows notebooks without their pages."""
        from captioner.show.figure import small_answer_figure

        try:
            return small_answer_figure(self)
        except ImageError:
            return None


@dataclass(frozen=True)
class Failure:
    """A picture that could not be captioned; it takes the place of its `Caption`.

    Attributes:
        image: the path or name of the picture, "" for one that came from memory.
        error: one line for the user: which picture, what is wrong, with which value.
        remedy: what the user can do; "" where nothing is known.
        source: what was to be captioned.
    """

    image: str
    error: str
    remedy: str = ""
    source: Picture | None = field(default=None, repr=False, compare=False)

    @classmethod
    def of(cls, picture: Picture, error: CaptionerError) -> "Failure":
        """The failure of a picture for which an error was raised."""
        return cls(path_of(picture), str(error).removesuffix(f"; {error.remedy}"), error.remedy, picture)

    def __str__(self) -> str:
        return f"{self.error}; {self.remedy}" if self.remedy else self.error

    def as_dict(self) -> dict[str, Any]:
        """Plain values: "image", "error" and, where one is known, "remedy"."""
        return {"image": self.image, "error": self.error, **({"remedy": self.remedy} if self.remedy else {})}


Outcome = Caption | Failure
"""What comes out for each picture that goes in, in the same order."""


def path_of(picture: Picture) -> str:
    """The path of a picture, or the name of one that reads its own bytes; "" for one that came from memory."""
    try:
        if isinstance(picture, (str, os.PathLike)):
            return os.fsdecode(picture)
        return str(picture) if isinstance(picture, ReadsBytes) else ""
    except Exception:  # a foreign class may raise anything; opening the picture reports it
        return ""


def _word_as_dict(word: Word) -> dict[str, Any]:
    return {
        "word": word.text,
        "probability": round(word.probability, 6),
        **({"off_grid": round(word.off_grid, 6)} if word.off_grid else {}),
        **({"given": True} if word.given else {}),
        **({"unknown": True} if word.unknown else {}),
        **({"gain": round(word.gain, 4)} if word.gain is not None else {}),
        "map": _rounded(word.map),
    }


def _rounded(map_: "NDArray[np.float32]") -> list[list[float]]:
    """A map as plain numbers of 5 significant digits."""
    return [[float(f"{value:.5g}") for value in row] for row in map_.tolist()]
