"""Graphs that hold no weights: their metadata says from which tensors of the model file each initialiser is made.

`captioner.backends.graph_files` makes them when a model is opened. Batch-norm is folded into the convolutions.
"""

import copy
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper
from torch import Tensor, nn

from captioner.backends.graph_files import (
    DESCRIPTION_VERSION,
    METADATA_KEY,
    Recipe,
    gates_for_onnx,
    read_description,
)
from captioner.errors import OptionError
from captioner.export.parity import Parity
from captioner.export.trace import pool_globally, tidy
from captioner.model.answer_model import AnswerModel
from captioner.model.caption_model import CaptionModel
from captioner.model.fine_maps import FINER
from captioner.model.folding import ConvNorm, fold
from captioner.model.refiners import GridRefiner, sinusoidal_positions
from captioner.partial import remove_stale, written_whole

_Model = TypeVar("_Model", CaptionModel, AnswerModel)
_WEIGHTS = (onnx.TensorProto.FLOAT, onnx.TensorProto.INT8, onnx.TensorProto.INT64)
_SMALLEST_WEIGHT = 16  # numbers; smaller constants are found by their names alone


def write_bare(
    graphs: Mapping[str, onnx.ModelProto], folder: Path, check: Callable[[dict[str, bytes]], Parity]
) -> Parity:
    """Write graphs without their weights, each in one step.

    Args:
        graphs: by name, with weights and recipes for them; see `describe`.
        folder: of the files.
        check: is given the files' contents by name, before any is written; returns how far they are from torch, or
            raises.

    Raises:
        OptionError: the folder cannot be written.
    """
    contents = {name: strip_weights(graph).SerializeToString(deterministic=True) for name, graph in graphs.items()}
    found = check(contents)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        remove_stale(folder)
        for name, content in contents.items():
            with written_whole(folder / f"{name}.onnx") as partial:
                partial.write_bytes(content)
    except OSError as error:
        raise OptionError(f"{folder}: cannot write graphs ({error.strerror})") from None
    return found


def describe(
    graphs: Mapping[str, onnx.ModelProto],
    model: CaptionModel | AnswerModel,
    folds: dict[str, Recipe],
    *,
    digest: str,
    max_length: int,
    state: list[dict[str, Any]],
) -> None:
    """Put into the metadata of traced graphs what a backend needs to run them, with recipes for their weights.

    Args:
        graphs: by name.
        model: that was folded and traced.
        folds: as `fold_convolutions` returned them.
        digest: of the model file; see `captioner.metadata.Header`.
        max_length: the most words that the model reads.
        state: of the tensors that go from one graph to the next, plain values.
    """
    encoder = model.encoder
    tensors = {
        name: (tensor.float() if tensor.is_floating_point() else tensor).detach().numpy()
        for name, tensor in model.state_dict().items()
    }
    widths = sorted({part.config.width for part in model.modules() if isinstance(part, GridRefiner)})
    positions = [(*encoder.grid_shape, width) for width in widths]
    for name, graph in graphs.items():
        pool_globally(graph)
        tidy(graph)
        description = {
            "version": DESCRIPTION_VERSION,
            "graph": name,
            "digest": digest,
            "side": encoder.config.side,
            "pad": encoder.config.pad,
            "grid_shape": list(encoder.map_shape),
            **({"map_scale": FINER} if encoder.fine_channels else {}),
            "max_length": max_length,
            "state": state,
            "initialisers": _recipes(graph, tensors, folds, positions),
        }
        graph.metadata_props.add(key=METADATA_KEY, value=json.dumps(description, sort_keys=True))


