"""A model as a folder that needs no captioner: graphs with their weights, ``config.json`` and an example.

`captioner.pipeline.load` opens it too.
"""

import contextlib
import copy
import json
import os
import tempfile
import zlib
from collections.abc import Collection, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from captioner import checkpoint
from captioner.backends.base import AnsweringBackend, Backend
from captioner.backends.graph_files import (
    GRAPHS,
    METADATA_KEY,
    RERANK,
    STORED_TYPES,
    Recipe,
    check_digest,
    describe,
    graph_folder,
    graphs_of,
    make_initialisers,
    read_description,
    read_graph,
)
from captioner.backends.onnx import open_graphs
from captioner.backends.torch import TorchBackend
from captioner.checkpoint import Checkpoint
from captioner.data.pictures import find_pictures
from captioner.errors import ImageError, OptionError
from captioner.export.graphs import check_parity, export_graphs
from captioner.export.parity import Parity
from captioner.export.precision import TOLERANCES, check_precision, reduce_precision
from captioner.export.quantise import CALIBRATION_PICTURES
from captioner.header import EXPORTED, EXPORTED_FORMAT, EXPORTED_VERSION, read_header
from captioner.metadata import Header
from captioner.options import Beam
from captioner.prepared import prepare

EXAMPLE = "example.py"
"""The program in an exported folder that runs it."""
_SHARED_BYTES = 1024  # of a weight; what is smaller is stored with the graph


def export_folder(
    model_file: str | Path, folder: str | Path, *, precision: str = "fp32", calibrate: Path | None = None
) -> Parity:
    """Write a model as a folder, and check it against torch.

    Args:
        model_file: of a trained model.
        folder: that is written: ``encode.onnx`` and ``step.onnx`` with their weights, ``score.onnx``, whose weights
            are those in ``step.onnx``, ``rerank.onnx`` of a model with a reranker, ``config.json`` (vocabulary,
            preprocessing, decoding, grid, heads, provenance, scores, how far it is from torch) and ``example.py``,
            which needs only numpy, pillow and onnxruntime. It must be new, empty, or an exported folder, which is
            replaced.
        precision: "fp32"; "fp16", weights in 16 bits that are computed with in 32; or "int8", matrix products of the
            decoder in 8-bit integers and the other weights in 16 bits.
        calibrate: a folder of pictures; with it "int8" quantises the encoder's convolutions too, from the ranges that
            activations have on some of these pictures.

    Returns:
        How far the folder is from torch.

    Raises:
        CheckpointError: the model file is missing or damaged.
        OptionError: the model does not export, the message says why; an unknown precision; or a folder that cannot be
            written, or holds something else.
    """
    folder = Path(folder)
    check_precision(precision)
    own = {EXPORTED, EXAMPLE, *(f"{name}.onnx" for name in (*GRAPHS, RERANK))}
    check_folder(folder, own)
    contents, config, found = model_files(Path(model_file), folder, precision=precision, calibrate=calibrate)
    write_with_example(folder, contents, config)
    return found


def model_files(
    path: Path, folder: Path, *, precision: str, calibrate: Path | None = None
) -> tuple[dict[str, bytes], dict[str, Any], Parity]:
    """What an exported folder holds of a model: its graphs with their weights, its configuration, and the parity check.

    Args:
        path: of the model file.
        folder: that they are for, for messages.
        precision, calibrate: see `export_folder`.

    Returns:
        The graphs by file name, the content of ``config.json``, and how far the graphs are from torch.

    Raises:
        CheckpointError: the model file is missing or damaged.
        OptionError: the model does not export, the message says why; or no picture to calibrate on opens.
    """
    if calibrate is not None and precision != "int8":
        raise OptionError(f"pictures to calibrate on are for the precision int8, not {precision}")
    header, model = read_header(path), checkpoint.load(path)
    pixels = [] if calibrate is None else calibration_pixels(calibrate, TorchBackend(model))
    names = graphs_of(header["config"])
    if precision == "int8" and not model.model.config.quantised:
        smaller = copy.deepcopy(model)
        smaller.model.set_quantised(True)
        graphs = export_graphs(smaller, digest=header["digest"])
    else:
        graphs = stored_graphs(path, header, names) or export_graphs(model, digest=header["digest"])
    reduce_precision(graphs, model.model, precision, pixels)
    plain = [name for name in names if name != "score"]
    contents = {name: graphs[name].SerializeToString(deterministic=True) for name in plain}
    contents["score"] = _sharing(graphs["score"], contents["step"]).SerializeToString(deterministic=True)
    backend = open_graphs(folder, header, folder, contents.__getitem__)
    found = check_parity(model, backend, tolerance=TOLERANCES.get(precision))
    config = _config(path, header, model, contents, precision, found)
    if precision == "int8":
        config["calibration"] = len(pixels)
    return {f"{name}.onnx": content for name, content in contents.items()}, config, found


def config_json(config: Mapping[str, Any]) -> bytes:
    """The content of ``config.json``."""
    return (json.dumps(config, indent=1, ensure_ascii=False) + "\n").encode()


def check_folder(folder: Path, own: Collection[str]) -> None:
    """Refuse to replace what is not an exported folder.

    Args:
        folder: new, empty, or exported before.
        own: the paths of an exported folder's files, relative to it, with "/".

    Raises:
        OptionError: it is a file, a link, the working folder or one above it, or holds something else.
    """
    if Path.cwd().is_relative_to(folder.resolve()):
        raise OptionError(f"{folder}: is the working folder, or above it", remedy="name a new folder")
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise OptionError(f"{folder}: exists and is no folder", remedy="name a new folder")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / EXPORTED).is_file():
        raise OptionError(f"{folder}: holds other files", remedy="name a new folder")
    files = (file for file in folder.rglob("*") if file.is_symlink() or not file.is_dir())
    names = (file.relative_to(folder).as_posix() for file in files)
    if folder.is_dir() and (other := sorted(set(names) - set(own))):
        raise OptionError(f"{folder}: holds other files ({', '.join(other[:3])})", remedy="name a new folder")


