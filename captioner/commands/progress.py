"""A progress bar on standard error, drawn only where that is a terminal."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def progress(what: str, total: int) -> Iterator[tuple[Callable[[], None], Callable[[str], None]]]:
    """How to advance a bar of ``total`` steps, and how to print a line on standard error beside it."""
    if total < 2 or not sys.stderr.isatty():
        yield lambda: None, lambda line: print(line, file=sys.stderr, flush=True)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    # The bar may catch what is printed only where both are on the terminal, else captions miss their file or pipe.
    with Progress(*columns, console=Console(stderr=True), redirect_stdout=sys.stdout.isatty()) as bar:
        task = bar.add_task(what, total=total)
        yield (
            lambda: bar.advance(task),
            lambda line: bar.console.print(line, markup=False, emoji=False, highlight=False, soft_wrap=True),
        )
