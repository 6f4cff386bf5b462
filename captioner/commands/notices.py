"""Warnings of the library as lines on standard error."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from captioner.errors import Notice

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


@contextmanager
def warnings_as_lines() -> Iterator[None]:
    """Print every `captioner.errors.Notice` at once, as ``captioner: message``, and each message once.

    Other warnings are shown as before. It changes how the whole process shows warnings while it is open: it is for
    the main thread of a command, not for libraries.
    """
    printed: set[str] = set()
    before = warnings.showwarning

    def show(message: Warning | str, category: type[Warning], *more: Any, **named: Any) -> None:
        if not issubclass(category, Notice):
            before(message, category, *more, **named)
            return
        line = " ".join(str(message).split()).encode("utf-8", "backslashreplace").decode()
        if line not in printed:
            printed.add(line)
            print(f"captioner: {line}", file=sys.stderr)

    with warnings.catch_warnings():
        warnings.simplefilter("always", Notice)
        warnings.showwarning = show
        yield
