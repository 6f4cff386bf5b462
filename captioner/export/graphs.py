"""Model files to ONNX graphs: ``encode`` (pixels to the decoder's first state), ``step`` (one word) and ``score``
(captions that are read).

The graphs hold no weights. Their metadata names the model file that they belong to by its digest, and says from which
of its tensors each initialiser is made; `captioner.backends.graph_files` makes them when a model is opened. Batch-norm
is folded into the convolutions.

Every decoder exports whose state is made of dataclasses, tuples, lists and dicts of tensors; see
`captioner.export.probe`.
"""

import copy
import json
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import numpy_helper
from torch import Tensor, nn
from torch.export import Dim

from captioner import checkpoint
from captioner.backends.base import Backend
from captioner.backends.graph_files import (
    DESCRIPTION_VERSION,
    METADATA_KEY,
    Recipe,
    gates_for_onnx,
    graph_folder,
    read_description,
)
from captioner.backends.onnx import open_graphs
from captioner.backends.torch import TorchBackend
from captioner.checkpoint import Checkpoint
from captioner.errors import OptionError, one_line
from captioner.export.parity import TOLERANCE, Parity, parity
from captioner.export.probe import PICTURES, ROWS, WORDS, Probe, flatten, probe_mask, probe_pixels, rebuild
from captioner.export.score import loop_over_steps
from captioner.header import read_header
from captioner.model.answer_model import AnswerModel
from captioner.model.caption_model import CaptionModel
from captioner.model.decoder import Decoder
from captioner.model.folding import ConvNorm, fold
from captioner.model.preprocess import normalise
from captioner.model.refiners import sinusoidal_positions
from captioner.tokenizer.vocabulary import PAD, START, UNKNOWN

OPSET = 18
_Model = TypeVar("_Model", CaptionModel, AnswerModel)
_SMALLEST_WEIGHT = 16  # numbers; smaller constants are found by their names alone


def write_graphs(model_file: str | Path, folder: str | Path | None = None) -> Parity:
    """Write the graphs of a model file (``encode.onnx``, ``step.onnx``, ``score.onnx``), and check them against torch.

    The same model file gives the same bytes. Graphs that were there stay until the new ones have passed the check.

    Args:
        model_file: of a trained model.
        folder: None for the place where `captioner.pipeline.load` looks: ``graphs/NAME`` beside the model file.

    Returns:
        How far the graphs are from torch.

    Raises:
        CheckpointError: the model file is missing or damaged.
        OptionError: the model does not export, the message says why; or the folder cannot be written.
    """
    path = Path(model_file)
    folder = graph_folder(path) if folder is None else Path(folder)
    model, header = checkpoint.load(path), read_header(path)
    graphs = export_graphs(model, digest=header["digest"])
    contents = {name: strip_weights(graph).SerializeToString(deterministic=True) for name, graph in graphs.items()}
    found = check_parity(
        model,
        open_graphs(path, header, folder, contents.__getitem__),
    )
    write_files(folder, contents)
    return found


