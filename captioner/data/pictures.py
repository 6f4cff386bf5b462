"""Which pictures a command line names."""

import os
import re
import stat
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from captioner.image import SUFFIXES, UNREADABLE_SUFFIXES

_URL = re.compile(r"[a-z][a-z0-9+.-]+://", re.IGNORECASE)
_FIGURE = re.compile(r"-[0-9a-f]{10}\.figure\.png$")  # as `captioner.data.writers.figures` names them


@dataclass(frozen=True, kw_only=True)
class FoundPictures:
    """The pictures of a command line.

    Attributes:
        pictures: each file once, under the name by which it was found first; those of a folder sorted by path,
            subfolders included.
        failures: a line for each argument, file or folder that should give a picture and does not.
        notes: a line for each folder with files that are left out, with their number and kinds.
        several: whether the arguments name a folder or more than one file.
    """

    pictures: list[Path]
    failures: list[str]
    notes: list[str]
    several: bool


def find_pictures(arguments: Sequence[str], *, leave_out: Iterable[Path] = ()) -> FoundPictures:
    """Find the pictures of files and folders.

    A file that is named itself is taken whatever its ending. In folders, files with the ending of a format that can be
    opened are taken, in upper or lower case; hidden files and folders, and figures of this program, are left out.
    Links to folders are followed, each folder once.

    Args:
        arguments: paths of files and folders.
        leave_out: outputs of the run: folders, whose pictures are left out, and files that are not counted as other
            kinds. A file with a picture's ending stays a picture, so that nobody writes onto it unseen.
    """
    resolved = {os.path.realpath(path) for path in leave_out}
    left_out = {path for path in resolved if os.path.isdir(path) or Path(path).suffix.lower() not in SUFFIXES}  # noqa: PTH112
    found = _Found()
    failures: list[str] = []
    notes: list[str] = []
    folders = False
    for argument in arguments:
        if not argument:  # Path("") would be the current folder
            failures.append("a picture's name is empty")
        elif _URL.match(argument):
            failures.append(f"{argument}: a URL, and pictures are files: fetch it first")
        elif os.path.isdir(argument):  # noqa: PTH112 - unlike Path.is_dir, it takes names that are too long
            folders = True
            walk = _Walk(left_out)
            walk.folder(Path(argument))
            failures += walk.failures or ([] if walk.pictures else [walk.nothing(argument)])
            notes += walk.notes(argument)
            for picture in sorted(walk.pictures):
                found.add(picture)
        elif os.path.exists(argument):  # noqa: PTH110
            found.add(Path(argument))
        elif os.path.islink(argument):  # noqa: PTH114
            failures.append(_dangling(argument))
        else:
            failures.append(f"{argument}: no such file or folder")
    pictures = list(found.pictures.values())
    several = folders or len(pictures) + len(failures) > 1
    return FoundPictures(pictures=pictures, failures=failures, notes=notes, several=several)


class _Found:
    """Pictures by what is the same for all spellings of a path: the real folder, and the name in it.

    So a link to a file is a picture of its own, and what is found through a link to a folder is not.
    """

    def __init__(self) -> None:
        self.pictures: dict[tuple[str, str], Path] = {}
        self._real: dict[Path, str] = {}

    def add(self, picture: Path) -> None:
        parent = picture.parent
        if parent not in self._real:
            self._real[parent] = os.path.realpath(parent)
        self.pictures.setdefault((self._real[parent], picture.name), picture)


def _dangling(path: str | Path) -> str:
    try:
        target = os.readlink(path)  # noqa: PTH115
    except OSError:
        target = "?"
    return f"{path}: a link to nowhere ({target})"


@dataclass
class _Walk:
    """One pass through a folder and all below it."""

    left_out: set[str]
    pictures: list[Path] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    others: Counter[str] = field(default_factory=Counter)
    figures: int = 0
    _seen: set[tuple[int, int]] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._left_out_names = {os.path.basename(path) for path in self.left_out}  # noqa: PTH119

    def folder(self, path: Path) -> None:
        """Go through a folder. Links to folders come last, so that a folder is found under its own name first."""
        links: list[Path] = []
        self._plain(path, links)
        while links:
            self._plain(links.pop(0), links)

    def nothing(self, argument: str) -> str:
        """The failure of a folder that gave no picture."""
        return f"{argument}: no pictures in this folder (looked for {', '.join(sorted(SUFFIXES))})"

    def notes(self, argument: str) -> list[str]:
        """What was left out, a line each."""
        lines = []
        if self.others:
            kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(self.others.items()))
            total = sum(self.others.values())
            lines.append(f"{argument}: {total} {'file' if total == 1 else 'files'} of other kinds left out ({kinds})")
        if self.figures:
            lines.append(f"{argument}: {self.figures} {'figure' if self.figures == 1 else 'figures'} left out")
        return lines

    def _plain(self, top: Path, links: list[Path]) -> None:
        waiting = [top]
        while waiting:
            path = waiting.pop()
            try:
                status = path.stat()
                if (status.st_dev, status.st_ino) in self._seen:
                    continue
                self._seen.add((status.st_dev, status.st_ino))
                with os.scandir(path) as entries:
                    inside = sorted(entries, key=lambda entry: entry.name)
            except OSError as error:
                self.failures.append(f"{path}: cannot be read ({error.strerror or error})")
                continue
            for entry in inside:
                if not entry.name.startswith("."):
                    self._entry(path / entry.name, entry, waiting, links)

    def _entry(self, path: Path, entry: "os.DirEntry[str]", waiting: list[Path], links: list[Path]) -> None:
        try:
            folder = entry.is_dir()
            status = None if folder else entry.stat()
        except FileNotFoundError:
            self.failures.append(_dangling(path))
            return
        except OSError as error:  # a link to itself, or a folder that may be listed but not entered
            self.failures.append(f"{path}: cannot be read ({error.strerror or error})")
            return
        may_be_output = entry.is_symlink() or entry.name in self._left_out_names
        if may_be_output and os.path.realpath(path) in self.left_out:
            return
        if status is None:
            (links if entry.is_symlink() else waiting).append(path)
        else:
            self._file(path, status)

    def _file(self, path: Path, status: os.stat_result) -> None:
        suffix = path.suffix.lower()
        if suffix in UNREADABLE_SUFFIXES:
            self.failures.append(f"{path}: pictures that end in {path.suffix} cannot be opened; convert them first")
        elif suffix not in SUFFIXES:
            self.others[suffix or "without an ending"] += 1
        elif _FIGURE.search(path.name):
            self.figures += 1
        elif not stat.S_ISREG(status.st_mode):
            self.failures.append(f"{path}: not a regular file")
        else:
            self.pictures.append(path)
