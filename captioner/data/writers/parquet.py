"""Results as a Parquet table, through a file of rows that can be resumed."""

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from captioner.data.writers.results import ResultsFile
from captioner.errors import CaptionerError, OptionError, one_line
from captioner.partial import place_of, remove_stale, written_whole

if TYPE_CHECKING:
    import pyarrow as pa

_ROWS = 500  # of a row group: 10,000 cells of maps each are 20 MB
_KEY = b"captioner"


def open_results(path: Path, *, overwrite: bool = False) -> ResultsFile:
    """The file of results that an ending asks for; see `ResultsFile`."""
    if path.suffix.lower() == ".parquet":
        return ParquetResults(path, overwrite=overwrite)
    return ResultsFile(path, overwrite=overwrite)


def has_begun(path: Path) -> bool:
    """Whether a run into a file of results has begun: the file is there, or the rows of a table that is to be."""
    return path.exists() or (path.suffix.lower() == ".parquet" and _rows_of(Path(os.path.realpath(path))).exists())


def _rows_of(table: Path) -> Path:
    return table.with_name(f".{table.name}.rows.jsonl")


def schema() -> "pa.Schema":
    """The columns of the table, with their types."""
    import pyarrow as pa

    return pa.schema(
        [
            ("image", pa.string()),
            ("caption", pa.string()),
            ("score", pa.float64()),
            ("finished", pa.bool_()),
            ("model", pa.string()),
            ("explain", pa.string()),
            ("grid", pa.list_(pa.int32())),
            ("size", pa.list_(pa.int32())),
            ("words", pa.list_(pa.string())),
            ("probabilities", pa.list_(pa.float32())),
            ("off_grid", pa.list_(pa.float32())),
            ("maps", pa.list_(pa.list_(pa.float32()))),
            ("alternatives", pa.list_(pa.struct([("caption", pa.string()), ("score", pa.float64())]))),
        ]
    )


class ParquetResults(ResultsFile):
    """A table that is written when the run ends; until then its rows are in ``.NAME.rows.jsonl`` beside it.

    A run that is killed leaves these rows, and the same command goes on with them. The table is moved into place when
    it is whole. What made the captions stands in its metadata, under ``captioner``.

    Raises:
        OptionError: as of `ResultsFile`; pyarrow is not installed, or the table is not of this program.
    """

    def __init__(self, path: Path, *, overwrite: bool = False) -> None:
        try:
            import pyarrow.parquet  # noqa: F401
        except ModuleNotFoundError:
            raise OptionError(
                f"{path}: Parquet needs pyarrow, which is not installed", remedy="pip install pyarrow"
            ) from None
        self._broken = False
        self._table = place_of(path)
        rows = _rows_of(self._table)
        try:
            super().__init__(rows, overwrite=overwrite)
        except OptionError as error:
            raise OptionError(str(error).replace(str(rows), str(path))) from None
        self.path = path
        self._rows = rows
        try:
            self._read_table()
        except BaseException:
            self.close()
            raise

    @property
    def lost_detail(self) -> str:
        """See `ResultsFile`."""
        return "only texts and scores of further captions"

    def begin(self) -> None:
        """See `ResultsFile`."""
        remove_stale(self._table.parent)
        if self._overwrite:
            self._table.unlink(missing_ok=True)
        super().begin()

    def __exit__(self, *error: object) -> None:
        try:
            if error[0] is None and self._begun and self._end and not self._broken:
                self._finish()
        finally:
            self.close()

    def _cannot_write(self, error: OSError) -> OptionError:
        self._broken = True  # there is no room for the table either; the rows stay
        return super()._cannot_write(error)

    def _read_table(self) -> None:
        """Take the names and the provenance of a table that is there, unless it is overwritten. Raises OptionError."""
        if not self._table.exists():
            return
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            file = pq.ParquetFile(self._table)
            if not file.schema_arrow.equals(schema()):
                raise OptionError(
                    f"{self.path}: holds other columns than this program's captions", remedy="give another --output"
                )
            if self._overwrite:
                return
            if not self._stored:
                self._stored = json.loads((file.schema_arrow.metadata or {}).get(_KEY, b"{}"))
                self._folder = self._stored_folder()
            for batch in file.iter_batches(columns=["image", "model"]):
                for name in batch.column(0).to_pylist():
                    self._known.update(self._key(form, self._folder) for form in (name, _unescaped(name)))
                self._scan.models.update(list(filter(None, set(batch.column(1).to_pylist())))[:20])
        except OptionError:
            raise
        except (pa.ArrowException, OSError, ValueError) as error:
            raise OptionError(
                f"{self.path}: no Parquet table, or damaged ({one_line(error)})", remedy="give another --output"
            ) from None

    def _finish(self) -> None:
        """Write the table: the rows that it has, and those of this run and of runs that were stopped."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        about = {**self._stored, **(self._provenance.as_dict() if self._provenance else {})}
        about["folder"] = self._folder_beside()
        columns = schema().with_metadata({_KEY: json.dumps(about).encode()})
        written: set[str] = set()
        try:
            with (
                written_whole(self._table) as partial,
                pq.ParquetWriter(partial, columns, compression="zstd") as writer,
            ):
                if self._table.exists() and not self._overwrite:
                    for batch in pq.ParquetFile(self._table).iter_batches(batch_size=_ROWS):
                        written.update(batch.column(0).to_pylist())
                        writer.write_table(pa.Table.from_batches([batch], schema=batch.schema).cast(columns))
                for rows in self._new_rows(written):
                    writer.write_table(pa.Table.from_pylist(rows, schema=columns))
            self._rows.unlink(missing_ok=True)
            self._sidecar.unlink(missing_ok=True)
        except (pa.ArrowException, OSError, ValueError) as error:
            raise CaptionerError(
                f"{self.path}: cannot be written ({one_line(error)}); the rows are in {self._rows}",
                remedy="make room, and run the same command again",
            ) from None

    def _new_rows(self, written: set[str]) -> Iterator[list[dict[str, Any]]]:
        rows: list[dict[str, Any]] = []
        with self._rows.open(encoding="utf-8") as file:
            for line in file:
                row = _columns_of(json.loads(line))
                if row["image"] not in written:
                    written.add(row["image"])
                    rows.append(row)
                if len(rows) == _ROWS:
                    yield rows
                    rows = []
        if rows:
            yield rows


def _columns_of(values: dict[str, Any]) -> dict[str, Any]:
    words = values["words"]
    text = {name: str(values[name]).encode("utf-8", "backslashreplace").decode() for name in ("image", "caption")}
    return {
        **{name: values[name] for name in ("score", "finished", "model", "explain", "grid", "size")},
        **text,
        "words": [word["word"] for word in words],
        "probabilities": [word["probability"] for word in words],
        "off_grid": [word.get("off_grid", 0.0) for word in words],
        "maps": [[value for row in word["map"] for value in row] for word in words],
        "alternatives": [{"caption": one["caption"], "score": one["score"]} for one in values["alternatives"]],
    }


def _unescaped(name: str) -> str:
    """A name whose bytes are not UTF-8, as Python has it; the table has an escape for each such byte."""
    return re.sub(r"\\udc([89a-f][0-9a-f])", lambda found: chr(0xDC00 + int(found[1], 16)), name)
