"""Which pictures a source holds, in files of their own, Parquet tables or WebDataset shards; the workers read them.

A source is a path or a URL that pyarrow has a file system for (``s3://``, ``gs://``, ``hdfs://``, ``file://``). The
driver lists the names of all pictures, so that it knows what an earlier run did, and can count. Reading is the workers'
work, a `Chunk` at a time; a file that cannot be read gives a row with an error.
"""

import os
import posixpath
import tarfile
from collections.abc import Container, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, Self

from captioner.data.packed import picture_column, shard_members
from captioner.data.pictures import find_pictures
from captioner.data.selection import Selection, relative
from captioner.errors import DataError, OptionError, one_line
from captioner.image import SUFFIXES
from captioner.results import Failure

if TYPE_CHECKING:
    from pyarrow.fs import FileInfo, FileSystem

CHUNK = 64
"""Pictures that a task reads, at most."""
_READERS = 8  # threads of a task
_LARGEST = 1 << 29  # bytes of a file
_DAMAGED = (tarfile.TarError, OSError, EOFError, ValueError, OverflowError)


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
        try:
            with filesystem.open_input_file(self.file) as stream:
                for one, (offset, size) in zip(self.ids, self.places, strict=True):
                    stream.seek(offset)
                    yield Row(one, stream.read(size))
        except OSError as error:
            yield from _failed(self.ids, f"{self.file}: cannot be read ({_reason(error)})")


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
                [one for one in self.ids if one not in given], f"{self.file}: cannot be read ({_reason(error)})"
            )

    def _row(self, one: str, value: Any, filesystem: "FileSystem") -> Row:
        value = value.get("bytes") if isinstance(value, dict) else value
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


