"""JSON, JSON lines, CSV and token files as values and rows. Every fault raises DataError with its place.

Lines end at a line feed alone: a caption may hold U+2028 or a lone carriage return. Of "\\r\\n" the carriage return is
no part of the last field.
"""

import csv
import io
import json
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from captioner.errors import DataError

Row = tuple[str, dict[str, Any]]
"""A row's place, for messages, and its values by name."""

PICTURE_NAMES = ("image_id", "image", "filename", "file_name", "id")
"""Names of the field that identifies a row's picture; the first that is there counts."""

CAPTION_NAMES = ("caption", "text", "comment")
"""Names of the field that holds the caption; the first that is there counts."""

_FIELD_LIMIT = 1 << 27  # the csv module's own limit is below a caption of 40,000 words
_csv_limit = threading.Lock()  # that limit is one for the whole process


def parse_json(text: str, *, path: Path) -> Any:
    """The content of a JSON file. NaN, Infinity and a key that an object has twice are refused.

    Raises:
        DataError: with the line and column, or with the value.
    """
    try:
        return _loads(text)
    except json.JSONDecodeError as error:
        rest = "" if error.pos < len(text.rstrip()) else "; the file is cut short"
        raise DataError(f"{path}, line {error.lineno} column {error.colno}: not JSON: {error.msg}{rest}") from None
    except RecursionError:
        raise DataError(f"{path} is nested too deeply for a file of captions") from None
    except ValueError as error:  # NaN, a key twice, a number of thousands of digits
        raise DataError(f"{path}: {error}") from None


def _loads(text: str) -> Any:
    try:
        return json.loads(text, parse_constant=_refuse_constant, object_pairs_hook=_object)
    except ValueError as error:
        if "set_int_max_str_digits" not in str(error):
            raise
        raise ValueError("a number of thousands of digits; write it as a string, or leave it out") from None


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON; write null or a number")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"an object has the key {twice!r:.40} twice: {pairs!r:.80}; keep one")
    return found


def is_json(name: str, text: str) -> bool:
    """Whether a text is one JSON value, and not a value on each line.

    Args:
        name: the file's name in lower case, without ``.gz``.
        text: not blank.
    """
    start = text.lstrip()[:1]
    if start == "[":
        return True
    if start != "{" or name.endswith((".jsonl", ".ndjson")):
        return False
    first, _, rest = text.strip().partition("\n")
    if not rest:
        return True
    try:
        json.loads(first)
    except (ValueError, RecursionError):
        return True  # an object over several lines
    return False


def rows(path: Path, text: str) -> Iterator[Row]:
    """The rows of JSON lines, a token file or CSV, whichever the first line shows it to be."""
    first = first_line(text)
    if first.lstrip().startswith("{"):
        return json_rows(path, text)
    if is_token_line(first):
        return token_rows(path, text)
    return csv_rows(path, text)


def first_line(text: str) -> str:
    """The first line that is not blank."""
    return text.lstrip().partition("\n")[0].removesuffix("\r")


def json_rows(path: Path, text: str) -> Iterator[Row]:
    """The objects of JSON lines."""
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        place = f"{path}, line {number}"
        try:
            row = _loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{place}: not JSON: {error}") from None
        if not isinstance(row, dict):
            raise DataError(f"{place}: {line[:40]!r} is not an object with an image and a caption")
        yield place, row


def is_token_line(line: str) -> bool:
    """Whether a line is of the form of Flickr8k's token files: ``name.jpg#0``, tab, caption."""
    name, tab, _ = line.partition("\t")
    return bool(tab) and "#" in name


