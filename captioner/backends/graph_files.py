"""ONNX graphs without weights, and their weights from a model file; numpy alone.

A graph's metadata holds, under "captioner", a JSON object: the digest of the model file that it belongs to, what the
graph takes and returns, and for each initialiser the tensors of the model file that it is made of.
"""

import json
import math
import zlib
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import numpy as np
from numpy.typing import NDArray

from captioner.errors import CheckpointError, one_line
from captioner.header import damaged
from captioner.metadata import FORMAT_VERSION, Header
from captioner.old_names import current_weight_name
from captioner.sharing import SHARED_PARTS

GRAPHS = ("encode", "step", "score")
RERANK = "rerank"  # of a model with a reranker
ANSWERING_GRAPHS = ("encode", "answer")
METADATA_KEY = "captioner"
DESCRIPTION_VERSION = 1

_REMEDY = "'captioner export MODEL --graphs' writes it, --backend torch needs none"
_LARGEST_SIZE = 100_000  # of a side, a grid, a tensor's axis
_MOST_POSITIONS = 1 << 26  # numbers
_METADATA_FIELD = 14  # of onnx.ModelProto: repeated StringStringEntryProto {key = 1, value = 2}
_TYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "I8": "|i1", "I64": "<i8"}
STORED_TYPES = {"float32": "<f4", "float16": "<f2", "int8": "|i1", "uint8": "|u1", "int32": "<i4", "int64": "<i8"}
"""Of weights that two graphs of an exported folder share."""
_Floats = NDArray[np.float32]


class Recipe(TypedDict, total=False):
    """How an initialiser is made of a model file's tensors.

    Keys:
        tensor: a tensor's name; with ``transpose``, its transpose; with ``shape``, in that shape; with ``gates``, of an
            LSTM, its rows in ONNX's order of gates, (1, 4 H, D).
        convolution: a convolution's weight; with ``norm``, the name of the batch-norm after it, folded in; ``eps`` is
            added to its variance; ``part`` is "weight" or "bias"; ``bias`` names the convolution's own.
        positions: the sinusoidal positions of a grid: height, width, channels.
        offset: of the values in the file of the graph "step", in an exported folder; of a ``type`` of `STORED_TYPES`
            and a ``shape``.
    """

    tensor: str
    transpose: bool
    gates: bool
    shape: Sequence[int]
    convolution: str
    bias: str
    norm: str
    eps: float
    part: str
    positions: Sequence[int]
    offset: int
    type: str


class Description(TypedDict):
    """What a graph says about itself.

    Keys:
        version: of this description.
        graph: of `graphs_of` a model, or of `ANSWERING_GRAPHS`.
        digest: of the model file; see `captioner.metadata.Header`.
        side, pad, grid_shape, max_length: as of `captioner.backends.base.Backend`.
        state: of each of the state's tensors, in order: "name"; "axis", what its first axis is ("row", "image" or
            "none"); "kept", whether no step changes it.
        map_scale: as of `captioner.backends.base.HasFineMaps`; 1 if it is not there.
        initialisers: recipes of those that the file lacks.
        weights: the CRC-32 of the graph "step" that holds them, in an exported folder.
    """

    version: int
    graph: str
    digest: str
    side: int
    pad: bool
    grid_shape: list[int]
    max_length: int
    state: list[dict[str, Any]]
    map_scale: NotRequired[int]
    initialisers: dict[str, Recipe]
    weights: NotRequired[int]


def graphs_of(config: Mapping[str, Any]) -> tuple[str, ...]:
    """The names of the graphs of a captioning model; ``config`` is that of its header."""
    return (*GRAPHS, RERANK) if "reranker" in config else GRAPHS


def graph_folder(model_file: Path) -> Path:
    """Where the graphs of a model file are: ``graphs/NAME`` beside it."""
    return model_file.parent / "graphs" / model_file.stem


def read_graph(path: Path) -> bytes:
    """The content of a graph's file.

    Raises:
        CheckpointError: it is missing or cannot be read.
    """
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such graph", remedy=_REMEDY) from None
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from None


def describe(path: Path, content: bytes, *, graph: str) -> Description:
    """The description of a graph that `read_graph` returned.

    Args:
        path: of its file, for messages.
        content: of its file.
        graph: which it should be, of `GRAPHS`.

    Raises:
        CheckpointError: the graph is damaged or not of this program.
    """
    try:
        description = read_description(content)
        if description["graph"] != graph:
            raise ValueError(f"it is the graph '{description['graph']}', not '{graph}'")
        return description
    except (ValueError, KeyError, TypeError, IndexError, RecursionError) as error:
        raise CheckpointError(f"{path}: damaged, or not a graph of captioner ({one_line(error)})") from None


def check_digest(path: Path, description: Description, model_file: Path, digest: str) -> None:
    """Refuse a graph of another model file.

    Raises:
        CheckpointError: it is.
    """
    if description["digest"] != digest:
        raise CheckpointError(
            f"{path}: made from another model file than {model_file}",
            remedy="export it again" if model_file.is_dir() else _REMEDY,
        )


