"""The ``score`` graph: captions that are read (teacher forcing), all steps at once.

It takes ``tokens`` (B, k, T), k captions of each of B pictures, each beginning with START and padded; the first state
as ``encode`` returned it; ``places`` (P,), the words that are asked for as ``row * T + step`` of the B * k rows; and
``targets`` (P,), the words that stand there. It returns ``log_p`` (P,), ``map`` (P, h, w) and ``off_grid`` (P,).

A decoder that overrides `captioner.model.decoder.Decoder.read`, as the Transformer does, computes all steps side by
side. For others the graph repeats the nodes of ``step`` in an ONNX ``Loop``, and what only the logits need comes after
it, once for all words: the output layer is most of the arithmetic.
"""

from collections.abc import Iterable, Sequence

import onnx
from onnx import NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from captioner.export.probe import Leaf

_ROW_WISE = {
    *("Abs", "Add", "Cast", "Div", "Erf", "Exp", "Gelu", "Gemm", "Identity", "LayerNormalization", "LeakyRelu"),
    *("MatMul", "MatMulInteger", "Max", "Mul", "Neg", "Pow", "ReduceMax", "Relu", "Round", "Sigmoid", "Sqrt", "Sub"),
    "Tanh",
}
"""Operators that compute each row by itself; of the products, those with a constant on the right, of the maxima, those
over the last axis."""
_KEPT = ("map", "off_grid")
_PREFIX, _OWN = "step/", "score/"
"""Of the names of values inside the loop, and of those that are added around it."""


def loop_over_steps(step: onnx.ModelProto, leaves: Sequence[Leaf]) -> onnx.ModelProto:
    """The score graph of a decoder, made from its step graph.

    Args:
        step: as the exporter returned it, with the shapes of its values.
        leaves: the tensors of the decoder's state.
    """
    graph = step.graph
    changed = [leaf for leaf in leaves if not leaf.kept]
    ends = {*_KEPT, *(f"next_{leaf.name}" for leaf in changed)}
    nodes = _needed(graph.node, {*ends, "logits"})
    constant = {one.name for one in graph.initializer}
    fixed = [node for node in nodes if _grows(constant, node)]
    moving = [node for node in nodes if not set(node.output) & constant]
    recurrent = _needed(moving, ends)
    repeated = {name for node in recurrent for name in node.output}
    tail = [node for node in moving if not set(node.output) & repeated]
    crossing = _crossing(recurrent, tail, constant, {one.name for one in graph.input})
    if not _is_row_wise(tail, crossing, constant, graph):
        recurrent, tail, crossing = moving, [], ["logits"]

    body = _body(recurrent, [*crossing, *_KEPT], leaves, constant, step)
    scanned = [f"{_OWN}all_{name}" for name in (*crossing, *_KEPT)]
    last = [f"{_OWN}last_{leaf.name}" for leaf in changed]
    first = [f"{_OWN}first_{leaf.name}" for leaf in changed]
    outer = [*fixed, *_sizes(), *(node for leaf in leaves for node in _widened(leaf))]
    outer.append(helper.make_node("Loop", [f"{_OWN}steps", "", *first], [*last, *scanned], "loop", body=body))
    for name in crossing:
        outer += _at_places(name, name)
    outer += tail
    for name in _KEPT:
        outer += _at_places(name, name)
    outer += _log_probabilities()

    score = onnx.ModelProto()
    score.CopyFrom(step)
    del score.graph.node[:], score.graph.input[:], score.graph.output[:], score.graph.value_info[:]
    score.graph.name = "score"
    score.graph.node.extend(outer)
    states = {one.name: one for one in graph.input}
    used = {name for node in outer for name in node.input} | {name for node in body.node for name in node.input}
    inputs = [_integers("tokens", "B", "k", "T"), _integers("places", "P"), _integers("targets", "P")]
    inputs += [_per_picture(states[leaf.name], leaf) for leaf in leaves if leaf.name in states and leaf.name in used]
    score.graph.input.extend(inputs)
    score.graph.output.extend(_outputs(graph))
    kept = [one for one in graph.initializer if one.name in used]
    del score.graph.initializer[:]
    score.graph.initializer.extend(kept)
    score.graph.initializer.extend(_constants())
    return score


def _needed(nodes: Iterable[NodeProto], ends: Iterable[str]) -> list[NodeProto]:
    """The nodes that some values are computed by, in order."""
    wanted, found = set(ends), []
    for node in reversed(list(nodes)):
        if wanted & set(node.output):
            found.append(node)
            wanted |= set(node.input)
    return found[::-1]


def _grows(constant: set[str], node: NodeProto) -> bool:
    """Whether a node's inputs are all constants; its outputs then are too."""
    if node.op_type.startswith("Random") or not set(node.input) - {""} <= constant:
        return False
    constant.update(node.output)
    return True


