"""Fine maps: the equation, where the parts lie, and what a model with them keeps."""

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from captioner.checkpoint import Checkpoint
from captioner.errors import OptionError
from captioner.explain.gradient import gradient_maps
from captioner.image import Geometry
from captioner.model.caption_model import CaptionModel, ModelConfig
from captioner.model.encoder import EncoderConfig, GridEncoder
from captioner.model.fine_maps import FineMaps, maps_of_parts, parts_of_cells, repeat_cells, split_fine
from captioner.model.grid import Grid
from captioner.model.lstm import LSTMConfig
from captioner.model.refiners import REFINERS, RefinerConfig
from captioner.model.transformer import TransformerConfig
from captioner.tokenizer.vocabulary import START
from captioner.training.growth import add_fine_maps

B, T, H, W, D, F, A, Q = 2, 3, 2, 3, 5, 4, 6, 7
STAGE, WIDTH = {"fine_stage": 1}, {"fine_width": 8}


@pytest.fixture
def fine() -> FineMaps:
    torch.manual_seed(1)
    module = FineMaps(query_width=Q, image_width=D, fine_channels=F, width=A).eval()
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return module


@pytest.fixture
def grid() -> Grid:
    torch.manual_seed(2)
    return Grid(torch.randn(B, H * W, D), (H, W), fine=torch.randn(B, H * W, 4 * F))


@torch.no_grad()
def test_the_equation(fine: FineMaps, grid: Grid) -> None:
    query, weights = torch.randn(B, T, Q), torch.rand(B, T, H * W).softmax(2) * 0.8
    found = fine(query, fine.hidden_units(grid), weights)
    assert grid.fine is not None
    for b in range(B):
        for t in range(T):
            values = []
            share = weights[b, t] / weights[b, t].sum()
            for i in range(H * W):
                for p in range(4):
                    part = grid.fine[b, i, p * F : (p + 1) * F]
                    h = torch.relu(fine.cell(fine.cell_norm(grid.features[b, i])) + fine.part(fine.part_norm(part)))
                    score = fine.query(query[b, t]) @ fine.key(h) / math.sqrt(A)
                    values.append(share[i] ** fine.exponent * score.exp())
            expected = torch.stack(values) / torch.stack(values).sum() * 0.8
            torch.testing.assert_close(found[b, t], expected, rtol=1e-4, atol=1e-6)


def test_parts_lie_where_the_earlier_stage_has_them() -> None:
    features = torch.arange(2.0 * F * 2 * H * 2 * W).reshape(2, F, 2 * H, 2 * W)  # twice the grid: nothing is resized
    parts = parts_of_cells(features, (H, W)).reshape(2, H, W, 2, 2, F)
    for row in range(2 * H):
        for column in range(2 * W):
            part = parts[:, row // 2, column // 2, row % 2, column % 2]
            assert torch.equal(part, features[:, :, row, column])
    weights = torch.rand(1, H * W * 4)
    (drawn,) = maps_of_parts(weights, (H, W))
    for row in range(2 * H):
        for column in range(2 * W):
            cell, part = row // 2 * W + column // 2, row % 2 * 2 + column % 2
            assert drawn[row, column] == weights[0, 4 * cell + part]
    clip = maps_of_parts(torch.cat((weights, 2 * weights), 1), (H, W), frames=2)
    assert torch.equal(clip, torch.stack((drawn, 2 * drawn))[None])


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16, torch.float16])
def test_masked_cells_have_nothing_and_sums_stay(kind: torch.dtype, fine: FineMaps, grid: Grid) -> None:
    fine.to(kind)
    half = replace(grid, features=grid.features.to(kind), fine=None if grid.fine is None else grid.fine.to(kind))
    weights = torch.rand(B, T, H * W)
    weights[0, :, 2] = 0
    weights[1, 2] = 0  # all is off the grid
    weights = weights / weights.sum(2, keepdim=True).clamp(min=1e-9) * torch.tensor([1.0, 0.5, 1e-5])[:, None]
    found = fine(torch.randn(B, T, Q, dtype=kind) * 100, fine.hidden_units(half), weights.to(kind))
    assert found.isfinite().all()
    assert found.reshape(B, T, H * W, 4)[0, :, 2].abs().max() == 0
    torch.testing.assert_close(found.sum(2), weights.sum(2), rtol=0.02, atol=1e-4)


def test_before_it_has_learned_each_cell_is_divided_in_equal_parts(grid: Grid) -> None:
    module = FineMaps(query_width=Q, image_width=D, fine_channels=F, width=A)
    weights = torch.rand(B, T, H * W).softmax(2)
    found = maps_of_parts(module(torch.randn(B, T, Q), module.hidden_units(grid), weights), (H, W))
    torch.testing.assert_close(found, repeat_cells(weights.unflatten(2, (H, W))))


def test_grids_without_parts_and_pooled_grids_are_refused(fine: FineMaps, grid: Grid) -> None:
    for wrong in (replace(grid, fine=None), replace(grid, sources=torch.ones(B, H * W, H * W))):
        with pytest.raises(OptionError, match="fine_stage"):
            fine.hidden_units(wrong)


