"""Files of results: captions a line each, which a stopped run goes on with, figures, and pages."""

import csv
import io
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Literal, Self

from captioner.errors import OptionError
from captioner.results import Caption
from captioner.show.page import closing, entry, name_of, opening

_FIGURES = frozenset((".png", ".pdf", ".svg", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".eps"))
_COLUMNS = ("image", "caption", "score", "model")
_FIRST_KEY = '{"image": '  # as `Caption.as_dict` begins


class ResultsFile:
    """Captions in a .txt (image TAB caption), .jsonl or .csv file.

    Each caption is on disk before the next is made, so a kill loses at most the line that was being written:
    it is cut off when the file is opened again, and pictures that stand in whole lines are not done anew.
    A file that something else wrote is left as it is.

    Attributes:
        done: the pictures that the file has.

    Raises:
        OptionError: another ending, lines of another form, or a file that cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.kind = path.suffix.lower()
        if self.kind not in (".txt", ".jsonl", ".csv"):
            raise OptionError(f"{path}: results end in .txt, .jsonl or .csv, not '{path.suffix}'")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self.done = self._read()
            self._file: IO[str] = path.open("a", encoding="utf-8", errors="surrogateescape", newline="")
            if self.kind == ".csv" and self._file.tell() == 0:
                self._append(_csv_line(_COLUMNS))
        except OSError as error:
            raise OptionError(f"{path}: cannot be written ({error.strerror or error})") from None

    def write(self, caption: Caption) -> None:
        """Append a caption."""
        if self.kind == ".jsonl":
            self._append(json.dumps(caption.as_dict()) + "\n")
        elif self.kind == ".csv":
            self._append(_csv_line((caption.image, caption.text, f"{caption.score:.6f}", caption.model)))
        else:
            self._append(f"{_escape(caption.image)}\t{caption.text}\n")

    def close(self) -> None:
        self._file.close()

    def _append(self, line: str) -> None:
        self._file.write(line)
        self._file.flush()

    def _read(self) -> set[str]:
        if not self.path.exists():
            return set()
        whole = self.path.read_bytes()
        end = self._end_of_lines(whole)
        text = whole[:end].decode("utf-8", errors="surrogateescape")
        try:
            if end == 0 and not self._may_be_ours(whole):
                raise ValueError
            done = self._images(text)
        except (ValueError, KeyError, TypeError, AttributeError, csv.Error):
            raise OptionError(
                f"{self.path}: holds lines that are no captions of this program: give another --output"
            ) from None
        if end < len(whole):  # the line that a kill cut off
            with self.path.open("r+b") as file:
                file.truncate(end)
        return done

    def _end_of_lines(self, whole: bytes) -> int:
        """Where the last whole line ends; in a CSV file, a line break inside quotes ends none."""
        if self.kind != ".csv":
            return whole.rfind(b"\n") + 1
        end = place = quotes = 0
        for line in whole.split(b"\n")[:-1]:
            place += len(line) + 1
            quotes += line.count(b'"')
            if quotes % 2 == 0:
                end = place
        return end

    def _may_be_ours(self, start: bytes) -> bool:
        """Whether a file without a whole line can be one whose first line was cut off."""
        first = {".csv": _csv_line(_COLUMNS), ".jsonl": _FIRST_KEY, ".txt": ""}[self.kind].encode()
        return start[: len(first)] == first[: len(start)] if first else not start

    def _images(self, text: str) -> set[str]:
        if self.kind == ".csv":
            rows = list(csv.reader(io.StringIO(text, newline="")))
            if rows and tuple(rows[0]) != _COLUMNS:
                raise ValueError
            return {row[_COLUMNS.index("image")] for row in rows[1:] if row}
        lines = [line for line in text.split("\n") if line]
        if self.kind == ".jsonl":
            captions = [json.loads(line) for line in lines]
            if any(not {"image", "caption", "words"} <= caption.keys() for caption in captions):
                raise ValueError
            return {str(caption["image"]) for caption in captions}
        if any("\t" not in line for line in lines):
            raise ValueError
        return {_unescape(line.partition("\t")[0]) for line in lines}


class FigureFiles:
    """Where the figures of a run go: one file for one picture, a folder for several.

    Args:
        target: the file or folder.
        pictures: all of the run, those included that are already done: a figure's name must not depend on where
            a run was stopped.
        several: whether a folder is meant.

    Raises:
        OptionError: one file for several pictures, or no format of figures.
    """

    def __init__(self, target: Path, pictures: Sequence[Path], *, several: bool) -> None:
        self.target = target
        if several and target.suffix:
            raise OptionError(f"--figure {target} is one file for several pictures: name a folder, without an ending")
        if not several and target.suffix.lower() not in _FIGURES:
            raise OptionError(f"--figure {target}: name a file that ends in .png, .pdf or .svg")
        self._paths = self._of_folder(pictures) if several else {os.fspath(picture): target for picture in pictures}

    def write(self, caption: Caption, *, smooth: bool) -> None:
        """Draw the figure of a caption."""
        caption.figure(self._paths[caption.image], smooth=smooth)

    def _of_folder(self, pictures: Sequence[Path]) -> dict[str, Path]:
        paths: dict[str, Path] = {}
        taken: set[Path] = set()
        for picture in pictures:
            path, number = self.target / f"{picture.stem}.png", 2
            while path in taken:  # pictures of one name in several folders
                path, number = self.target / f"{picture.stem}-{number}.png", number + 1
            taken.add(path)
            paths[os.fspath(picture)] = path
        return paths


class PageFile:
    """A page of captions, a gallery where they are several; used as ``with PageFile(path) as file``.

    It is written beside its place, a caption at a time, and moved there when it is whole: a run that fails, is
    stopped or writes no caption leaves what was there as it was.

    Args:
        path: of the page, .html.
        title: of the page; None for the first picture's name.
        several: the page is to hold more than one caption.
        smooth: begin with interpolated maps; False with the cells as they are.

    Raises:
        OptionError: another ending, or a file that cannot be written.
    """

    MOST = 500
    """Captions that a browser bears on a page."""

    def __init__(self, path: Path, *, title: str | None = None, several: bool = False, smooth: bool = True) -> None:
        if path.suffix.lower() not in (".html", ".htm"):
            raise OptionError(f"{path}: a page ends in .html, not '{path.suffix}'")
        if os.path.isdir(path):  # noqa: PTH112 - unlike Path.is_dir, it takes names that are too long
            raise OptionError(f"{path}: cannot be written (Is a directory)")
        self.path = path
        self.title = title
        self.several = several
        self.smooth = smooth
        self.count = 0
        self._place = Path(os.path.realpath(path))  # through a link, which is to stay one
        self._partial = self._place.with_name(f".captioner-{os.getpid()}.partial")

    def __enter__(self) -> Self:
        with self._named_failures():
            self._place.parent.mkdir(parents=True, exist_ok=True)
            self._place.exists()  # a name that is too long fails here, not when all is done
            self._file = self._partial.open("w", encoding="utf-8", newline="")
        return self

    def write(self, caption: Caption) -> None:
        """Append a caption."""
        parts = [] if self.count else [opening(self.title if self.title is not None else name_of(caption))]
        parts.append(entry(caption, several=self.several, smooth=self.smooth))
        with self._named_failures():
            self._file.writelines(parts)
        self.count += 1

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            with self._named_failures(), self._file:
                if kind is None and self.count:
                    self._file.write(closing())
            if kind is None and self.count:
                with self._named_failures():
                    self._partial.replace(self._place)
        finally:
            self._partial.unlink(missing_ok=True)

    @contextmanager
    def _named_failures(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise OptionError(f"{self.path}: cannot be written ({error.strerror or error})") from None


def _csv_line(values: tuple[str, ...]) -> str:
    buffer = io.StringIO(newline="")
    # A bare carriage return ends a line for csv.reader, and not every version of csv.writer quotes it.
    returns = any("\r" in value for value in values)
    quoting: Literal[0, 1] = csv.QUOTE_ALL if returns else csv.QUOTE_MINIMAL
    csv.writer(buffer, lineterminator="\n", quoting=quoting).writerow(values)
    return buffer.getvalue()


def _escape(name: str) -> str:
    return name.replace("\\", "\\\\").replace("\t", "\\t").replace("\n", "\\n").replace("\r", "\\r")


def _unescape(name: str) -> str:
    characters = iter(name)
    plain = {"t": "\t", "n": "\n", "r": "\r"}
    return "".join(
        character if character != "\\" else (lambda c: plain.get(c, c))(next(characters, ""))
        for character in characters
    )