@dataclass(frozen=True)
class Source:
    """Where pictures come from.

    Attributes:
        name: as it was given; a local path absolute.
        filesystem: of pyarrow.
        path: on the file system.
        local: whether the path is one of this machine, which all workers must see.
    """

    name: str
    filesystem: "FileSystem"
    path: str
    local: bool

    @classmethod
    def of(cls, name: str) -> "Source":
        """Open a path or a URL. Raises OptionError where there is no such thing, or no access to it."""
        filesystem, path, local = open_place(name, what="SOURCE")
        full = path if local else name
        found = _info(filesystem, path, name)
        if not _is_there(found):
            raise OptionError(f"{name}: no such file or folder")
        return cls(full, filesystem, path, local)

    def chunks(
        self,
        *,
        column: str | None = None,
        key: str | None = None,
        selection: Selection | None = None,
        leave_out: Sequence[str] = (),
        notes: list[str] | None = None,
    ) -> Iterator[Chunk]:
        """List the pictures.

        Args:
            column: of Parquet tables; None for the one that holds pictures.
            key: the column of Parquet tables that names the pictures; None for the file and the row's number.
            selection: which files of a folder are taken.
            leave_out: folders that are not searched, as paths on a file system of the same kind.
            notes: takes lines for the user.

        Raises:
            DataError: there are no pictures, or files of several kinds; a table has no such column.
        """
        selection = selection or Selection()
        notes = [] if notes is None else notes
        packed = self._packed(selection, leave_out)
        if key is not None and not all(path.lower().endswith(".parquet") for path in packed or [""]):
            raise OptionError("--key names a column of Parquet tables, and the source holds none")
        if not packed:
            yield from self._pictures(selection, leave_out, notes)
        for path in packed:
            name = relative(path, self.path) or posixpath.basename(path)
            if path.lower().endswith(".tar"):
                yield from self._members(path, name)
            else:
                yield from self._table(path, name, column, key)

    def _packed(self, selection: Selection, leave_out: Sequence[str]) -> list[str]:
        """The files that hold pictures, sorted; empty where the source is of single pictures."""
        from pyarrow.fs import FileType

        if _info(self.filesystem, self.path, self.name).type == FileType.File:
            return [self.path] if self.path.lower().endswith((".tar", ".parquet")) else []
        kinds: dict[str, list[str]] = {}
        for path in self._walk(selection, leave_out):
            suffix = posixpath.splitext(path)[1].lower()
            if suffix in SUFFIXES or suffix in (".tar", ".parquet"):
                kinds.setdefault(suffix if suffix in (".tar", ".parquet") else "pictures", []).append(path)
        if len(kinds) > 1:
            counts = ", ".join(f"{len(paths)} {kind}" for kind, paths in sorted(kinds.items()))
            raise DataError(f"{self.name}: holds files of several kinds ({counts})", remedy="choose with --include")
        return sorted(next(iter(kinds.values()))) if kinds and "pictures" not in kinds else []

    def _walk(self, selection: Selection, leave_out: Sequence[str]) -> Iterator[str]:
        from pyarrow.fs import FileSelector, FileType

        try:
            found = self.filesystem.get_file_info(FileSelector(self.path, recursive=selection.recursive))
        except OSError as error:
            raise DataError(f"{self.name}: cannot be read ({_reason(error)})") from None
        for one in found:
            below = relative(one.path, self.path)
            if one.type != FileType.File or any(part.startswith((".", "_")) for part in below.split("/")):
                continue
            if any(one.path.startswith(folder.rstrip("/") + "/") for folder in leave_out):
                continue
            if selection.takes(below) and _entered(selection, below):
                yield one.path

    def _pictures(self, selection: Selection, leave_out: Sequence[str], notes: list[str]) -> Iterator[Chunk]:
        if self.local:
            found = find_pictures([self.path], selection=selection, leave_out=[_path(one) for one in leave_out])
            notes += found.notes
            paths = [os.fspath(one) for one in found.files]
            failures = found.failures
            if not paths and failures and failures[0].image == self.path:
                raise DataError(failures[0].error)
        else:
            paths, failures = sorted(path for path in self._walk(selection, leave_out) if _is_picture(path)), []
            if posixpath.splitext(self.path)[1] and not paths:
                paths = [self.path]
        if not paths and not failures:
            raise DataError(f"{self.name}: no pictures (looked for {', '.join(sorted(SUFFIXES))}, .tar, .parquet)")
        yield from _split(Files, [(self._id(path), path) for path in paths])
        yield from _split(Broken, [(self._id(one.image), (one.error, one.remedy)) for one in failures])

    def _id(self, path: str) -> str:
        return relative(path, self.path) or posixpath.basename(path)

    def _members(self, path: str, name: str) -> Iterator[Chunk]:
        found: list[tuple[str, tuple[int, int]]] = []
        failure: Failure | None = None
        try:
            with self.filesystem.open_input_file(path) as stream, tarfile.open(fileobj=stream, mode="r:") as tar:
                found += [(f"{name}/{one.name}", (one.offset, one.size)) for one in shard_members(tar, _path(path))]
            if not found:
                failure = Failure(name, f"{path}: no pictures in this shard")
        except DataError as error:
            failure = Failure.of(name, error)
        except _DAMAGED as error:
            failure = Failure(name, f"{path}: no tar file, or cut off ({one_line(error)})", "copy or write it again")
        yield from _split(Members, found, file=path)
        yield from [] if failure is None else _split(Broken, [(name, (failure.error, failure.remedy))])

    def _table(self, path: str, name: str, column: str | None, key: str | None) -> Iterator[Chunk]:
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            with pq.ParquetFile(path, filesystem=self.filesystem) as table:
                schema = table.schema_arrow
                wanted = picture_column(schema, _path(path), column)
                if key is not None and key not in schema.names:
                    raise DataError(f"{path}: no column '{key}'", remedy=f"give --key one of {', '.join(schema.names)}")
                first = 0
                for group in range(table.num_row_groups):
                    rows = table.metadata.row_group(group).num_rows
                    ids = [f"{name}/{row:08}" for row in range(first, first + rows)]
                    if key is not None:
                        ids = _keys(table.read_row_group(group, columns=[key]).column(0).to_pylist(), path, key)
                    first += rows
                    yield from _split(
                        TableRows,
                        list(zip(ids, range(rows), strict=True)),
                        size=rows,
                        file=path,
                        column=wanted,
                        group=group,
                    )
        except (pa.ArrowException, OSError, ValueError) as error:
            if isinstance(error, OptionError):
                raise
            broken = f"{path}: no Parquet table, or damaged ({_reason(error)})"
            yield from _split(Broken, [(name, (broken, "copy or write it again"))])


