"""Which pictures a command line names: files, folders, lists of files, and files that hold many pictures."""

import os
import re
import stat
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from captioner.data.selection import Selection, relative
from captioner.errors import CaptionerError
from captioner.image import SUFFIXES, UNREADABLE_SUFFIXES
from captioner.results import Failure

if TYPE_CHECKING:
    from captioner.data.packed import PackedPicture, Packing

_URL = re.compile(r"[a-z][a-z0-9+.-]+://", re.IGNORECASE)
_HEAD = 256  # bytes, in which the texts of a PNG file of Matplotlib's begin
_FIGURE = re.compile(r"-[0-9a-f]{10}\.figure\.png$")  # as `captioner.data.writers.figures` names them


def _missing(argument: str) -> Failure:
    """The failure of an argument that names nothing that can be opened."""
    try:
        Path(argument).stat()
    except PermissionError as error:
        return Failure(argument, f"{argument}: cannot be read ({error.strerror})")
    except (OSError, ValueError):
        pass
    remedy = "for standard input give /dev/stdin, or a list of files by --from -" if argument == "-" else ""
    return Failure(argument, f"{argument}: no such file or folder", remedy)


def _is_figure(path: Path) -> bool:
    """Whether a PNG file says at its beginning that it is a figure of this program; see `captioner.show.figure`."""
    try:
        with path.open("rb") as file:
            return b"Software\0captioner" in file.read(_HEAD)
    except OSError:
        return False  # what is wrong with it is said when it is opened


@dataclass(frozen=True, kw_only=True)
class FoundPictures:
    """The pictures of a command line.

    Attributes:
        pictures: each file once, under the name by which it was found first; those of a folder sorted by path,
            subfolders included.
        numbers: for each picture, its place among all that were found, from 1, before a shard was taken of them.
        failures: one for each argument, file or folder that should give a picture and does not.
        notes: a line for each folder with files that are left out, with their number and kinds.
        several: whether the arguments name a folder or more than one file.
        containers: the files that hold several of the pictures.
        elsewhere: pictures that are files of their own, and of other shards.
    """

    pictures: "list[Path | PackedPicture]"
    numbers: list[int]
    failures: list[Failure]
    notes: list[str]
    several: bool
    containers: list[Path] = field(default_factory=list)
    elsewhere: list[Path] = field(default_factory=list)

    @property
    def files(self) -> list[Path]:
        """The pictures that are files of their own."""
        return [picture for picture in self.pictures if isinstance(picture, Path)]


def find_pictures(
    arguments: Sequence[str],
    *,
    leave_out: Iterable[Path] = (),
    selection: Selection | None = None,
    column: str | None = None,
    uncounted: Iterable[str] = (),
) -> FoundPictures:
    """Find the pictures of files and folders.

    A file that is named itself is taken whatever its ending; a ``.tar`` or ``.parquet`` file stands for the pictures in
    it. In folders, files with the ending of a format that can be opened are taken, in upper or lower case; hidden files
    and folders, and figures of this program, are left out. Links to folders are followed, each folder once.

    Args:
        arguments: paths of files and folders.
        leave_out: outputs of the run: folders, whose pictures are left out, and files that are not counted as other
            kinds. A file with a picture's ending stays a picture, so that nobody writes onto it unseen.
        selection: what is taken of folders, and of all.
        column: of Parquet files; None for the one that holds pictures.
        uncounted: endings of files that the notes do not count, such as those of the run's sidecars.
    """
    selection = selection or Selection()
    resolved = {os.path.realpath(path) for path in leave_out}
    left_out = {path for path in resolved if os.path.isdir(path) or Path(path).suffix.lower() not in SUFFIXES}  # noqa: PTH112
    found = _Found()
    failures: list[Failure] = []
    notes: list[str] = []
    containers: list[Path] = []
    several = False
    for argument in arguments:
        if not argument:  # Path("") would be the current folder
            failures.append(Failure("", "a picture's name is empty"))
        elif _URL.match(argument):
            failures.append(Failure(argument, f"{argument}: a URL, and pictures are files: fetch it first"))
        elif os.path.isdir(argument):  # noqa: PTH112 - unlike Path.is_dir, it takes names that are too long
            several = True
            walk = _Walk(left_out, Path(argument), selection, frozenset(uncounted))
            walk.folder(Path(argument))
            failures += walk.failures or ([] if walk.pictures else [walk.nothing(argument)])
            notes += walk.notes(argument)
            for picture in sorted(walk.pictures):
                found.add(picture, relative(picture, Path(argument)))
        elif (packing := _packing(argument)) is not None and os.path.exists(argument):  # noqa: PTH110
            several = True
            try:
                path, begun = Path(argument), False
                for packed in packing().pictures(path, column=column):
                    if not begun:  # it is an input also where it is cut off further on
                        containers.append(path)
                        begun = True
                    if isinstance(packed, Failure):
                        failures.append(packed)
                        continue
                    found.add(packed, os.fspath(packed) if isinstance(packed, Path) else packed.place)
            except CaptionerError as error:
                failures.append(Failure.of(argument, error))
        elif os.path.exists(argument):  # noqa: PTH110
            found.add(Path(argument), relative(argument, ""))
        elif os.path.islink(argument):  # noqa: PTH114
            failures.append(Failure(argument, _dangling(argument)))
        else:
            failures.append(_missing(argument))
    all_of_them = list(found.pictures.values())
    chosen: list[tuple[int, Path | PackedPicture]] = []
    elsewhere: list[Path] = []
    for number, (one, key) in enumerate(all_of_them, 1):
        if selection.in_shard(key):
            chosen.append((number, one))
        elif isinstance(one, Path):
            elsewhere.append(one)
    return FoundPictures(
        pictures=[one for _, one in chosen],
        numbers=[number for number, _ in chosen],
        failures=failures,
        notes=notes,
        several=several or len(all_of_them) + len(failures) > 1,
        containers=containers,
        elsewhere=elsewhere,
    )


