"""Graphs in 8-bit integers.

The decoder's matrix products, or the answerer's, are those of `captioner.model.quantised`, which need no pictures.
Convolutions of ``encode`` are quantised statically by ONNX Runtime, from the ranges that activations have on pictures:
it has no kernel that finds them while computing.
"""

import logging
import tempfile
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper
from torch import nn

from captioner.errors import OptionError
from captioner.export.trace import all_nodes
from captioner.model.quantised import ACTIVATION_STEPS, LEAST, QuantisedMatrix

CALIBRATION_PICTURES = 64
"""More pictures change the ranges of activations little."""
_STATIC = ("Conv", "Clip", "Relu", "Add", "GlobalAveragePool")
_OUT_IN, _IN_OUT = "out, in", "in, out"
_OWN = "quantised/"
"""Of the names of values that are added."""


def in_integers(graph: onnx.ModelProto, matrices: Mapping[str, QuantisedMatrix]) -> None:
    """Compute the products with quantised matrices in integers, in place; the same numbers as
    `captioner.model.quantised` has on torch.

    Args:
        graph: traced of a model whose matrices are in floats again.
        matrices: in integers, by name. They are found in the graph by their values.

    Raises:
        OptionError: something else than products and lookups reads one of them.
    """
    found = _stored_matrices(graph, matrices)
    nodes: list[onnx.NodeProto] = []
    for node in graph.graph.node:
        if node.op_type == "Transpose" and (matrix := found.get((node.input[0], _OUT_IN))):
            found[node.output[0], _IN_OUT] = matrix
            continue
        attributes = {one.name: onnx.helper.get_attribute_value(one) for one in node.attribute}
        if node.op_type == "MatMul" and (matrix := found.get((node.input[1], _IN_OUT))):
            nodes += _product(node, matrix)
        elif node.op_type == "Gemm" and _is_plain(attributes):
            order = _OUT_IN if attributes.get("transB", 0) else _IN_OUT
            matrix = found.get((node.input[1], order))
            nodes += _product(node, matrix) if matrix else [node]
        elif (
            node.op_type == "Gather" and not attributes.get("axis") and (matrix := found.get((node.input[0], _OUT_IN)))
        ):
            nodes += _lookup(node, matrix)
        else:
            nodes.append(node)
    del graph.graph.node[:]
    graph.graph.node.extend(nodes)
    read = {name for node in all_nodes(graph.graph) for name in node.input}
    read |= {output.name for output in graph.graph.output}
    if left := next((matrix for (name, _), matrix in found.items() if name in read), None):
        raise OptionError(
            f"the graph '{graph.graph.name}' does something else than a product with the quantised {left}",
            remedy="make it an UnquantisedLinear (captioner.model.quantised)",
        )
    stored = _constants()
    for name, one in matrices.items():
        stored.append(numpy_helper.from_array(one.integers.numpy(), f"{name}.integers"))
        stored.append(numpy_helper.from_array(one.scales.numpy(), f"{name}.scales"))
    # A graph that is made of one in integers has some of them.
    unique = {tensor.name: tensor for tensor in (*stored, *graph.graph.initializer) if tensor.name in read}
    del graph.graph.initializer[:]
    graph.graph.initializer.extend(unique.values())


def require_integers(graphs: Iterable[onnx.ModelProto], matrices: Iterable[str], part: nn.Module) -> None:
    """Make sure that graphs compute with all quantised matrices, as torch does.

    Args:
        graphs: after `in_integers`.
        matrices: their names.
        part: the decoder or answerer that a message names.

    Raises:
        OptionError: they do not with one of them.
    """
    read = {tensor.name for graph in graphs for tensor in graph.graph.initializer}
    if missing := next((name for name in matrices if f"{name}.integers" not in read), None):
        raise OptionError(
            f"{type(part).__name__} does not export to ONNX: no graph has a product with the quantised {missing}",
            remedy="make it an UnquantisedLinear (captioner.model.quantised)",
        )


def _stored_matrices(graph: onnx.ModelProto, matrices: Mapping[str, QuantisedMatrix]) -> dict[tuple[str, str], str]:
    """The matrices that initialisers are, by name and order: (in, out), or as torch has it (out, in)."""
    values: dict[tuple[Any, ...], str] = {}
    for name, matrix in matrices.items():
        weight = matrix.weight.numpy()
        for order, array in ((_OUT_IN, weight), (_IN_OUT, weight.T)):
            values[order, array.shape, array.tobytes()] = name
    found = {}
    for tensor in graph.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT and len(tensor.dims) == 2:
            array = numpy_helper.to_array(tensor)
            for order in (_OUT_IN, _IN_OUT):
                if (matrix_name := values.get((order, array.shape, array.tobytes()))) is not None:
                    found[tensor.name, order] = matrix_name
    return found


def _is_plain(attributes: Mapping[str, Any]) -> bool:
    return attributes.get("alpha", 1.0) == attributes.get("beta", 1.0) == 1 and not attributes.get("transA", 0)