def read_description(content: bytes) -> Description:
    """The description in the bytes of a graph.

    Raises:
        ValueError, KeyError, TypeError, IndexError: there is none, or the bytes are no graph.
    """
    for entry in _fields(memoryview(content), _METADATA_FIELD):
        pair = {number: bytes(value) for number in (1, 2) for value in _fields(entry, number)}
        if pair.get(1) == METADATA_KEY.encode():
            return _validated(json.loads(pair[2]))
    raise ValueError("it has no description")


def _validated(description: Any) -> Description:
    """A description whose values are of their kinds and within reason; they may come from a stranger."""
    if not isinstance(description, dict):
        raise TypeError("its description is no object")
    if description["version"] != DESCRIPTION_VERSION:
        raise ValueError(f"version {description['version']!r:.20} of its description, not {DESCRIPTION_VERSION}")
    shape, leaves, recipes = description["grid_shape"], description["state"], description["initialisers"]
    fits = {
        "graph": description["graph"] in {*GRAPHS, RERANK, *ANSWERING_GRAPHS},
        "digest": isinstance(description["digest"], str),
        "side": _is_size(description["side"]),
        "pad": isinstance(description["pad"], bool),
        "grid_shape": isinstance(shape, list) and len(shape) == 2 and all(map(_is_size, shape)),
        "max_length": _is_size(description["max_length"]),
        "state": isinstance(leaves, list) and all(map(_is_leaf, leaves)),
        "initialisers": isinstance(recipes, dict) and all(map(_is_recipe, recipes.values())),
    }
    if wrong := next((name for name, fit in fits.items() if not fit), None):
        raise ValueError(f"its {wrong} is {description[wrong]!r:.60}")
    scale = description.get("map_scale", 1)
    if not _is_size(scale) or any(side % scale for side in shape):
        raise ValueError(f"its map_scale is {scale!r:.60}")
    valid: Description = description  # type: ignore[assignment]
    return valid


def _is_size(value: Any) -> bool:
    return type(value) is int and 1 <= value <= _LARGEST_SIZE


def _is_leaf(leaf: Any) -> bool:
    return (
        isinstance(leaf, dict)
        and isinstance(leaf["name"], str)
        and leaf["axis"] in ("row", "image", "none")
        and isinstance(leaf["kept"], bool)
    )


def _is_recipe(recipe: Any) -> bool:
    if not isinstance(recipe, dict) or not set(recipe) <= set(Recipe.__annotations__):
        return False
    sizes = [size for key in ("shape", "positions") for size in recipe.get(key, [])]
    texts = [recipe.get(key, "") for key in ("tensor", "convolution", "norm", "part")]
    return (
        all(map(_is_size, sizes))
        and all(isinstance(text, str) for text in texts)
        and isinstance(recipe.get("bias") or "", str)
        and isinstance(recipe.get("eps", 0.0), float)
        and len(recipe.get("positions", [1, 1, 1])) == 3
        and math.prod(recipe.get("positions", [1])) <= _MOST_POSITIONS
        and type(recipe.get("offset", 0)) is int
        and recipe.get("type", "float32") in STORED_TYPES
        and (
            "tensor" in recipe
            or "positions" in recipe
            or {"offset", "type", "shape"} <= set(recipe)
            or {"norm", "eps", "part", "convolution"} <= set(recipe)
        )
    )


def _fields(message: memoryview, wanted: int) -> list[memoryview]:
    """The values of one length-delimited field of a protocol buffer message."""
    found, place = [], 0
    while place < len(message):
        key, place = _varint(message, place)
        number, kind = key >> 3, key & 7
        if kind == 0:
            _, place = _varint(message, place)
        elif kind == 2:
            size, place = _varint(message, place)
            if size > len(message) - place:
                raise ValueError("the file is cut short")
            if number == wanted:
                found.append(message[place : place + size])
            place += size
        elif kind in (1, 5):
            place += 8 if kind == 1 else 4
        else:
            raise ValueError("it is no protocol buffer")
    return found


