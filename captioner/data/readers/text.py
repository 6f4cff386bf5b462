"""The text of a file, gzipped or not, read strictly: what is not UTF-8 text raises DataError with the place."""

import gzip
import io
import stat
import zlib
from pathlib import Path
from typing import BinaryIO

from captioner.errors import DataError

LARGEST = 1 << 31
"""The most bytes of text that are read from one file, after decompression."""

LARGEST_RATIO, SMALL = 200, 1 << 26
"""A gzipped file may hold `SMALL` bytes of text, or beyond that `LARGEST_RATIO` times its size on disk."""

_CHUNK = 1 << 20
_GZIP = b"\x1f\x8b"
_UTF16 = (b"\xff\xfe", b"\xfe\xff")


def read_text(path: Path) -> str:
    """The text of a UTF-8 file. Whether it is gzipped is decided by its first bytes, not by its name.

    A byte-order mark is passed over. Memory is bounded by `LARGEST`.

    Raises:
        DataError: the path is missing, a folder or a device, or the file is too large, damaged, empty, not UTF-8,
            or holds NUL characters.
    """
    content = _read_bytes(path)
    if content.startswith(_UTF16):
        raise DataError(f"{path} is in UTF-16", remedy="save the file as UTF-8")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{path}, line {line}: byte {error.start} is not UTF-8", remedy="save the file as UTF-8"
        ) from None
    nul = text.find("\0")
    if nul >= 0:
        line = text.count("\n", 0, nul) + 1
        raise DataError(f"{path}, line {line}: a NUL character, so this is no text", remedy="save the file as UTF-8")
    if not text.strip():
        raise DataError(f"{path} is empty")
    return text


def _read_bytes(path: Path) -> bytes:
    try:
        found = path.stat()
        if stat.S_ISDIR(found.st_mode):
            raise DataError(f"{path} is a folder", remedy="give a file of captions")
        if stat.S_ISCHR(found.st_mode) or stat.S_ISBLK(found.st_mode):
            raise DataError(f"{path} is a device", remedy="give a file of captions")
        with path.open("rb") as file:
            head = file.read(len(_GZIP))
            if head != _GZIP:
                return head + _limited(file, path, LARGEST)
            rest = _limited(file, path, LARGEST)
    except OSError as error:
        raise DataError(f"{path}: cannot read the file: {error.strerror}") from None
    except ValueError:  # a NUL character or a lone surrogate in the name
        raise DataError(f"{str(path)!r} is no name of a file") from None
    limit = min(LARGEST, max(SMALL, LARGEST_RATIO * (len(rest) + len(head))))
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(head + rest)) as unpacked:
            return _limited(unpacked, path, limit)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} is damaged or cut short: {error}", remedy="fetch it again") from None


def _limited(file: BinaryIO | gzip.GzipFile, path: Path, limit: int) -> bytes:
    chunks, size = [], 0
    while chunk := file.read(_CHUNK):
        size += len(chunk)
        if size > limit:
            raise DataError(
                f"{path} holds more than {limit:,} bytes of text, too many for a file of captions",
                remedy="split it into several files, or unpack it first if it is gzipped",
            )
        chunks.append(chunk)
    return b"".join(chunks)
