"""The forms of results files: a row for each caption, appended, and read back row by row."""

import csv
import io
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import BinaryIO, Literal, Protocol

from captioner.registry import Registry
from captioner.results import Caption

COLUMNS = ("image", "caption", "score", "model")
_LONGEST_LINE = 256 << 20  # bytes; a line with a hundred alternatives and their maps has some 10 million
_MOST_MODELS = 20
_FIRST_KEY = b'{"image": '  # as `Caption.as_dict` begins
_BEFORE_MAPS = re.compile(rb', "words": \[')  # a quote inside a string is escaped, so this is no part of a string
_TOKEN_NAME = re.compile(r"(?<!\\)#\d+$")  # of a Flickr token file: reference captions

_MARK = "\ufeff"  # a byte order mark, which editors put before the first line


class ForeignRowsError(Exception):
    """The file holds rows that are no captions of this program; the message names them."""


@dataclass
class Scan:
    """What a results file holds.

    Attributes:
        end: where the last whole row ends, in bytes.
        closed: whether the last whole row ends with a line feed.
        models: names of the models that the rows state, at most 20.
    """

    end: int = 0
    closed: bool = True
    models: set[str] = field(default_factory=set)

    def add_model(self, name: object) -> None:
        if isinstance(name, str) and len(self.models) < _MOST_MODELS:
            self.models.add(name)


class Format(Protocol):
    """How captions lie in a file, a row each."""

    def header(self) -> str:
        """The text at the beginning of a new file."""
        ...

    def row(self, caption: Caption, image: str) -> str:
        """The row of a caption, with its line feed."""
        ...

    def scan(self, file: BinaryIO, found: Callable[[str], None], *, model: str = "") -> Scan:
        """Read a file from its beginning, in constant memory.

        Args:
            file: opened at its beginning.
            found: is called with the picture's name of each whole row.
            model: the model that is known to have made the file; a name that was cut off is compared with it.

        Raises:
            ForeignRowsError: the file was not written in this format by this program.
        """
        ...

    def detail(self) -> str:
        """What of several captions of a picture the format does not hold; "" where it holds all."""
        ...


WRITERS: Registry[type[Format]] = Registry("results format")
"""Formats of results by the ending of their files."""


@WRITERS.register(".txt")
class TextFormat:
    """``image TAB caption``. Tabs, line breaks and backslashes of names are escaped."""

    def header(self) -> str:
        return ""

    def row(self, caption: Caption, image: str) -> str:
        return f"{_escape(image)}\t{' '.join(caption.text.split())}\n"

    def detail(self) -> str:
        return "only the best caption of a picture"

    def scan(self, file: BinaryIO, found: Callable[[str], None], *, model: str = "") -> Scan:
        scan = Scan()
        for line, end in _lines(file):
            closed = line.endswith("\n")
            name, tab, text = line.removesuffix("\n").partition("\t")
            if not tab and not name.strip() and closed:
                scan.end = end
                continue
            if not tab or (not closed and not text.strip()):
                if closed or not scan.end:
                    raise ForeignRowsError("a line without a tab")
                break
            if _TOKEN_NAME.search(name):
                raise ForeignRowsError(f"{name} names a reference caption, as in a Flickr token file")
            if not scan.end and name.startswith(_MARK):
                found(_unescape(name.removeprefix(_MARK)))
            found(_unescape(name))
            scan.end, scan.closed = end, closed
        return scan


@WRITERS.register(".jsonl")
class JsonLinesFormat:
    """A JSON object a line, as `Caption.as_dict` describes it."""

    def header(self) -> str:
        return ""

    def row(self, caption: Caption, image: str) -> str:
        return caption.as_json(image=image) + "\n"

    def detail(self) -> str:
        return ""

    def scan(self, file: BinaryIO, found: Callable[[str], None], *, model: str = "") -> Scan:
        scan = Scan()
        for line, end in _byte_lines(file):
            closed = line.endswith(b"\n")
            if closed and not line.strip():
                scan.end = end
                continue
            try:
                values = self._parse(line, whole=not closed)
            except (ValueError, RecursionError):
                if closed or not (scan.end or _FIRST_KEY.startswith(line[: len(_FIRST_KEY)])):
                    raise ForeignRowsError(
                        "a line that is no JSON object with a picture, a caption and words"
                    ) from None
                break
            found(str(values["image"]))
            scan.add_model(values.get("model"))
            scan.end, scan.closed = end, closed
        return scan

    def _parse(self, line: bytes, *, whole: bool) -> dict[str, object]:
        """The values before the maps; all of them where the line may have been cut off."""
        maps = None if whole else _BEFORE_MAPS.search(line)
        if maps is not None and line.rstrip().endswith(b"}"):
            values = json.loads(line[: maps.start()] + b"}")
            required = {"image", "caption"}
        else:
            values = json.loads(line)
            required = {"image", "caption", "words"}
        if not isinstance(values, dict) or not required <= values.keys():
            raise ValueError
        return values


