"""Means with 95% intervals: Efron's percentile bootstrap over pictures."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from captioner.errors import OptionError
from captioner.metrics.resampling import MINIMUM_PICTURES, Interval

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """A mean and its 95% interval; NaN where there is no value, and an interval of NaN where there are fewer than
    `captioner.metrics.resampling.MINIMUM_PICTURES` pictures."""

    value: float
    interval: Interval

    @classmethod
    def unknown(cls) -> "Estimate":
        """That of nothing."""
        return cls(math.nan, Interval(math.nan, math.nan))

    def as_dict(self) -> dict[str, Any]:
        """Value and interval as plain values for JSON; what is not finite is None."""
        bounds = [bound if math.isfinite(bound) else None for bound in (self.interval.low, self.interval.high)]
        value = self.value if math.isfinite(self.value) else None
        return {"value": value, "interval": None if None in bounds else bounds}

    @property
    def interval_text(self) -> str:
        """The interval in percent; "" where there is none."""
        low, high = self.interval.low, self.interval.high
        return "" if math.isnan(low) else f"{100 * low:.1f} to {100 * high:.1f}"


def bootstrap_means(values: Floats, pictures: Sequence[str], resamples: int = 1000, seed: int = 0) -> list[Estimate]:
    """The mean of each column with its 95% interval, if it has values of `MINIMUM_PICTURES`; NaN values are left out.

    Args:
        values: (M, K), a row for each noun.
        pictures: the picture of each row; the rows of a picture are resampled together.
        resamples: how many sets of pictures are drawn.
        seed: of the drawing.

    Returns:
        K estimates.

    Raises:
        OptionError: ``resamples`` below 1.
    """
    if resamples < 1:
        raise OptionError(f"resamples must be at least 1, not {resamples}")
    _, group = np.unique(np.asarray(pictures), return_inverse=True)
    known = np.isfinite(values)
    groups = group.max() + 1
    sums, counts = np.zeros((groups, values.shape[1])), np.zeros((groups, values.shape[1]))
    np.add.at(sums, group, np.where(known, values, 0))
    np.add.at(counts, group, known)
    random = np.random.default_rng(seed)
    means = _ratio(sums.sum(0), counts.sum(0))
    drawn = np.empty((resamples, values.shape[1]))
    for row in drawn:
        # How often each picture is in this resample.
        times = np.bincount(random.integers(groups, size=groups), minlength=groups).astype(np.float64)
        row[:] = _ratio(times @ sums, times @ counts)
    estimates = []
    for value, column, enough in zip(means.tolist(), drawn.T, (counts > 0).sum(0) >= MINIMUM_PICTURES, strict=True):
        finite = column[np.isfinite(column)]
        low, high = np.quantile(finite, [0.025, 0.975]).tolist() if enough and len(finite) else (np.nan, np.nan)
        estimates.append(Estimate(value, Interval(low, high)))
    return estimates


def _ratio(total: Floats, count: Floats) -> Floats:
    return np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0)
