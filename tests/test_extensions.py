"""A decoder and an attention mechanism from outside the package, with no edit in the package."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import captioner
from captioner.cli import main
from captioner.data.readers import read
from captioner.data.scenes import write_scenes
from captioner.model.attention import ATTENTIONS, Attended, Attention, AttentionCache, masked_softmax
from captioner.model.decoder import DECODERS, Decoder, Step
from captioner.model.grid import Grid
from captioner.training.loop import Trainer
from captioner.training.recipe import Recipe


class NullKeyAttention(Attention):
    """Dot products with the cells and with one learned null key; it knows the grid's shape and adds coordinates."""

    def __init__(self, *, text_width: int, image_width: int, width: int, heads: int) -> None:
        super().__init__()
        self.query = nn.Linear(text_width, width)
        self.key = nn.Linear(image_width + 2, width)
        self.null = nn.Parameter(torch.zeros(width))

    def keys_values(self, grid: Grid) -> AttentionCache:
        rows, columns = grid.shape
        y, x = torch.meshgrid(torch.linspace(-1, 1, rows), torch.linspace(-1, 1, columns), indexing="ij")
        places = torch.stack((y, x), -1).flatten(0, 1).to(grid.features).expand(len(grid), -1, -1)
        return AttentionCache(self.key(torch.cat((grid.features, places), -1)), grid.features, grid.mask, grid.shape)

    def forward(self, query: Tensor, cache: AttentionCache) -> Attended:
        q = self.query(query)  # (B, T, A)
        scores = torch.cat((q @ cache.keys.transpose(1, 2), (q @ self.null)[..., None]), -1)  # (B, T, L + 1)
        weights = masked_softmax(scores, None)[:, None]  # (B, 1, T, L + 1)
        on_grid = weights[..., :-1]
        return Attended((on_grid @ cache.values[:, None])[:, 0], on_grid, weights[..., -1])


@dataclass(frozen=True, kw_only=True)
class GRUConfig:
    width: int = 24
    attention: str = "test_null_key"
    map_heads: tuple[int, ...] = ()
    dropout: float = 0.0


@dataclass(frozen=True)
class GRUState:
    hidden: Tensor
    cache: AttentionCache

    def select(self, rows: Tensor, images: Tensor | None = None) -> "GRUState":
        return GRUState(self.hidden[rows], self.cache if images is None else self.cache.select(images))


class GRUDecoder(Decoder):
    def __init__(self, *, vocabulary_size: int, image_width: int, config: GRUConfig) -> None:
        super().__init__()
        self.config = replace(config, map_heads=tuple(config.map_heads))
        self.embed = nn.Embedding(vocabulary_size, config.width)
        self.attention = ATTENTIONS[config.attention](
            text_width=config.width, image_width=image_width, width=config.width, heads=1
        )
        self.start = nn.Linear(image_width, config.width)
        self.gru = nn.GRUCell(config.width + image_width, config.width)
        self.output = nn.Linear(config.width, vocabulary_size)

    def begin(self, grid: Grid) -> GRUState:
        return GRUState(self.start(grid.mean()).tanh(), self.attention.keys_values(grid))

    def step(self, token: Tensor, state: GRUState) -> Step:
        attended = self.attention(state.hidden.unflatten(0, (len(state.cache), -1)), state.cache)
        inputs = torch.cat((self.embed(token), attended.context.flatten(0, 1)), 1)
        hidden = self.gru(inputs, state.hidden)
        return Step(
            logits=self.output(hidden),
            map=attended.weights.mean(1).flatten(0, 1).unflatten(-1, state.cache.shape),
            off_grid=attended.off_grid.mean(1).flatten(),
            state=replace(state, hidden=hidden),
            attention=(attended.weights,),
        )


@pytest.fixture
def registered() -> Iterator[None]:
    ATTENTIONS.register("test_null_key")(NullKeyAttention)
    DECODERS.register_with("test_gru", GRUConfig)(GRUDecoder)
    yield
    ATTENTIONS.unregister("test_null_key")
    DECODERS.unregister("test_gru")


def test_they_train_save_load_caption_explain_and_ground(
    registered: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_scenes(tmp_path / "scenes", count=16, dev=6, size=(96, 72))
    recipe = Recipe(
        decoder="test_gru",
        decoder_options={"width": 20},
        backbone="tiny",
        encoder_options={"side": 64},
        refiner_options={"width": 16},
        epochs=1,
        frozen_epochs=0,
        batch_pictures=8,  # two steps
        captions_per_picture=1,
        minimum_count=1,
        warmup_steps=1,
        map_supervision=0.1,
    )
    path = Trainer(recipe, read(data), tmp_path / "run", device="cpu").run()

    model = captioner.load(path, device="cpu")
    assert type(model.model.decoder) is GRUDecoder
    pictures = sorted((tmp_path / "scenes" / "images").glob("*.png"))[:3]
    for explain in captioner.options.EXPLAIN:
        captions = model.caption([*pictures], options=captioner.Beam(width=3, max_length=6), explain=explain)
        for caption in captions:
            assert isinstance(caption, captioner.Caption)
            assert caption.words
            for word in caption.words:
                assert word.map.sum() + word.off_grid == pytest.approx(1, abs=1e-4)
                assert (word.off_grid > 0) == (explain == "attention")
    caption = captions[0]
    assert caption.page() and caption.figure()
    assert model.caption(pictures[0]).as_dict()["words"][0]["off_grid"] > 0
    (read_back,) = model.read(pictures[0], ["a red ball"])
    assert len(read_back.words) == 3 and np.isfinite(read_back.maps).all()

    code = main(["ground", "--data", str(data), "--model", str(path), "--json", "--device", "cpu"])
    assert code == 0
    report = json.loads(capsys.readouterr().out)
    assert report["captions"]["references"]["all"]["nouns"] > 0


def test_without_its_module_the_file_is_refused_with_a_remedy(tmp_path: Path) -> None:
    from captioner.errors import OptionError

    with pytest.raises(OptionError, match=r"test_gru.*lstm, transformer.*import"):
        DECODERS["test_gru"]