def token_lines(path: Path, text: str) -> Iterator[tuple[int, str, str, str]]:
    """The captions of a token file, ``name.jpg#0``, tab, caption: the line's number, its key, the picture, the caption.

    Raises:
        DataError: a line has another form, or names no picture.
    """
    for number, line in enumerate(text.split("\n"), start=1):
        key, tab, caption = line.partition("\t")
        picture, hash_sign, index = key.rpartition("#")
        if tab and hash_sign and index.strip().isdecimal() and picture.strip():
            yield number, key, picture, caption.removesuffix("\r")
        elif line.strip():
            raise DataError(f"{path}, line {number}: {line[:60]!r} is not of the form name.jpg#0, tab, caption")


def token_rows(path: Path, text: str) -> Iterator[Row]:
    """The captions of a token file as rows with ``image`` and ``caption``."""
    for number, _, picture, caption in token_lines(path, text):
        yield f"{path}, line {number}", {"image": picture, "caption": caption}


def csv_rows(path: Path, text: str, *, join: bool = False) -> Iterator[Row]:
    """The rows of CSV with a header; separated by tabs or semicolons where the header is.

    Args:
        path: the file, for messages.
        text: its text.
        join: put the fields of a row that has more of them than the header together to its caption. This is done
            only where the caption is the last column, since elsewhere nobody can know which fields are parts of it.

    Raises:
        DataError: a row has more or fewer fields than the header, a quote is left open, a caption has several
            lines, or the header names a column twice, no picture or no caption.
    """
    header_line = first_line(text)
    semicolons = header_line.count(";") > header_line.count(",")
    delimiter = "\t" if "\t" in header_line else ";" if semicolons else ","
    table = _parsed_csv(path, text, delimiter)
    if not table:
        raise DataError(f"{path} has no header", remedy="add a first line such as image,caption")
    start, header = table[0]
    names = [name.strip().lower() for name in header]
    caption = _checked_header(names, f"{path}, line {start}")
    for start, row in table[1:]:
        place = f"{path}, line {start}"
        if join and len(row) > len(names) and caption == len(names) - 1:
            row = [*row[:caption], _joined(row[caption:], delimiter)]
        if len(row) != len(names):
            raise DataError(
                f"{place}: {len(row)} fields, the header has {len(names)}",
                remedy=f"put fields that hold '{delimiter}' in double quotes" if len(row) > len(names) else "add them",
            )
        if "\n" in row[caption]:
            raise DataError(
                f"{place}: a caption of several lines; is a quote left open?",
                remedy="write it in one line, or use JSON lines",
            )
        fields = (field if i == caption else field.strip() for i, field in enumerate(row))
        yield place, dict(zip(names, fields, strict=True))


def _joined(fields: list[str], delimiter: str) -> str:
    """The fields of a caption whose commas were not quoted. The space after a comma was skipped with it."""
    return f"{delimiter} ".join(fields)


def _checked_header(names: list[str], place: str) -> int:
    """The number of the column that holds captions."""
    caption = next((name for name in CAPTION_NAMES if name in names), None)
    if caption is None or not any(name in names for name in PICTURE_NAMES):
        shown = ", ".join(names)
        raise DataError(
            f"{place}: the header must name a column with the picture ({', '.join(PICTURE_NAMES)}) and one with the "
            f"caption ({', '.join(CAPTION_NAMES)}), not {shown[:80]}",
            remedy="add a first line such as image,caption",
        )
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise DataError(f"{place}: the header names the column {twice!r} twice", remedy="keep one")
    return names.index(caption)


def _parsed_csv(path: Path, text: str, delimiter: str) -> list[tuple[int, list[str]]]:
    """The rows that are not blank, each with the number of its first line; at least one."""
    found: list[tuple[int, list[str]]] = []
    start = 1
    with _csv_limit:
        before = csv.field_size_limit(_FIELD_LIMIT)
        try:
            reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True, skipinitialspace=True)
            for row in reader:
                if any(field.strip() for field in row):
                    found.append((start, row))
                start = reader.line_num + 1
        except csv.Error as error:
            raise DataError(f"{path}, line {start}: not CSV: {error}; is a quote left open?") from None
        finally:
            csv.field_size_limit(before)
    return found
