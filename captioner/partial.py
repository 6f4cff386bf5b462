"""Files that are written beside their place and moved there when they are whole, and the locks of their writers."""

import errno
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from captioner.errors import OptionError

if os.name == "nt":
    import msvcrt
else:
    import fcntl

_PREFIX = ".captioner-"
_OURS = re.compile(r"\.captioner-\d+-[0-9a-f]{8}\.partial(\..*)?")
_LONGEST_ENDING = 32  # characters; what is longer is no ending that a writer goes by
_LOCKED_BYTE = 1 << 40  # on Windows a lock keeps others from reading, so it lies far beyond every end of a file


def try_lock(descriptor: int) -> bool:
    """Lock an open file for this process, or return False where another process has it.

    The system gives the lock back when the file is closed or the process ends, also by a kill. On file systems without
    locks it returns True.
    """
    return _lock(descriptor) is not False


def open_locked(place: Path) -> tuple[int, bool] | None:
    """Open a file to be read and written, by this process alone; it is made if need be.

    Returns:
        Its descriptor, and whether it was made; None where another process has it.

    Raises:
        OSError: it cannot be opened.
    """
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
    while True:
        created = not place.exists()
        descriptor = os.open(place, flags, 0o666)
        if not try_lock(descriptor):
            os.close(descriptor)
            return None
        if os.fstat(descriptor).st_nlink:  # not removed or replaced by the process that had it
            return descriptor, created
        os.close(descriptor)


def rewrite_locked(place: Path, content: bytes) -> int:
    """Replace a file that this process has locked; the new one is locked before it is in its place.

    Returns:
        The descriptor of the new file; the caller closes the old one.

    Raises:
        OSError: it cannot be written; the old one stays.
    """
    partial = PartialFile(place)
    descriptor = partial.with_lock()
    try:
        _write_all(descriptor, content)
        os.fsync(descriptor)
        partial.commit()
    except BaseException:
        os.close(descriptor)
        raise
    finally:
        partial.discard()
    return descriptor


def append_whole(descriptor: int, data: bytes, *, at: int | None = None, sync: bool = False) -> None:
    """Append to a file, all or nothing: what was written of it is removed where the rest cannot be.

    Args:
        descriptor: of the file.
        data: to append.
        at: where the file ends for the caller; None for where it does.
        sync: wait until it is on the disk.

    Raises:
        OSError: it cannot be written.
    """
    end = os.lseek(descriptor, 0, os.SEEK_END) if at is None else os.lseek(descriptor, at, os.SEEK_SET)
    try:
        _write_all(descriptor, data)
        if sync:
            os.fsync(descriptor)
    except OSError:
        with suppress(OSError):  # else the next run removes what is not whole
            os.ftruncate(descriptor, end)
        raise


def _write_all(descriptor: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def _lock(descriptor: int) -> bool | None:
    """Whether the file is locked for this process now; None on file systems without locks."""
    try:
        if os.name == "nt":
            os.lseek(descriptor, _LOCKED_BYTE, os.SEEK_SET)
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined,unused-ignore]
            os.lseek(descriptor, 0, os.SEEK_SET)
        else:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return False if error.errno in (errno.EWOULDBLOCK, errno.EACCES, errno.EDEADLK) else None
    return True


def place_of(path: Path, *, name: Path | str = "", option: str = "") -> Path:
    """The file that an output path stands for: through links, which stay links. Its folder is made if need be.

    Args:
        path: of the output.
        name: what messages call it; its path if not given.
        option: stands before the name in messages.

    Raises:
        OptionError: it is a folder or a device, or its folder cannot be made or written.
    """
    what = f"{option} {name or path}".strip()
    mode = stat.S_IFREG
    try:
        place = Path(os.path.realpath(path))
        place.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError):
            mode = place.stat().st_mode
    except FileExistsError:
        raise OptionError(f"{what}: cannot be written (Not a directory)") from None
    except (OSError, ValueError) as error:
        raise OptionError(f"{what}: cannot be written ({getattr(error, 'strerror', None) or error})") from None
    if not stat.S_ISREG(mode):
        reason = "Is a directory" if stat.S_ISDIR(mode) else "not a regular file"
        raise OptionError(f"{what}: cannot be written ({reason})")
    return place