def write_with_example(folder: Path, contents: Mapping[str, bytes], config: Mapping[str, Any]) -> None:
    """Write an exported folder: its graphs, its configuration, and a program that runs it. Raises as `write_folder`."""
    example = Path(__file__).with_name(EXAMPLE).read_bytes()
    write_folder(folder, {**contents, EXPORTED: config_json(config), EXAMPLE: example})


def write_folder(folder: Path, contents: Mapping[str, bytes]) -> None:
    """Write files by their relative paths, and put them in the place of the folder when all are written.

    Raises:
        OptionError: the folder cannot be written.
    """
    place = Path(os.path.abspath(folder))  # noqa: PTH100 - Path.resolve follows links
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".captioner-", dir=place.parent) as made:
            partial, former = Path(made) / "new", Path(made) / "former"
            for name, content in contents.items():
                (partial / name).parent.mkdir(parents=True, exist_ok=True)
                (partial / name).write_bytes(content)
            if place.exists():
                place.replace(former)
            try:
                partial.replace(place)
            except OSError:
                if former.exists():
                    former.replace(place)
                raise
    except OSError as error:
        raise OptionError(f"{os.fspath(folder)}: cannot be written ({error.strerror})") from None


def stored_graphs(path: Path, header: Header, names: Collection[str]) -> dict[str, onnx.ModelProto]:
    """The graphs beside a model file with its weights, which is faster than tracing the model; {} where none fit it."""
    graphs = {}
    try:
        for name in names:
            place = graph_folder(path) / f"{name}.onnx"
            content = read_graph(place)
            description = describe(place, content, graph=name)
            check_digest(place, description, path, header["digest"])
            graphs[name] = onnx.load_model_from_string(content)
            weights = make_initialisers(description["initialisers"], path, header)
            for tensor in graphs[name].graph.initializer:
                if tensor.name in weights:
                    tensor.CopyFrom(numpy_helper.from_array(weights[tensor.name], tensor.name))
    except Exception:  # damaged files raise protobuf's and numpy's own errors; tracing the model needs none of them
        return {}
    return graphs


def calibration_pixels(folder: Path, backend: Backend | AnsweringBackend) -> list[NDArray[np.uint8]]:
    """Inputs made of some pictures of a folder, spread over it. Raises OptionError where there are none."""
    if not folder.is_dir():
        raise OptionError(f"{folder}: no such folder of pictures to calibrate on")
    paths = find_pictures([os.fspath(folder)]).pictures
    found = []
    for path in paths[:: max(1, len(paths) // CALIBRATION_PICTURES)][:CALIBRATION_PICTURES]:
        with contextlib.suppress(ImageError):
            found.append(prepare(path, backend).pixels)
    if not found:
        raise OptionError(f"{folder}: has no picture that opens", remedy="give a folder of photographs")
    return found


def _sharing(score: onnx.ModelProto, step: bytes) -> onnx.ModelProto:
    """A score graph whose weights are where they lie in ``step.onnx``, for any program that opens ONNX files."""
    description = read_description(score.SerializeToString())
    description["weights"] = zlib.crc32(step)
    for tensor in score.graph.initializer:
        raw, kind = tensor.raw_data, str(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type))
        if len(raw) < _SHARED_BYTES or kind not in STORED_TYPES or (offset := step.find(raw)) < 0:
            continue
        description["initialisers"][tensor.name] = Recipe(offset=offset, type=kind, shape=list(tensor.dims))
        tensor.ClearField("raw_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        for key, value in (("location", "step.onnx"), ("offset", str(offset)), ("length", str(len(raw)))):
            tensor.external_data.add(key=key, value=value)
    del score.metadata_props[:]
    score.metadata_props.add(key=METADATA_KEY, value=json.dumps(description, sort_keys=True))
    return score


def _config(
    path: Path, header: Header, model: Checkpoint, contents: dict[str, bytes], precision: str, found: Parity
) -> dict[str, Any]:
    decoder = model.model.decoder
    return {
        **common_config(path, header, TorchBackend(model), precision, found),
        "heads": {"layers": decoder.layers, "heads": decoder.heads, "map_heads": list(decoder.map_heads)},
        "decoding": Beam(**header["about"].get("decoding", {})).as_dict(),
        "state": read_description(contents["step"])["state"],
    }


def common_config(
    path: Path, header: Header, backend: Backend | AnsweringBackend, precision: str, found: Parity
) -> dict[str, Any]:
    """What ``config.json`` says of a model of any kind."""
    about = header["about"]
    return {
        "format": EXPORTED_FORMAT,
        "version": EXPORTED_VERSION,
        "name": path.stem,
        "digest": header["digest"],
        "precision": precision,
        "parity": {"against": "torch", **asdict(found)},
        "preprocessing": {
            "side": backend.side,
            "pad": backend.pad,
            "resize": "bicubic",
            "padding": 128,
            "orientation": "EXIF applied",
            "pixels": "uint8 RGB, (B, side, side, 3); mean and std are in the graph",
        },
        "grid": list(backend.grid_shape),
        "max_length": backend.max_length,
        "scores": {split: about[split] for split in ("dev", "test") if split in about},
        "config": header["config"],
        "about": about,
        "vocabulary": header["vocabulary"],
    }
