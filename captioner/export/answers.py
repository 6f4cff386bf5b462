"""Answering models to ONNX graphs: ``encode`` (pixels to the refined grid) and ``answer`` (to questions about it).

As of captioning models, the graphs hold no weights, and say from which tensors of the model file each is made; see
`captioner.export.weights`.
"""

from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor, nn
from torch.export import Dim

from captioner import checkpoint
from captioner.backends.base import AnsweringBackend
from captioner.backends.graph_files import graph_folder
from captioner.backends.onnx_answering import open_answering_graphs
from captioner.backends.torch_answering import TorchAnsweringBackend
from captioner.checkpoint import AnswerCheckpoint
from captioner.export.parity import Parity, any_size, require_parity
from captioner.export.quantise import in_integers, require_integers
from captioner.export.trace import export_mode, trace
from captioner.export.weights import describe, fold_convolutions, write_bare
from captioner.header import read_header
from captioner.image import Geometry
from captioner.model.answer_model import AnswerModel
from captioner.model.fine_maps import split_fine
from captioner.model.grid import Grid
from captioner.model.preprocess import normalise
from captioner.model.quantised import dequantise, quantised_matrices
from captioner.model.refiners import sinusoidal_positions
from captioner.tokenizer.vocabulary import PAD, SPECIAL

_PICTURES, _QUESTIONS, _WORDS = 2, 3, 5  # that are traced; the exporter takes axes of 0 and 1 for fixed ones


def write_answering_graphs(model_file: str | Path, folder: str | Path | None = None) -> Parity:
    """Write the graphs of an answering model's file, and check them against torch.

    The same model file gives the same bytes. Graphs that were there stay until the new ones have passed the check.

    Args:
        model_file: of a trained model.
        folder: None for ``graphs/NAME`` beside the model file.

    Raises:
        CheckpointError: the model file is missing or damaged.
        OptionError: the model does not export, the message says why; or the folder cannot be written.
    """
    path = Path(model_file)
    place = graph_folder(path) if folder is None else Path(folder)
    model, header = checkpoint.load_answering(path), read_header(path)

    def check(contents: dict[str, bytes]) -> Parity:
        files = {name: (place / f"{name}.onnx", content) for name, content in contents.items()}
        found = answering_parity(TorchAnsweringBackend(model), open_answering_graphs(path, header, files))
        remedy = "in its code, take sizes from tensor.shape"
        require_parity(found, type(model.model.answerer).__name__, remedy=remedy)
        return found

    return write_bare(export_answering_graphs(model, digest=header["digest"]), place, check)


def answering_parity(first: AnsweringBackend, second: AnsweringBackend, *, seed: int = 0) -> Parity:
    """The largest differences of two backends over pictures of noise and questions of random words.

    Raises:
        OptionError: a graph does not take any number of pictures and questions.
    """
    generator = np.random.default_rng(seed)
    log_p = maps = 0.0
    for pictures, rows in ((1, 1), (1, 3), (2, 1), (3, 2)):
        pixels = generator.integers(0, 256, (pictures, first.side, first.side, 3), dtype=np.uint8)
        geometry = Geometry(
            size=(4 * first.side, 3 * first.side), side=first.side, grid=first.grid_shape, pad=first.pad
        )
        questions = [
            [
                generator.integers(len(SPECIAL), len(first.vocabulary), generator.integers(1, 7)).tolist()
                for _ in range(rows)
            ]
            for _ in range(pictures)
        ]
        with any_size(pictures, rows):
            ours, theirs = (
                backend.answer(backend.encode(pixels, [geometry] * pictures), questions) for backend in (first, second)
            )
        for one, other in zip(chain.from_iterable(ours), chain.from_iterable(theirs), strict=True):
            log_p = max(log_p, float(np.abs(one.log_p - other.log_p).max()))
            maps = max(maps, float(np.abs(one.map - other.map).max()), float(np.abs(one.words - other.words).max()))
    return Parity(log_p=log_p, maps=maps)


class _Encode(nn.Module):
    """pixels (B, side, side, 3) uint8, and the mask (B, h, w) of padded pictures -> the refined grid (B, h * w, D), and
    behind its vectors the features of the cells' parts where there are fine maps."""

    def __init__(self, model: AnswerModel) -> None:
        super().__init__()
        self.model = model
        self.eval()

    def forward(self, pixels: Tensor, mask: Tensor | None = None) -> Tensor:
        grid = self.model.encode(normalise(pixels, self.model.encoder.config), mask)
        return grid.features if grid.fine is None else torch.cat((grid.features, grid.fine), 2)


class _Answer(nn.Module):
    """grid (B, h * w, D), tokens (B, k, T) and the mask (B, h * w) of padded pictures -> log_p, map, words."""

    def __init__(self, model: AnswerModel) -> None:
        super().__init__()
        self.model = model
        self.eval()

    def forward(self, grid: Tensor, tokens: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        whole = split_fine(Grid(grid, self.model.encoder.grid_shape, mask), self.model.config.refiner.width)
        answered = self.model.answerer(whole, tokens)
        return answered.logits.float().log_softmax(-1), answered.maps.float(), answered.words.float()


def export_answering_graphs(model: AnswerCheckpoint, *, digest: str) -> dict[str, onnx.ModelProto]:
    """The graphs of a model by name, with their weights and with recipes for them in the metadata.

    Args:
        model: any.
        digest: of its file; see `captioner.metadata.Header`.

    Raises:
        OptionError: its computation does not export.
    """
    folded, folds = fold_convolutions(model.model)
    matrices = quantised_matrices(folded)
    dequantise(folded)
    (height, width), depth = folded.encoder.grid_shape, folded.config.refiner.width
    side, pad = folded.encoder.config.side, folded.encoder.config.pad
    assert side is not None  # filled in by the configuration
    sinusoidal_positions(height, width, depth)  # kept from now on, and not what the exporter's trace would keep
    b, k, t = Dim("B"), Dim("k"), Dim("T")
    pixels = torch.zeros(_PICTURES, side, side, 3, dtype=torch.uint8)
    parts = folded.encoder.vector_width - folded.encoder.channels
    grid = torch.zeros(_PICTURES, height * width, depth + parts)
    tokens = torch.full((_PICTURES, _QUESTIONS, _WORDS), len(SPECIAL))
    tokens[:, :, -1] = PAD
    mask = (torch.ones(_PICTURES, height, width, dtype=torch.bool),) if pad else ()
    flat = tuple(one.flatten(1) for one in mask)
    masked: tuple[Any, ...] = ({0: b},) if pad else ()
    names = ["mask"] if pad else []
    with export_mode():
        exported = {
            "encode": trace(
                _Encode(folded), (pixels, *mask), ({0: b}, *masked), ["pixels", *names], ["grid"], folded.answerer
            ),
            "answer": trace(
                _Answer(folded),
                (grid, tokens, *flat),
                ({0: b}, {0: b, 1: k, 2: t}, *masked),
                ["grid", "tokens", *names],
                ["log_p", "map", "words"],
                folded.answerer,
            ),
        }
    for graph in exported.values():
        in_integers(graph, matrices)
    require_integers(exported.values(), matrices, folded.answerer)
    describe(
        exported,
        model.model,
        folds,
        digest=digest,
        max_length=folded.answerer.config.max_length,
        state=[{"name": "grid", "axis": "image", "kept": True}],
    )
    return exported
