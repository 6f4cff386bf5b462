"""Files that hold many pictures: WebDataset shards and Parquet tables. Pictures are read from them one by one."""

import tarfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from captioner.data.records import ShardPicture
from captioner.data.tar_files import DAMAGED, damaged_shard, refuse_links, whole_members
from captioner.errors import DataError, one_line
from captioner.image import SUFFIXES
from captioner.registry import Registry
from captioner.results import Failure

if TYPE_CHECKING:
    import pyarrow as pa

_ROWS = 32  # of a Parquet table that are held at a time
_PATH_COLUMNS = ("path", "image_path", "file_name", "filename")


class PackedPicture(Protocol):
    """A picture inside a file; ``str()`` names it."""

    @property
    def place(self) -> str:
        """Names it inside its file."""
        ...

    def read_bytes(self) -> bytes:
        """The picture's file. Raises OSError."""
        ...


class Packing(Protocol):
    """A kind of file that holds pictures."""

    def pictures(self, path: Path, *, column: str | None) -> Iterator[Path | PackedPicture | Failure]:
        """The pictures of a file, in its order, without reading them; a `Failure` for a row that names none.

        Raises:
            DataError: the file is damaged, or holds no pictures.
        """
        ...


PACKED: Registry[type[Packing]] = Registry("file of pictures")
"""Kinds of files that hold pictures, by their ending."""


@PACKED.register(".tar")
class Shards:
    """A WebDataset shard: its members with the ending of a picture."""

    def pictures(self, path: Path, *, column: str | None) -> Iterator[Path | PackedPicture]:
        """See `Packing`."""
        empty = True
        try:
            with tarfile.open(path, "r:") as tar:  # not compressed: pictures are read from where they lie
                for picture in shard_members(tar, path):
                    empty = False
                    yield picture
        except DAMAGED as error:
            raise damaged_shard(path, error) from None
        if empty:
            raise DataError(f"{path}: no pictures in this shard")


def shard_members(tar: tarfile.TarFile, path: Path) -> Iterator[ShardPicture]:
    """The pictures of an open tar file, without reading them; ``path`` names it.

    Raises:
        DataError: after all others, it holds a name twice, or links in place of pictures.
        OSError, ValueError, tarfile.TarError: it is damaged or cut off; all whole pictures come before.
    """
    names: set[str] = set()
    twice: dict[str, None] = {}
    links: list[str] = []
    for member in whole_members(tar, links):
        if member.issparse() or Path(member.name).suffix.lower() not in SUFFIXES:
            continue
        if member.name in names:
            twice[member.name] = None
            continue
        names.add(member.name)
        yield ShardPicture(path, member.name, member.offset_data, member.size)
    if twice:
        first, *others = twice
        more = f" and {len(others)} other name{'s'[: len(others) != 1]}" if others else ""
        raise DataError(f"{path}: holds {first}{more} twice", remedy="write the shard again")
    refuse_links(path, [name for name in links if Path(name).suffix.lower() in SUFFIXES])


@dataclass(frozen=True)
class ParquetPicture:
    """A picture in a row of a Parquet table.

    Attributes:
        table: reads the rows; pictures of one table share it.
        row: from 0.
    """

    table: "_Rows" = field(repr=False, hash=False, compare=False)
    file: Path
    row: int

    @property
    def place(self) -> str:
        """The row's number."""
        return f"{self.row:08}"

    def read_bytes(self) -> bytes:
        """The bytes of the row. Raises OSError where it has none."""
        return self.table.read(self.row)

    def __str__(self) -> str:
        return f"{self.file}/{self.place}"


@PACKED.register(".parquet")
class Parquet:
    """A Parquet table with a column of bytes, of structs with ``bytes`` (as Hugging Face's datasets have them), or of
    paths, which are relative to the table's folder."""

    def pictures(self, path: Path, *, column: str | None) -> Iterator[Path | PackedPicture | Failure]:
        """See `Packing`."""
        try:
            import pyarrow as pa
            import pyarrow.parquet as pq
        except ModuleNotFoundError:
            raise DataError(
                f"{path}: reading Parquet needs pyarrow, which is not installed", remedy="pip install pyarrow"
            ) from None
        try:
            file = pq.ParquetFile(path)
            name = picture_column(file.schema_arrow, path, column)
            kind = file.schema_arrow.field(name).type
            if _holds_paths(kind):
                yield from _paths(file, path, name)
                return
        except (pa.ArrowException, OSError, ValueError) as error:
            raise DataError(f"{path}: no Parquet table, or damaged ({one_line(error)})") from None
        table = _Rows(path, name)
        for row in range(file.metadata.num_rows):
            yield ParquetPicture(table, path, row)
        if not file.metadata.num_rows:
            raise DataError(f"{path}: no rows in this table")


