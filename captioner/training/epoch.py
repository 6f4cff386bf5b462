"""What an epoch has come to so far; kept with the run's state, so that its means are those of the whole epoch."""

import time
from collections.abc import Mapping
from typing import Any

Figures = dict[str, float]


class EpochFigures:
    """Sums of the figures of an epoch's steps, and the seconds that they took."""

    def __init__(self) -> None:
        self._sums: Figures = {}
        self._steps = 0
        self._seconds = 0.0
        self._began = time.monotonic()

    def begin(self) -> None:
        """The clock runs from here on."""
        self._began = time.monotonic()

    def add(self, figures: Mapping[str, float]) -> None:
        """Count a step in."""
        self._steps += 1
        for name, value in figures.items():
            self._sums[name] = self._sums.get(name, 0.0) + value

    def end(self) -> tuple[Figures, float]:
        """The epoch's means and its seconds; the next one starts from nothing."""
        means = {name: value / max(1, self._steps) for name, value in self._sums.items()}
        seconds = self._seconds + time.monotonic() - self._began
        self._sums, self._steps, self._seconds = {}, 0, 0.0
        return means, seconds

    def so_far(self) -> dict[str, Any]:
        """Plain values for a file, from which `go_on` goes on."""
        seconds = self._seconds + time.monotonic() - self._began if self._steps else 0.0
        return {"epoch": {"sums": self._sums, "steps": self._steps, "seconds": seconds}}

    def go_on(self, kept: Mapping[str, Any]) -> None:
        """Go on from what `so_far` gave; from nothing where it holds nothing."""
        found = kept.get("epoch", {})
        self._sums = dict(found.get("sums", {}))
        self._steps, self._seconds = found.get("steps", 0), found.get("seconds", 0.0)
