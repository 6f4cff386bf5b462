"""The n-grams of a set of captions as integer arrays, counted once for BLEU and CIDEr.

Words become numbers, an n-gram becomes the number of its first n - 1 words paired with its last word, and all
counting is sorting: the cost is that of sorting for all kinds of captions, and 300,000 captions need some
hundred megabytes where dictionaries of tuples would need gigabytes.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.int64]
Numbers = NDArray[np.int32]  # of captions, n-grams, words: half the memory, and there are never 2**31 of them

MAX_ORDER = 4


@dataclass(frozen=True, eq=False)
class Entries:
    """How often each n-gram stands in each caption: three parallel arrays, sorted by caption, then n-gram."""

    caption: Numbers  # (E,) row of the caption
    gram: Numbers  # (E,) number of the n-gram
    count: Numbers  # (E,) at least 1

    def keys(self, size: int, picture: Integers | None = None) -> Integers:
        """One number for each pair of caption (or of its picture) and n-gram, given the number of n-grams."""
        owner = self.caption.astype(np.int64) if picture is None else picture[self.caption]
        return owner * size + self.gram


@dataclass(frozen=True, eq=False)
class Order:
    """All n-grams of one order n, of hypotheses and references, numbered from 0 to ``size - 1``."""

    n: int
    size: int
    prefix: Numbers  # (size,) number of the first n - 1 words among the n-grams of order n - 1
    last: Numbers  # (size,) number of the last word
    hypotheses: Entries
    references: Entries


@dataclass(frozen=True, eq=False)
class Ngrams:
    """The words of P hypotheses and of the R references that they are scored against, as numbers."""

    words: tuple[str, ...]
    text: Numbers  # (W,) all words of all captions, hypotheses first
    length: Integers  # (P + R,) words of each caption
    picture: Integers  # (R,) the hypothesis that each reference belongs to, ascending

    @property
    def pictures(self) -> int:
        """P, the number of hypotheses."""
        return len(self.length) - len(self.picture)

    @property
    def hypothesis_length(self) -> Integers:
        """Words of each hypothesis, (P,)."""
        return self.length[: self.pictures]

    @property
    def reference_length(self) -> Integers:
        """Words of each reference, (R,)."""
        return self.length[self.pictures :]

    def orders(self, *, highest: int = MAX_ORDER) -> Iterator[Order]:
        """Count the n-grams for n = 1, 2, ...: one order at a time, since together they fill the memory."""
        captions = np.repeat(np.arange(len(self.length), dtype=np.int32), self.length)
        ends = np.cumsum(self.length, dtype=np.int32)
        width = max(1, len(self.words))
        place = np.arange(len(self.text), dtype=np.int32)  # where each n-gram begins
        gram = self.text
        for n in range(1, highest + 1):
            key = self.text.astype(np.int64)
            if n > 1:
                keep = place + n <= ends[captions[place]]
                place = place[keep]
                key = gram[keep].astype(np.int64) * width + self.text[place + n - 1]
            distinct, gram = _numbered_distinct(key)
            hypotheses, references = _entries(captions[place], gram, len(distinct), self.pictures)
            prefix, last = (part.astype(np.int32) for part in np.divmod(distinct, width))
            yield Order(n, len(distinct), prefix, last, hypotheses, references)

    def spelled(self, order: Order, prefixes: Sequence[str]) -> list[str]:
        """The n-grams of an order as words with one space between, given those of the order before."""
        last = [self.words[number] for number in order.last.tolist()]
        if order.n == 1:
            return last
        return [f"{prefixes[prefix]} {word}" for prefix, word in zip(order.prefix.tolist(), last, strict=True)]


def number_words(hypotheses: Sequence[Sequence[str]], references: Sequence[Sequence[Sequence[str]]]) -> Ngrams:
    """Make captions (lists of words) ready for counting; ``references[i]`` are those of ``hypotheses[i]``."""
    numbers: dict[str, int] = {}
    captions = [*hypotheses, *(caption for group in references for caption in group)]
    text = np.fromiter(_numbered(captions, numbers), dtype=np.int32)
    return Ngrams(
        words=tuple(numbers),
        text=text,
        length=np.array([len(caption) for caption in captions], dtype=np.int64),
        picture=np.repeat(np.arange(len(references)), np.array([len(group) for group in references], dtype=np.int64)),
    )


def _numbered(captions: Sequence[Sequence[str]], numbers: dict[str, int]) -> Iterator[int]:
    """The number of each word of all captions in turn; new words get the next number."""
    for caption in captions:
        for word in caption:
            yield numbers.setdefault(word, len(numbers))


def _numbered_distinct(key: Integers) -> tuple[Integers, Numbers]:
    """The distinct keys, ascending, and for each key its place among them."""
    by_key = np.argsort(key, kind="stable")
    distinct, start = distinct_sorted(key[by_key])
    number = np.empty(len(key), dtype=np.int32)
    number[by_key] = np.repeat(np.arange(len(distinct), dtype=np.int32), np.diff(start, append=len(key)))
    return distinct, number


def _entries(captions: Numbers, grams: Numbers, size: int, hypotheses: int) -> tuple[Entries, Entries]:
    """Count equal n-grams within captions; the first rows are hypotheses, the others references."""
    key = captions.astype(np.int64) * max(1, size) + grams
    key.sort()
    pairs, start = distinct_sorted(key)
    count = np.diff(start, append=len(key)).astype(np.int32)
    caption, gram = (part.astype(np.int32) for part in np.divmod(pairs, max(1, size)))
    border = int(np.searchsorted(caption, hypotheses))
    return (
        Entries(caption[:border], gram[:border], count[:border]),
        Entries(caption[border:] - np.int32(hypotheses), gram[border:], count[border:]),
    )


def distinct_sorted(keys: Integers) -> tuple[Integers, Integers]:
    """The distinct values of sorted keys, and where each begins. (``np.unique`` hashes, and then 50,000 pictures
    take far more than ten times as long as 5,000.)"""
    first = np.ones(len(keys), dtype=np.bool_)
    first[1:] = keys[1:] != keys[:-1]
    start = np.flatnonzero(first)
    return keys[start], start


def lookup(keys: Integers, wanted: Integers) -> tuple[Integers, NDArray[np.bool_]]:
    """Where each wanted key stands in the sorted ``keys``, and whether it is there at all."""
    if len(keys) == 0:
        return np.zeros(len(wanted), dtype=np.int64), np.zeros(len(wanted), dtype=np.bool_)
    place = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return place, keys[place] == wanted
