"""Further views of a word: every head's map of it, and why this word and not another.

`captioner.pipeline.Captioner` makes them; they show themselves as captions do.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from captioner.errors import OptionError
from captioner.image import Picture
from captioner.options import plain_number
from captioner.results.captions import Caption, Word
from captioner.results.shown import Shown

if TYPE_CHECKING:
    from numpy.typing import NDArray


def place_of(caption: Caption, word: str | int) -> int:
    """The place of a word in a caption: its own number from 0, or that of the first word that reads so.

    Raises:
        OptionError: the caption has no such word; the message lists those that it has.
    """
    texts = [one.text for one in caption.words]
    word = plain_number(word)
    if isinstance(word, int):
        if 0 <= word < len(texts):
            return word
    elif word in texts:
        return texts.index(word)
    raise OptionError(f"the caption '{caption.text}' has no word {word!r}", remedy=f"one of {', '.join(texts)}")


class WordView(Shown):
    """A view of one word of a caption. Its page is the caption's, with the view below."""

    caption: Caption
    place: int

    @property
    def word(self) -> str:
        """The word's text."""
        return self.caption.words[self.place].text

    def as_caption(self) -> Caption:
        """The view in the form of a caption, for what shows captions."""
        raise NotImplementedError

    def _pictures(self) -> Iterable[Picture]:
        return self.caption.source, self.caption.image


@dataclass(frozen=True, kw_only=True, eq=False)
class Heads(WordView):
    """What every attention head looked at for a word. Its figure is a grid of layers x heads.

    Attributes:
        caption: that the word is of.
        place: of the word in it.
        maps: (layers, heads, h, w) float32; each sums to what that head gave to the grid.
        chosen: pairs (layer, head) whose mean is the word's map, or what its fine map is made of.
    """

    caption: Caption
    place: int
    maps: "NDArray[np.float32]" = field(repr=False)
    chosen: tuple[tuple[int, int], ...] = ()

    kind: ClassVar[str] = "heads"

    def as_caption(self) -> Caption:
        """The heads in the place of words, for what shows captions: "1.2" is head 2 of layer 1."""
        probability = self.caption.words[self.place].probability
        words = tuple(
            Word(
                f"{layer + 1}.{head + 1}", probability, self.maps[layer, head], float(1 - self.maps[layer, head].sum())
            )
            for layer in range(self.maps.shape[0])
            for head in range(self.maps.shape[1])
        )
        text = f"the heads of '{self.word}': layer.head"
        return replace(self.caption, text=text, words=words, alternatives=(), explain="attention")


@dataclass(frozen=True, kw_only=True, eq=False)
class Contrast(WordView):
    """Why a word and not another: where the picture speaks for the one, and where for the other.

    The maps are attention times gradient (`captioner.explain.gradient`) of both words' log-probabilities at the same
    step, signed. Their difference is what changes ``log(p(word) / p(other))``, however sure the model is of either; it
    is divided by the sum of its absolute values. The figure has it in two colours.

    Attributes:
        caption: that the word is of.
        place: of the word in it.
        other: the word that could stand in its place.
        probabilities: of both, given the picture and the words before.
        map: (h, w) float32, above 0 where the picture speaks for the word, below 0 where it speaks for the other.
    """

    caption: Caption
    place: int
    other: str
    probabilities: tuple[float, float]
    map: "NDArray[np.float32]" = field(repr=False)

    kind: ClassVar[str] = "contrast"

    def as_caption(self) -> Caption:
        """Both sides in the place of words, for what shows captions."""
        sides = (self.map.clip(min=0), (-self.map).clip(min=0))
        words = tuple(
            Word(text, probability, _share(side), 0.0)
            for text, probability, side in zip((self.word, self.other), self.probabilities, sides, strict=True)
        )
        text = f"why '{self.word}' and not '{self.other}'"
        return replace(self.caption, text=text, words=words, alternatives=(), explain="gradient")


def _share(side: "NDArray[np.float32]") -> "NDArray[np.float32]":
    """A map that sums to 1; even where the side is empty."""
    total = float(side.sum())
    return (side / total if total > 0 else np.full_like(side, 1 / side.size)).astype(np.float32)
