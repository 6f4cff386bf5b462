"""Pictures that failed: a table of them, and a folder that they are moved to."""

import csv
import io
import os
import shutil
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

from captioner.errors import OptionError
from captioner.partial import append_whole, check_folder, open_locked, place_of
from captioner.results import Failure

COLUMNS = ("path", "error", "remedy")
_MOST_NAMES = 100_000


class FailuresFile:
    """A CSV table of the failures of a run: path, error, remedy. Each row is on the disk before the next picture.

    `begin` removes the rows of the run before, whose pictures are tried again; until then rows are kept in memory.

    Args:
        path: of the file, .csv.
        moved_to: a folder to which pictures that failed are moved. They are not tried again, so the rows of those that
            are still there stay.

    Raises:
        OptionError: another ending, a file that holds something else, that another run writes, or that cannot be
            written.
    """

    def __init__(self, path: Path, *, moved_to: Path | None = None) -> None:
        if path.suffix.lower() != ".csv":
            raise OptionError(f"--failures {path}: a table of failures ends in .csv, not '{path.suffix}'")
        self.path = path
        self._moved_to = moved_to
        self._waiting: list[bytes] | None = []
        place = place_of(path, option="--failures")
        self._place = place
        try:
            opened = open_locked(place)
        except OSError as error:
            raise self._cannot_write(error) from None
        if opened is None:
            raise OptionError(f"--failures {path}: is being written by another run", remedy="give another file")
        self._descriptor, self._created = opened
        try:
            header = _row(COLUMNS)
            first = os.read(self._descriptor, 1 << 12)
            if first and not (first.startswith(header) or header.startswith(first)):
                raise OptionError(
                    f"--failures {path}: holds something else than failures", remedy="give another file; it stays"
                )
        except BaseException:
            os.close(self._descriptor)
            raise

    def begin(self) -> None:
        """Start the table again, once. Raises OptionError where it cannot be written."""
        if self._waiting is None:
            return
        try:
            rows, self._waiting = [_row(COLUMNS), *self._of_moved(), *self._waiting], None
            os.ftruncate(self._descriptor, 0)
            os.lseek(self._descriptor, 0, os.SEEK_SET)
        except OSError as error:
            raise self._cannot_write(error) from None
        self._append(b"".join(rows))

    def _of_moved(self) -> list[bytes]:
        """The rows of pictures that earlier runs moved, and that are still where they were moved to."""
        if self._moved_to is None or not self._moved_to.is_dir():
            return []
        folder = Path(os.path.realpath(self._moved_to))
        names = {folder.name, self._moved_to.name}  # a row has the folder's name as it was given
        with self._place.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
            try:
                rows = [tuple(row) for row in csv.reader(file)]
            except csv.Error:  # not rows of ours
                return []
        kept = dict.fromkeys(row for row in rows if len(row) == len(COLUMNS) and _lies_in(row[0], folder, names))
        return [_row(row) for row in kept]

    def write(self, failure: Failure) -> None:
        """Append a failure. Raises OptionError where it cannot be written; the rows before stay whole."""
        row = _row((failure.image, failure.error, failure.remedy))
        if self._waiting is None:
            self._append(row)
        else:
            self._waiting.append(row)

    def close(self) -> None:
        """Close the file."""
        if self._descriptor >= 0:
            with suppress(OSError):
                if self._created and not os.fstat(self._descriptor).st_size:
                    self._place.unlink(missing_ok=True)
            os.close(self._descriptor)
            self._descriptor = -1

    def _append(self, row: bytes) -> None:
        try:
            append_whole(self._descriptor, row)
        except OSError as error:
            raise self._cannot_write(error) from None

    def _cannot_write(self, error: OSError) -> OptionError:
        return OptionError(f"--failures {self.path}: cannot be written ({error.strerror or error})")


class FailedFolder:
    """A folder to which pictures that do not open are moved. A file that is there is never replaced: ``a.jpg`` then
    becomes ``a-2.jpg``.

    Args:
        folder: made if need be.

    Raises:
        OptionError: it cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def prepare(self) -> None:
        """Make the folder. Raises OptionError where it cannot be written."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OptionError(f"--move-failed {self.folder}: cannot be made ({error.strerror or error})") from None
        check_folder(self.folder, name=self.folder, option="--move-failed")

    def refuse_pictures_inside(self, pictures: list[Path]) -> None:
        """Make sure that no picture of the run lies in the folder. Raises OptionError."""
        here = os.path.realpath(self.folder)
        for parent, picture in {picture.parent: picture for picture in pictures}.items():
            if os.path.realpath(parent) == here:
                raise OptionError(
                    f"--move-failed {self.folder}: the folder holds pictures of this run ({picture})",
                    remedy="name another folder",
                )

    def move(self, picture: Path) -> Path | None:
        """Move a picture; where it is now, or None where it stays: links, devices, and files that cannot be read.

        Raises:
            OSError: it cannot be moved; it is where it was.
        """
        if picture.is_symlink() or not picture.is_file() or not os.access(picture, os.R_OK):
            return None
        for number in range(1, _MOST_NAMES):
            name = picture.name if number == 1 else f"{picture.stem}-{number}{picture.suffix}"
            target = self.folder / name
            try:
                _move_to_new(picture, target)
            except FileExistsError:
                continue
            return target
        raise FileExistsError(f"{self.folder} has too many files of that name")


def _move_to_new(source: Path, target: Path) -> None:
    """Move a file where nothing is yet; at any moment one whole copy is there. Raises OSError."""
    try:
        target.hardlink_to(source)
    except FileExistsError:
        raise
    except OSError:  # another disk, or one without hard links
        with target.open("xb") as copy:
            try:
                with source.open("rb") as original:
                    shutil.copyfileobj(original, copy)
                copy.flush()
                os.fsync(copy.fileno())
                shutil.copystat(source, target)
            except BaseException:
                target.unlink(missing_ok=True)
                raise
    try:
        source.unlink()
    except OSError:  # a folder that cannot be changed: the picture stays where it is, once
        target.unlink(missing_ok=True)
        raise


def _lies_in(name: str, folder: Path, names: Collection[str]) -> bool:
    """Whether a picture that was moved is in the folder, which has these names; its own name may be relative to where
    another run began."""
    path = Path(name)
    return path.parent.name in names and "\0" not in name and os.path.lexists(Path(folder, path.name))


def _row(values: tuple[str, ...]) -> bytes:
    buffer = io.StringIO(newline="")
    csv.writer(buffer, lineterminator="\r\n").writerow(values)  # quotes what has a carriage return
    return f"{buffer.getvalue()[:-2]}\n".encode("utf-8", "surrogateescape")
