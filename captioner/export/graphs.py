"""Model files to ONNX graphs: ``encode`` (pixels to the decoder's first state), ``step`` (one word), ``score``
(captions that are read), and ``rerank`` of a model with a reranker (consensus scores of captions).

The graphs hold no weights, see `captioner.export.weights`, and name the model file that they belong to by its digest.

Every decoder exports whose state is made of dataclasses, tuples, lists and dicts of tensors; see
`captioner.export.probe`.
"""

from pathlib import Path
from typing import Any

import onnx
import torch
from torch import Tensor, nn
from torch.export import Dim

from captioner import checkpoint
from captioner.backends.base import Backend
from captioner.backends.graph_files import RERANK, graph_folder
from captioner.backends.onnx import open_graphs
from captioner.backends.torch import TorchBackend
from captioner.checkpoint import Checkpoint
from captioner.export.parity import QUANTISED_TOLERANCE, Parity, parity, require_parity
from captioner.export.probe import PICTURES, ROWS, WORDS, Probe, flatten, probe_mask, probe_pixels, rebuild
from captioner.export.quantise import in_integers, require_integers
from captioner.export.score import loop_over_steps
from captioner.export.trace import all_nodes, export_mode, trace
from captioner.export.weights import describe, fold_convolutions, write_bare
from captioner.header import read_header
from captioner.model.caption_model import CaptionModel
from captioner.model.decoder import Decoder
from captioner.model.preprocess import normalise
from captioner.model.quantised import quantised_matrices
from captioner.model.reranker import Reranker
from captioner.tokenizer.vocabulary import PAD, START, UNKNOWN


def write_graphs(model_file: str | Path, folder: str | Path | None = None) -> Parity:
    """Write the graphs of a model file (``encode.onnx``, ``step.onnx``, ``score.onnx``, perhaps ``rerank.onnx``), and
    check them against torch.

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
    place = graph_folder(path) if folder is None else Path(folder)
    model, header = checkpoint.load(path), read_header(path)

    def check(contents: dict[str, bytes]) -> Parity:
        return check_parity(model, open_graphs(path, header, place, contents.__getitem__))

    return write_bare(export_graphs(model, digest=header["digest"]), place, check)


def check_parity(model: Checkpoint, exported: Backend, *, tolerance: float | None = None) -> Parity:
    """How far an export is from the model that it was made from.

    Args:
        model: that was exported.
        exported: what came of it.
        tolerance: the largest difference that is not an error; if None, `TOLERANCE`, or `QUANTISED_TOLERANCE`.

    Raises:
        OptionError: so far that it is wrong.
    """
    if tolerance is None and model.model.config.quantised:
        tolerance = QUANTISED_TOLERANCE
    found = parity(TorchBackend(model), exported)
    remedy = "in its code, take sizes from tensor.shape, and change no module in a step"
    require_parity(found, type(model.model.decoder).__name__, remedy=remedy, tolerance=tolerance)
    return found


def export_graphs(model: Checkpoint, *, digest: str) -> dict[str, onnx.ModelProto]:
    """The graphs of a model by name, with their weights and with recipes for them in the metadata.

    Args:
        model: any.
        digest: of its file; see `captioner.metadata.Header`.

    Raises:
        OptionError: the decoder's state or its computation does not export.
    """
    folded, folds = fold_convolutions(model.model)
    matrices = quantised_matrices(folded)
    folded.set_quantised(False)
    with export_mode():
        probe = Probe(folded)
        exported = {"encode": _export_encode(folded, probe), "step": _export_step(folded, probe)}
        for graph in exported.values():
            in_integers(graph, matrices)
        require_integers(exported.values(), matrices, folded.decoder)
        exported["score"] = _export_score(folded, probe, exported["step"])
        in_integers(exported["score"], matrices)
        if folded.reranker is not None:
            exported[RERANK] = _export_rerank(folded, folded.reranker)
    describe(
        exported,
        model.model,
        folds,
        digest=digest,
        max_length=folded.decoder.max_length,
        state=[leaf.as_dict() for leaf in probe.leaves],
    )
    return exported


class _Encode(nn.Module):
    """pixels (B, side, side, 3) uint8, and the mask (B, h, w) of padded pictures -> the first state's tensors, and what
    a reranker reads."""

    def __init__(self, model: CaptionModel) -> None:
        super().__init__()
        self.model = model
        self.eval()  # a module is born in training mode, and so the exporter would leave the whole model

    def forward(self, pixels: Tensor, mask: Tensor | None = None) -> tuple[Tensor, ...]:
        grid = self.model.encode(normalise(pixels, self.model.encoder.config), mask)
        state = flatten(self.model.decoder.begin(grid), type(self.model.decoder).__name__)
        return tuple(state if grid.pooled is None else [*state, grid.pooled])


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
        # Added: Where takes ONNX Runtime three times as long.
        log_p = (logits + torch.where(allowed, 0.0, float("-inf"))).log_softmax(-1)
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


class _Rerank(nn.Module):
    """tokens (B, K, T) of captions, and the mean vectors (B, C) of the pictures' grids -> consensus (B, K)."""

    def __init__(self, reranker: Reranker) -> None:
        super().__init__()
        self.reranker = reranker
        self.eval()

    def forward(self, tokens: Tensor, pooled: Tensor) -> Tensor:
        return self.reranker.consensus(tokens, self.reranker(pooled))


def _export_encode(model: CaptionModel, probe: Probe) -> onnx.ModelProto:
    pictures = PICTURES
    arguments: tuple[Any, ...] = (probe_pixels(model, pictures),)
    shapes: tuple[Any, ...] = ({0: Dim("B")},)
    names = ["pixels"]
    if model.encoder.config.pad:
        arguments, shapes = (*arguments, probe_mask(model, pictures)), (*shapes, {0: Dim("B")})
        names.append("mask")
    outputs = [leaf.name for leaf in probe.leaves] + (["pooled"] if model.reranker is not None else [])
    return trace(_Encode(model), arguments, shapes, names, outputs, model.decoder)


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
    used = {name for node in all_nodes(score.graph) for name in node.input}
    inputs = [value for value in score.graph.input if value.name in used]
    del score.graph.input[:]
    score.graph.input.extend(inputs)
    return score


def _export_rerank(model: CaptionModel, reranker: Reranker) -> onnx.ModelProto:
    return trace(
        _Rerank(reranker),
        (torch.full((PICTURES, ROWS, WORDS), START), torch.zeros(PICTURES, len(reranker.mean))),
        ({0: Dim("B"), 1: Dim("K"), 2: Dim("T")}, {0: Dim("B")}),
        ["tokens", "pooled"],
        ["consensus"],
        model.decoder,
    )
