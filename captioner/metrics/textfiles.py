"""Files of captions as rows, read strictly: what cannot be read raises DataError with the place.

JSON, JSON lines, CSV (or tab separated) with a header, and Flickr8k's token files; each may be gzipped. Lines end
at a line feed alone: a caption may hold U+2028 or a lone carriage return.
"""

import csv
import gzip
import io
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from captioner.errors import DataError

_FIELD_LIMIT = 1 << 27  # the csv module's own limit is below a caption of 40,000 words


def read_text(path: Path) -> str:
    """The text of a UTF-8 file, gzipped or not (told by its first bytes, not by its name)."""
    try:
        content = path.read_bytes()
    except IsADirectoryError:
        raise DataError(f"{path} is a folder; give a file of captions") from None
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from None
    if content[:2] == b"\x1f\x8b":
        try:
            content = gzip.decompress(content)
        except (OSError, EOFError, zlib.error) as error:
            raise DataError(f"{path} is damaged or cut short: {error}; fetch it again") from None
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DataError(f"{path}, line {line}: byte {error.start} is not UTF-8; save the file as UTF-8") from None
    if not text.strip():
        raise DataError(f"{path} is empty")
    return text


def parse_json(text: str, *, path: Path) -> Any:
    """The content of a JSON file."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        rest = "" if error.pos < len(text.rstrip()) else "; the file is cut short"
        raise DataError(f"{path}, line {error.lineno} column {error.colno}: {error.msg}{rest}") from None
    except RecursionError:
        raise DataError(f"{path} is nested too deeply for a file of captions") from None
    except ValueError as error:
        raise DataError(f"{path}: {error}") from None


def is_json(path: Path, text: str) -> bool:
    """Whether the text is one JSON value, and not a value on each line."""
    start = text.lstrip()[:1]
    if start == "[":
        return True
    if start != "{" or path.name.lower().removesuffix(".gz").endswith((".jsonl", ".ndjson")):
        return False
    first, _, rest = text.strip().partition("\n")
    if not rest:
        return True
    try:
        json.loads(first)
    except (ValueError, RecursionError):
        return True  # an object over several lines
    return False


def rows(path: Path, text: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each row of JSON lines, CSV or a token file with its place, for messages; a row maps names to values."""
    lines = text.split("\n")
    first = next(line for line in lines if line.strip())
    if first.lstrip().startswith("{"):
        return _json_lines(path, lines)
    if "\t" in first and "#" in first.partition("\t")[0]:
        return _token_lines(path, lines)
    return _csv_rows(path, text)


def _json_lines(path: Path, lines: list[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        place = f"{path}, line {number}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{place}: not JSON: {error}") from None
        if not isinstance(row, dict):
            raise DataError(f"{place}: {line[:40]!r} is not an object with an image and a caption")
        yield place, row


def _token_lines(path: Path, lines: list[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Flickr8k's form: the picture's file name, # and a number, a tab, the caption."""
    for number, line in enumerate(lines, start=1):
        line = line.removesuffix("\r")
        if not line.strip():
            continue
        name, tab, caption = line.partition("\t")
        picture, hash_sign, index = name.rpartition("#")
        if not tab or not hash_sign or not picture or not index.strip().isdecimal():
            raise DataError(f"{path}, line {number}: {line[:60]!r} is not of the form name.jpg#0, tab, caption")
        yield f"{path}, line {number}", {"image": picture, "caption": caption}


def _csv_rows(path: Path, text: str) -> Iterator[tuple[str, dict[str, Any]]]:
    header = text.lstrip("\n").partition("\n")[0]
    delimiter = "\t" if "\t" in header else ";" if header.count(";") > header.count(",") else ","
    before = csv.field_size_limit(_FIELD_LIMIT)
    try:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
        names = [name.strip() for name in next(reader)]
        for row in reader:
            if not row:
                continue
            place = f"{path}, line {reader.line_num}"
            if len(row) != len(names):
                raise DataError(f"{place}: {len(row)} fields, the header has {len(names)}; quote fields with commas")
            yield place, dict(zip(names, row, strict=True))
    except csv.Error as error:
        raise DataError(f"{path}, line {reader.line_num}: {error}") from None
    finally:
        csv.field_size_limit(before)