def _paths(file: Any, path: Path, name: str) -> Iterator[Path | Failure]:
    row = 0
    for batch in file.iter_batches(columns=[name]):
        for value in batch.column(0).to_pylist():
            if not value or "\0" in value:
                place = f"{path}/{row:08}"
                yield Failure(place, f"{place}: the column '{name}' has no path in this row")
            else:
                yield path.parent / value
            row += 1
    if not row:
        raise DataError(f"{path}: no rows in this table")


def picture_column(schema: "pa.Schema", path: Path, wanted: str | None) -> str:
    """The column that holds pictures. Raises DataError where there is none, or several."""
    import pyarrow as pa

    def holds_bytes(kind: Any) -> bool:
        if pa.types.is_struct(kind):
            return kind.get_field_index("bytes") >= 0 and holds_bytes(kind.field("bytes").type)
        forms = ("is_binary", "is_large_binary", "is_binary_view", "is_fixed_size_binary")
        return any(getattr(pa.types, form)(kind) for form in forms)

    columns = ", ".join(f"{one.name} ({_short(one.type)})" for one in schema)
    if wanted is not None:
        if wanted not in schema.names:
            raise DataError(f"{path}: no column '{wanted}'", remedy=f"give --column one of {columns}")
        kind = schema.field(wanted).type
        if not (holds_bytes(kind) or _holds_paths(kind)):
            raise DataError(f"{path}: the column '{wanted}' holds neither bytes nor paths, but {_short(kind)}")
        return wanted
    found = [one.name for one in schema if holds_bytes(one.type)]
    if not found:
        paths = [one.name for one in schema if _holds_paths(one.type)]
        found = [name for name in _PATH_COLUMNS if name in paths] or [name for name in paths if name == "image"]
    if len(found) > 1 and "image" in found:
        return "image"
    if len(found) != 1:
        what = "several columns could hold pictures" if found else "no column holds pictures"
        raise DataError(f"{path}: {what}", remedy=f"give --column one of {columns}")
    name: str = found[0]
    return name


def _holds_paths(kind: Any) -> bool:
    """Whether a column is of text, in any of Arrow's forms."""
    import pyarrow as pa

    if pa.types.is_dictionary(kind):
        return _holds_paths(kind.value_type)
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _short(kind: object) -> str:
    return str(kind).partition("<")[0]


class _Rows:
    """Rows of a table that are read in their order, a few at a time; safe for threads. A row that lies before the ones
    that are held starts the reading again."""

    def __init__(self, path: Path, column: str) -> None:
        self._path, self._column = path, column
        self._lock = threading.Lock()
        self._held: list[list[Any]] = []  # the last two batches
        self._start = self._end = 0
        self._batches: Iterator[Any] | None = None

    def read(self, row: int) -> bytes:
        """The bytes of a row. Raises OSError."""
        with self._lock:
            value = self._value(row)
        value = value.get("bytes") if isinstance(value, dict) else value
        if value is None:
            raise OSError(f"row {row} of the column '{self._column}' is null")
        return bytes(value)

    def _value(self, row: int) -> Any:
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            if self._batches is None or row < self._start:
                self._held, self._start, self._end = [], 0, 0
                opened = pq.ParquetFile(self._path, pre_buffer=False)
                self._batches = opened.iter_batches(batch_size=_ROWS, columns=[self._column])
            while row >= self._end:
                batch = next(self._batches).column(0)
                self._held.append(batch)
                self._end += len(batch)
                if len(self._held) > 2:
                    self._start += len(self._held.pop(0))
        except (pa.ArrowException, StopIteration, ValueError) as error:
            self._batches = None
            raise OSError(f"row {row} cannot be read ({one_line(error)})") from None
        place = row - self._start
        for batch in self._held:
            if place < len(batch):
                return batch[place].as_py()
            place -= len(batch)
        raise OSError(f"row {row} is not there")