def _crossing(
    recurrent: Iterable[NodeProto], tail: Sequence[NodeProto], constant: set[str], inputs: set[str]
) -> list[str]:
    """The values that the tail takes from the steps, each once."""
    made = {name for node in recurrent for name in node.output} | inputs
    return list(dict.fromkeys(name for node in tail for name in node.input if name in made and name not in constant))


def _is_row_wise(
    tail: Sequence[NodeProto], crossing: Sequence[str], constant: set[str], graph: onnx.GraphProto
) -> bool:
    """Whether the tail computes each row by itself, of values (rows, width), and so may compute those of all steps."""
    if not tail:
        return False
    values = {one.name: one.type.tensor_type for one in (*graph.value_info, *graph.output)}
    for name in crossing:
        if name not in values or values[name].elem_type != TensorProto.FLOAT:
            return False
        rows, *others = values[name].shape.dim
        if rows.HasField("dim_value") or len(others) != 1 or not others[0].HasField("dim_value"):
            return False
    last = {one.name for one in graph.initializer if one.dims == [1] and numpy_helper.to_array(one).tolist() == [-1]}
    for node in tail:
        product = node.op_type in ("MatMul", "Gemm", "MatMulInteger")
        attributes = {one.name: helper.get_attribute_value(one) for one in node.attribute}
        if (
            node.op_type not in _ROW_WISE
            or (node.op_type == "ReduceMax" and not set(node.input[1:]) & last)
            or (product and (node.input[1] not in constant or attributes.get("transA")))
            or (node.op_type == "LayerNormalization" and attributes.get("axis", -1) not in (-1, 1))
        ):
            return False
    return True


def _body(
    nodes: Iterable[NodeProto],
    scanned: Sequence[str],
    leaves: Sequence[Leaf],
    constant: set[str],
    step: onnx.ModelProto,
) -> onnx.GraphProto:
    """What the loop repeats: the nodes of a step between flat states, (rows, ...)."""
    types = {one.name: one.type.tensor_type.elem_type for one in (*step.graph.input, *step.graph.output)}
    types |= {one.name: one.type.tensor_type.elem_type for one in step.graph.value_info}
    changed = [leaf for leaf in leaves if not leaf.kept]
    inside = [helper.make_node("Gather", [f"{_OWN}by_step", "iteration"], [f"{_PREFIX}tokens"], "read", axis=0)]
    outside = {name: name for name in constant} | {"": ""}
    for leaf in leaves:
        if leaf.kept:
            outside[leaf.name] = f"{_OWN}wide_{leaf.name}" if leaf.axis == "row" else leaf.name
        elif leaf.axis == "row":
            shape = [f"{_PREFIX}{leaf.name}_{part}" for part in ("rest", "shape")]
            inside += [
                helper.make_node("Shape", [f"{_PREFIX}carried_{leaf.name}"], shape[:1], start=1),
                helper.make_node("Concat", [f"{_OWN}pictures_captions", shape[0]], shape[1:], axis=0),
                helper.make_node(
                    "Reshape", [f"{_PREFIX}carried_{leaf.name}", shape[1]], [f"{_PREFIX}{leaf.name}"], allowzero=1
                ),
            ]
        else:
            inside.append(helper.make_node("Identity", [f"{_PREFIX}carried_{leaf.name}"], [f"{_PREFIX}{leaf.name}"]))
    for node in nodes:
        copy = NodeProto()
        copy.CopyFrom(node)
        copy.input[:] = [outside.get(name, f"{_PREFIX}{name}") for name in node.input]
        copy.output[:] = [f"{_PREFIX}{name}" if name else "" for name in node.output]
        inside.append(copy)
    inside.append(helper.make_node("Identity", ["going"], [f"{_PREFIX}going_on"]))
    inputs = [
        helper.make_tensor_value_info("iteration", TensorProto.INT64, []),
        helper.make_tensor_value_info("going", TensorProto.BOOL, []),
        *(_untyped(f"{_PREFIX}carried_{leaf.name}", types[leaf.name]) for leaf in changed),
    ]
    outputs = [
        helper.make_tensor_value_info(f"{_PREFIX}going_on", TensorProto.BOOL, []),
        *(_untyped(f"{_PREFIX}next_{leaf.name}", types[leaf.name]) for leaf in changed),
        *(_untyped(f"{_PREFIX}{name}", types.get(name, TensorProto.FLOAT)) for name in scanned),
    ]
    return helper.make_graph(inside, "one_step", inputs, outputs)


def _untyped(name: str, kind: int) -> ValueInfoProto:
    """A value of any shape: `onnx.helper` calls that None."""
    return helper.make_tensor_value_info(name, kind, None)


