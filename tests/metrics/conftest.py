"""What the tests of the scores share: the gold files beside the checkout, and a way to write files."""

import gzip
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

SHARED = Path(__file__).resolve().parents[2].parent / "shared"


@pytest.fixture(scope="session")
def gold() -> Path:
    folder = SHARED / "gold"
    if not folder.is_dir():
        pytest.skip("needs ../shared/gold, what the official evaluation says about real captions")
    return folder


def unescape(text: str) -> str:
    r"""Undo the escapes of the gold files: \\ \n \t \r \uXXXX \UXXXXXXXX."""
    named = {"\\": "\\", "n": "\n", "t": "\t", "r": "\r"}
    return re.sub(
        r"\\(\\|[ntr]|u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8})",
        lambda match: named.get(match[1]) or chr(int(match[1][1:], 16)),
        text,
    )


def gold_rows(path: Path) -> Iterator[list[str]]:
    """The fields of each line, as they stand; comment lines are left out."""
    opener: Any = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", encoding="utf-8", newline="\n") as file:
        for line in file:
            if not line.startswith(("#id", "#word")):
                yield line.rstrip("\n").split("\t")


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str, Any], Path]:
    """Write a file into the test's folder: text as it is, bytes as they are, anything else as JSON."""

    def write(name: str, content: Any) -> Path:
        path = tmp_path / name
        if isinstance(content, bytes):
            path.write_bytes(content)
        elif isinstance(content, str):
            path.write_bytes(content.encode())
        else:
            path.write_text(json.dumps(content))
        return path

    return write
