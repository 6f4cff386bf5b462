"""Which pictures a source holds, in files of their own, Parquet tables or WebDataset shards; the workers read them.

A source is a path or a URL that pyarrow has a file system for (``s3://``, ``gs://``, ``hdfs://``, ``file://``). The
driver lists the names of all pictures, so that it knows what an earlier run did, and can count. Reading is the workers'
work, a `Chunk` at a time; a file that cannot be read gives a row with an error.
"""

import os
import posixpath
import re
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from captioner.bulk.chunks import Broken, Chunk, Files, Members, TableRows, escaped, reason_of
from captioner.data.packed import picture_column, shard_members
from captioner.data.pictures import find_pictures
from captioner.data.selection import Selection, relative
from captioner.data.tar_files import DAMAGED, damaged_shard
from captioner.errors import DataError, OptionError
from captioner.image import SUFFIXES
from captioner.results import Failure

if TYPE_CHECKING:
    from pyarrow.fs import FileInfo, FileSystem

CHUNK = 64
"""Pictures that a task reads, at most."""


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
        unreadable: dict[str, str] = {}
        packed = self._packed(selection, leave_out, unreadable)
        tables = bool(packed) and all(path.lower().endswith(".parquet") for path in packed)
        for option, name in (("--key", key), ("--column", column)):
            if name is not None and not tables:
                raise OptionError(f"{option} names a column of Parquet tables, and the source holds none")
        if not packed:
            yield from self._pictures(selection, leave_out, notes)
        for path in packed:
            name = self._id(path)
            if name != (relative(path, self.path) or posixpath.basename(path)):
                yield from _split(Broken, [(name, (f"{name}: the name is not UTF-8", "rename it"))])
            elif path.lower().endswith(".tar"):
                yield from self._members(path, name)
            else:
                yield from self._table(path, name, column, key)
        if packed:  # single pictures have named theirs
            yield from _split(Broken, [(self._id(path), (f"{path}: {why}", "")) for path, why in unreadable.items()])

    def _packed(self, selection: Selection, leave_out: Sequence[str], unreadable: dict[str, str]) -> list[str]:
        """The files that hold pictures, sorted; empty where the source is of single pictures. Folders that cannot be
        read are added to ``unreadable``, with the reason."""
        from pyarrow.fs import FileType

        if _info(self.filesystem, self.path, self.name).type == FileType.File:
            return [self.path] if self.path.lower().endswith((".tar", ".parquet")) else []
        kinds: dict[str, list[str]] = {}
        for path in self._walk(selection, leave_out, unreadable):
            suffix = posixpath.splitext(path)[1].lower()
            if suffix in SUFFIXES or suffix in (".tar", ".parquet"):
                kinds.setdefault(suffix if suffix in (".tar", ".parquet") else "pictures", []).append(path)
        if len(kinds) > 1:
            counts = ", ".join(f"{len(paths)} {kind}" for kind, paths in sorted(kinds.items()))
            counts = re.sub(r"\b1 pictures", "1 picture", counts)
            raise DataError(f"{self.name}: holds files of several kinds ({counts})", remedy="choose with --include")
        return sorted(next(iter(kinds.values()))) if kinds and "pictures" not in kinds else []

    def in_folder(self, folder: str, selection: Selection) -> str | None:
        """A file of the source in a folder below it, or None; tables of the folder itself are the output's."""
        for path in self._walk(selection, ()):
            below = path.removeprefix(folder.rstrip("/") + "/")
            suffix = posixpath.splitext(path)[1].lower()
            table = suffix == ".parquet" and "/" in below
            if below != path and (suffix in SUFFIXES or suffix == ".tar" or table):
                return path
        return None

    def _walk(
        self, selection: Selection, leave_out: Sequence[str], unreadable: dict[str, str] | None = None
    ) -> Iterator[str]:
        """The files of a folder that are taken; hidden ones, and what a run has not committed, are none."""
        for path in self._local_files(selection, unreadable) if self.local else self._files(selection):
            below = relative(path, self.path)
            *folders, name = below.split("/")
            if any(part.startswith(".") for part in (*folders, name)):
                continue
            if "_staging" in folders and name.lower().endswith(".parquet"):
                continue
            if any(path.startswith(folder.rstrip("/") + "/") for folder in leave_out):
                continue
            if selection.takes(below) and _entered(selection, below):
                yield path

    def _files(self, selection: Selection) -> Iterator[str]:
        from pyarrow.fs import FileSelector, FileType

        try:
            found = self.filesystem.get_file_info(FileSelector(self.path, recursive=selection.recursive))
        except (OSError, UnicodeError) as error:
            raise DataError(f"{self.name}: cannot be read ({reason_of(error)})") from None
        yield from (one.path for one in found if one.type == FileType.File)

    def _local_files(self, selection: Selection, unreadable: dict[str, str] | None) -> Iterator[str]:
        """As `_files`, through links; Arrow's own listing stops at a name that is not UTF-8."""

        def fail(error: OSError) -> None:
            if error.filename == self.path:
                raise DataError(f"{self.name}: cannot be read ({reason_of(error)})") from None
            below = relative(error.filename, self.path)
            hidden = any(part.startswith(".") for part in below.split("/"))
            if unreadable is not None and not hidden and _entered(selection, f"{below}/"):
                unreadable[error.filename] = f"cannot be read ({reason_of(error)})"

        seen: set[tuple[int, int]] = set()
        for folder, folders, names in os.walk(self.path, followlinks=True, onerror=fail):
            status = os.stat(folder)  # noqa: PTH116
            if (status.st_dev, status.st_ino) in seen:
                folders.clear()  # a link that leads back
                continue
            seen.add((status.st_dev, status.st_ino))
            if not selection.recursive:
                folders.clear()
            folders.sort()
            yield from (posixpath.join(folder, name) for name in names)

    def _pictures(self, selection: Selection, leave_out: Sequence[str], notes: list[str]) -> Iterator[Chunk]:
        if self.local:
            found = find_pictures([self.path], selection=selection, leave_out=[_path(one) for one in leave_out])
            notes += found.notes
            paths = [os.fspath(one) for one in found.files]
            failures = found.failures
            if not paths and failures and failures[0].image == self.path:
                raise DataError(failures[0].error)
        else:
            failures = []
            if self._is_file():
                paths = [self.path]
            else:
                paths = sorted(path for path in self._walk(selection, leave_out) if _is_picture(path))
        if not paths and not failures:
            raise DataError(f"{self.name}: no pictures (looked for {', '.join(sorted(SUFFIXES))}, .tar, .parquet)")
        yield from _split(Files, [(self._id(path), path) for path in paths])
        yield from _split(Broken, [(self._id(one.image), (one.error, one.remedy)) for one in failures])

    def _is_file(self) -> bool:
        from pyarrow.fs import FileType

        try:
            return bool(self.filesystem.get_file_info(self.path).type == FileType.File)
        except OSError as error:
            raise DataError(f"{self.name}: cannot be read ({reason_of(error)})") from None

    def _id(self, path: str) -> str:
        return escaped(relative(path, self.path) or posixpath.basename(path))

    def _members(self, path: str, name: str) -> Iterator[Chunk]:
        found: list[tuple[str, tuple[int, int]]] = []
        failure: Failure | None = None
        try:
            with self.filesystem.open_input_file(path) as stream, tarfile.open(fileobj=stream, mode="r:") as tar:
                for one in shard_members(tar, _path(path)):  # so that those before a cut are kept
                    found.append((escaped(f"{name}/{one.name}"), (one.offset, one.size)))
            if not found:
                failure = Failure(name, f"{path}: no pictures in this shard")
        except DataError as error:
            failure = Failure.of(name, error)
        except DAMAGED as error:
            failure = Failure.of(name, damaged_shard(path, error))
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
            broken = f"{path}: no Parquet table, or damaged ({reason_of(error)})"
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
    if escaped(name) != name:
        raise OptionError(f"{what} {escaped(name)}: the name is not UTF-8", remedy="rename it")
    try:
        filesystem, path = FileSystem.from_uri(name) if "://" in name else (LocalFileSystem(), name)
    except (ArrowException, OSError, ValueError) as error:
        raise OptionError(f"{what} {name}: cannot be opened ({reason_of(error)})") from None
    local = isinstance(filesystem, LocalFileSystem)
    if local and escaped(real := os.path.realpath(path)) != real:
        raise OptionError(f"{what} {name}: leads to {escaped(real)}, which is not UTF-8", remedy="rename it")
    return filesystem, os.path.realpath(path) if local else path, local


def _info(filesystem: "FileSystem", path: str, name: str) -> "FileInfo":
    try:
        return filesystem.get_file_info(path)
    except OSError as error:
        raise OptionError(f"{name}: cannot be reached ({reason_of(error)})") from None


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


def _path(name: str) -> Any:
    from pathlib import Path

    return Path(name)