def _sizes() -> list[NodeProto]:
    """The number of steps, the numbers of pictures and captions, and the places among the steps' rows."""
    return [
        helper.make_node("Transpose", ["tokens"], [f"{_OWN}by_step"], perm=[2, 0, 1]),  # (T, B, k)
        helper.make_node("Shape", ["tokens"], [f"{_OWN}pictures_captions"], start=0, end=2),
        helper.make_node("Shape", ["tokens"], [f"{_OWN}steps_1"], start=2, end=3),
        helper.make_node("Squeeze", [f"{_OWN}steps_1"], [f"{_OWN}steps"]),
        helper.make_node("ReduceProd", [f"{_OWN}pictures_captions"], [f"{_OWN}rows"], keepdims=1),
        helper.make_node("Div", ["places", f"{_OWN}steps"], [f"{_OWN}row_of_place"]),
        helper.make_node("Mod", ["places", f"{_OWN}steps"], [f"{_OWN}step_of_place"]),
        helper.make_node("Mul", [f"{_OWN}step_of_place", f"{_OWN}rows"], [f"{_OWN}before_step"]),
        helper.make_node("Add", [f"{_OWN}before_step", f"{_OWN}row_of_place"], [f"{_OWN}place_by_step"]),
    ]


def _widened(leaf: Leaf) -> list[NodeProto]:
    """One row per picture, as ``encode`` returns the state, to one per caption: ``first_NAME``, or ``wide_NAME``
    (B, k, ...) of a tensor that no step changes."""
    name = leaf.name
    if leaf.axis != "row":
        return [] if leaf.kept else [helper.make_node("Identity", [name], [f"{_OWN}first_{name}"])]
    nodes = [
        helper.make_node("Shape", [name], [f"{_OWN}rest_{name}"], start=1),
        helper.make_node("Concat", [f"{_OWN}pictures_captions", f"{_OWN}rest_{name}"], [f"{_OWN}shape_{name}"], axis=0),
        helper.make_node("Unsqueeze", [name, f"{_OWN}axis_1"], [f"{_OWN}one_{name}"]),
        helper.make_node("Expand", [f"{_OWN}one_{name}", f"{_OWN}shape_{name}"], [f"{_OWN}wide_{name}"]),
    ]
    if not leaf.kept:
        nodes += [
            helper.make_node("Concat", [f"{_OWN}rows", f"{_OWN}rest_{name}"], [f"{_OWN}flat_{name}"], axis=0),
            helper.make_node(
                "Reshape", [f"{_OWN}wide_{name}", f"{_OWN}flat_{name}"], [f"{_OWN}first_{name}"], allowzero=1
            ),
        ]
    return nodes


def _at_places(name: str, output: str) -> list[NodeProto]:
    """``all_NAME`` (T, rows, ...) -> (P, ...) at the places."""
    return [
        helper.make_node("Shape", [f"{_OWN}all_{name}"], [f"{_OWN}all_rest_{name}"], start=2),
        helper.make_node("Concat", [f"{_OWN}minus_1", f"{_OWN}all_rest_{name}"], [f"{_OWN}all_shape_{name}"], axis=0),
        helper.make_node("Reshape", [f"{_OWN}all_{name}", f"{_OWN}all_shape_{name}"], [f"{_OWN}all_flat_{name}"]),
        helper.make_node("Gather", [f"{_OWN}all_flat_{name}", f"{_OWN}place_by_step"], [output], axis=0),
    ]


def _log_probabilities() -> list[NodeProto]:
    return [
        helper.make_node("LogSoftmax", ["logits"], [f"{_OWN}log_p_of_all"], axis=-1),
        helper.make_node("Unsqueeze", ["targets", f"{_OWN}axis_1"], [f"{_OWN}targets_1"]),
        helper.make_node("GatherElements", [f"{_OWN}log_p_of_all", f"{_OWN}targets_1"], [f"{_OWN}log_p_1"], axis=1),
        helper.make_node("Squeeze", [f"{_OWN}log_p_1", f"{_OWN}axis_1"], ["log_p"]),
    ]


def _constants() -> list[TensorProto]:
    return [
        helper.make_tensor(f"{_OWN}axis_1", TensorProto.INT64, [1], [1]),
        helper.make_tensor(f"{_OWN}minus_1", TensorProto.INT64, [1], [-1]),
    ]


def _integers(name: str, *axes: str) -> ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.INT64, axes)


def _per_picture(value: ValueInfoProto, leaf: Leaf) -> ValueInfoProto:
    """An input of the step graph, with rows (B, ...) in the place of (B, k, ...)."""
    copy = ValueInfoProto()
    copy.CopyFrom(value)
    if leaf.axis == "row":
        del copy.type.tensor_type.shape.dim[1]
    return copy


def _outputs(step: onnx.GraphProto) -> list[ValueInfoProto]:
    """``log_p``, ``map`` and ``off_grid``, a row for each place."""
    (maps,) = (one for one in step.output if one.name == "map")
    cells = [axis.dim_value for axis in maps.type.tensor_type.shape.dim[1:]]
    shapes: dict[str, list[str | int]] = {"log_p": ["P"], "map": ["P", *cells], "off_grid": ["P"]}
    return [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()]
