"""CIDEr-D, and CIDEr without the D, as the official COCO evaluation computes them.

Vedantam, Zitnick and Parikh, "CIDEr: Consensus-based Image Description Evaluation", CVPR 2015: the cosine
between tf-idf vectors of n-grams, n = 1 to 4, mean over n and over the references, times 10. CIDEr-D clips the
counts of the hypothesis at those of the reference and punishes a difference in length. (The first release
stemmed words for plain CIDEr; the official code and this module do not.)

The document frequency of an n-gram is the number of pictures that have it in a reference. It comes from the
scored set or from a saved table, and the figure depends on it: the same captions get 90.5
with the frequencies of 100 pictures and 88.7 with those of 5,000. For one picture scored by itself every weight, and
so the figure, is 0.
"""

import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from captioner.data.readers.rows import parse_json
from captioner.data.readers.text import read_text
from captioner.errors import DataError, OptionError
from captioner.metrics.ngrams import MAX_ORDER, Ngrams, Order, distinct_sorted, lookup, number_words

_SIGMA = 6.0
_FORMAT = "captioner document frequencies 1"
_MOST_PICTURES = 2**53  # larger numbers have no exact logarithm

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class DocumentFrequencies:
    """In how many of ``pictures`` pictures each n-gram (words with a space between) stands in a reference."""

    pictures: int
    counts: Mapping[str, int]

    def __post_init__(self) -> None:
        if self.pictures < 1:
            raise OptionError(f"document frequencies need at least one picture, not {self.pictures}")

    @classmethod
    def of(cls, references: Sequence[Sequence[Sequence[str]]]) -> "DocumentFrequencies":
        """Count over pictures; each has a list of references, each a list of words (an end token is one
        too)."""
        ngrams = number_words([()] * len(references), references)
        counts: dict[str, int] = {}
        spelled: list[str] = []
        for order in ngrams.orders():
            spelled = ngrams.spelled(order, spelled)
            counts.update(zip(spelled, _frequencies(ngrams, order).tolist(), strict=True))
        return cls(len(references), counts)

    def save(self, path: str | Path) -> None:
        """Write the table as JSON, whole or not at all. Raises DataError where that is not possible."""
        from captioner.partial import written_whole  # scoring starts without it

        content = {"format": _FORMAT, "pictures": self.pictures, "counts": dict(self.counts)}
        place = Path(path).resolve()
        try:
            if place.exists() and not place.is_file():  # a device or a pipe
                place.write_text(json.dumps(content), encoding="utf-8")
                return
            with written_whole(place) as partial:
                partial.write_text(json.dumps(content), encoding="utf-8")
        except OSError as error:
            raise DataError(f"cannot write document frequencies to {path}: {error.strerror}") from None

    @classmethod
    def load(cls, path: str | Path) -> "DocumentFrequencies":
        """Read a table that ``save`` wrote. Raises DataError where the file is anything else."""
        path = Path(path)
        content = parse_json(read_text(path), path=path)
        if not isinstance(content, dict) or content.get("format") != _FORMAT:
            raise DataError(
                f"{path} holds no document frequencies; make a table of a set of references with "
                "captioner evaluate --annotations FILE --save-document-frequencies TABLE"
            )
        pictures, counts = content.get("pictures"), content.get("counts")
        if type(pictures) is not int or not 1 <= pictures <= _MOST_PICTURES or not isinstance(counts, dict):
            raise DataError(f"{path}: 'pictures' must be a positive number and 'counts' an object")
        wrong = next((g for g, count in counts.items() if type(count) is not int or not 0 <= count <= pictures), None)
        if wrong is not None:
            raise DataError(f"{path}: the count of {wrong!r} is {counts[wrong]!r}, not a number of its pictures")
        return cls(pictures, counts)

    @cached_property
    def checksum(self) -> int:
        """A checksum of the counts in any order, by which tables are distinguished."""
        lines = (f"{gram} {count}".encode("utf-8", "surrogatepass") for gram, count in self.counts.items())
        return sum(map(zlib.crc32, lines)) % 2**32


