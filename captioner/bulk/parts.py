"""The output of a bulk run: a folder of Parquet files, each of which appears when it is whole.

Workers write a part under ``_staging/``, and the driver alone moves it to its place. So a part counts as soon as it is
seen, once, whichever worker dies and however often Ray runs a task. Names that begin with ``_`` are no data to pyarrow,
Spark, DuckDB and others.
"""

import contextlib
import hashlib
import json
import os
import posixpath
import re
import secrets
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from captioner.bulk.columns import outcome_schema
from captioner.bulk.sources import open_place
from captioner.data.writers.provenance import Provenance
from captioner.errors import CaptionerError, DataError, OptionError, one_line
from captioner.partial import try_lock

if TYPE_CHECKING:
    import pyarrow as pa
    from pyarrow.fs import FileSystem

_RUN = "_run.json"
_STAGING = "_staging"
_LOCK = "_lock"
_LARGEST_RUN = 1 << 20  # bytes
_PART = re.compile(r"part-[0-9a-f]{24}\.parquet")  # as `Staging.write` names them


@dataclass(frozen=True)
class Staging:
    """Where workers write parts, and from where the driver moves them to their place; sent to both.

    Attributes:
        name: of the output, for messages.
        filesystem: of pyarrow.
        path: a folder that was made for this run.
        place: the folder of the parts.
        replaced: the parts of a former run, which the first part that is committed replaces.
    """

    name: str
    filesystem: "FileSystem"
    path: str
    place: str
    replaced: tuple[str, ...] = ()

    def write(self, rows: "pa.Table") -> str:
        """Write a part and return its name, which depends on its pictures alone: a task that runs again replaces it.

        Raises:
            OptionError: the folder is not there, which means that the machine does not see it, or it cannot be written.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq
        from pyarrow.fs import FileType

        name = f"part-{part_digest(rows.column('image').to_pylist())}.parquet"
        path = posixpath.join(self.path, name)
        try:
            if self.filesystem.get_file_info(posixpath.join(self.path, "token")).type == FileType.NotFound:
                raise OptionError(
                    f"--output {self.name}: is not seen on the machine {os.uname().nodename}",
                    remedy="give a folder that all machines share, or a URL such as s3://bucket/folder",
                )
            pq.write_table(rows, path, filesystem=self.filesystem, compression="zstd")
        except (pa.ArrowException, OSError) as error:
            raise cannot_write(self.name, error) from None
        return name

    def commit(self, name: str) -> None:
        """Move a part to its place. Raises OptionError where that fails."""
        from pyarrow.fs import FileType

        try:
            about = posixpath.join(self.path, _RUN)
            if self.replaced and self.filesystem.get_file_info(about).type == FileType.File:
                for part in self.replaced:
                    self.filesystem.delete_file(posixpath.join(self.place, part))
                self.filesystem.move(about, posixpath.join(self.place, _RUN))
            self.filesystem.move(posixpath.join(self.path, name), posixpath.join(self.place, name))
        except OSError as error:
            raise cannot_write(self.name, error) from None


class Parts:
    """The folder of a run.

    Args:
        name: a path or a URL.
        overwrite: remove the parts of a former run when this one begins.

    Raises:
        OptionError: it cannot be written, is not a folder, or another run writes it.
    """

    def __init__(self, name: str, *, overwrite: bool = False) -> None:
        self.name = name
        self.filesystem, self.path, self.local = open_place(name, what="--output")
        self._overwrite = overwrite
        self._lock = -1
        self._made = False
        self._token = secrets.token_hex(8)
        self._check()

    def close(self) -> None:
        """Remove what workers left, and give the lock back."""
        if not self.local or self._lock >= 0:
            self._remove_staging()
        if self._lock >= 0:
            if self._made and not self._has_run():  # the run was refused before it began: nothing is left of it
                with contextlib.suppress(OSError):
                    os.unlink(posixpath.join(self.path, _LOCK))  # noqa: PTH108
                    os.rmdir(self.path)  # noqa: PTH106
            os.close(self._lock)
            self._lock = -1

    def check(self, provenance: Provenance, source: str) -> None:
        """Make sure that what is there came from the same model, options and source. Nothing is written.

        Raises:
            OptionError: it did not, or the folder holds Parquet files of something else.
        """
        self._run = {**provenance.as_dict(), "source": source}
        if not self.parts():
            return
        if self._overwrite:
            self._check_ours()
            return
        stored = self._stored()
        differences = provenance.differences(stored)
        if stored.get("source") != source:
            differences.append(f"pictures of {stored.get('source')}, not of {source}")
        if differences:
            raise OptionError(
                f"{self.name}: holds captions of another run: {'; '.join(differences)}",
                remedy="start again with --overwrite, or give another --output",
            )

    def lock(self) -> None:
        """Make the folder, and keep other runs off it where it is local.

        Raises:
            OptionError: it cannot be made, or another run writes it.
        """
        try:
            self._made = self.local and not os.path.isdir(self.path)  # noqa: PTH112
            self.filesystem.create_dir(self.path, recursive=True)
            self._take_lock()
        except OSError as error:
            raise cannot_write(self.name, error, begun=False) from None

    def begin(self) -> Staging:
        """Make the folder ready, and return where workers write. Parts that are to be overwritten stay until the first
        new one is committed, and nothing is ever removed that no run wrote.

        Raises:
            OptionError: it cannot be written.
        """
        try:
            self._remove_staging()
            replaced = tuple(filter(_PART.fullmatch, self.parts())) if self._overwrite and self._has_run() else ()
            staging = posixpath.join(self.path, _STAGING, self._token)
            self.filesystem.create_dir(staging, recursive=True)
            self._put(posixpath.join(staging, "token"), b"captioner")
            content = json.dumps(self._run, indent=1).encode("utf-8", "backslashreplace")
            self._put(posixpath.join(staging, _RUN), content + b"\n")
            if not replaced:
                self.filesystem.move(posixpath.join(staging, _RUN), posixpath.join(self.path, _RUN))
        except OSError as error:
            raise cannot_write(self.name, error) from None
        return Staging(self.name, self.filesystem, staging, self.path, replaced)

    def parts(self) -> list[str]:
        """The names of the parts that are there, sorted."""
        from pyarrow.fs import FileSelector, FileType

        found = self.filesystem.get_file_info(FileSelector(self.path, allow_not_found=True))
        names = [one.base_name for one in found if one.type == FileType.File]
        return sorted(name for name in names if name.endswith(".parquet") and not name.startswith(("_", ".")))

    def done(self) -> Iterator[tuple[str, bool]]:
        """The pictures that are there, with whether they failed; none where they are to be overwritten.

        Raises:
            DataError: a part is damaged, or of something else.
        """
        for part in [] if self._overwrite else self.parts():
            rows = self._read(part, ["image", "error"])
            yield from zip(rows["image"].to_pylist(), rows["error"].is_valid().to_pylist(), strict=True)

    def remove_failures(self, names: Collection[str]) -> int:
        """Take pictures that failed out of the parts, so that they are tried again; returns how many.

        Args:
            names: of the pictures that this run tries; the failures of others stay.

        Raises:
            DataError: a part is damaged.
            OptionError: the folder cannot be written.
        """
        import pyarrow as pa
        import pyarrow.compute as pc
        import pyarrow.parquet as pq

        wanted = pa.array(sorted(names), type=pa.string())
        removed = 0
        for part in self.parts():
            rows = self._read(part, ["image", "error"])
            failed = pc.and_(rows["error"].is_valid(), pc.is_in(rows["image"], value_set=wanted))
            count = pc.sum(failed).as_py() or 0
            if not count:
                continue
            place = posixpath.join(self.path, part)
            try:
                kept = self._read(part, None).filter(pc.invert(failed))
                if kept.num_rows:
                    staged = posixpath.join(self.path, _STAGING, self._token, part)
                    pq.write_table(kept, staged, filesystem=self.filesystem, compression="zstd")
                    self.filesystem.move(staged, place)
                else:
                    self.filesystem.delete_file(place)
            except (pa.ArrowException, OSError) as error:
                raise cannot_write(self.name, error) from None
            removed += count
        return removed

    def _read(self, part: str, columns: list[str] | None) -> "pa.Table":
        import pyarrow as pa
        import pyarrow.parquet as pq

        path = posixpath.join(self.path, part)
        try:
            with pq.ParquetFile(path, filesystem=self.filesystem) as file:
                if not file.schema_arrow.equals(outcome_schema()):
                    raise DataError(
                        f"{path}: holds other columns than this program's captions", remedy="give another --output"
                    )
                return file.read(columns=columns)
        except (pa.ArrowException, OSError, ValueError) as error:
            raise DataError(
                f"{path}: no Parquet file, or damaged ({one_line(error)})",
                remedy="remove it, and its pictures are captioned again",
            ) from None

    def _stored(self) -> dict[str, Any]:
        path = posixpath.join(self.path, _RUN)
        try:
            with self.filesystem.open_input_stream(path) as stream:
                stored = json.loads(stream.read(_LARGEST_RUN))
            if not isinstance(stored, dict):
                raise ValueError("it is no object")
        except (OSError, ValueError, RecursionError) as error:
            again = ", or start again with --overwrite" if self._has_run() else ""
            raise OptionError(
                f"{self.name}: holds Parquet files, and nothing says what made them ({one_line(error)})",
                remedy=f"give another --output{again}",
            ) from None
        return stored

    def _check_ours(self) -> None:
        """Raise OptionError for files that --overwrite would have to remove, and that no run wrote."""
        foreign = [part for part in self.parts() if not (_PART.fullmatch(part) and self._has_run())]
        if foreign:
            raise OptionError(
                f"{self.name}: holds {foreign[0]}, which no run wrote, so that --overwrite does not remove it",
                remedy="move it away, or give another --output",
            )

    def _has_run(self) -> bool:
        from pyarrow.fs import FileType

        return bool(self.filesystem.get_file_info(posixpath.join(self.path, _RUN)).type == FileType.File)

    def _check(self) -> None:
        from pyarrow.fs import FileType

        try:
            found = self.filesystem.get_file_info(self.path)
        except OSError as error:
            raise cannot_write(self.name, error, begun=False) from None
        if found.type not in (FileType.Directory, FileType.NotFound):
            raise OptionError(f"--output {self.name}: is no folder", remedy="name a folder")

    def _take_lock(self) -> None:
        if not self.local:
            return
        path = posixpath.join(self.path, _LOCK)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        if not try_lock(descriptor) or not _is_at(descriptor, path):
            os.close(descriptor)
            raise OptionError(
                f"{self.name}: is being written by another run", remedy="wait for it, or give another --output"
            )
        self._lock = descriptor

    def _put(self, path: str, content: bytes) -> None:
        with self.filesystem.open_output_stream(path) as stream:
            stream.write(content)

    def _remove_staging(self) -> None:
        with contextlib.suppress(OSError):
            self.filesystem.delete_dir(posixpath.join(self.path, _STAGING))


def _is_at(descriptor: int, path: str) -> bool:
    """Whether an open file still has its name: a run that was refused removes its lock."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))  # noqa: PTH116
    except FileNotFoundError:
        return False


def part_digest(ids: Iterable[str]) -> str:
    """What names a part: a digest of its pictures' names."""
    digest = hashlib.blake2b(digest_size=12)
    for one in ids:
        digest.update(one.encode("utf-8", "backslashreplace") + b"\0")
    return digest.hexdigest()


def checksum(ids: Sequence[str]) -> int:
    """A sum over pictures, 64 bits, whatever their order: sums of equal sets are equal, and hardly any others."""
    total = 0
    for one in ids:
        total += int.from_bytes(hashlib.blake2b(one.encode("utf-8", "backslashreplace"), digest_size=8).digest(), "big")
    return total % (1 << 64)


def cannot_write(name: str, error: BaseException, *, begun: bool = True) -> CaptionerError:
    """The error of an output that cannot be written."""
    number = getattr(error, "errno", None)
    reason = os.strerror(number) if isinstance(number, int) else one_line(error)
    what = f"--output {name}: cannot be written ({reason})"
    if not begun:
        return OptionError(what, remedy="give another --output, or mend it")
    return OptionError(f"{what}; the parts that are there stay", remedy="mend it, and run the same command again")
