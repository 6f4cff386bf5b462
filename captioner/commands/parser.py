"""The parser of a command line. It is imported only when there is something to parse."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from pathlib import Path

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any


class Parser(argparse.ArgumentParser):
    """Options may stand anywhere among the other arguments, and wrong usage is reported in one line, without the whole
    usage before it."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"formatter_class": _formatter, **options})
        self.register("type", Path, _path)  # of every option that takes one
        self._words: list[str] = []

    def parse_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> Any:
        """The options and other arguments of a command line. argparse's own takes those others only where all stand
        together: of ``a.jpg --threads 1 b.jpg`` it refuses the second. What follows ``--`` is no option."""
        words = self._words = sys.argv[1:] if args is None else list(args)
        if "--" in words:
            end = words.index("--")
            words[end:] = [f"{_NO_OPTION}{word}" if word.startswith("-") else word for word in words[end + 1 :]]
        found = self.parse_intermixed_args(words, namespace)
        for name, value in vars(found).items():
            setattr(found, name, _as_given(value))
        return found

    def error(self, message: str) -> Any:
        """Print the line and exit with 2. A file whose name begins with a hyphen is no option."""
        file = next((word for word in self._words if word.startswith("-") and os.path.lexists(word)), None)
        remedy = f"see {self.prog} --help" if file is None else f"for the file {file}, write ./{file}"
        self.exit(2, f"{self.prog}: {message} ({remedy})\n")


def _path(text: str) -> Path:
    if not text:  # else it would be the current folder
        raise argparse.ArgumentTypeError("is empty")
    return Path(text)


_NO_OPTION = "\0"  # no word of a command line holds it


def _as_given(value: Any) -> Any:
    """A parsed value, or a list of them, without the mark of words that begin with a hyphen."""
    if isinstance(value, list):
        return [_as_given(one) for one in value]
    is_text = isinstance(value, (str, os.PathLike))
    return type(value)(str(value)[1:]) if is_text and str(value).startswith(_NO_OPTION) else value


def _formatter(prog: str) -> argparse.HelpFormatter:
    """argparse's own, with the width of the terminal: to find that, it would import what unpacks archives."""
    columns = os.environ.get("COLUMNS", "")
    width = int(columns) if columns.isdigit() and int(columns) else 80
    if width == 80:
        with contextlib.suppress(OSError):  # no terminal
            width = os.get_terminal_size().columns or width
    return argparse.HelpFormatter(prog, width=width - 2)
