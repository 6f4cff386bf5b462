"""The n-grams of a set of captions as integer arrays, counted once for BLEU and CIDEr.

Words become numbers, an n-gram becomes the number of its first n - 1 words paired with its last word, and all
counting is sorting: the cost is that of sorting, whatever the captions hold, and 300,000 captions need some
hundred megabytes where dictionaries of tuples would need gigabytes.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.int64]

MAX_ORDER = 4


@dataclass(frozen=True, eq=False)
class Entries:
    """How often each n-gram stands in each caption: three parallel arrays, sorted by caption, then n-gram."""

    caption: Integers  # (E,) row of the caption
    gram: Integers  # (E,) number of the n-gram
    count: Integers  # (E,) at least 1


@dataclass(frozen=True, eq=False)
class Order:
    """All n-grams of one order n, of hypotheses and references, numbered from 0 to ``size - 1``."""

    n: int
    size: int
    prefix: Integers  # (size,) number of the first n - 1 words among the n-grams of order n - 1
    last: Integers  # (size,) number of the last word
    hypotheses: Entries
    references: Entries


@dataclass(frozen=True, eq=False)
class Ngrams:
    """The n-grams of P hypotheses and of the R references that they are scored against."""

    words: tuple[str, ...]
    hypothesis_length: Integers  # (P,) in words
    reference_length: Integers  # (R,)
    picture: Integers  # (R,) the hypothesis that each reference belongs to, ascending
    orders: tuple[Order, ...]

    @property
    def pictures(self) -> int:
        return len(self.hypothesis_length)

    def spelled(self, order: Order) -> list[str]:
        """The n-grams of an order as words with one space between them."""
        if order.n == 1:
            return [self.words[number] for number in order.last]
        prefixes = self.spelled(self.orders[order.n - 2])
        return [
            f"{prefixes[prefix]} {self.words[last]}"
            for prefix, last in zip(order.prefix.tolist(), order.last.tolist(), strict=True)
        ]


def count_ngrams(
    hypotheses: Sequence[Sequence[str]],
    references: Sequence[Sequence[Sequence[str]]],
    *,
    max_order: int = MAX_ORDER,
) -> Ngrams:
    """Count the n-grams, n = 1 to ``max_order``, of hypotheses and of each one's references (lists of words)."""
    numbers: dict[str, int] = {}
    flat = [caption for group in references for caption in group]
    text = np.fromiter(_numbered([*hypotheses, *flat], numbers), dtype=np.int64)
    length = np.array([len(caption) for caption in (*hypotheses, *flat)], dtype=np.int64)
    caption = np.repeat(np.arange(len(length)), length)
    left = np.repeat(np.cumsum(length), length) - np.arange(len(text))  # words from here to the caption's end

    orders: list[Order] = []
    place, gram = np.arange(len(text)), text
    for n in range(1, max_order + 1):
        key = text
        if n > 1:
            keep = left[place] >= n
            place = place[keep]
            key = gram[keep] * max(1, len(numbers)) + text[place + n - 1]
        distinct, gram = np.unique(key, return_inverse=True)
        prefix, last = np.divmod(distinct, max(1, len(numbers)))
        orders.append(
            Order(
                n,
                len(distinct),
                prefix,
                last,
                *_entries(caption[place], gram, len(distinct), len(hypotheses)),
            )
        )
    return Ngrams(
        words=tuple(numbers),
        hypothesis_length=length[: len(hypotheses)],
        reference_length=length[len(hypotheses) :],
        picture=np.repeat(np.arange(len(references)), [len(group) for group in references]),
        orders=tuple(orders),
    )


def _numbered(captions: Sequence[Sequence[str]], numbers: dict[str, int]) -> Iterator[int]:
    """The number of each word of all captions in turn; new words get the next number."""
    for caption in captions:
        for word in caption:
            yield numbers.setdefault(word, len(numbers))


def _entries(caption: Integers, gram: Integers, size: int, hypotheses: int) -> tuple[Entries, Entries]:
    """Count equal n-grams within captions; the first rows are hypotheses, the others references."""
    pairs, count = np.unique(caption * max(1, size) + gram, return_counts=True)
    caption, gram = np.divmod(pairs, max(1, size))
    border = int(np.searchsorted(caption, hypotheses))
    return (
        Entries(caption[:border], gram[:border], count[:border]),
        Entries(caption[border:] - hypotheses, gram[border:], count[border:]),
    )


def lookup(keys: Integers, wanted: Integers) -> tuple[Integers, NDArray[np.bool_]]:
    """Where each wanted key stands in the sorted ``keys``, and whether it is there at all."""
    if len(keys) == 0:
        return np.zeros(len(wanted), dtype=np.int64), np.zeros(len(wanted), dtype=np.bool_)
    place = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return place, keys[place] == wanted