def _varint(message: memoryview, place: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[place]
        value |= (byte & 0x7F) << shift
        place, shift = place + 1, shift + 7
        if byte < 0x80:
            return value, place
        if shift > 63:
            raise ValueError("it is no protocol buffer")


class Weights:
    """The tensors of a model file, with those that it shares, as arrays; open in a ``with`` block.

    Args:
        path: of the file.
        header: what `captioner.header.read_header` returned for it.
    """

    def __init__(self, path: Path, header: Header) -> None:
        rename = current_weight_name if header["version"] < FORMAT_VERSION else str
        self._layout = {rename(name): place for name, place in header["tensors"].items()}
        self._path, self._start = path, header["start"]
        self._shared = None if header["shared"] is None else Weights(Path(header["shared"][0]), header["shared"][1])

    def __enter__(self) -> "Weights":
        """Open the files. Raises OSError."""
        with ExitStack() as opened:
            self._file = opened.enter_context(self._path.open("rb"))
            if self._shared is not None:
                opened.enter_context(self._shared)
            self._opened = opened.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        """Close them."""
        self._opened.close()

    def __getitem__(self, name: str) -> NDArray[Any]:
        """A tensor, in 32 bits; integers as they are stored.

        Raises:
            KeyError, ValueError: there is none, or its type or size is wrong.
            CheckpointError: it holds numbers that are not finite.
        """
        if self._shared is not None and name not in self._layout and name.startswith(SHARED_PARTS):
            return self._shared[name]
        place = self._layout[name]
        begin, end = place["data_offsets"]
        raw = np.empty(end - begin, dtype=np.uint8)
        self._file.seek(self._start + begin)
        if self._file.readinto(raw.data) != raw.size:
            raise ValueError(f"{name} is cut short")
        stored = raw.view(_TYPES[place["dtype"]])
        if stored.dtype.kind == "i":
            return stored.reshape(place["shape"])
        if place["dtype"] == "BF16":
            stored = (stored.astype(np.uint32) << 16).view(np.float32)
        values = stored.reshape(place["shape"]).astype(np.float32, copy=False)
        # A sum that is finite is quicker than a look at each number, and not finite where one of them is not.
        with np.errstate(all="ignore"):
            if not np.isfinite(values.sum()) and not np.isfinite(values).all():
                raise CheckpointError(
                    f"{self._path}: {name} holds numbers that are not finite: "
                    "the training diverged, or the file is damaged"
                )
        return values


def make_initialisers(recipes: Mapping[str, Recipe], file: Path, header: Header) -> dict[str, NDArray[Any]]:
    """The initialisers of a graph; none where there are no recipes.

    Args:
        recipes: of the graph's description.
        file: of the model.
        header: what `captioner.header.read_header` returned for it.

    Raises:
        CheckpointError: the file is damaged, is not the one that the recipes were written for, or holds a weight that
            is not finite.
    """
    if not recipes:
        return {}
    try:
        with Weights(file, header) as weights:
            return {name: np.asarray(_make(recipe, weights), order="C") for name, recipe in recipes.items()}
    except (KeyError, ValueError, TypeError, OSError) as error:
        raise damaged(file, error) from None


def shared_weights(path: Path, description: Description, content: bytes) -> dict[str, NDArray[Any]]:
    """The initialisers of a graph that lie in the file of another.

    Args:
        path: of the graph, for messages.
        description: of the graph.
        content: of the other graph's file.

    Raises:
        CheckpointError: that file is not the one that the graph was made with.
    """
    if description.get("weights") != zlib.crc32(content):
        raise CheckpointError(f"{path}: made with another step.onnx than the one beside it", remedy="export it again")
    try:
        return {
            name: np.frombuffer(content, STORED_TYPES[recipe["type"]], math.prod(recipe["shape"]), recipe["offset"])
            .reshape(recipe["shape"])
            .copy()  # at an address that the runtime can use
            for name, recipe in description["initialisers"].items()
        }
    except (KeyError, ValueError, TypeError, OverflowError) as error:
        raise CheckpointError(f"{path}: damaged ({one_line(error)})") from None


def _make(recipe: Recipe, weights: Weights) -> NDArray[Any]:
    if "tensor" in recipe:
        values = weights[recipe["tensor"]]
        if recipe.get("transpose"):
            return values.T
        if recipe.get("gates"):
            return gates_for_onnx(values)
        return values.reshape(recipe["shape"]) if "shape" in recipe else values
    if "positions" in recipe:
        return sinusoidal_positions(*recipe["positions"])
    norm = recipe["norm"]
    scale = weights[f"{norm}.weight"] / np.sqrt(weights[f"{norm}.running_var"] + np.float32(recipe["eps"]))
    if recipe["part"] == "weight":
        weight = weights[recipe["convolution"]]
        weight *= scale[:, None, None, None]
        return weight
    shift = weights[f"{norm}.bias"] - weights[f"{norm}.running_mean"] * scale
    return np.asarray(shift + weights[recipe["bias"]] * scale if recipe.get("bias") else shift)


def gates_for_onnx(weight: _Floats) -> _Floats:
    """An LSTM's weight (4 H, D) with its gates in ONNX's order, (1, 4 H, D).

    torch has input, forget, cell, output; ONNX has input, output, forget, cell.
    """
    gates = weight.reshape(4, -1, weight.shape[-1])[[0, 3, 1, 2]]
    return np.ascontiguousarray(gates.reshape(1, *weight.shape))


def sinusoidal_positions(height: int, width: int, channels: int) -> _Floats:
    """As `captioner.model.refiners.sinusoidal_positions`, (height * width, channels)."""
    quarter = channels // 4
    frequency = np.float32(np.pi) * np.exp(np.linspace(0, np.log(16.0), quarter, dtype=np.float32))
    row, column = (
        ((np.arange(size, dtype=np.float32) + 0.5) / np.float32(size))[:, None] * frequency for size in (height, width)
    )
    rows = np.concatenate((np.sin(row), np.cos(row)), 1)[:, None]
    columns = np.concatenate((np.sin(column), np.cos(column)), 1)[None]
    shape = (height, width, 2 * quarter)
    both = np.concatenate((np.broadcast_to(rows, shape), np.broadcast_to(columns, shape)), 2)
    return both.reshape(height * width, channels)
