"""Graphs in 8-bit integers, made by ONNX Runtime's quantisation.

Matrix products of ``step``, or of ``answer``, are quantised dynamically: weights per output, activations by their
range at each step. Convolutions have no such kernel; those of ``encode`` are quantised statically, from the ranges that
activations have on pictures. ``score`` takes the weights of ``step`` and computes in 32 bits.
"""

import logging
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from captioner.export.trace import all_nodes

CALIBRATION_PICTURES = 64
"""More pictures change the ranges of activations little."""
_STATIC = ("Conv", "Clip", "Relu", "Add", "GlobalAveragePool")
_DYNAMIC = ("MatMul", "Gemm")


def quantise(
    graphs: Mapping[str, onnx.ModelProto], pixels: Sequence[NDArray[np.uint8]] = ()
) -> dict[str, onnx.ModelProto]:
    """Graphs with 8-bit weights.

    Args:
        graphs: "encode", "step" and "score", or "encode" and "answer", with their weights in 32 bits.
        pixels: inputs (side, side, 3) to calibrate convolutions on; without any these stay in 32 bits.

    Returns:
        New graphs.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    done = dict(graphs)
    decoder = "step" if "step" in graphs else "answer"
    with tempfile.TemporaryDirectory() as folder, _quiet():
        source, target = Path(folder, "source.onnx"), Path(folder, "target.onnx")
        onnx.save(_without_gemm(graphs[decoder]), source)
        quantize_dynamic(
            source,
            target,
            op_types_to_quantize=list(_DYNAMIC),
            nodes_to_exclude=_products_without_kernel(graphs[decoder]),
            per_channel=True,
            weight_type=QuantType.QInt8,
            extra_options={"WeightSymmetric": True},  # `_with_weights_of` takes the zero point for 0
        )
        done[decoder] = _described(onnx.load(target), graphs[decoder])
        if pixels:
            onnx.save(graphs["encode"], source)
            _quantise_convolutions(source, target, graphs["encode"], pixels)
            done["encode"] = _described(onnx.load(target), graphs["encode"])
    if "score" in graphs:
        done["score"] = _with_weights_of(graphs["score"], done["step"])
    return done


def _without_gemm(graph: onnx.ModelProto) -> onnx.ModelProto:
    """The graph with a MatMul and an Add in place of each Gemm whose second input is a transposed weight.

    The quantiser does so too, but many versions of it transpose the weight itself, which other nodes may read, as those
    of tied embeddings do.
    """
    changed = onnx.ModelProto()
    changed.CopyFrom(graph)
    weights = {tensor.name: tensor for tensor in changed.graph.initializer}
    transposed: dict[str, onnx.TensorProto] = {}
    nodes = []
    for node in changed.graph.node:
        set_to = {one.name: onnx.helper.get_attribute_value(one) for one in node.attribute}
        is_plain = set_to.get("alpha", 1.0) == set_to.get("beta", 1.0) == 1 and not set_to.get("transA", 0)
        if node.op_type != "Gemm" or not is_plain or not set_to.get("transB", 0) or node.input[1] not in weights:
            nodes.append(node)
            continue
        weight = node.input[1]
        name = f"{weight}_Transposed"
        if name not in transposed:
            array = numpy_helper.to_array(weights[weight])
            transposed[name] = numpy_helper.from_array(np.ascontiguousarray(array.T), name)
        has_bias = len(node.input) > 2 and bool(node.input[2])
        product = f"{node.output[0]}_MatMul" if has_bias else node.output[0]
        nodes.append(onnx.helper.make_node("MatMul", [node.input[0], name], [product], f"{node.name}_MatMul"))
        if has_bias:
            nodes.append(onnx.helper.make_node("Add", [product, node.input[2]], [node.output[0]], f"{node.name}_Add"))
    del changed.graph.node[:]
    changed.graph.node.extend(nodes)
    read = {name for node in all_nodes(changed.graph) for name in node.input}
    read |= {output.name for output in changed.graph.output}
    kept = [tensor for tensor in changed.graph.initializer if tensor.name in read]
    del changed.graph.initializer[:]
    changed.graph.initializer.extend([*kept, *transposed.values()])
    return changed


def _products_without_kernel(graph: onnx.ModelProto) -> list[str]:
    """The names of products with weights that are no matrices, such as memory slots of each head, or a bias."""
    axes = {tensor.name: len(tensor.dims) for tensor in graph.graph.initializer}
    products = (node for node in graph.graph.node if node.op_type in _DYNAMIC)
    return [node.name for node in products if any(axes.get(name, 2) != 2 for name in node.input)]


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


def _with_weights_of(score: onnx.ModelProto, step: onnx.ModelProto) -> onnx.ModelProto:
    """The score graph with the 8-bit weights of a step graph, widened when it is opened."""
    stored = {one.name: one for one in step.graph.initializer}
    changed = onnx.ModelProto()
    changed.CopyFrom(score)
    kept: dict[str, onnx.TensorProto] = {}
    widening = []
    for tensor in score.graph.initializer:
        found = _in_eight_bits(tensor, stored)
        if found is None:
            kept[tensor.name] = tensor
            continue
        (quantised, scale), transposed = found
        kept |= {quantised: stored[quantised], scale: stored[scale]}
        widened = f"{tensor.name}_widened" if transposed else tensor.name
        # No DequantizeLinear: ONNX Runtime before 1.27 aborts where only the loop's graph reads what it gives.
        widening.append(onnx.helper.make_node("Cast", [quantised], [f"{tensor.name}_cast"], to=onnx.TensorProto.FLOAT))
        widening.append(onnx.helper.make_node("Mul", [f"{tensor.name}_cast", scale], [widened]))  # (in, out) x (out,)
        if transposed:
            widening.append(onnx.helper.make_node("Transpose", [widened], [tensor.name], perm=[1, 0]))
    nodes = [*widening, *changed.graph.node]
    del changed.graph.node[:], changed.graph.initializer[:]
    changed.graph.node.extend(nodes)
    changed.graph.initializer.extend(kept.values())
    return changed


def _in_eight_bits(
    tensor: onnx.TensorProto, stored: Mapping[str, onnx.TensorProto]
) -> tuple[tuple[str, str], bool] | None:
    """The names of a weight's 8-bit form and its scale, and whether that form is transposed; by value, since tracing
    numbers what has no name in each graph by itself."""
    if tensor.name in stored or tensor.data_type != onnx.TensorProto.FLOAT or len(tensor.dims) != 2:
        return None
    weight = numpy_helper.to_array(tensor)
    best = np.inf
    found = None
    for quantised in (name for name in stored if name.endswith("_quantized")):
        scale = f"{quantised.removesuffix('_quantized')}_scale"
        eight, scales = numpy_helper.to_array(stored[quantised]), numpy_helper.to_array(stored[scale])
        if weight.any() and not eight.any():
            continue  # the scale of zeros is 1, which says nothing
        for transposed in (False, True):
            wide = weight.T if transposed else weight
            if wide.shape == eight.shape:
                error = np.abs(wide - eight * scales)
                if np.all(error <= scales) and error.max() < best:
                    best, found = float(error.max()), ((quantised, scale), transposed)
    return found


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
