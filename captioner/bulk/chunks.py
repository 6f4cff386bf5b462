"""Pictures that one task reads, by where they lie: files of their own, members of tar files, rows of Parquet tables.

A picture that cannot be read is a row with an error, each picture a row, once.
"""

import os
import posixpath
from collections.abc import Container, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, Self

from captioner.errors import one_line

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem

_READERS = 8  # threads of a task
_LARGEST = 1 << 29  # bytes of a file


class Row(NamedTuple):
    """A picture that was read: its name, and its bytes, or what is wrong with it."""

    image: str
    data: bytes | None
    error: str | None = None
    remedy: str | None = None


class Chunk(Protocol):
    """Pictures that one task reads.

    Attributes:
        ids: their names, the same in every run.
    """

    ids: tuple[str, ...]

    def without(self, done: Container[str]) -> "Self":
        """The chunk without pictures that are done."""
        ...

    def split(self, size: int) -> "Iterator[Self]":
        """Chunks of at most so many pictures."""
        ...

    def rows(self, filesystem: "FileSystem") -> Iterator[Row]:
        """Read the pictures, in order."""
        ...


@dataclass(frozen=True)
class _Chunk:
    """Pictures by their places, which the subclasses know how to read."""

    ids: tuple[str, ...]
    places: tuple[Any, ...]

    def without(self, done: Container[str]) -> Self:
        kept = [(one, place) for one, place in zip(self.ids, self.places, strict=True) if one not in done]
        return replace(self, ids=tuple(one for one, _ in kept), places=tuple(place for _, place in kept))

    def split(self, size: int) -> Iterator[Self]:
        for start in range(0, len(self.ids), size):
            some = slice(start, start + size)
            yield replace(self, ids=self.ids[some], places=self.places[some])


@dataclass(frozen=True)
class Files(_Chunk):
    """Files of their own; a place is a path."""

    def rows(self, filesystem: "FileSystem") -> Iterator[Row]:
        with ThreadPoolExecutor(max_workers=min(_READERS, len(self.ids) or 1)) as pool:
            for start in range(0, len(self.ids), 2 * _READERS):  # so that few are held
                some = slice(start, start + 2 * _READERS)
                yield from pool.map(partial(_file_row, filesystem), self.ids[some], self.places[some])


@dataclass(frozen=True)
class Members(_Chunk):
    """Members of a tar file; a place is where a member's bytes begin, and how many there are."""

    file: str

    def rows(self, filesystem: "FileSystem") -> Iterator[Row]:
        given = 0
        try:
            with filesystem.open_input_file(self.file) as stream:
                for one, (offset, size) in zip(self.ids, self.places, strict=True):
                    row = _member_row(stream, one, offset, size)
                    given += 1
                    yield row
        except (OSError, ValueError) as error:
            yield from _failed(self.ids[given:], f"{self.file}: cannot be read ({reason_of(error)})")


@dataclass(frozen=True)
class TableRows(_Chunk):
    """Rows of a row group of a Parquet table; a place is a row's number in the group."""

    file: str
    column: str
    group: int

    def rows(self, filesystem: "FileSystem") -> Iterator[Row]:
        import pyarrow as pa
        import pyarrow.parquet as pq

        wanted = dict(zip(self.places, self.ids, strict=True))
        given: set[str] = set()
        try:
            with pq.ParquetFile(self.file, filesystem=filesystem, pre_buffer=False) as table:
                row = 0
                for batch in table.iter_batches(batch_size=16, row_groups=[self.group], columns=[self.column]):
                    for value in batch.column(0):
                        if row in wanted:
                            given.add(wanted[row])
                            yield self._row(wanted[row], value.as_py(), filesystem)
                        row += 1
        except (pa.ArrowException, OSError, ValueError) as error:
            yield from _failed(
                [one for one in self.ids if one not in given], f"{self.file}: cannot be read ({reason_of(error)})"
            )

    def _row(self, one: str, value: Any, filesystem: "FileSystem") -> Row:
        if isinstance(value, dict):
            value = value.get("bytes") or value.get("path")
        if not value:
            return Row(one, None, f"{one}: the column '{self.column}' is empty")
        if isinstance(value, str):
            return _file_row(filesystem, one, posixpath.join(posixpath.dirname(self.file), value))
        return Row(one, value)


@dataclass(frozen=True)
class Broken(_Chunk):
    """What the listing could not read; a place is the error and its remedy."""

    def rows(self, filesystem: "FileSystem") -> Iterator[Row]:
        for one, (error, remedy) in zip(self.ids, self.places, strict=True):
            yield Row(one, None, error, remedy)


def _member_row(stream: Any, one: str, offset: int, size: int) -> Row:
    if size > _LARGEST:
        return Row(one, None, f"{one}: {size:,} bytes are too many for a picture")
    stream.seek(offset)
    data = stream.read(size)
    if len(data) != size:
        return Row(one, None, f"{one}: the file ends after {len(data):,} of {size:,} bytes")
    return Row(one, data)


def _file_row(filesystem: "FileSystem", one: str, path: str) -> Row:
    try:
        with filesystem.open_input_file(path) as stream:
            if stream.size() > _LARGEST:
                return Row(one, None, f"{one}: {stream.size():,} bytes are too many for a picture")
            return Row(one, stream.read())
    except FileNotFoundError:
        return Row(one, None, f"{one}: no such file")
    except UnicodeError:  # Arrow takes no other names
        return Row(one, None, f"{one}: the name is not UTF-8", "rename it")
    except OSError as error:
        return Row(one, None, f"{one}: cannot be read ({reason_of(error)})")


def _failed(ids: Iterable[str], error: str) -> Iterator[Row]:
    for one in ids:
        yield Row(one, None, error)


def reason_of(error: BaseException) -> str:
    """What the system says, without the path that pyarrow puts before it."""
    number = getattr(error, "errno", None)
    return os.strerror(number) if isinstance(number, int) else one_line(error)


def escaped(name: str) -> str:
    """Without lone surrogates, which names that are not UTF-8 hold and Arrow refuses."""
    return name.encode("utf-8", "backslashreplace").decode()