def strip_weights(graph: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of a graph without the weights that its metadata has recipes for."""
    bare = onnx.ModelProto()
    bare.CopyFrom(graph)
    made = read_description(graph.SerializeToString())["initialisers"]
    for tensor in bare.graph.initializer:
        if tensor.name in made:
            kind = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
            size = int(np.prod(tensor.dims, dtype=np.int64)) * kind.itemsize
            for field in ("raw_data", "float_data", "int32_data", "int64_data"):
                tensor.ClearField(field)
            tensor.data_location = onnx.TensorProto.EXTERNAL
            for key, value in (("location", "model"), ("offset", "0"), ("length", str(size))):
                tensor.external_data.add(key=key, value=value)
    return bare


def fold_convolutions(model: _Model) -> tuple[_Model, dict[str, Recipe]]:
    """A copy with plain convolutions in the place of each `ConvNorm`, and recipes of their weights by name."""
    folded = copy.deepcopy(model).float().cpu().eval().requires_grad_(False)
    recipes: dict[str, Recipe] = {}
    for name, module in list(folded.named_modules()):
        if isinstance(module, ConvNorm):
            convolution, norm = module[0], module[1]
            assert isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d)
            recipe = Recipe(convolution=f"{name}.0.weight", norm=f"{name}.1", eps=norm.eps)
            if convolution.bias is not None:
                recipe["bias"] = f"{name}.0.bias"
            weight, shift = fold(convolution, norm)
            convolution.weight, convolution.bias = nn.Parameter(weight), nn.Parameter(shift)
            parent = folded.get_submodule(name.rpartition(".")[0])
            rest = list(module)[2:]
            setattr(parent, name.rpartition(".")[2], nn.Sequential(convolution, nn.Identity(), *rest))
            for part in ("weight", "bias"):
                recipes[f"{name}.0.{part}"] = {**recipe, "part": part}
        elif isinstance(module, nn.AdaptiveAvgPool2d) and module.output_size in (1, (1, 1)):
            setattr(folded.get_submodule(name.rpartition(".")[0]), name.rpartition(".")[2], _MeanPool())
    return folded.requires_grad_(False), recipes


class _MeanPool(nn.Module):
    """What `nn.AdaptiveAvgPool2d(1)` computes. Of that the exporter makes a copy through an index of every number."""

    def forward(self, features: Tensor) -> Tensor:
        return features.mean((2, 3), keepdim=True)


def _recipes(
    graph: onnx.ModelProto,
    tensors: dict[str, NDArray[Any]],
    folds: dict[str, Recipe],
    positions: Sequence[tuple[int, int, int]],
) -> dict[str, Recipe]:
    """How each initialiser of a graph that is a weight is made.

    The exporter names some after the weights; the others are found by their values, because a digest ties a graph to
    one model file. What no tensor gives is a constant and stays in the graph.
    """
    by_value = {_value(sinusoidal_positions(*one).numpy()): Recipe(positions=one) for one in positions}
    for name, tensor in tensors.items():
        if tensor.ndim == 2:
            by_value.setdefault(_value(tensor.T), Recipe(tensor=name, transpose=True))
    for name, tensor in tensors.items():
        by_value[_value(tensor)] = Recipe(tensor=name)
        if "lstm.weight" in name:
            by_value[_value(gates_for_onnx(tensor))] = Recipe(tensor=name, gates=True)
    recipes = {}
    for initialiser in graph.graph.initializer:
        if initialiser.data_type not in _WEIGHTS:
            continue
        name = initialiser.name.removeprefix("model.")
        values = numpy_helper.to_array(initialiser)
        if name in folds:
            recipes[initialiser.name] = folds[name]
        elif name in tensors and np.array_equal(values, tensors[name]):
            recipes[initialiser.name] = Recipe(tensor=name)
        elif values.size >= _SMALLEST_WEIGHT:
            if (recipe := by_value.get(_value(values))) is not None:
                recipes[initialiser.name] = recipe
            elif (recipe := by_value.get(_value(values.ravel()))) is not None:  # a bias, shaped for broadcasting
                recipes[initialiser.name] = {**recipe, "shape": list(values.shape)}
    return recipes


def _value(array: NDArray[Any]) -> tuple[Any, ...]:
    return (array.dtype, array.shape, array.tobytes())