def open_place(name: str, *, what: str) -> "tuple[FileSystem, str, bool]":
    """The file system of a path or URL, the path on it, and whether it is this machine's.

    Raises:
        OptionError: pyarrow is not installed, knows no such file system, or has no access to it.
    """
    try:
        from pyarrow import ArrowException
        from pyarrow.fs import FileSystem, LocalFileSystem
    except ModuleNotFoundError:
        raise OptionError(
            f"{what} {name}: needs pyarrow, which is not installed", remedy="pip install pyarrow"
        ) from None
    if not name:
        raise OptionError(f"{what} is empty", remedy="give a path or a URL")
    if "://" not in name:
        return LocalFileSystem(), os.path.realpath(name), True
    try:
        filesystem, path = FileSystem.from_uri(name)
    except (ArrowException, OSError, ValueError) as error:
        raise OptionError(f"{what} {name}: cannot be opened ({_reason(error)})") from None
    local = isinstance(filesystem, LocalFileSystem)
    return filesystem, os.path.realpath(path) if local else path, local


def _info(filesystem: "FileSystem", path: str, name: str) -> "FileInfo":
    try:
        return filesystem.get_file_info(path)
    except OSError as error:
        raise OptionError(f"{name}: cannot be reached ({_reason(error)})") from None


def _is_there(info: "FileInfo") -> bool:
    from pyarrow.fs import FileType

    return bool(info.type != FileType.NotFound)


def _is_picture(path: str) -> bool:
    return posixpath.splitext(path)[1].lower() in SUFFIXES


def _entered(selection: Selection, below: str) -> bool:
    folders = below.split("/")[:-1]
    return all(selection.enters("/".join(folders[: i + 1])) for i in range(len(folders)))


def _keys(values: list[Any], path: str, key: str) -> list[str]:
    if any(value is None for value in values):
        raise OptionError(f"{path}: the column '{key}' has rows without a key", remedy="give another --key")
    return [str(value) for value in values]


def _split(kind: Any, found: Sequence[tuple[str, Any]], *, size: int = CHUNK, **shared: Any) -> Iterator[Chunk]:
    for start in range(0, len(found), max(1, size)):
        ids, places = zip(*found[start : start + size], strict=True)
        yield kind(ids, places, **shared)


def _file_row(filesystem: "FileSystem", one: str, path: str) -> Row:
    try:
        with filesystem.open_input_file(path) as stream:
            if stream.size() > _LARGEST:
                return Row(one, None, f"{one}: {stream.size():,} bytes are too many for a picture")
            return Row(one, stream.read())
    except FileNotFoundError:
        return Row(one, None, f"{one}: no such file")
    except OSError as error:
        return Row(one, None, f"{one}: cannot be read ({_reason(error)})")


def _failed(ids: Iterable[str], error: str) -> Iterator[Row]:
    for one in ids:
        yield Row(one, None, error)


def _reason(error: BaseException) -> str:
    """What the system says, without the path that pyarrow puts before it."""
    number = getattr(error, "errno", None)
    return os.strerror(number) if isinstance(number, int) else one_line(error)


def _path(name: str) -> Any:
    from pathlib import Path

    return Path(name)
