"""Warnings of the library as lines on standard error."""

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def warnings_as_lines() -> Iterator[None]:
    """Print at once, as ``captioner: message`` and each message once, what is left out, and which figures mean little.

    Other warnings are shown as before. It changes how the whole process shows warnings while it is open: it is for
    the main thread of a command, not for libraries.
    """
    from captioner.data.readers import LeftOutWarning
    from captioner.metrics import FewPicturesWarning

    printed: set[str] = set()
    before = warnings.showwarning

    def show(message: Warning | str, category: type[Warning], *more: Any, **named: Any) -> None:
        if not issubclass(category, LeftOutWarning | FewPicturesWarning):
            before(message, category, *more, **named)
            return
        line = " ".join(str(message).split()).encode("utf-8", "backslashreplace").decode()
        if line not in printed:
            printed.add(line)
            print(f"captioner: {line}", file=sys.stderr)

    with warnings.catch_warnings():
        for category in (LeftOutWarning, FewPicturesWarning):
            warnings.simplefilter("always", category)
        warnings.showwarning = show
        yield
