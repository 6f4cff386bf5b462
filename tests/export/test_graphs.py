"""Graphs: no weights in them, the same bytes each time, and decoders of others."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from captioner import checkpoint
from captioner.backends.graph_files import (
    ANSWERING_GRAPHS,
    GRAPHS,
    graph_folder,
    read_description,
    sinusoidal_positions,
)
from captioner.errors import OptionError
from captioner.export.graphs import write_graphs
from captioner.header import read_header
from captioner.model import refiners
from captioner.model.caption_model import CaptionModel, ModelConfig
from captioner.model.decoder import DECODERS, Decoder, Step
from captioner.model.encoder import EncoderConfig
from captioner.model.grid import Grid
from captioner.model.refiners import RefinerConfig
from captioner.pipeline import load
from captioner.shipped import shipped_answering_models, shipped_models
from captioner.tokenizer.vocabulary import SPECIAL, Vocabulary

WORDS = (*SPECIAL, "a", "dog", "cat")


@dataclass(frozen=True, kw_only=True)
class CounterConfig:
    how: str = "tensors"
    map_heads: tuple[int, ...] = ()
    dropout: float = 0.0


@dataclass(frozen=True)
class CounterState:
    sums: dict[str, Tensor]  # "read": (N, D)
    words: list[Tensor]  # (N, t): grows
    grid: Grid
    extra: Any = None

    def select(self, rows: Tensor, images: Tensor | None = None) -> "CounterState":
        grid = self.grid if images is None else self.grid.select(images)
        return CounterState(
            {name: x[rows] for name, x in self.sums.items()}, [x[rows] for x in self.words], grid, self.extra
        )


class CounterDecoder(Decoder):
    """A small decoder of somebody else's: its state has a dict, a list that grows, a grid, and more by ``how``."""

    def __init__(self, *, vocabulary_size: int, image_width: int, config: CounterConfig) -> None:
        super().__init__()
        self.config = config
        self.embed = nn.Embedding(vocabulary_size, image_width)
        self.output = nn.Linear(image_width, vocabulary_size)

    def begin(self, grid: Grid) -> CounterState:
        mean = grid.mean()
        extra = {"thread": torch.Generator(), "count": 0}.get(self.config.how)
        return CounterState({"read": mean}, [mean[:, :1]], grid, extra)

    def step(self, token: Tensor, state: CounterState) -> Step:
        features = state.grid.features  # (B, L, D)
        images = 2 if self.config.how == "two" else len(state.grid)
        read = state.sums["read"] + self.embed(token) + state.words[0].sum(1, keepdim=True)
        query = read.reshape(images, -1, read.shape[-1])
        weights = (query @ features.transpose(1, 2)).softmax(-1)
        logits = self.output((weights @ features).flatten(0, 1) + read)
        words = torch.cat((state.words[0], token[:, None].float()), 1)
        extra = state.extra + 1 if self.config.how == "count" else state.extra
        if self.config.how == "count":
            logits = logits * extra
        return Step(
            logits=logits,
            map=weights.flatten(0, 1).unflatten(-1, state.grid.shape),
            off_grid=read.new_zeros(read.shape[0]),
            state=CounterState({"read": read}, [words], state.grid, extra),
        )


@pytest.fixture
def foreign_model(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """The file of a model with a decoder that a user registered."""
    DECODERS.register_with("counter", CounterConfig)(CounterDecoder)

    def make(how: str) -> Path:
        torch.manual_seed(1)
        config = ModelConfig(
            encoder=EncoderConfig(backbone="tiny", side=64),
            refiner=RefinerConfig(width=16, heads=2),
            decoder=CounterConfig(how=how),
        )
        vocabulary = Vocabulary(WORDS)
        model = CaptionModel(config, vocabulary_size=len(vocabulary)).eval()
        path = tmp_path / "foreign.safetensors"
        checkpoint.save(path, checkpoint.Checkpoint(model=model, vocabulary=vocabulary))
        return path

    yield make
    DECODERS.unregister("counter")


def test_the_decoder_of_a_user_exports(foreign_model: Callable[[str], Path]) -> None:
    path = foreign_model("tensors")
    found = write_graphs(path)
    assert found.log_p < 1e-4
    pictures = [np.random.default_rng(i).integers(0, 256, (50, 60, 3), dtype=np.uint8) for i in range(3)]
    onnx, on_torch = (load(path, backend=backend).caption(pictures) for backend in ("onnx", "torch"))
    assert [caption.text for caption in onnx] == [caption.text for caption in on_torch]


@pytest.mark.parametrize(
    ("how", "named"), [("thread", "Generator"), ("count", "CounterDecoder"), ("two", "CounterDecoder")]
)
def test_a_decoder_that_does_not_export_is_told_why(foreign_model: Callable[[str], Path], how: str, named: str) -> None:
    path = foreign_model(how)
    with pytest.raises(OptionError, match=named) as error:
        write_graphs(path)
    assert "\n" not in str(error.value)
    assert not graph_folder(path).exists()


def test_the_same_model_gives_the_same_bytes(
    model_file: Path, tmp_path: Path, traced_again: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = graph_folder(model_file), tmp_path / "second"
    monkeypatch.setattr("captioner.export.graphs.export_graphs", traced_again)
    write_graphs(model_file, second)
    for name in GRAPHS:
        content = (first / f"{name}.onnx").read_bytes()
        assert content == (second / f"{name}.onnx").read_bytes()
        assert b"site-packages" not in content and str(tmp_path).encode() not in content
    assert sorted(path.name for path in first.iterdir()) == ["encode.onnx", "score.onnx", "step.onnx"]


@pytest.mark.parametrize("name", shipped_models())
def test_shipped_graphs_hold_no_weights_and_name_their_model(name: str) -> None:
    path = shipped_models()[name]
    header = read_header(path)
    for graph in GRAPHS:
        file = graph_folder(path) / f"{graph}.onnx"
        assert file.stat().st_size < 200_000
        description = read_description(file.read_bytes())
        assert description["digest"] == header["digest"], "make graphs"
        for recipe in description["initialisers"].values():
            named = recipe.get("tensor", recipe.get("convolution"))
            assert named in header["tensors"] if named else list(recipe) == ["positions"], recipe


@pytest.mark.parametrize("name", shipped_answering_models())
def test_shipped_graphs_of_answers_name_their_model(name: str) -> None:
    path = shipped_answering_models()[name]
    graphs = sorted(graph_folder(path).glob("*.onnx"))
    assert len(graphs) == len(ANSWERING_GRAPHS)
    for file in graphs:
        assert read_description(file.read_bytes())["digest"] == read_header(path)["digest"], "make graphs"


def test_a_folder_that_cannot_be_written_is_named(
    model_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graphs = {name: graph_folder(model_file) / f"{name}.onnx" for name in GRAPHS}
    loaded = {name: onnx.load(file, load_external_data=False) for name, file in graphs.items()}
    monkeypatch.setattr("captioner.export.graphs.export_graphs", lambda *_, **__: loaded)  # without tracing it again
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(OptionError, match=str(file)):
        write_graphs(model_file, file / "graphs")


@pytest.mark.parametrize("shape", [(10, 10, 512), (3, 7, 16)])
def test_positions_are_those_of_the_refiner(shape: tuple[int, int, int]) -> None:
    np.testing.assert_allclose(sinusoidal_positions(*shape), refiners.sinusoidal_positions(*shape), atol=2e-5)