@torch.no_grad()
def test_an_encoder_has_the_parts_in_its_vectors() -> None:
    torch.manual_seed(3)
    plain = GridEncoder(EncoderConfig(backbone="tiny", side=64)).eval()
    both = GridEncoder(EncoderConfig(backbone="tiny", side=64, fine_stage=1)).eval()
    both.load_state_dict(plain.state_dict())  # a stage that is read has no weights of its own
    assert (both.map_shape, both.grid_shape, plain.map_shape) == ((16, 16), (8, 8), (8, 8))
    pixels = torch.randn(2, 3, 64, 64)
    grid = both(pixels)
    assert grid.features.shape[2] == both.vector_width == 96 + 4 * 64
    apart = split_fine(grid, both.channels)
    torch.testing.assert_close(apart.features, plain(pixels).features)
    assert apart.fine is not None
    torch.testing.assert_close(apart.fine, parts_of_cells(both.stages[:2](pixels), (8, 8)))
    clip = Grid.of_frames(apart)
    assert clip.fine is not None
    assert clip.fine.shape == (1, 2 * 64, 4 * 64)
    with pytest.raises(OptionError, match="pad"):
        EncoderConfig(backbone="tiny", side=64, fine_stage=1, pad=True)
    for stage in (3, 9, -1, True, 1.5):
        with pytest.raises(OptionError, match="fine_stage"):
            GridEncoder(EncoderConfig(backbone="tiny", side=64, fine_stage=stage))  # type: ignore[arg-type]


def with_fine_maps(start: Checkpoint) -> Checkpoint:
    grown = add_fine_maps(start, STAGE, WIDTH)
    torch.manual_seed(5)
    torch.nn.init.normal_(grown.model.decoder.fine.query.weight)
    return grown


@pytest.mark.parametrize("decoder", ["lstm", "transformer"])
@torch.no_grad()
def test_words_do_not_depend_on_fine_maps(decoder: str, make_checkpoint: Callable[..., Checkpoint]) -> None:
    start = make_checkpoint(decoder)
    first = add_fine_maps(start, STAGE, WIDTH)
    assert add_fine_maps(first, STAGE, WIDTH) is first
    assert add_fine_maps(start, {}, {}) is start
    pixels, tokens = torch.randn(2, 3, 64, 64), torch.tensor([[START, 4, 5, 6], [START, 7, 8, 4]])
    old, new, learned = (one.model(pixels, tokens) for one in (start, first, with_fine_maps(start)))
    assert torch.equal(new.logits, old.logits)
    assert torch.equal(learned.logits, old.logits)
    assert torch.equal(learned.off_grid, old.off_grid)
    torch.testing.assert_close(new.maps, repeat_cells(old.maps))
    assert (learned.maps - new.maps).abs().max() > 1e-4
    without_picture = first.model(None, tokens)
    assert without_picture.maps.shape == (2, 4, 16, 16)


def test_options_without_one_another_are_refused(make_checkpoint: Callable[..., Checkpoint]) -> None:
    start = make_checkpoint("lstm")
    for stage, width in ((STAGE, {}), ({}, WIDTH)):
        with pytest.raises(OptionError, match="both or neither"):
            add_fine_maps(start, stage, width)
    for width in (-1, 1.5, True):
        with pytest.raises(OptionError, match="fine_width"):
            LSTMConfig(fine_width=width)  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="both or neither"):
        encoder = EncoderConfig(backbone="tiny", side=64, fine_stage=1)
        CaptionModel(ModelConfig(encoder=encoder, decoder=TransformerConfig()), vocabulary_size=9)
    with pytest.raises(OptionError, match="fine_width"):
        TransformerConfig(fine_width=-1)
    pooled = REFINERS["latent_queries"].config(width=16, queries=4)
    model = CaptionModel(
        ModelConfig(encoder=encoder, refiner=pooled, decoder=LSTMConfig(fine_width=8)), vocabulary_size=9
    )
    with pytest.raises(OptionError, match="keeps the cells"):
        model(torch.zeros(1, 3, 64, 64), torch.tensor([[START]]))


@pytest.mark.parametrize("decoder", ["lstm", "transformer"])
def test_other_maps_have_their_size(decoder: str, make_checkpoint: Callable[..., Checkpoint]) -> None:
    from captioner.backends.torch import TorchBackend

    learned = with_fine_maps(make_checkpoint(decoder))
    backend = TorchBackend(learned)
    assert (backend.grid_shape, backend.map_scale) == ((16, 16), 2)
    geometry = Geometry(size=(40, 20), side=64, grid=backend.grid_shape)
    pixels = torch.randint(0, 256, (1, 64, 64, 3), dtype=torch.uint8).numpy()
    encoded = backend.encode(pixels, [geometry])
    (read,), (by_gradient,) = backend.score(encoded, [[[4, 5]]]), backend.gradients(encoded, [[[4, 5]]])
    for one in (*read, *by_gradient):
        assert one.maps.shape == (3, 16, 16)
    assert backend.heads(encoded, [4, 5]).shape[-2:] == (16, 16)
    _, of_words = backend.word_gradients(encoded, [4, 5], 1, [5, 6])
    assert of_words.shape == (2, 16, 16)
    tokens = torch.tensor([[START, 4, 5]])
    _, maps = gradient_maps(learned.model.decoder, encoded, tokens, tokens)
    assert maps.shape == (1, 3, 8, 8)


def test_a_refiner_keeps_the_parts() -> None:
    encoder = EncoderConfig(backbone="tiny", side=64, fine_stage=1)
    for kind in ("transformer_encoder", "cbam", "self_attention"):
        refiner = REFINERS[kind].config(width=16) if kind != "transformer_encoder" else RefinerConfig(width=16)
        model = CaptionModel(
            ModelConfig(encoder=encoder, refiner=refiner, decoder=LSTMConfig(fine_width=8)), vocabulary_size=9
        ).eval()
        assert model(torch.zeros(1, 3, 64, 64), torch.tensor([[START]])).maps.shape == (1, 1, 16, 16)
