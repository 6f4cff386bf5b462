"""Sidecars: files beside the pictures, written whole or not at all, and never onto a picture."""

import errno
import os
import stat
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any

from captioner.data.sidecars import Join, SidecarForm
from captioner.errors import DataError, OptionError
from captioner.partial import PartialFile, remove_stale
from captioner.results import Caption, Failure

# What stops a run, since the next sidecar would fail as well.
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS)

_TRIES = 10


class BesideFiles:
    """The sidecars of a run, of one form.

    Two pictures of one stem would share a sidecar; neither gets it, and both are failures. Stems that differ in upper
    and lower case alone are one where the disk takes them for one.

    Args:
        form: what the files hold.
        name: the sidecar's name for a picture's name.
        join: what becomes of a text that is there.
        option: for messages.
    """

    def __init__(self, form: SidecarForm, name: Callable[[str], str], join: Join, *, option: str) -> None:
        self.form, self.join, self.option = form, join, option
        self._name = name
        self._owners: dict[str, Path] = {}
        self._folded: dict[str, Path] = {}
        self._real: dict[str, str] = {}
        self._writable: dict[str, bool] = {}
        self._cleaned: set[str] = set()

    def path_of(self, picture: str | os.PathLike[str]) -> Path:
        """The sidecar of a picture, in the picture's folder."""
        path = Path(picture)
        return path.with_name(self._name(path.name))

    def plan(
        self, pictures: Iterable[Path], *, inputs: Iterable[Path] = (), elsewhere: Iterable[Path] = ()
    ) -> tuple[list[str], list[Failure]]:
        """What is to happen to each picture's sidecar, before any work.

        Args:
            pictures: of the run. Those of an earlier call keep their sidecars.
            inputs: other files that the run reads.
            elsewhere: pictures of other runs, such as other shards, whose sidecars this run leaves alone.

        Returns:
            For each picture "new", "add to" or "replace", or "" where nothing is to be written; and a failure for each
            picture whose sidecar cannot be written.
        """
        pictures = list(pictures)
        failures: dict[Path, Failure] = {}
        known, own = dict(self._owners), set(pictures)
        for picture in pictures:
            other = self._claim(picture)
            if other is not None:
                for one, rival in ((picture, other), (other, picture)):
                    if one is not other or self._key(other) not in known:
                        failures.setdefault(one, self._shared(one, rival))
        for rival in elsewhere:
            other = self._claim(rival)
            if other is not None and self._key(other) not in known and other in own:
                failures.setdefault(other, self._shared(other, rival))
        plans: list[str] = []
        sources = _Sources([*pictures, *inputs], ending=Path(self._name("a.b")).suffix)
        for picture in pictures:
            try:
                plans.append(self._planned(picture, sources))
            except DataError as error:
                plans.append("")
                failures.setdefault(picture, Failure.of(picture, error))
        return plans, list(failures.values())

    def refuse(self, outputs: Mapping[str, Path | None]) -> None:
        """Make sure that no other output of the run is a sidecar. Raises OptionError."""
        for option, path in outputs.items():
            picture = None if path is None else self._owners.get(os.path.realpath(path))
            if picture is not None:
                raise OptionError(f"{option}: {path} is the sidecar of {picture} too", remedy="give each its own file")

    def write(self, caption: Caption) -> None:
        """Write the sidecar of a caption, as it joins what is there.

        Raises:
            DataError: this sidecar cannot be written; others may.
            OptionError: none can, for instance because the disk is full.
        """
        path = self.path_of(caption.image)
        facts = {**caption.as_dict(), "image": Path(caption.image).name}
        try:
            place = Path(os.path.realpath(path))
            if os.fspath(place.parent) not in self._cleaned:
                self._cleaned.add(os.fspath(place.parent))
                remove_stale(place.parent)
            if not any(self._written(place, path, caption.text, facts) for _ in range(_TRIES)):
                raise DataError(f"{path}: something else keeps writing it", remedy="run again when it has stopped")
        except OSError as error:
            what = f"{path}: cannot be written ({error.strerror or error})"
            if error.errno in _NO_ROOM:
                raise OptionError(what, remedy="make room; the sidecars before it are whole") from None
            raise DataError(what) from None

    def _written(self, place: Path, path: Path, text: str, facts: Mapping[str, Any]) -> bool:
        """Write once; False where the file has changed meanwhile."""
        former = _content(place)
        try:
            content = self.form.merged(former, text, facts, self.join)
        except DataError as error:
            raise DataError(f"{path} {error}") from None
        if content is None:
            return True
        partial = PartialFile(place)
        try:
            with partial.path.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())  # else a power cut could leave an empty file under the right name
            if _content(place) != former:
                return False
            try:
                partial.commit(new=former is None)
            except FileExistsError:
                return False
        finally:
            partial.discard()
        return True

    # Planning.

    def _claim(self, picture: Path) -> Path | None:
        """Take the sidecar of a picture; another picture that has it."""
        key = self._key(picture)
        owner = self._owners.setdefault(key, picture)
        if owner != picture:
            return owner
        folder, name = os.path.split(key)
        alike = self._folded.setdefault(f"{folder}\0{unicodedata.normalize('NFC', name).casefold()}", picture)
        return alike if alike != picture and self._is_one_to_the_disk(picture, alike) else None

    @staticmethod
    def _is_one_to_the_disk(one: Path, other: Path) -> bool:
        """Whether the disk takes the stems of two pictures for the same, as those that ignore case do."""
        for picture, stem in ((one, other.stem), (other, one.stem)):
            with suppress(OSError):
                if picture.with_name(stem + picture.suffix).samefile(picture):
                    return True
        return False

    def _key(self, picture: Path) -> str:
        """What a sidecar is on the disk."""
        parent, name = os.path.split(os.fspath(self.path_of(picture)))
        if parent not in self._real:
            self._real[parent] = os.path.realpath(parent)
        path = os.path.join(self._real[parent], name)  # noqa: PTH118
        return os.path.realpath(path) if os.path.islink(path) else path  # noqa: PTH114

    def _shared(self, picture: Path, other: Path) -> Failure:
        path = self.path_of(picture)
        return Failure(
            os.fspath(picture),
            f"{picture}: {path} would be the sidecar of {other} too",
            f"rename one of the two, or caption them without {self.option}",
            picture,
        )

    def _planned(self, picture: Path, sources: "_Sources") -> str:
        path = self.path_of(picture)
        try:
            status = path.lstat()
        except FileNotFoundError:
            self._check_folder(path)
            return "new"
        except (OSError, ValueError) as error:
            raise DataError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from None
        self._check_existing(path, status, sources)
        if self.join.existing == "skip" and self._is_complete(path):
            return ""
        self._check_folder(Path(os.path.realpath(path)))
        return "replace" if self.join.existing == "overwrite" else "add to"

    def _is_complete(self, path: Path) -> bool:
        try:
            return self.form.is_complete(path.read_bytes() if self.form.needs_content else None)
        except OSError as error:
            raise DataError(f"{path}: cannot be read ({error.strerror or error})") from None
        except DataError as error:
            raise DataError(f"{path} {error}") from None

    def _check_existing(self, path: Path, status: os.stat_result, sources: "_Sources") -> None:
        """A file that is there is no folder, and no input. Raises DataError."""
        may_be_input = stat.S_ISLNK(status.st_mode) or status.st_nlink > 1
        if stat.S_ISLNK(status.st_mode):
            try:
                status = path.stat()
            except OSError:
                raise DataError(f"{path}: a link to nowhere", remedy="remove it") from None
        if not stat.S_ISREG(status.st_mode):
            raise DataError(f"{path}: cannot be written (it is no file)", remedy="move it away")
        if (may_be_input or sources.alike) and sources.have(status):
            raise DataError(f"{path}: is an input of this run, and stays as it is", remedy="move it away")

    def _check_folder(self, path: Path) -> None:
        folder = os.fspath(path.parent)
        if folder not in self._writable:
            self._writable[folder] = os.access(folder or os.curdir, os.W_OK | os.X_OK)
        if not self._writable[folder]:
            raise DataError(
                f"{path}: the folder cannot be written", remedy=f"allow it, or caption without {self.option}"
            )


class _Sources:
    """What a run reads, looked at only where a sidecar could be part of it."""

    def __init__(self, files: list[Path], *, ending: str) -> None:
        self._files, self._ending = files, ending.lower()

    @cached_property
    def alike(self) -> bool:
        """Whether one of the files ends as sidecars do."""
        return any(one.suffix.lower() == self._ending for one in self._files)

    @cached_property
    def _identities(self) -> set[tuple[int, int]]:
        found = set()
        for one in self._files:
            with suppress(OSError, ValueError):
                status = one.stat()
                found.add((status.st_dev, status.st_ino))
        return found

    def have(self, status: os.stat_result) -> bool:
        """Whether one of the files is this one on the disk."""
        return (status.st_dev, status.st_ino) in self._identities


def _content(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
