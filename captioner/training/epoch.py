"""Figures of the current epoch; saved with the run's state, so that a resumed epoch has the means of the whole."""

import time
from collections.abc import Mapping
from typing import Any

Figures = dict[str, float]


class EpochFigures:
    """Sums of the figures of an epoch's steps, and the time that they took. A figure may be missing in some steps."""

    def __init__(self) -> None:
        self._sums: Figures = {}
        self._counts: dict[str, int] = {}  # of the steps that have the figure
        self._steps = 0
        self._seconds = 0.0
        self._began = time.monotonic()

    def begin(self) -> None:
        """Start the clock."""
        self._began = time.monotonic()

    def add(self, figures: Mapping[str, float]) -> None:
        """Add the figures of a step."""
        self._steps += 1
        for name, value in figures.items():
            self._sums[name] = self._sums.get(name, 0.0) + value
            self._counts[name] = self._counts.get(name, 0) + 1

    def end(self) -> tuple[Figures, float]:
        """The means and the seconds of the epoch; both start from 0 again."""
        means = {name: value / self._counts[name] for name, value in self._sums.items()}
        seconds = self._seconds + time.monotonic() - self._began
        self._sums, self._counts, self._steps, self._seconds = {}, {}, 0, 0.0
        return means, seconds

    def as_dict(self) -> dict[str, Any]:
        """Plain values for a file; `restore` reads them."""
        seconds = self._seconds + time.monotonic() - self._began if self._steps else 0.0
        return {"sums": self._sums, "counts": self._counts, "steps": self._steps, "seconds": seconds}

    def restore(self, kept: Mapping[str, Any]) -> None:
        """Continue from what `as_dict` gave."""
        self._sums = dict(kept["sums"])
        self._steps, self._seconds = int(kept["steps"]), float(kept["seconds"])
        # Older versions did not store the counts.
        self._counts = dict(kept.get("counts") or dict.fromkeys(self._sums, self._steps))
