"""Warnings of the library as lines on standard error."""

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def warnings_as_lines() -> Iterator[None]:
    """Print what the package warns of (a `UserWarning`) as ``captioner: message``, each message once.

    It changes the filters of the process while it is open: for the main thread of a command, not for libraries.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        try:
            yield
        finally:
            for text in dict.fromkeys(str(warning.message) for warning in caught):
                line = " ".join(text.split()).encode("utf-8", "backslashreplace").decode()
                print(f"captioner: {line}", file=sys.stderr)
