"""Outcomes as columns with fixed types, and the storage of maps: 32 or 16 bits a cell, or 8 with a scale for each word.

A column of maps holds the bytes of each caption's maps, so that every reader of Parquet can open it; `maps_of` makes an
array of them. Which storage it is, the number of bytes says.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from captioner.data.writers.parquet import schema
from captioner.errors import DataError, OptionError
from captioner.results import Caption, Outcome

if TYPE_CHECKING:
    import pyarrow as pa

MAPS = ("none", "fp32", "fp16", "uint8")
"""How maps are stored. The largest error of a cell, relative to the largest cell of the word's map, is 2 ** -11 (0.05%)
for fp16, and 1 / 510 (0.2%) for uint8."""

_BYTES: dict[int, np.dtype[Any]] = {4: np.dtype("<f4"), 2: np.dtype("<f2"), 1: np.dtype("u1")}  # a cell -> numbers


def outcome_schema() -> "pa.Schema":
    """The columns that captioning adds, with their types: those of `captioner.data.writers.parquet.schema`, but with
    ``maps`` as bytes, and ``map_scales``, ``error`` and ``remedy``."""
    import pyarrow as pa

    fields = [one if one.name != "maps" else pa.field("maps", pa.binary()) for one in schema()]
    at = [one.name for one in fields].index("maps") + 1
    fields.insert(at, pa.field("map_scales", pa.list_(pa.float32())))
    return pa.schema([*fields, pa.field("error", pa.string()), pa.field("remedy", pa.string())])


def spark_schema() -> str:
    """`outcome_schema` as Spark's ``mapInPandas`` takes it: names and types with commas between them."""
    import pyarrow as pa

    def name_of(kind: "pa.DataType") -> str:
        if pa.types.is_list(kind):
            return f"array<{name_of(kind.value_type)}>"
        if pa.types.is_struct(kind):
            return f"struct<{', '.join(f'{one.name}: {name_of(one.type)}' for one in kind)}>"
        return {"bool": "boolean", "int32": "int"}.get(str(kind), str(kind))

    return ", ".join(f"{one.name} {name_of(one.type)}" for one in outcome_schema())


def columns_of(outcomes: Sequence[Outcome], names: Sequence[str], *, maps: str) -> dict[str, list[Any]]:
    """The values of `outcome_schema`, a list each; None where a caption has no error, or a failure no caption.

    Args:
        outcomes: a caption or failure each.
        names: of their pictures.
        maps: how maps are stored, one of `MAPS`.
    """
    rows = [_row(outcome, maps) for outcome in outcomes]
    columns = {one: [row.get(one) for row in rows] for one in outcome_schema().names}
    return {**columns, "image": [_text(name) for name in names]}


def _row(outcome: Outcome, maps: str) -> dict[str, Any]:
    if not isinstance(outcome, Caption):
        return {"error": _text(outcome.error), "remedy": _text(outcome.remedy)}
    stored, scales = pack_maps(outcome.maps, maps)
    return {
        "caption": _text(outcome.text),
        "score": outcome.score,
        "finished": outcome.finished,
        "model": outcome.model,
        "explain": outcome.explain,
        "grid": list(outcome.geometry.grid),
        "size": list(outcome.geometry.size),
        "words": [word.text for word in outcome.words],
        "probabilities": [word.probability for word in outcome.words],
        "off_grid": [word.off_grid for word in outcome.words],
        "maps": stored,
        "map_scales": scales,
        "alternatives": [{"caption": other.text, "score": other.score} for other in outcome.alternatives],
    }


def pack_maps(maps: NDArray[np.float32], storage: str) -> tuple[bytes | None, list[float] | None]:
    """Maps as bytes, row-major and little-endian, and a scale for each word where the storage is "uint8".

    Args:
        maps: (n, h, w), not negative.
        storage: one of `MAPS`; "none" returns None.
    """
    check_maps(storage)
    if storage == "none":
        return None, None
    if storage != "uint8":
        return maps.astype(_BYTES[4 if storage == "fp32" else 2]).tobytes(), None
    scales = maps.max((1, 2), initial=0.0).astype(np.float32) / np.float32(255)  # (n,)
    whole = np.divide(maps, scales[:, None, None], out=np.zeros_like(maps), where=scales[:, None, None] > 0)
    return whole.round().clip(0, 255).astype(np.uint8).tobytes(), scales.tolist()


def maps_of(row: Mapping[str, Any]) -> NDArray[np.float32]:
    """The maps of a row, (words, h, w), from its columns ``maps``, ``map_scales``, ``words`` and ``grid``.

    Raises:
        DataError: the row holds none, or not as many cells as its grid and words say.
    """
    stored, grid = row.get("maps"), row.get("grid")
    if stored is None or grid is None:
        raise DataError(f"{row.get('image') or 'the row'}: holds no maps", remedy="caption with --maps fp16 or uint8")
    shape = (len(row["words"]), *(int(side) for side in grid))
    cells = int(np.prod(shape))
    if not cells:
        return np.zeros(shape, dtype=np.float32)
    if len(stored) % cells or len(stored) // cells not in _BYTES:
        raise DataError(f"{row.get('image') or 'the row'}: {len(stored)} bytes of maps for {cells} cells")
    kind = _BYTES[len(stored) // cells]
    maps: NDArray[np.float32] = np.frombuffer(stored, dtype=kind).reshape(shape).astype(np.float32)
    if kind == np.uint8:
        maps *= np.asarray(row["map_scales"], dtype=np.float32)[:, None, None]
    return maps


def check_maps(storage: str) -> None:
    """Raise OptionError for a storage of maps that there is not."""
    if storage not in MAPS:
        raise OptionError(f"maps are stored as {', '.join(MAPS)}, not as {storage!r:.40}")


def _text(text: str) -> str:
    """Without lone surrogates, which names of files may hold and Arrow refuses."""
    return text.encode("utf-8", "backslashreplace").decode()
