"""Files of results: captions a line each, which a stopped run goes on with, and figures."""

import csv
import io
import json
from pathlib import Path
from typing import IO

from captioner.caption import Caption
from captioner.errors import OptionError

_FIGURES = frozenset((".png", ".pdf", ".svg", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".eps"))
_COLUMNS = ("image", "caption", "score", "model")


class ResultsFile:
    """Captions in a .txt (image TAB caption), .jsonl or .csv file.

    Each caption is on disk before the next is made, so a kill loses at most the line that was being written:
    it is cut off when the file is opened again, and pictures that stand in whole lines are not done anew.

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
        end = whole.rfind(b"\n") + 1
        text = whole[:end].decode("utf-8", errors="surrogateescape")
        try:
            done = self._images(text)
        except (ValueError, KeyError, TypeError, csv.Error):
            raise OptionError(
                f"{self.path}: holds lines that are no captions of this program: give another --output"
            ) from None
        if end < len(whole):  # the line that a kill cut off
            with self.path.open("r+b") as file:
                file.truncate(end)
        return done

    def _images(self, text: str) -> set[str]:
        if self.kind == ".csv":
            rows = list(csv.reader(io.StringIO(text, newline="")))
            if rows and tuple(rows[0]) != _COLUMNS:
                raise ValueError
            return {row[_COLUMNS.index("image")] for row in rows[1:] if row}
        lines = [line for line in text.split("\n") if line]
        if self.kind == ".jsonl":
            return {str(json.loads(line)["image"]) for line in lines}
        if any("\t" not in line for line in lines):
            raise ValueError
        return {_unescape(line.partition("\t")[0]) for line in lines}


class FigureFiles:
    """Where the figures of a run go: one file for one picture, a folder for several.

    Raises:
        OptionError: one file for several pictures, or no format of figures.
    """

    def __init__(self, target: Path, *, several: bool) -> None:
        self.target, self.several = target, several
        self._taken: set[Path] = set()
        if several and target.suffix:
            raise OptionError(f"--figure {target} is one file for several pictures: name a folder, without an ending")
        if not several and target.suffix.lower() not in _FIGURES:
            raise OptionError(f"--figure {target}: name a file that ends in .png, .pdf or .svg")

    def write(self, caption: Caption, *, smooth: bool) -> None:
        """Draw the figure of a caption."""
        caption.figure(self._path(caption), smooth=smooth)

    def _path(self, caption: Caption) -> Path:
        if not self.several:
            return self.target
        stem = Path(caption.image).stem
        path, number = self.target / f"{stem}.png", 2
        while path in self._taken:  # pictures of one name in several folders
            path, number = self.target / f"{stem}-{number}.png", number + 1
        self._taken.add(path)
        return path


def _csv_line(values: tuple[str, ...]) -> str:
    buffer = io.StringIO(newline="")
    csv.writer(buffer, lineterminator="\n").writerow(values)
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
