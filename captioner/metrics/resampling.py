"""How sure a figure is, and whether two sets of captions differ: by resampling pictures.

Intervals: Efron's bootstrap over pictures, percentiles. Differences: approximate randomisation (Noreen 1989; for
BLEU, Riezler and Maxwell 2005): the two captions of each picture change sides at random, and the p-value says how
often the difference then comes out at least as large. BLEU is recomputed from pooled counts each time; the document
frequencies of CIDEr stay those of the whole set.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from captioner.errors import DataError, OptionError
from captioner.metrics.bleu import bleu
from captioner.metrics.evaluate import NAMES, Scores

Floats = NDArray[np.float64]

MINIMUM_PICTURES = 10
"""Resampling fewer pictures says little about the uncertainty: one picture has an interval of width 0."""


@dataclass(frozen=True)
class Interval:
    """A percentile interval of one figure."""

    low: float
    high: float


@dataclass(frozen=True)
class Difference:
    """The second figure minus the first, and the two-sided p-value that chance does as much."""

    value: float
    p_value: float


def bootstrap(scores: Scores, *, resamples: int = 1000, confidence: float = 0.95, seed: int = 0) -> dict[str, Interval]:
    """An interval for each figure of ``scores.as_dict()``. Raises OptionError for options outside their range."""
    _check_rounds(resamples, "resamples")
    if not 0 < confidence < 1:
        raise OptionError(f"confidence must lie between 0 and 1, not {confidence}")
    table = _summable(scores)
    random = np.random.default_rng(seed)
    pictures = len(table)
    drawn = np.empty((resamples, len(NAMES)))
    for row in drawn:
        times = np.bincount(random.integers(pictures, size=pictures), minlength=pictures)
        row[:] = _figures(times.astype(np.float64) @ table, pictures)
    low, high = np.quantile(drawn, [(1 - confidence) / 2, (1 + confidence) / 2], axis=0).tolist()
    return {name: Interval(*bounds) for name, *bounds in zip(NAMES, low, high, strict=True)}


def compare(first: Scores, second: Scores, *, trials: int = 1000, seed: int = 0) -> dict[str, Difference]:
    """Whether the second set of captions differs from the first, for each figure.

    Both must score the same pictures in the same order against the same references; DataError if not.
    """
    _check_rounds(trials, "trials")
    if first.ids != second.ids:
        raise DataError("the two sets of captions are not of the same pictures; score the ones that both have")
    one, other = _summable(first), _summable(second)
    pictures = len(one)
    step, total_one, total_other = other - one, one.sum(axis=0), other.sum(axis=0)
    seen = _figures(total_other, pictures) - _figures(total_one, pictures)
    random = np.random.default_rng(seed)
    as_large = np.zeros(len(NAMES))
    for _ in range(trials):
        moved = random.integers(2, size=pictures).astype(np.float64) @ step
        chance = _figures(total_other - moved, pictures) - _figures(total_one + moved, pictures)
        # Equal differences must count as equal after rounding in another order.
        as_large += np.abs(chance) >= np.abs(seen) - 1e-12
    p_values = (as_large + 1) / (trials + 1)
    return {
        name: Difference(value, p_value)
        for name, value, p_value in zip(NAMES, seen.tolist(), p_values.tolist(), strict=True)
    }


def _summable(scores: Scores) -> Floats:
    """What adds up over pictures, (P, 13): the counts of BLEU, then the figures that are means."""
    means = [scores.rouge_l_per_picture, scores.cider_per_picture, scores.plain_cider_per_picture]
    return np.column_stack([scores.bleu_table, *means])


def _figures(total: Floats, pictures: int) -> Floats:
    """The figures in the order of NAMES, (7,), of a sum over pictures, (13,)."""
    return np.concatenate([bleu(total[:10]), total[10:] / pictures])


def _check_rounds(number: int, name: str) -> None:
    if number < 1:
        raise OptionError(f"{name} must be at least 1, not {number}")
