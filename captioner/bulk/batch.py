"""Captions of a batch of rows: the function that frameworks of distributed data call in their workers."""

import math
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from captioner.bulk.columns import check_maps, columns_of, outcome_schema
from captioner.errors import CaptionerError, DataError, OptionError, one_line
from captioner.image import MAX_PIXELS, Picture
from captioner.options import Greedy, MapOptions
from captioner.prepared import check_numbers
from captioner.results import Failure, Outcome, path_of
from captioner.shipped import DEFAULT_MODEL

if TYPE_CHECKING:
    import pandas as pd

    from captioner.pipeline import Captioner

_Batch = TypeVar("_Batch")


@dataclass(kw_only=True)
class CaptionBatch:
    """Captions the pictures of a batch, one outcome a row, in order.

    It takes and returns a dict of arrays or lists, a pandas DataFrame, or a pyarrow Table or RecordBatch: what comes in
    comes out. The column of pictures is replaced by the columns of `captioner.bulk.outcome_schema`; other columns stay.
    A picture that cannot be captioned gives a row with ``error`` and ``remedy``, and no caption. What every row would
    suffer from, such as a model that does not load, is raised.

    An instance can be pickled, and holds no model: the model is loaded when a worker captions its first batch, once for
    all instances of the worker.

    Args:
        model: a name or a path, as of `captioner.load`; each worker opens it.
        column: of the pictures: bytes of files, paths, arrays (h, w, 3), or structs with ``bytes`` or ``path``, as
            Hugging Face's datasets have them.
        name: the column that names the pictures in ``image`` and in errors; None for their paths.
        options: `Greedy`, `Beam` or `Sampling`; None for those that the model's file holds.
        explain: what maps are computed from, as of `Captioner.caption`.
        maps: how they are stored, one of `captioner.bulk.MAPS`.
        batch: pictures that go through the model together.
        max_pixels: larger pictures are refused.
        device: as of `captioner.load`.
        backend: as of `captioner.load`.
        threads: of the computation; None for the worker's share of its machine, see `share`.

    Raises:
        OptionError: an option out of its range.
    """

    model: str | os.PathLike[str] = DEFAULT_MODEL
    column: str = "image"
    name: str | None = None
    options: Greedy | None = None
    explain: str | MapOptions | None = None
    maps: str = "none"
    batch: int = 16
    max_pixels: int = MAX_PIXELS
    device: str = "auto"
    backend: str = "auto"
    threads: int | None = None

    def __post_init__(self) -> None:
        check_maps(self.maps)
        check_numbers(batch=self.batch, max_pixels=self.max_pixels)
        if self.options is not None and not isinstance(self.options, Greedy):
            raise OptionError(f"options are Greedy, Beam or Sampling, not {type(self.options).__name__}")

    def __call__(self, batch: _Batch) -> _Batch:
        """Caption the pictures of a batch.

        Args:
            batch: a dict of arrays or lists (N,), a DataFrame, or a Table. Rows whose column ``error`` holds a text are
                failures already, and stay so.

        Returns:
            A batch of the same kind with N rows, in order.

        Raises:
            DataError: there is no such column, or a column has the name of one that is added.
            CheckpointError: the model does not load.
            OptionError: there is no such device or backend, or the model cannot do what the options ask for.
        """
        columns, rebuild = _opened(batch)
        added = outcome_schema().names
        for name in filter(None, (self.column, self.name)):
            if name not in columns:
                raise DataError(f"no column '{name}'", remedy=f"there are {', '.join(columns)}")
        dropped = {self.column, self.name, "error", "remedy"}
        if taken := [name for name in columns if name in added and name not in dropped]:
            raise DataError(f"the column '{taken[0]}' has the name of one that is added", remedy="rename it first")
        pictures = self._pictures(columns)
        names = columns[self.name] if self.name is not None else map(_name_of, pictures)
        found = columns_of(self._outcomes(pictures), [_text_of(name) for name in names], maps=self.maps)
        result: _Batch = rebuild([name for name in columns if name not in dropped], found)
        return result

    def frames(self, frames: "Iterable[pd.DataFrame]") -> "Iterator[pd.DataFrame]":
        """For Spark's ``mapInPandas``: a frame out for each frame that comes in."""
        for frame in frames:
            yield self(frame)

    def _pictures(self, columns: Mapping[str, Sequence[Any]]) -> "list[Picture | Failure]":
        """The picture of each row, or a failure where the row has none."""
        values = columns[self.column]
        names = columns[self.name] if self.name is not None else [None] * len(values)
        errors = columns.get("error", [None] * len(values))
        remedies = columns.get("remedy", [None] * len(values))
        found: list[Picture | Failure] = []
        for value, name, error, remedy in zip(values, names, errors, remedies, strict=True):
            text = _text_of(name)
            if isinstance(error, str) and error:
                found.append(Failure(text, error, remedy if isinstance(remedy, str) else ""))
                continue
            if isinstance(value, Mapping):
                value = value.get("bytes") or value.get("path")
            if _is_missing(value):
                found.append(Failure(text, f"{text or 'a row'}: the column '{self.column}' is empty"))
            elif isinstance(value, (bytes, bytearray, memoryview)) and text:
                found.append(_Named(text, bytes(value)))
            else:
                found.append(str(value) if isinstance(value, str) else value)
        return found

    def _outcomes(self, pictures: "Sequence[Picture | Failure]") -> list[Outcome]:
        model = self.load()
        whole = [one for one in pictures if not isinstance(one, Failure)]
        try:
            captioned = iter(self._captioned(model, whole))
        except (OptionError, KeyboardInterrupt):
            raise
        except Exception:  # one of them: find out which
            captioned = iter([self._alone(model, one) for one in whole])
        return [one if isinstance(one, Failure) else next(captioned) for one in pictures]

    def _captioned(self, model: "Captioner", pictures: list[Picture]) -> list[Outcome]:
        found = model.caption_all(
            pictures, options=self.options, explain=self.explain, batch=self.batch, max_pixels=self.max_pixels
        )
        return list(found)

    def _alone(self, model: "Captioner", picture: Picture) -> Outcome:
        """The outcome of one picture, a failure whatever it raises."""
        try:
            return self._captioned(model, [picture])[0]
        except CaptionerError as error:
            return Failure.of(picture, error)
        except Exception as error:
            name = path_of(picture) or "a picture"
            return Failure(path_of(picture), f"{name}: {type(error).__name__} ({one_line(error)})")

    def load(self) -> "Captioner":
        """The model of this worker; loaded by the first call."""
        threads = self.threads if self.threads is not None else share()
        return _load(os.fspath(self.model), self.device, self.backend, threads)