class CiderScorer:
    """Collects CIDEr-D and CIDEr, order by order. Every picture must have a reference.

    Without ``document_frequencies`` they come from the references given.
    """

    def __init__(self, ngrams: Ngrams, document_frequencies: DocumentFrequencies | None = None) -> None:
        self._ngrams = ngrams
        self._table = document_frequencies
        self._spelled: list[str] = []
        self._sums = np.zeros((2, len(ngrams.picture)))  # CIDEr-D and CIDEr of each reference

    def add(self, order: Order) -> None:
        """Add the cosines of one order, which must be the next one."""
        if self._table is None:
            pictures, frequency = self._ngrams.pictures, _frequencies(self._ngrams, order)
        else:
            self._spelled = self._ngrams.spelled(order, self._spelled)
            found = [self._table.counts.get(gram, 0) for gram in self._spelled]
            pictures, frequency = self._table.pictures, np.array(found, dtype=np.int64)
        # One log for both: an n-gram of every picture weighs exactly 0, which math.log and np.log need not agree on.
        logs = np.log(np.append(np.maximum(1, frequency), max(1, pictures)))
        weight = logs[-1] - logs[:-1]
        self._sums += _cosines(self._ngrams, order, weight)

    def scores(self) -> tuple[Floats, Floats]:
        """CIDEr-D and CIDEr of each picture, (P,) each, between 0 and 10; their means are the corpus figures."""
        ngrams = self._ngrams
        # The official code measures length in bigrams, so that captions of one word and of none are alike.
        bigrams = np.maximum(0, ngrams.hypothesis_length - 1)[ngrams.picture]
        difference = bigrams - np.maximum(0, ngrams.reference_length - 1)
        clipped = self._sums[0] * np.exp(-(difference.astype(np.float64) ** 2) / (2 * _SIGMA**2))
        references = np.bincount(ngrams.picture, minlength=ngrams.pictures)
        means = [
            10.0 / MAX_ORDER * np.bincount(ngrams.picture, weights=sums, minlength=ngrams.pictures) / references
            for sums in (clipped, self._sums[1])
        ]
        return means[0], means[1]


def cider_of(
    hypotheses: Sequence[Sequence[str]],
    references: Sequence[Sequence[Sequence[str]]],
    *,
    document_frequencies: DocumentFrequencies | None = None,
    clipped: bool = True,
) -> Floats:
    """CIDEr-D, or CIDEr where not ``clipped``, of each caption, (P,): the reward of self-critical training.

    Captions are lists of words; ``references[i]`` are those of ``hypotheses[i]``. An end token is a word like any
    other: where hypotheses end with it, so must the references and those of the table.
    """
    if len(hypotheses) != len(references):
        raise OptionError(f"{len(hypotheses)} hypotheses cannot be scored against {len(references)} reference sets")
    empty = next((index for index, group in enumerate(references) if not group), None)
    if empty is not None:
        raise DataError(f"hypothesis {empty} has no reference; give each at least one")
    ngrams = number_words(hypotheses, references)
    scorer = CiderScorer(ngrams, document_frequencies)
    for order in ngrams.orders():
        scorer.add(order)
    return scorer.scores()[0 if clipped else 1]


def _frequencies(ngrams: Ngrams, order: Order) -> NDArray[np.int64]:
    """In how many pictures each n-gram of the order stands in a reference, (order.size,)."""
    theirs = order.references
    once, _ = distinct_sorted(np.sort(theirs.keys(order.size, ngrams.picture)))
    return np.bincount(once % max(1, order.size), minlength=order.size)


def _cosines(ngrams: Ngrams, order: Order, weight: Floats) -> Floats:
    """The cosine between each reference and its picture's hypothesis for one order, clipped and not, (2, R)."""
    ours, theirs = order.hypotheses, order.references
    our_value, their_value = ours.count * weight[ours.gram], theirs.count * weight[theirs.gram]
    our_norm = np.sqrt(np.bincount(ours.caption, weights=our_value**2, minlength=ngrams.pictures))
    their_norm = np.sqrt(np.bincount(theirs.caption, weights=their_value**2, minlength=len(ngrams.picture)))
    norms = our_norm[ngrams.picture] * their_norm

    place, found = lookup(ours.keys(order.size), theirs.keys(order.size, ngrams.picture))
    reference, our_value, their_value = theirs.caption[found], our_value[place[found]], their_value[found]
    cosines = np.zeros((2, len(ngrams.picture)))
    for row, value in enumerate((np.minimum(our_value, their_value), our_value)):
        dot = np.bincount(reference, weights=value * their_value, minlength=len(ngrams.picture))
        # A caption without such n-grams, or with only those that every picture has, has no direction: 0.
        np.divide(dot, norms, out=cosines[row], where=norms != 0)
    return cosines
