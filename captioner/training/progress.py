"""Training's progress on standard error: a bar on a terminal, else a line now and then."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from captioner.training.loop import Report

_SECONDS_BETWEEN_LINES = 30.0


@contextmanager
def report_to_terminal() -> Iterator[Report]:
    """A report function for `captioner.training.loop.Trainer`."""
    if not sys.stderr.isatty():
        yield _Lines()
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[figures]}"),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("", figures="")

        def report(what: str, done: int, total: int, figures: dict[str, float]) -> None:
            bar.update(task, description=what, completed=done, total=total, figures=_write(figures))
            if what.startswith("dev"):
                bar.console.print(f"{what}: {_write(figures)}", highlight=False)

        yield report


class _Lines:
    def __init__(self) -> None:
        self._printed_at = 0.0

    def __call__(self, what: str, done: int, total: int, figures: dict[str, float]) -> None:
        now = time.monotonic()
        if what.startswith("dev") or done == total or now - self._printed_at > _SECONDS_BETWEEN_LINES:
            self._printed_at = now
            print(f"{what}  {done}/{total}  {_write(figures)}".rstrip(), file=sys.stderr, flush=True)


def _write(figures: dict[str, float]) -> str:
    return "  ".join(f"{name} {value:.3f}" for name, value in figures.items())