def write_files(folder: Path, contents: Mapping[str, bytes]) -> None:
    """Write graphs by their names, each in one step.

    Raises:
        OptionError: the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in contents.items():
            partial = folder / f"{name}.onnx.partial"
            partial.write_bytes(content)
            partial.replace(folder / f"{name}.onnx")
    except OSError as error:
        raise OptionError(f"{folder}: cannot write graphs ({error.strerror})") from None


def check_parity(model: Checkpoint, exported: Backend, *, tolerance: float | None = None) -> Parity:
    """How far an export is from the model that it was made from.

    Args:
        model: that was exported.
        exported: what came of it.
        tolerance: the largest difference that is not an error; `TOLERANCE` if None.

    Raises:
        OptionError: so far that it is wrong.
    """
    found = parity(TorchBackend(model), exported)
    if not max(found.log_p, found.maps) <= (TOLERANCE if tolerance is None else tolerance):
        raise OptionError(
            f"the exported {type(model.model.decoder).__name__} computes something else than torch: "
            f"log-probabilities differ by {found.log_p:.2g}, maps by {found.maps:.2g}",
            remedy="in its code, take sizes from tensor.shape, and change no module in a step",
        )
    return found


def export_graphs(model: Checkpoint, *, digest: str) -> dict[str, onnx.ModelProto]:
    """The graphs of a model by name, with their weights and with recipes for them in the metadata.

    Args:
        model: any.
        digest: of its file; see `captioner.header.Header`.

    Raises:
        OptionError: the decoder's state or its computation does not export.
    """
    folded, folds = fold_convolutions(model.model)
    tensors = {name: tensor.detach().float().numpy() for name, tensor in model.model.state_dict().items()}
    positions = (*folded.encoder.grid_shape, model.model.config.refiner.width)
    with export_mode():
        probe = Probe(folded)
        exported = {"encode": _export_encode(folded, probe), "step": _export_step(folded, probe)}
        exported["score"] = _export_score(folded, probe, exported["step"])
    for name, graph in exported.items():
        pool_globally(graph)
        tidy(graph)
        description = {
            "version": DESCRIPTION_VERSION,
            "graph": name,
            "digest": digest,
            "side": folded.encoder.config.side,
            "pad": folded.encoder.config.pad,
            "grid_shape": list(folded.encoder.grid_shape),
            "max_length": folded.decoder.max_length,
            "state": [leaf.as_dict() for leaf in probe.leaves],
            "initialisers": recipes_of(graph, tensors, folds, positions),
        }
        graph.metadata_props.add(key=METADATA_KEY, value=json.dumps(description, sort_keys=True))
    return exported


def strip_weights(graph: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of a graph without the weights that its metadata has recipes for."""
    bare = onnx.ModelProto()
    bare.CopyFrom(graph)
    made = read_description(graph.SerializeToString())["initialisers"]
    for tensor in bare.graph.initializer:
        if tensor.name in made:
            size = int(np.prod(tensor.dims, dtype=np.int64)) * 4
            tensor.ClearField("raw_data")
            tensor.ClearField("float_data")
            tensor.data_location = onnx.TensorProto.EXTERNAL
            for key, value in (("location", "model"), ("offset", "0"), ("length", str(size))):
                tensor.external_data.add(key=key, value=value)
    return bare


class _Encode(nn.Module):
    """pixels (B, side, side, 3) uint8, and the mask (B, h, w) of padded pictures -> the first state's tensors."""

    def __init__(self, model: CaptionModel) -> None:
        super().__init__()
        self.model = model
        self.eval()  # a module is born in training mode, and so the exporter would leave the whole model

    def forward(self, pixels: Tensor, mask: Tensor | None = None) -> tuple[Tensor, ...]:
        grid = self.model.encode(normalise(pixels, self.model.encoder.config), mask)
        return tuple(flatten(self.model.decoder.begin(grid), type(self.model.decoder).__name__))


class _Step(nn.Module):
    """tokens (B, k), the state's tensors -> logits, log_p, map, off_grid, the tensors that changed.

    Rows are (B, k, ...) on the way in, so that the exporter knows that their number is a multiple of the pictures, and
    (B * k, ...) on the way out.
    """

    def __init__(self, model: CaptionModel, probe: Probe) -> None:
        super().__init__()
        self.model, self.probe = model, probe
        self.eval()

    def forward(self, tokens: Tensor, state: list[Tensor]) -> tuple[Tensor, ...]:
        leaves = self.probe.leaves
        flat = [x.flatten(0, 1) if leaf.axis == "row" else x for x, leaf in zip(state, leaves, strict=True)]
        step = self.model.decoder.step(tokens.flatten(), rebuild(self.probe.template, iter(flat)))
        logits = step.logits.float()
        words = torch.arange(logits.shape[-1])
        allowed = (words != PAD) & (words != START) & (words != UNKNOWN)
        log_p = logits.masked_fill(~allowed, float("-inf")).log_softmax(-1)
        after = flatten(step.state, type(self.model.decoder).__name__)
        return (logits, log_p, step.map.float(), step.off_grid.float(), *(after[i] for i in self.probe.changed))


class _Score(nn.Module):
    """tokens (B, k, T), places (P,), targets (P,), the first state's tensors -> log_p, map and off_grid at the places.

    It is `captioner.export.score` of a decoder that computes all steps side by side.
    """

    def __init__(self, model: CaptionModel, probe: Probe) -> None:
        super().__init__()
        self.model, self.probe = model, probe
        self.eval()

    def forward(self, tokens: Tensor, places: Tensor, targets: Tensor, state: list[Tensor]) -> tuple[Tensor, ...]:
        read = self.model.decoder.read(tokens.flatten(0, 1), rebuild(self.probe.start, iter(state)), places)
        log_p = read.logits.float().log_softmax(-1).gather(1, targets[:, None])[:, 0]
        return log_p, read.map.float(), read.off_grid.float()


