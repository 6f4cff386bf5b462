"""Tar files that may be cut off: their whole members, and an error where the archive does not end as it should."""

import io
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from captioner.errors import DataError, one_line

DAMAGED = (tarfile.TarError, OSError, EOFError, ValueError, OverflowError)
"""What reading a damaged tar file raises."""


def whole_members(tar: tarfile.TarFile, links: list[str] | None = None) -> Iterator[tarfile.TarInfo]:
    """The regular files of an open, uncompressed archive, in order, and only those whose bytes are all there.

    `tarfile` alone takes a header that is cut off or damaged for the archive's end, and passes over all that follows.

    Args:
        tar: the archive.
        links: gets the names of links, which are no files.

    Raises:
        tarfile.TarError, OSError, ValueError: the archive is cut off or damaged, after its whole members.
    """
    file: Any = tar.fileobj
    place = file.tell()
    size = file.seek(0, io.SEEK_END)
    file.seek(place)
    for member in tar:
        if links is not None and (member.islnk() or member.issym()):
            links.append(member.name)
        if member.isfile() and (member.issparse() or member.offset_data + member.size <= size):
            yield member
    file.seek(tar.offset)  # where the reading of headers stopped
    end = file.read(tarfile.BLOCKSIZE)
    if not end:
        raise tarfile.ReadError("the blocks that end an archive are missing")
    if len(end) < tarfile.BLOCKSIZE:
        raise tarfile.ReadError("it ends in a header")
    if end.strip(b"\0"):
        raise tarfile.ReadError("a header is damaged")


def damaged_shard(path: object, error: BaseException) -> DataError:
    """The error of a shard that cannot be read to its end, of what reading it raised."""
    return DataError(f"{path}: no tar file, or cut off ({one_line(error)})", remedy="copy or write it again")


def refuse_links(path: Path, links: list[str]) -> None:
    """Raises DataError: an archive holds links in place of files."""
    if links:
        what = "1 link" if len(links) == 1 else f"{len(links)} links"
        raise DataError(
            f"{path}: holds {what} in place of files ({links[0]})",
            remedy="write the archive with the files, as tar --dereference --hard-dereference does",
        )
