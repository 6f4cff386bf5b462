"""Modules to ONNX graphs by torch's exporter, in a form that is the same on every machine."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import onnx
import torch
from onnx import numpy_helper
from torch import nn

from captioner.errors import OptionError, one_line
from captioner.model.refiners import sinusoidal_positions

OPSET = 18


def trace(
    module: nn.Module,
    arguments: tuple[Any, ...],
    shapes: tuple[Any, ...],
    inputs: list[str],
    outputs: list[str],
    part: nn.Module,
) -> onnx.ModelProto:
    """The ONNX graph of a module.

    Args:
        module: with its weights, in evaluation mode.
        arguments: examples of its inputs.
        shapes: of each, the axes whose size may change.
        inputs, outputs: names.
        part: the decoder or answerer that a message names.

    Raises:
        OptionError: it does not export; the message says why.
    """
    try:
        program = torch.onnx.export(
            module,
            arguments,
            dynamo=True,
            dynamic_shapes=shapes,
            input_names=inputs,
            output_names=outputs,
            opset_version=OPSET,
            verbose=False,
        )
    except ModuleNotFoundError as error:
        raise OptionError(f"export needs {error.name}, which is not installed") from None
    except Exception as error:  # whatever a part of somebody else's does that the exporter does not know
        cause = error.__cause__ or error
        raise OptionError(
            f"{type(part).__name__} does not export to ONNX: {type(cause).__name__}: {one_line(cause)}",
            remedy="run it on torch",
        ) from error
    assert program is not None
    return program.model_proto


@contextmanager
def export_mode() -> Iterator[None]:
    """No gradients, no fused kernels that have no counterpart, no warnings of the exporter about itself.

    Kernels and warnings are settings of the whole process: no other thread should compute meanwhile.
    """
    fast_path = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)
        sinusoidal_positions.cache_clear()  # what was first computed while tracing is no tensor of numbers


def pool_globally(graph: onnx.ModelProto) -> None:
    """Means over the two last of four axes become ``GlobalAveragePool``, which needs no change of layout."""
    ranks = {value.name: len(value.type.tensor_type.shape.dim) for value in graph.graph.value_info}
    axes = {one.name: numpy_helper.to_array(one).tolist() for one in graph.graph.initializer if list(one.dims) == [2]}
    for node in graph.graph.node:
        if node.op_type == "ReduceMean" and len(node.input) == 2 and ranks.get(node.input[0]) == 4:
            keeps = all(attribute.i for attribute in node.attribute if attribute.name == "keepdims")
            if keeps and axes.get(node.input[1]) in ([2, 3], [-2, -1], [-1, -2]):
                node.op_type = "GlobalAveragePool"
                del node.input[1]
                del node.attribute[:]
    used = {name for node in all_nodes(graph.graph) for name in node.input}
    used |= {value.name for value in graph.graph.output}
    kept = [one for one in graph.graph.initializer if one.name in used]
    del graph.graph.initializer[:]
    graph.graph.initializer.extend(kept)


def tidy(graph: onnx.ModelProto) -> None:
    """Remove what the exporter notes about this machine: file names and stack traces."""
    del graph.metadata_props[:]
    graph.doc_string = ""
    graph.graph.doc_string = ""
    del graph.graph.metadata_props[:]
    for part in (*all_nodes(graph.graph), *graph.graph.initializer, *graph.graph.value_info):
        part.doc_string = ""
        del part.metadata_props[:]
    for value in (*graph.graph.input, *graph.graph.output):
        value.doc_string = ""
        del value.metadata_props[:]
    del graph.graph.value_info[:]


def all_nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """The nodes of a graph and of the graphs in them."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            yield from all_nodes(attribute.g)