def names_in_list(content: bytes) -> list[str]:
    """The names of a list of files: one a line, or, where the list has null characters, one before each of them, as
    ``find -print0`` writes them. Blank lines are passed over."""
    content = content.removeprefix(b"\xef\xbb\xbf")
    if b"\0" in content:
        return [os.fsdecode(name) for name in content.split(b"\0") if name]
    names = []
    for line in content.split(b"\n"):
        name = os.fsdecode(line)
        if name.endswith("\r") and not os.path.lexists(name):  # a list that was written on Windows
            name = name[:-1]
        if name.strip():
            names.append(name)
    return names


def _packing(argument: str) -> "type[Packing] | None":
    """The kind of file that holds several pictures, by the ending; None for others."""
    suffix = Path(argument).suffix.lower()
    if suffix in SUFFIXES:  # one photograph starts without what reads tables and shards
        return None
    from captioner.data.packed import PACKED

    return PACKED[suffix] if suffix in PACKED else None  # noqa: SIM401 - a registry is no dict


class _Found:
    """Pictures by what is the same for all spellings of a path: the real folder, and the name in it.

    So a link to a file is a picture of its own, and what is found through a link to a folder is not.
    """

    def __init__(self) -> None:
        self.pictures: dict[tuple[str, str], tuple[Path | PackedPicture, str]] = {}
        self._real: dict[Path, str] = {}

    def add(self, picture: "Path | PackedPicture", key: str) -> None:
        """Add a picture under the name that shards know it by."""
        if not isinstance(picture, Path):
            self.pictures.setdefault(("", str(picture)), (picture, key))
            return
        parent = picture.parent
        if parent not in self._real:
            self._real[parent] = os.path.realpath(parent)
        self.pictures.setdefault((self._real[parent], picture.name), (picture, key))


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
    top: Path
    selection: Selection
    uncounted: frozenset[str]
    pictures: list[Path] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
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

    def nothing(self, argument: str) -> Failure:
        """The failure of a folder that gave no picture."""
        wanted = ", ".join(self.selection.include or sorted(SUFFIXES))
        return Failure(argument, f"{argument}: no pictures in this folder (looked for {wanted})")

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
                self._fail(path, f"cannot be read ({error.strerror or error})")
                continue
            for entry in inside:
                if not entry.name.startswith("."):
                    self._entry(path / entry.name, entry, waiting, links)

    def _entry(self, path: Path, entry: "os.DirEntry[str]", waiting: list[Path], links: list[Path]) -> None:
        try:
            folder = entry.is_dir()
            status = None if folder else entry.stat()
        except FileNotFoundError:
            if self.selection.takes(relative(path, self.top)):
                self.failures.append(Failure(os.fspath(path), _dangling(path)))
            return
        except OSError as error:  # a link to itself, or a folder that may be listed but not entered
            self._fail(path, f"cannot be read ({error.strerror or error})")
            return
        may_be_output = entry.is_symlink() or entry.name in self._left_out_names
        if may_be_output and os.path.realpath(path) in self.left_out:
            return
        below = relative(path, self.top)
        if status is None:
            if self.selection.enters(below):
                (links if entry.is_symlink() else waiting).append(path)
        elif self.selection.takes(below):
            self._file(path, status)

    def _fail(self, path: Path, what: str) -> None:
        self.failures.append(Failure(os.fspath(path), f"{path}: {what}"))

    def _file(self, path: Path, status: os.stat_result) -> None:
        suffix = path.suffix.lower()
        if suffix in UNREADABLE_SUFFIXES:
            self._fail(path, f"pictures that end in {path.suffix} cannot be opened; convert them first")
        elif suffix not in SUFFIXES:
            if suffix not in self.uncounted:
                self.others[suffix or "without an ending"] += 1
        elif _FIGURE.search(path.name):
            self.figures += 1
        elif not stat.S_ISREG(status.st_mode):
            self._fail(path, "not a regular file")
        elif suffix == ".png" and _is_figure(path):
            self.figures += 1
        else:
            self.pictures.append(path)
