"""Every attention mechanism and every attention within the grid exports to ONNX, whatever the sizes."""

from pathlib import Path

import numpy as np
import onnxruntime
import torch
from torch import Tensor, nn
from torch.export import Dim

from captioner import checkpoint
from captioner.export.graphs import write_graphs
from captioner.export.trace import OPSET, export_mode
from captioner.model.attention import ATTENTIONS, Attended
from captioner.model.attention.base import build_attention
from captioner.model.caption_model import CaptionModel, ModelConfig
from captioner.model.encoder import EncoderConfig
from captioner.model.grid import Grid
from captioner.model.lstm import LSTMConfig
from captioner.model.refiners import REFINERS
from captioner.tokenizer.vocabulary import SPECIAL, Vocabulary

TEXT, IMAGE, SHAPE = 6, 8, (4, 5)
SEVERAL_HEADS = ("multihead", "memory", "attention_on_attention")
OPTIONS = {"hierarchical": {"regions": 2}, "local": {"window": 1.5}}
REFINER_OPTIONS = {
    "transformer_encoder": {"layers": 1, "heads": 2},
    "latent_queries": {"queries": 5, "pooling_heads": 2},
    "coarse_cells": {"regions": 2},
}


class Everything(nn.Module):
    """All mechanisms side by side, and all refiners, each before an attention: one trace tells of them all."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.attentions = nn.ModuleList(
            build_attention(
                name,
                text_width=TEXT,
                image_width=IMAGE,
                width=4,
                heads=2 if name in SEVERAL_HEADS else 1,
                options=OPTIONS.get(name),
            )
            for name in ATTENTIONS
        )
        entries = {name: REFINERS[name] for name in REFINERS}
        self.refiners = nn.ModuleList(
            entry.build(channels=IMAGE, config=entry.config(width=IMAGE, **REFINER_OPTIONS.get(name, {})))
            for name, entry in entries.items()
        )
        self.reader = build_attention("dot", text_width=TEXT, image_width=IMAGE, width=4, heads=1)
        self.eval()

    def forward(self, query: Tensor, features: Tensor, mask: Tensor) -> tuple[Tensor, ...]:
        grid = Grid(features, SHAPE, mask)
        found: list[Tensor] = []
        for attention in self.attentions:
            found += self.parts(attention(query, attention.keys_values(grid)), grid)
        for refiner in self.refiners:
            refined = refiner(grid)
            found += self.parts(self.reader(query, self.reader.keys_values(refined)), refined)
        return tuple(found)

    @staticmethod
    def parts(attended: Attended, grid: Grid) -> list[Tensor]:
        return [attended.context, grid.maps(attended.weights.mean(1)), attended.off_grid]


@torch.no_grad()
def test_mechanisms_and_refiners_export(tmp_path: Path) -> None:
    module = Everything()

    def made(pictures: int, queries: int) -> tuple[Tensor, Tensor, Tensor]:
        generator = torch.Generator().manual_seed(pictures)
        mask = torch.ones(pictures, 20, dtype=torch.bool)
        mask[-1, 15:] = False
        query = torch.randn(pictures, queries, TEXT, generator=generator)
        return query, torch.randn(pictures, 20, IMAGE, generator=generator), mask

    b, t = Dim("B"), Dim("T")
    with export_mode():
        program = torch.onnx.export(
            module,
            made(2, 3),
            dynamo=True,
            dynamic_shapes=({0: b, 1: t}, {0: b}, {0: b}),
            input_names=["query", "features", "mask"],
            opset_version=OPSET,
            optimize=False,  # a third of the time, and `write_graphs` has it below
            verbose=False,
        )
    assert program is not None
    session = onnxruntime.InferenceSession(program.model_proto.SerializeToString())
    names = [name for name in (*ATTENTIONS, *REFINERS) for _ in range(3)]
    for sizes in ((2, 3), (3, 1), (1, 4)):
        inputs = made(*sizes)
        feed = dict(zip(("query", "features", "mask"), (x.numpy() for x in inputs), strict=True))
        for name, ours, theirs in zip(names, module(*inputs), session.run(None, feed), strict=True):
            np.testing.assert_allclose(theirs, ours.numpy(), rtol=1e-4, atol=1e-5, err_msg=f"{name} {sizes}")


def test_a_model_of_them_exports(tmp_path: Path) -> None:
    """Its state has the weights of the step before, beside what others have."""
    torch.manual_seed(1)
    config = ModelConfig(
        encoder=EncoderConfig(
            backbone="tiny",
            side=64,
            pad=True,
            attention="self_attention",
            attention_after=(3,),
        ),
        refiner=REFINERS["cbam"].config(width=16),
        decoder=LSTMConfig(
            width=12,
            embedding=8,
            output_hidden=8,
            attention="local_previous",
            attention_width=8,
            heads=1,
            attend_after_lstm=False,
        ),
    )
    vocabulary = Vocabulary((*SPECIAL, "a", "dog", "cat"))
    model = CaptionModel(config, vocabulary_size=len(vocabulary)).eval()
    path = tmp_path / "model.safetensors"
    checkpoint.save(path, checkpoint.Checkpoint(model=model, vocabulary=vocabulary))
    found = write_graphs(path)
    assert found.log_p < 1e-4 and found.maps < 1e-4
