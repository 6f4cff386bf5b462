"""BLEU-1 to BLEU-4 with the constants of the official COCO evaluation.

Papineni et al., "BLEU: a Method for Automatic Evaluation of Machine Translation", ACL 2002. The reference
length is the closest one, ties to the shorter. The counts of the whole set are pooled; the figure of one
picture uses the same formula on its own counts, and the corpus figure is not a mean of those.
``nltk.translate.bleu_score`` gives the same corpus figure only when no hypothesis is shorter than n words,
hence the formula here.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from captioner.metrics.ngrams import MAX_ORDER, Ngrams, Order, distinct_sorted, lookup, number_words

# The official constants. They decide the order of pictures without a single 4-gram in common.
_TINY = 1e-15
_SMALL = 1e-9

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class BleuCounts:
    """What BLEU needs of each of P pictures; sums over pictures give the corpus figure."""

    matched: Floats  # (P, 4) n-grams found in a reference, clipped at the count of the best one
    guessed: Floats  # (P, 4) n-grams of the hypothesis
    length: Floats  # (P,) words of the hypothesis
    reference_length: Floats  # (P,) words of the reference closest in length

    def table(self) -> Floats:
        """One row per picture, (P, 10): for sums over resampled pictures."""
        return np.column_stack([self.matched, self.guessed, self.length, self.reference_length])


class BleuCounter:
    """Collects what BLEU pools, order by order. Every picture must have a reference."""

    def __init__(self, ngrams: Ngrams) -> None:
        self._ngrams = ngrams
        self._matched = np.zeros((ngrams.pictures, MAX_ORDER))

    def add(self, order: Order) -> None:
        """Count the matches of one order."""
        ours, theirs = order.hypotheses, order.references
        keys = theirs.keys(order.size, self._ngrams.picture)
        by_key = np.argsort(keys, kind="stable")
        keys, first = distinct_sorted(keys[by_key])
        most = np.maximum.reduceat(theirs.count[by_key], first) if len(first) else first
        place, found = lookup(keys, ours.keys(order.size))
        clipped = np.minimum(ours.count[found], most[place[found]])
        matches = np.bincount(ours.caption[found], weights=clipped, minlength=self._ngrams.pictures)
        self._matched[:, order.n - 1] = matches

    def counts(self) -> BleuCounts:
        """The counts of the orders that were added."""
        length = self._ngrams.hypothesis_length
        guessed = np.maximum(0, length[:, None] - np.arange(MAX_ORDER)).astype(np.float64)
        return BleuCounts(self._matched, guessed, length.astype(np.float64), _closest(self._ngrams))


def _closest(ngrams: Ngrams) -> Floats:
    """The length of the reference closest to each hypothesis; of two equally close, the shorter."""
    distance = np.abs(ngrams.reference_length - ngrams.hypothesis_length[ngrams.picture])
    best_first = np.lexsort((ngrams.reference_length, distance, ngrams.picture))
    _, first = np.unique(ngrams.picture[best_first], return_index=True)
    return ngrams.reference_length[best_first][first].astype(np.float64)


def bleu_table_of(hypotheses: Sequence[Sequence[str]], references: Sequence[Sequence[Sequence[str]]]) -> Floats:
    """`BleuCounts.table` of captions, (P, 10), which are lists of words; ``references[i]`` are those of
    ``hypotheses[i]``, at least one."""
    ngrams = number_words(hypotheses, references)
    counter = BleuCounter(ngrams)
    for order in ngrams.orders():
        counter.add(order)
    return counter.counts().table()


def smoothed_bleu_of(hypotheses: Sequence[Sequence[str]], references: Sequence[Sequence[Sequence[str]]]) -> Floats:
    """BLEU-1 to BLEU-4 of each caption by itself, (P, 4), from 0 to 1: rewards, where BLEU-4 proper would mostly be 0.

    One is added to the n-grams that match and to those there are, for n above 1 (Lin and Och, "ORANGE", COLING
    2004). Captions are lists of words; ``references[i]`` are those of ``hypotheses[i]``, at least one.
    """
    table = bleu_table_of(hypotheses, references)
    matched, guessed = table[:, 1:MAX_ORDER], table[:, MAX_ORDER + 1 : 2 * MAX_ORDER]
    matched += 1
    guessed[:] = np.maximum(guessed, 1) + 1  # a caption too short for an n-gram is none that matches them all
    return bleu(table)


def bleu(table: Floats) -> Floats:
    """BLEU-1 to BLEU-4, (..., 4), of rows of (or sums over rows of) ``BleuCounts.table()``, (..., 10)."""
    matched, guessed = table[..., :MAX_ORDER], table[..., MAX_ORDER : 2 * MAX_ORDER]
    length, reference_length = table[..., -2], table[..., -1]
    precision = np.cumprod((matched + _TINY) / (guessed + _SMALL), axis=-1)
    mean: Floats = precision ** (1.0 / np.arange(1, MAX_ORDER + 1))
    ratio = (length + _TINY) / (reference_length + _SMALL)
    penalty = np.where(ratio < 1, np.exp(1 - 1 / np.minimum(ratio, 1)), 1.0)
    return mean * penalty[..., None]