@WRITERS.register(".csv")
class CsvFormat:
    """A table with the columns image, caption, score and model; line ends as the file has them."""

    def __init__(self) -> None:
        self._line_end = "\n"

    def header(self) -> str:
        return self._line(COLUMNS)

    def row(self, caption: Caption, image: str) -> str:
        return self._line((image, caption.text, f"{caption.score:.6f}", caption.model))

    def detail(self) -> str:
        return "only the best caption of a picture"

    def scan(self, file: BinaryIO, found: Callable[[str], None], *, model: str = "") -> Scan:
        scan = Scan()
        lines = _CountedLines(file)
        first = True
        try:
            for row in csv.reader(lines):
                if first:
                    self._check_header(lines, row)
                elif row and not self._scan_row(row, lines, scan, found, model):
                    break
                if lines.quotes % 2:  # the end of the file came inside quotes
                    break
                first = False
                scan.end, scan.closed = lines.end, lines.last.endswith("\n")
                lines.start_row()
        except _Cut:
            pass
        except csv.Error as error:
            raise ForeignRowsError(f"a row that is no CSV ({error})") from None
        return scan

    def _check_header(self, lines: "_CountedLines", row: list[str]) -> None:
        if tuple(cell.lstrip("\ufeff") if i == 0 else cell for i, cell in enumerate(row)) == COLUMNS:
            self._line_end = "\r\n" if lines.last.endswith("\r\n") else "\n"
            return
        if not lines.last.endswith("\n") and ",".join(COLUMNS).startswith(lines.last.lstrip("\ufeff")):
            raise _Cut
        for separator in (";", "\t"):
            if lines.last.lstrip("\ufeff").rstrip() == separator.join(COLUMNS):
                raise ForeignRowsError(f"columns are separated by {separator!r}: save it with commas")
        raise ForeignRowsError(f"the columns are not {', '.join(COLUMNS)}")

    def _scan_row(
        self, row: list[str], lines: "_CountedLines", scan: Scan, found: Callable[[str], None], model: str
    ) -> bool:
        """Take a row. False where it is a last row that was cut off."""
        closed = lines.last.endswith("\n")
        if lines.quotes % 2:
            if any(line.rstrip().endswith(tuple(f",{name}" for name in scan.models)) for line in lines.row[1:]):
                raise ForeignRowsError(f"a quote that is not closed in the row of {row[0]}")
            return False
        if closed and len(row) < 2:
            raise ForeignRowsError(f"a row with one column: {row[0][:40]}")
        if not closed and (len(row) < len(COLUMNS) or self._is_cut_model(row, model or next(iter(scan.models), ""))):
            return False
        found(row[0])
        scan.add_model(row[3] if len(row) > 3 else None)
        return True

    @staticmethod
    def _is_cut_model(row: list[str], model: str) -> bool:
        """Whether the last cell is the beginning of the model's name; an empty cell after an empty score is not."""
        return row[3] != model and model.startswith(row[3]) and bool(row[2])

    def _line(self, values: tuple[str, ...]) -> str:
        buffer = io.StringIO(newline="")
        # A bare carriage return ends a line for csv.reader, and not every version of csv.writer quotes it.
        returns = any("\r" in value for value in values)
        quoting: Literal[0, 1] = csv.QUOTE_ALL if returns else csv.QUOTE_MINIMAL
        csv.writer(buffer, lineterminator=self._line_end, quoting=quoting).writerow(values)
        return buffer.getvalue()


class _Cut(Exception):  # noqa: N818 - no error
    """The header was cut off."""


class _CountedLines:
    """Lines of a CSV file for `csv.reader`, with where a row ends and whether quotes are open.

    Attributes:
        last: the last line.
        end: where it ends, in bytes.
        row: the lines of the present row.
        quotes: how many quotes they have.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._lines = _lines(file)
        self.last = ""
        self.end = 0
        self.start_row()

    def start_row(self) -> None:
        self.row: list[str] = []
        self.quotes = 0

    def __iter__(self) -> Iterator[str]:
        for line, end in self._lines:
            self.last, self.end = line, end
            self.row.append(self.last)
            self.quotes += self.last.count('"')
            yield self.last


def _lines(file: BinaryIO) -> Iterator[tuple[str, int]]:
    """Lines as text, each with where it ends; line feeds alone end lines."""
    for line, end in _byte_lines(file):
        yield line.decode("utf-8", "surrogateescape"), end


def _byte_lines(file: BinaryIO) -> Iterator[tuple[bytes, int]]:
    end = 0
    while line := file.readline(_LONGEST_LINE):
        if len(line) == _LONGEST_LINE:
            raise ForeignRowsError(f"a line of more than {_LONGEST_LINE:,} bytes")
        end += len(line)
        yield line, end


def _escape(name: str) -> str:
    name = name.replace("\\", "\\\\").replace("\t", "\\t").replace("\n", "\\n").replace("\r", "\\r")
    return _TOKEN_NAME.sub(lambda found: f"\\{found[0]}", name)


def _unescape(name: str) -> str:
    characters = iter(name)
    plain = {"t": "\t", "n": "\n", "r": "\r"}
    return "".join(
        character if character != "\\" else (lambda c: plain.get(c, c))(next(characters, ""))
        for character in characters
    )
