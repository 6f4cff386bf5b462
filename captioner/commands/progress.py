"""A progress bar on standard error, drawn only where standard error is a terminal."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def progress(what: str, total: int) -> Iterator[tuple[Callable[[], None], Callable[[str], None]]]:
    """A function that advances a bar of ``total`` steps, and one that prints a line on standard error beside it."""
    if total < 2 or not sys.stderr.isatty():
        yield lambda: None, lambda line: print(line, file=sys.stderr, flush=True)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    # The bar may take over what is printed only where both streams are the terminal; elsewhere captions would be lost.
    with Progress(*columns, console=Console(stderr=True), redirect_stdout=sys.stdout.isatty()) as bar:
        task = bar.add_task(what, total=total)
        yield (
            lambda: bar.advance(task),
            lambda line: bar.console.print(line, markup=False, emoji=False, highlight=False, soft_wrap=True),
        )