def check_folder(folder: Path, *, name: Path | str, option: str = "") -> None:
    """Check that files can be made in a folder, before any work is done for them.

    Raises:
        OptionError: they cannot.
    """
    try:
        descriptor, probe = _create(folder, "")
        os.close(descriptor)
        probe.unlink()
    except OSError as error:
        raise OptionError(f"{f'{option} {name}'.strip()}: cannot be written ({error.strerror or error})") from None


class PartialFile:
    """A new, empty file beside its place, with the place's ending; `commit` moves it there.

    Until then the place stays as it was. The file is locked as long as this object is open, so that a later run can
    recognise the file of a dead process, see `remove_stale`.

    Raises:
        OSError: it cannot be made.
    """

    def __init__(self, place: Path) -> None:
        self.place = place
        self._descriptor, self.path = _create(place.parent, place.suffix)

    def commit(self, *, new: bool = False) -> None:
        """Move the file to its place, with the permissions of the file that it replaces.

        Args:
            new: only where nothing is there yet.

        Raises:
            FileExistsError: something is there, and the file was to be new.
            OSError: it cannot be moved.
        """
        if new:
            try:
                self.place.hardlink_to(self.path)  # unlike a renamed file, a link never replaces one
                self.discard()
                return
            except FileExistsError:
                raise
            except OSError:  # a disk without hard links
                if os.path.lexists(self.place):
                    raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), self.place) from None
        else:
            with suppress(OSError):
                shutil.copymode(self.place, self.path)
        self._close()
        self.path.replace(self.place)

    def with_lock(self) -> int:
        """A further descriptor of the file, which keeps its lock after `commit`; the caller closes it."""
        return os.dup(self._descriptor)

    def discard(self) -> None:
        """Remove the file."""
        self._close()
        with suppress(OSError):
            self.path.unlink(missing_ok=True)

    def _close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


@contextmanager
def written_whole(place: Path) -> Iterator[Path]:
    """A new, empty file beside a place, to be written; it is moved there if all went well, and else removed.

    Raises:
        OSError: it cannot be made or moved.
    """
    partial = PartialFile(place)
    try:
        yield partial.path
        partial.commit()
    finally:
        partial.discard()


@contextmanager
def written_output(path: Path) -> Iterator[Path]:
    """A file with the same ending beside an output, to be written; then it takes the output's place. Until then what
    was there stays as it was, also where writing fails or is killed.

    Raises:
        OptionError: the file cannot be written.
    """
    place = Path(os.path.realpath(path))  # through a link, which stays one
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with written_whole(place) as partial:
            yield partial
    except OSError as error:
        raise OptionError(f"{path}: cannot be written ({error.strerror or error})") from None


def remove_stale(folder: Path) -> None:
    """Remove the partial files that processes left behind when they were killed. Where the file system has no locks
    they stay, since one may be of a process that writes it now."""
    with suppress(OSError):
        for path in folder.glob(f"{_PREFIX}*.partial*"):
            if not _OURS.fullmatch(path.name) or path.is_symlink() or not path.is_file():
                continue
            with suppress(OSError):
                descriptor = os.open(path, os.O_RDWR)
                try:
                    if _lock(descriptor):
                        path.unlink()
                finally:
                    os.close(descriptor)


def _create(folder: Path, suffix: str) -> tuple[int, Path]:
    suffix = suffix if len(suffix) <= _LONGEST_ENDING else ""
    while True:
        path = folder / f"{_PREFIX}{os.getpid()}-{secrets.token_hex(4)}.partial{suffix}"
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        try_lock(descriptor)
        if os.fstat(descriptor).st_nlink:  # not removed as stale before it was locked
            return descriptor, path
        os.close(descriptor)