def share() -> int | None:
    """The CPUs of this worker: those that Ray or Spark gave to its task or actor, at least 1; None elsewhere."""
    ray = sys.modules.get("ray")
    if ray is not None and ray.is_initialized():
        context = ray.get_runtime_context()
        if context.worker.mode == ray.WORKER_MODE:
            return max(1, int(context.get_assigned_resources().get("CPU", 1)))
    pyspark = sys.modules.get("pyspark")
    task = pyspark.TaskContext.get() if pyspark is not None else None
    return max(1, int(task.cpus())) if task is not None else None


@lru_cache(maxsize=2)
def _load(model: str, device: str, backend: str, threads: int | None) -> "Captioner":
    from captioner.pipeline import load

    return load(model, device=device, backend=backend, threads=threads)


class _Named:
    """The bytes of a file, with a name for errors."""

    def __init__(self, name: str, data: bytes) -> None:
        self._name, self._data = name, data

    def read_bytes(self) -> bytes:
        """The whole file."""
        return self._data

    def __str__(self) -> str:
        return self._name


def _is_missing(value: Any) -> bool:
    """None, and what pandas has for it."""
    return value is None or isinstance(value, float) or type(value).__name__ == "NAType"


def _text_of(name: Any) -> str:
    """A row's name; a column of numbers may hold NaN where there is none."""
    missing = math.isnan(name) if isinstance(name, float) else _is_missing(name)
    return "" if missing else str(name)


def _name_of(picture: "Picture | Failure") -> str:
    return picture.image if isinstance(picture, Failure) else path_of(picture)


def _opened(batch: Any) -> tuple[Mapping[str, Any], "Callable[[list[str], dict[str, list[Any]]], Any]"]:
    """The columns of a batch, and a function that makes a batch of the same kind of some of them and of new ones."""
    if isinstance(batch, Mapping):

        def to_arrays(kept: list[str], added: dict[str, list[Any]]) -> dict[str, Any]:
            return {**{name: batch[name] for name in kept}, **{name: _array(values) for name, values in added.items()}}

        return batch, to_arrays
    home = type(batch).__module__.partition(".")[0]
    if home == "pandas":
        import pandas as pd

        def to_frame(kept: list[str], added: dict[str, list[Any]]) -> Any:
            new = {name: pd.Series(values, index=batch.index, dtype=object) for name, values in added.items()}
            return pd.DataFrame({**{own[name]: batch[own[name]] for name in kept}, **new}, index=batch.index)

        own = {str(name): name for name in batch.columns}
        return {text: batch[name].tolist() for text, name in own.items()}, to_frame
    if home == "pyarrow":
        import pyarrow as pa

        def to_table(kept: list[str], added: dict[str, list[Any]]) -> Any:
            arrays = [batch.column(name) for name in kept]
            fields = [batch.schema.field(name) for name in kept]
            new = outcome_schema()
            arrays += [pa.array(added[one.name], type=one.type) for one in new]
            return type(batch).from_arrays(arrays, schema=pa.schema([*fields, *new]))

        return _TableColumns(batch), to_table
    raise DataError(f"a batch is a dict of arrays, a DataFrame or a Table, not {type(batch).__name__}")


class _TableColumns(Mapping[str, list[Any]]):
    """Columns of a Table as lists, made when they are asked for."""

    def __init__(self, table: Any) -> None:
        self._table = table

    def __getitem__(self, name: str) -> list[Any]:
        if name not in self._table.schema.names:
            raise KeyError(name)
        values: list[Any] = self._table.column(name).to_pylist()
        return values

    def __iter__(self) -> Iterator[str]:
        return iter(self._table.schema.names)

    def __len__(self) -> int:
        return len(self._table.schema.names)


def _array(values: list[Any]) -> Any:
    """An array (N,) of objects, whatever they are."""
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array
