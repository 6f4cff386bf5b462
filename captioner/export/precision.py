"""Graphs with weights of their own, in fewer bits than 32.

In 16 bits a graph computes with the numbers of a model file, which has no more: a convolution is stored before its
batch-norm is folded in, with what that multiplies it by, since a product of numbers of 16 bits is not one.
"""

import json
from collections.abc import Collection, Mapping

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import numpy_helper
from torch import nn

from captioner.backends.graph_files import METADATA_KEY, read_description
from captioner.errors import OptionError
from captioner.export.quantise import quantise_convolutions
from captioner.model.answer_model import AnswerModel
from captioner.model.caption_model import CaptionModel
from captioner.model.folding import ConvNorm, scale_of

PRECISIONS = ("fp32", "fp16", "int8")
TOLERANCES = {"fp16": 0.5, "int8": 3.0}
"""In nats: fewer bits of weights move log-probabilities, on noise more than on photographs; what is wrong moves them by
far more."""
_FEW = 64  # numbers of a constant that keeps 32 bits: the means of an encoder's input are no weights
_Factors = tuple[NDArray[np.float16], NDArray[np.float32]]


def check_precision(precision: str) -> None:
    """Raises OptionError: a precision that is not one of `PRECISIONS`."""
    if precision not in PRECISIONS:
        raise OptionError(f"the precision '{precision}' is not one of {', '.join(PRECISIONS)}")


def reduce_precision(
    graphs: dict[str, onnx.ModelProto],
    model: CaptionModel | AnswerModel,
    precision: str,
    pixels: list[NDArray[np.uint8]],
) -> None:
    """Give graphs weights of their own in a precision, in place; matrix products are in integers before.

    Args:
        graphs: by name, with their weights.
        model: that they are of.
        precision: of `PRECISIONS`.
        pixels: inputs that convolutions are quantised by; [] for convolutions in floats.
    """
    computed = {name: _computed(graph) for name, graph in graphs.items()}
    for graph in graphs.values():
        _own_weights(graph)
    if pixels:
        graphs["encode"] = quantise_convolutions(graphs["encode"], pixels)
    if precision != "fp32":
        factors = _factors(model)
        for name, graph in graphs.items():
            halve(graph, factors, computed[name])


def _computed(graph: onnx.ModelProto) -> set[str]:
    """The initialisers of a graph that are no weights: codes of positions."""
    recipes = read_description(graph.SerializeToString())["initialisers"]
    return {name for name, recipe in recipes.items() if "positions" in recipe}


def _own_weights(graph: onnx.ModelProto) -> None:
    """Say in a graph that its weights are its own."""
    description = read_description(graph.SerializeToString())
    description["initialisers"] = {}
    del graph.metadata_props[:]
    graph.metadata_props.add(key=METADATA_KEY, value=json.dumps(description, sort_keys=True))


def _factors(model: CaptionModel | AnswerModel) -> dict[str, _Factors]:
    """By the names of folded convolutions' weights: the convolution's own, where 16 bits hold them, and what its
    batch-norm multiplies them by, (D', 1, 1, 1)."""
    found = {}
    for name, module in model.named_modules():
        if isinstance(module, ConvNorm):
            convolution, norm = module[0], module[1]
            assert isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d)
            own = convolution.weight.detach().float().cpu()
            if torch.equal(own.half().float(), own):
                scale = scale_of(norm).detach().float().cpu()[:, None, None, None]
                found[f"{name}.0.weight"] = own.half().numpy(), scale.numpy()
    return found


def halve(graph: onnx.ModelProto, factors: Mapping[str, _Factors], kept: Collection[str] = ()) -> None:
    """Store matrices and convolutions in 16 bits, those with ``factors`` as these, but for those that are ``kept``."""
    added, scales = [], []
    for tensor in graph.graph.initializer:
        name, values = tensor.name, numpy_helper.to_array(tensor)
        if values.dtype != np.float32 or values.ndim < 2 or values.size < _FEW or name in kept:
            continue
        widened = name
        if (found := factors.get(name.removeprefix("model."))) is not None:
            values, widened = found[0], f"{name}_widened"
            scales.append(numpy_helper.from_array(found[1], f"{name}_scale"))
        tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float16), f"{name}_half"))
        cast = onnx.helper.make_node("Cast", [tensor.name], [widened], f"widen_{name}", to=onnx.TensorProto.FLOAT)
        added.append(cast)
        if widened != name:
            added.append(onnx.helper.make_node("Mul", [widened, f"{name}_scale"], [name], f"scale_{name}"))
    graph.graph.initializer.extend(scales)
    nodes = [*added, *graph.graph.node]
    del graph.graph.node[:]
    graph.graph.node.extend(nodes)