def _product(node: onnx.NodeProto, matrix: str) -> list[onnx.NodeProto]:
    """W x, and a bias where the node adds one. In a row of numbers that are not all finite some may get lost."""
    x, out = node.input[0], node.output[0]
    make = onnx.helper.make_node
    part = f"{_OWN}{out}/".__add__
    bias = node.input[2] if len(node.input) > 2 else ""
    nodes = [
        make("Abs", [x], [part("sizes")]),
        make("ReduceMax", [part("sizes"), f"{_OWN}last_axis"], [part("largest")], keepdims=1),
        make("Div", [part("largest"), f"{_OWN}steps"], [part("exact_step")]),
        make("Max", [part("exact_step"), f"{_OWN}least"], [part("step")]),
        make("Div", [x, part("step")], [part("exact_steps")]),
        make("Round", [part("exact_steps")], [part("whole_steps")]),
        make("Add", [part("whole_steps"), f"{_OWN}zero_as_float"], [part("shifted")]),
        make("Cast", [part("shifted")], [part("integers")], to=onnx.TensorProto.UINT8),
        make("MatMulInteger", [part("integers"), f"{matrix}.integers", f"{_OWN}zero"], [part("sums")]),
        make("Cast", [part("sums")], [part("wide_sums")], to=onnx.TensorProto.FLOAT),
        make("Mul", [part("wide_sums"), f"{matrix}.scales"], [part("scaled")]),
        make("Mul", [part("scaled"), part("step")], [part("product") if bias else out]),
    ]
    return [*nodes, make("Add", [part("product"), bias], [out])] if bias else nodes


def _lookup(node: onnx.NodeProto, matrix: str) -> list[onnx.NodeProto]:
    """Rows of an embedding, of ids (N,) or of more axes; it is stored with a column for each word."""
    ids, out = node.input[1], node.output[0]
    make = onnx.helper.make_node
    part = f"{_OWN}{out}/".__add__
    return [
        make("Shape", [ids], [part("shape")]),
        make("Concat", [part("shape"), f"{_OWN}last_axis"], [part("shape_of_rows")], axis=0),
        make("Reshape", [ids, f"{_OWN}last_axis"], [part("flat")]),
        make("Gather", [f"{matrix}.integers", part("flat")], [part("columns")], axis=1),
        make("Transpose", [part("columns")], [part("rows")], perm=[1, 0]),
        make("Cast", [part("rows")], [part("wide")], to=onnx.TensorProto.FLOAT),
        make("Gather", [f"{matrix}.scales", part("flat")], [part("scales")]),
        make("Unsqueeze", [part("scales"), f"{_OWN}last_axis"], [part("scale_of_rows")]),
        make("Mul", [part("wide"), part("scale_of_rows")], [part("flat_rows")]),
        make("Reshape", [part("flat_rows"), part("shape_of_rows")], [out]),
    ]


def _constants() -> list[onnx.TensorProto]:
    """For processors without instructions for neural networks activations are unsigned, with the zero in the middle."""
    values = {
        "last_axis": np.array([-1], dtype=np.int64),
        "steps": np.float32(ACTIVATION_STEPS),
        "least": np.float32(LEAST),
        "zero": np.uint8(ACTIVATION_STEPS + 1),
        "zero_as_float": np.float32(ACTIVATION_STEPS + 1),
    }
    return [numpy_helper.from_array(np.asarray(value), f"{_OWN}{name}") for name, value in values.items()]


def quantise_convolutions(graph: onnx.ModelProto, pixels: Sequence[NDArray[np.uint8]]) -> onnx.ModelProto:
    """A graph ``encode`` whose convolutions are of integers of 8 bits.

    Args:
        graph: with its weights in 32 bits.
        pixels: inputs (side, side, 3), whose activations' ranges are taken.
    """
    with tempfile.TemporaryDirectory() as folder, _quiet():
        source, target = Path(folder, "source.onnx"), Path(folder, "target.onnx")
        onnx.save(graph, source)
        _quantise_convolutions(source, target, graph, pixels)
        return _described(onnx.load(target), graph)


def _quantise_convolutions(
    source: Path, target: Path, graph: onnx.ModelProto, pixels: Sequence[NDArray[np.uint8]]
) -> None:
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    mask = next((one for one in graph.graph.input if one.name == "mask"), None)
    cells = [axis.dim_value for axis in mask.type.tensor_type.shape.dim[1:]] if mask is not None else []

    class Pictures(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.left: Iterator[NDArray[np.uint8]] = iter(pixels)

        def get_next(self) -> dict[str, NDArray[Any]] | None:
            one = next(self.left, None)
            if one is None:
                return None
            return {"pixels": one[None], **({"mask": np.ones((1, *cells), dtype=bool)} if cells else {})}

    quantize_static(
        source,
        target,
        Pictures(),
        quant_format=QuantFormat.QDQ,
        op_types_to_quantize=list(_STATIC),
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        calibration_providers=["CPUExecutionProvider"],
    )


def _described(quantised: onnx.ModelProto, original: onnx.ModelProto) -> onnx.ModelProto:
    """A graph that says of itself what the original does, and nothing else."""
    del quantised.metadata_props[:]
    quantised.metadata_props.extend(original.metadata_props)
    quantised.producer_name, quantised.producer_version = original.producer_name, original.producer_version
    del quantised.graph.value_info[:]
    return quantised


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the advice that the quantiser logs, where no other thread runs: logging is the whole process's."""
    if threading.active_count() > 1:
        yield
        return
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
