"""The progress of a command on standard error: a bar on a terminal, else a line now and then."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_SECONDS_BETWEEN_LINES = 30.0


class Pace:
    """How fast a run goes.

    Args:
        total: pictures; 0 where it is not known.
    """

    def __init__(self, total: int) -> None:
        self.total = total
        self.done = 0
        self._started = time.monotonic()

    @property
    def seconds(self) -> float:
        """Since it began."""
        return time.monotonic() - self._started

    @property
    def per_hour(self) -> float:
        """Pictures in an hour, at the rate so far."""
        return 3600 * self.done / self.seconds if self.done else 0.0

    def __str__(self) -> str:
        left = (self.total - self.done) * self.seconds / self.done if self.done else 0.0
        return f"{self.per_hour:,.0f} an hour, {span(left)} left"


def span(seconds: float) -> str:
    """A time in the two largest of its units: "3 h 5 min", "5 min 3 s", "12 s"."""
    whole = round(seconds)
    if whole >= 86400:
        return f"{whole // 86400:,} d {whole % 86400 // 3600} h"
    if whole >= 3600:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 60} min {whole % 60} s" if whole >= 60 else f"{whole} s"


@contextmanager
def progress(
    what: str, total: int, *, quiet: bool = False
) -> Iterator[tuple[Callable[..., None], Callable[[str], None]]]:
    """A function that advances the progress by one or so many of ``total``, and one that prints a line on standard
    error.

    Args:
        what: is done: "captions".
        total: how many.
        quiet: show no progress.
    """
    pace = Pace(total)

    def print_line(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    if total < 2 or quiet:
        yield lambda count=1: None, print_line
        return
    if not sys.stderr.isatty():
        printed = 0.0

        def advance(count: int = 1) -> None:
            nonlocal printed
            pace.done += count
            if pace.seconds - printed > _SECONDS_BETWEEN_LINES and pace.done < total:
                printed = pace.seconds
                print_line(f"captioner: {pace.done:,} of {total:,} {what}, {pace}")

        yield advance, print_line
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[pace]}"))
    # The bar may take over what is printed only where both streams are the terminal; elsewhere captions would be lost.
    with Progress(*columns, console=Console(stderr=True), redirect_stdout=sys.stdout.isatty()) as bar:
        task = bar.add_task(what, total=total, pace="")

        def advance_bar(count: int = 1) -> None:
            pace.done += count
            bar.update(task, advance=count, pace=str(pace))

        yield (
            advance_bar,
            lambda line: bar.console.print(line, markup=False, emoji=False, highlight=False, soft_wrap=True),
        )