def _export_encode(model: CaptionModel, probe: Probe) -> onnx.ModelProto:
    pictures = PICTURES
    arguments: tuple[Any, ...] = (probe_pixels(model, pictures),)
    shapes: tuple[Any, ...] = ({0: Dim("B")},)
    names = ["pixels"]
    if model.encoder.config.pad:
        arguments, shapes = (*arguments, probe_mask(model, pictures)), (*shapes, {0: Dim("B")})
        names.append("mask")
    return trace(_Encode(model), arguments, shapes, names, [leaf.name for leaf in probe.leaves], model.decoder)


def _export_step(model: CaptionModel, probe: Probe) -> onnx.ModelProto:
    b, k = Dim("B"), Dim("k")
    state, shapes = [], []
    for tensor, leaf in zip(flatten(probe.template, ""), probe.leaves, strict=True):
        row = leaf.axis == "row"
        state.append(tensor.unflatten(0, (PICTURES, ROWS)) if row else tensor)
        sizes: dict[int, Any] = {"row": {0: b, 1: k}, "image": {0: b}, "none": {}}[leaf.axis]
        shapes.append({**sizes, **{axis + row: Dim.AUTO for axis in leaf.grows}})
    return trace(
        _Step(model, probe),
        (torch.full((PICTURES, ROWS), START), state),
        ({0: b, 1: k}, shapes),
        ["tokens", *(leaf.name for leaf in probe.leaves)],
        ["logits", "log_p", "map", "off_grid", *(f"next_{probe.leaves[i].name}" for i in probe.changed)],
        model.decoder,
    )


def _export_score(model: CaptionModel, probe: Probe, step: onnx.ModelProto) -> onnx.ModelProto:
    if type(model.decoder).read is Decoder.read:
        return loop_over_steps(step, probe.leaves)
    state = flatten(probe.start, "")
    tokens = torch.full((PICTURES, ROWS, WORDS), START)
    places = torch.arange(PICTURES * ROWS * WORDS)[1:]
    b, k, t = Dim("B"), Dim("k"), Dim("T", max=model.decoder.max_length + 1)
    shapes = [{} if leaf.axis == "none" else {0: b} for leaf in probe.leaves]
    score = trace(
        _Score(model, probe),
        (tokens, places, torch.full_like(places, START), state),
        ({0: b, 1: k, 2: t}, {0: Dim("P")}, {0: Dim("P")}, shapes),
        ["tokens", "places", "targets", *(leaf.name for leaf in probe.leaves)],
        ["log_p", "map", "off_grid"],
        model.decoder,
    )
    used = {name for node in _nodes(score.graph) for name in node.input}
    inputs = [value for value in score.graph.input if value.name in used]
    del score.graph.input[:]
    score.graph.input.extend(inputs)
    return score


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
    """No gradients, no fused kernels that have no counterpart, no warnings of the exporter about itself."""
    fast_path = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)
        sinusoidal_positions.cache_clear()  # what was first computed while tracing is no tensor of numbers


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
    used = {name for node in _nodes(graph.graph) for name in node.input}
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
    for part in (*_nodes(graph.graph), *graph.graph.initializer, *graph.graph.value_info):
        part.doc_string = ""
        del part.metadata_props[:]
    for value in (*graph.graph.input, *graph.graph.output):
        value.doc_string = ""
        del value.metadata_props[:]
    del graph.graph.value_info[:]


def _nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """The nodes of a graph and of the graphs in them."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            yield from _nodes(attribute.g)


def recipes_of(
    graph: onnx.ModelProto,
    tensors: dict[str, NDArray[np.float32]],
    folds: dict[str, Recipe],
    positions: tuple[int, int, int],
) -> dict[str, Recipe]:
    """How each float initialiser of a graph is made.

    The exporter names some after the weights; the others are found by their values, because a digest ties a graph to
    one model file. What no tensor gives is a constant and stays in the graph.
    """
    by_value = {_value(sinusoidal_positions(*positions).numpy()): Recipe(positions=positions)}
    for name, tensor in tensors.items():
        if tensor.ndim == 2:
            by_value.setdefault(_value(tensor.T), Recipe(tensor=name, transpose=True))
    for name, tensor in tensors.items():
        by_value[_value(tensor)] = Recipe(tensor=name)
        if "lstm.weight" in name:
            by_value[_value(gates_for_onnx(tensor))] = Recipe(tensor=name, gates=True)
    recipes = {}
    for initialiser in graph.graph.initializer:
        if initialiser.data_type != onnx.TensorProto.FLOAT:
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


def _value(array: NDArray[np.float32]) -> tuple[Any, ...]:
    return (array.shape, array.tobytes())
