"""Attention within the grid against the papers' equations as plain loops; its masks; its places in a model."""

import math

import pytest
import torch
from torch import Tensor, nn

from captioner.errors import OptionError
from captioner.model.attention.base import build_attention
from captioner.model.caption_model import CaptionModel, ModelConfig
from captioner.model.encoder import EncoderConfig, GridEncoder
from captioner.model.grid import Grid
from captioner.model.grid_attention import BLOCKS, Block, build_block
from captioner.model.grid_attention.base import masked_max, masked_mean
from captioner.model.lstm import LSTMConfig
from captioner.model.refiners import REFINERS, Refiner
from captioner.model.transformer import TransformerConfig, TransformerDecoder
from captioner.tokenizer.vocabulary import START

B, D, ROWS, COLUMNS = 2, 6, 4, 5
L = ROWS * COLUMNS
OPTIONS = {
    "se": {"reduction": 2},
    "spatial": {"kernel": 3},
    "cbam": {"reduction": 2, "kernel": 3},
    "self_attention": {"width": 4, "heads": 2},
    "relative_self_attention": {"width": 4, "heads": 2, "reach": 2},
    "selective_kernel": {"reduction": 2},
}


def build(name: str) -> Block:
    torch.manual_seed(3)
    block = build_block(name, channels=D, options=OPTIONS.get(name))
    if hasattr(block, "gate"):
        nn.init.constant_(block.gate, 0.7)  # the residual gate starts at 0
    return block


@pytest.fixture(params=list(BLOCKS))
def block(request: pytest.FixtureRequest) -> Block:
    return build(request.param)


def features() -> Tensor:
    return torch.randn(B, D, ROWS, COLUMNS, generator=torch.Generator().manual_seed(1))


def padded() -> Tensor:
    mask = torch.ones(B, 1, ROWS, COLUMNS, dtype=torch.bool)
    mask[1, :, 3:] = False
    mask[1, :, :, 4:] = False
    return mask


def test_a_picture_of_which_no_cell_is_left_is_weighed_as_an_even_one() -> None:
    mask = padded()
    mask[1] = False
    assert masked_max(features(), mask)[1].tolist() == masked_mean(features(), mask)[1].tolist() == [0] * D
    assert torch.equal(masked_max(features(), mask)[0], features()[0].amax((1, 2)))
    out, weights = build("cbam")(features(), mask)
    assert out.isfinite().all() and weights["channels"].isfinite().all()


def test_shapes_stay_and_weights_are_shares(block: Block) -> None:
    out, weights = block(features(), padded())
    assert out.shape == (B, D, ROWS, COLUMNS)
    shapes = {"channels": (B, D), "spatial": (B, L), "cells": (B, 2, L, L), "branches": (B, 2, D)}
    assert weights
    for name, value in weights.items():
        assert value.shape == shapes[name]
        assert value.min() >= 0 and value.max() <= 1


def test_what_lies_beside_the_picture_has_no_influence(block: Block) -> None:
    x, mask = features(), padded()
    changed = torch.where(mask, x, torch.full_like(x, 50.0))
    (first, weights), (second, others) = block(x, mask), block(changed, mask)
    held = mask.expand_as(first)
    torch.testing.assert_close(first[held], second[held])
    for name in weights:
        if name in ("channels", "spatial", "branches"):
            torch.testing.assert_close(weights[name], others[name])
    if "cells" in weights:
        assert weights["cells"][1, :, :, ~mask[1, 0].flatten()].abs().max() == 0
    if "spatial" in weights:
        assert weights["spatial"][1, ~mask[1, 0].flatten()].abs().max() == 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_gives_about_the_same(block: Block, dtype: torch.dtype) -> None:
    expected, _ = block(features(), padded())
    halved, _ = block.to(dtype)(features().to(dtype), padded())
    assert halved.dtype == dtype
    held = padded().expand_as(halved)
    torch.testing.assert_close(halved.float()[held], expected[held], rtol=0.05, atol=0.05)


def cell(x: Tensor, b: int, place: int) -> Tensor:
    return x[b, :, place // COLUMNS, place % COLUMNS]


def valid(mask: Tensor | None, b: int) -> list[int]:
    return [place for place in range(L) if mask is None or mask[b, 0].flatten()[place]]


def sigmoid(x: Tensor | float) -> float:
    return 1 / (1 + math.exp(-float(x)))


def mlp(block: Block, z: Tensor) -> Tensor:
    return block.excite.weight @ (block.squeeze.weight @ z + block.squeeze.bias).clamp(min=0) + block.excite.bias


def spatial_gate(block: Block, x: Tensor, mask: Tensor | None, b: int) -> dict[int, float]:
    kernel, bias = block.convolution.weight[0], block.convolution.bias[0]
    gate = {}
    for place in valid(mask, b):
        total = float(bias)
        for i in range(-1, 2):
            for j in range(-1, 2):
                row, column = place // COLUMNS + i, place % COLUMNS + j
                if 0 <= row < ROWS and 0 <= column < COLUMNS and row * COLUMNS + column in valid(mask, b):
                    channels = x[b, :, row, column]
                    total += float(kernel[0, i + 1, j + 1] * channels.mean() + kernel[1, i + 1, j + 1] * channels.max())
        gate[place] = sigmoid(total)
    return gate


masks = pytest.mark.parametrize("mask", [None, padded()], ids=["whole", "padded"])


@torch.no_grad()
@masks
def test_se_is_the_formula(mask: Tensor | None) -> None:
    block, x = build("se"), features()
    out, weights = block(x, mask)
    for b in range(B):
        z = sum(cell(x, b, place) for place in valid(mask, b)) / len(valid(mask, b))
        s = torch.sigmoid(mlp(block, z))
        torch.testing.assert_close(weights["channels"][b], s)
        for place in valid(mask, b):
            torch.testing.assert_close(cell(out, b, place), s * cell(x, b, place))


@torch.no_grad()
@masks
def test_eca_is_the_formula(mask: Tensor | None) -> None:
    block, x = build("eca"), features()
    assert block.convolution.kernel_size == (1,), "|log2(6) / 2 + 1 / 2| = 1"
    assert build_block("eca", channels=256).convolution.kernel_size == (5,)
    torch.manual_seed(0)
    block = build_block("eca", channels=D)
    block.convolution = nn.Conv1d(1, 1, 3, padding=1, bias=False)
    kernel = block.convolution.weight.flatten().tolist()
    out, weights = block(x, mask)
    for b in range(B):
        z = (sum(cell(x, b, place) for place in valid(mask, b)) / len(valid(mask, b))).tolist()
        for c in range(D):
            near = [z[c + i - 1] if 0 <= c + i - 1 < D else 0.0 for i in range(3)]
            gate = sigmoid(sum(w * value for w, value in zip(kernel, near, strict=True)))
            assert weights["channels"][b, c].item() == pytest.approx(gate, abs=1e-6)
            torch.testing.assert_close(out[b, c], gate * x[b, c])


@torch.no_grad()
@masks
def test_spatial_is_the_formula(mask: Tensor | None) -> None:
    block, x = build("spatial"), features()
    out, weights = block(x, mask)
    for b in range(B):
        for place, gate in spatial_gate(block, x, mask, b).items():
            assert weights["spatial"][b, place].item() == pytest.approx(gate, abs=1e-6)
            torch.testing.assert_close(cell(out, b, place), gate * cell(x, b, place))


@torch.no_grad()
@masks
def test_cbam_is_the_formula(mask: Tensor | None) -> None:
    block, x = build("cbam"), features()
    out, weights = block(x, mask)
    weighed = torch.zeros_like(x)
    for b in range(B):
        cells = torch.stack([cell(x, b, place) for place in valid(mask, b)])
        gate = torch.sigmoid(mlp(block, cells.mean(0)) + mlp(block, cells.amax(0)))
        torch.testing.assert_close(weights["channels"][b], gate)
        weighed[b] = gate[:, None, None] * x[b]
        for place, share in spatial_gate(block.spatial, weighed, mask, b).items():
            torch.testing.assert_close(cell(out, b, place), share * cell(weighed, b, place))


@torch.no_grad()
@masks
@pytest.mark.parametrize("name", ["self_attention", "relative_self_attention"])
def test_self_attention_is_the_formula(name: str, mask: Tensor | None) -> None:
    block, x, share, reach = build(name), features(), 2, 2
    out, weights = block(x, mask)

    def project(layer: nn.Conv2d, vector: Tensor) -> Tensor:
        projected = layer.weight[:, :, 0, 0] @ vector
        return projected if layer.bias is None else projected + layer.bias

    for b in range(B):
        cells = valid(mask, b)
        for i in cells:
            read = []
            for h in range(2):
                part = slice(h * share, (h + 1) * share)
                q = project(block.query, cell(x, b, i))[part]
                scores = []
                for j in cells:
                    score = q @ project(block.key, cell(x, b, j))[part]
                    if name.startswith("relative"):
                        down, across = j // COLUMNS - i // COLUMNS, j % COLUMNS - i % COLUMNS
                        score = score + q @ block.rows[max(-reach, min(reach, down)) + reach]
                        score = score + q @ block.columns[max(-reach, min(reach, across)) + reach]
                    scores.append(score / math.sqrt(share))
                alpha = torch.stack(scores).softmax(0)
                torch.testing.assert_close(weights["cells"][b, h, i, cells], alpha)
                values = torch.stack([project(block.value, cell(x, b, j))[part] for j in cells])
                read.append(alpha @ values)
            expected = cell(x, b, i) + 0.7 * project(block.output, torch.cat(read))
            torch.testing.assert_close(cell(out, b, i), expected)


@torch.no_grad()
@masks
def test_selective_kernel_is_the_formula(mask: Tensor | None) -> None:
    block, x = build("selective_kernel"), features()
    out, weights = block(x, mask)
    for b in range(B):
        cells = valid(mask, b)
        branches: list[dict[int, Tensor]] = []
        for d, branch in enumerate(block.branches, 1):
            convolution = branch[0]
            found = {}
            for place in cells:
                total = convolution.bias.clone()
                for i in range(-1, 2):
                    for j in range(-1, 2):
                        row, column = place // COLUMNS + d * i, place % COLUMNS + d * j
                        inside = 0 <= row < ROWS and 0 <= column < COLUMNS
                        if inside and row * COLUMNS + column in cells:
                            total += convolution.weight[:, 0, i + 1, j + 1] * x[b, :, row, column]
                found[place] = total.clamp(min=0)
            branches.append(found)
        s = sum(branch[place] for branch in branches for place in cells) / len(cells)
        z = block.squeeze(s)
        scores = torch.stack([block.select.weight[i * D : (i + 1) * D] @ z for i in range(2)])
        alpha = (scores + block.select.bias.unflatten(0, (2, D))).softmax(0)
        torch.testing.assert_close(weights["branches"][b], alpha)
        for place in cells:
            expected = cell(x, b, place) + sum(alpha[i] * branches[i][place] for i in range(2))
            torch.testing.assert_close(cell(out, b, place), expected)


REFINER_OPTIONS = {
    "transformer_encoder": {"heads": 2},
    "latent_queries": {"queries": 5, "pooling_heads": 2},
    "coarse_cells": {"regions": 2},
    "self_attention": {"attention_heads": 2},
    "relative_self_attention": {"attention_heads": 2},
    "spatial": {"kernel": 3},
    "cbam": {"kernel": 3},
}


def refiner(name: str) -> Refiner:
    torch.manual_seed(0)
    entry = REFINERS[name]
    return entry.build(channels=6, config=entry.config(width=16, **REFINER_OPTIONS.get(name, {}))).eval()


@pytest.mark.parametrize("name", list(REFINERS))
@masks
def test_every_refiner_gives_vectors_whose_weights_lie_on_cells(name: str, mask: Tensor | None) -> None:
    grid = Grid(features().flatten(2).transpose(1, 2), (ROWS, COLUMNS), None if mask is None else mask.flatten(1))
    refined = refiner(name)(grid)
    assert refined.shape == (ROWS, COLUMNS) and refined.features.shape[2] == 16
    vectors = refined.features.shape[1]
    assert vectors == {"latent_queries": 5, "coarse_cells": 4}.get(name, L)
    share = torch.ones(B, vectors) if refined.mask is None else refined.mask.float()
    maps = refined.maps(share / share.sum(1, keepdim=True))
    assert maps.shape == (B, ROWS, COLUMNS)
    torch.testing.assert_close(maps.sum((1, 2)), torch.ones(B))
    if mask is not None and name != "transformer_encoder":
        assert maps[~mask[:, 0]].abs().max() == 0
    second = refined.select(torch.tensor([1]))
    for name_, weights in refined.weights.items():
        assert torch.equal(second.weights[name_], weights[1:])


@torch.no_grad()
@masks
def test_coarse_cells_are_weighed_inside(mask: Tensor | None) -> None:
    grid = Grid(features().flatten(2).transpose(1, 2), (ROWS, COLUMNS), None if mask is None else mask.flatten(1))
    coarse, plain = refiner("coarse_cells"), refiner("transformer_encoder")
    plain.load_state_dict(coarse.state_dict(), strict=False)
    cells = plain(grid).features
    refined = coarse(grid)
    for b in range(B):
        for region in range(4):
            inside = [
                place
                for place in valid(mask, b)
                if 2 * (place // COLUMNS * 2 // ROWS) + place % COLUMNS * 2 // COLUMNS == region
            ]
            scores = [coarse.score.weight[0] @ (coarse.hidden(cells[b, place])).tanh() for place in inside]
            alpha = torch.stack(scores).softmax(0)
            torch.testing.assert_close(refined.features[b, region], alpha @ cells[b, inside], rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(refined.sources[b, region, inside], alpha, rtol=1e-4, atol=1e-6)


def test_maps_of_latents_are_the_queries_maps_weighed() -> None:
    sources = torch.rand(B, 3, L).softmax(-1)
    grid = Grid(torch.zeros(B, 3, D), (ROWS, COLUMNS), sources=sources)
    weights = torch.rand(2 * B, 4, 3).softmax(-1)  # two captions of each picture, four words
    maps = grid.maps(weights)
    for n in range(2 * B):
        for t in range(4):
            expected = sum(weights[n, t, q] * sources[n // 2, q] for q in range(3))
            torch.testing.assert_close(maps[n, t].flatten(), expected)


def test_a_model_attends_to_latents_and_its_maps_lie_on_cells() -> None:
    torch.manual_seed(0)
    config = ModelConfig(
        encoder=EncoderConfig(backbone="tiny", side=64),
        refiner=REFINERS["latent_queries"].config(width=16, queries=5, pooling_heads=2),
        decoder=LSTMConfig(width=16, embedding=8, output_hidden=8, attention_width=8, heads=2),
    )
    assert ModelConfig.from_dict(config.as_dict()) == config
    model = CaptionModel(config, vocabulary_size=9).eval()
    tokens = torch.tensor([[START, 5, 6], [START, 7, 8]])
    decoded = model(torch.randn(1, 3, 64, 64), tokens)
    assert decoded.maps.shape == (2, 3, 8, 8)
    torch.testing.assert_close(decoded.maps.sum((2, 3)), torch.ones(2, 3))
    local = build_attention("local", text_width=8, image_width=16, width=8, heads=1)
    with pytest.raises(OptionError, match="another refiner"):
        local.keys_values(model.encode(torch.randn(1, 3, 64, 64)))


def test_frames_of_fewer_vectors_than_cells_join_to_a_clip() -> None:
    frames = Grid(torch.randn(3, 2, D), (ROWS, COLUMNS), sources=torch.rand(3, 2, L).softmax(-1))
    clip = Grid.of_frames(frames)
    weights = torch.rand(1, 4, 6).softmax(-1)
    maps = clip.maps(weights)  # (1, 4, frames, h, w)
    for i in range(3):
        torch.testing.assert_close(maps[0, :, i].flatten(1), weights[0, :, 2 * i : 2 * i + 2] @ frames.sources[i])


def test_a_transformer_reads_maps_of_latents_as_it_steps() -> None:
    torch.manual_seed(0)
    decoder = TransformerDecoder(
        vocabulary_size=9, image_width=D, config=TransformerConfig(width=8, layers=2, heads=2, hidden=8)
    ).eval()
    grid = Grid(torch.randn(B, 3, D), (ROWS, COLUMNS), sources=torch.rand(B, 3, L).softmax(-1))
    tokens = torch.tensor([[START, 4, 5], [START, 6, 7]])
    places = torch.tensor([1, 5, 3])
    with torch.no_grad():
        whole = decoder(grid, tokens)
        read = decoder.read(tokens, decoder.begin(grid), places)
    torch.testing.assert_close(read.map, whole.maps.flatten(0, 1)[places])


def test_blocks_between_the_encoders_stages_change_nothing_at_first() -> None:
    pixels = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    torch.manual_seed(0)
    plain = GridEncoder(EncoderConfig(backbone="tiny", side=64))
    config = EncoderConfig(
        backbone="tiny",
        side=64,
        attention="relative_self_attention",
        attention_after=[1, 3],
        attention_options={"reach": 4},
    )
    weighed = GridEncoder(config)
    for mine, theirs in zip(weighed.stages, plain.stages, strict=True):
        getattr(mine, "stage", mine).load_state_dict(theirs.state_dict())
    torch.testing.assert_close(weighed(pixels).features, plain(pixels).features)
    weighed.train_from(3)
    block = weighed.stages[3].block
    assert block.gate.requires_grad and not weighed.stages[1].block.gate.requires_grad
    nn.init.ones_(block.gate)
    assert not torch.allclose(weighed(pixels).features, plain(pixels).features)


def test_wrong_blocks_are_refused() -> None:
    with pytest.raises(OptionError, match="give both"):
        EncoderConfig(attention="se")
    with pytest.raises(OptionError, match="0 to 3"):
        GridEncoder(EncoderConfig(backbone="tiny", side=64, attention="se", attention_after=(4,)))
    with pytest.raises(OptionError, match=r"'se'.*branches"):
        build_block("se", channels=8, options={"branches": 2})
    with pytest.raises(OptionError, match="spatial"):
        build_block("nowhere", channels=8)
    for name, options in {
        "se": {"reduction": 0},
        "spatial": {"kernel": 4},
        "self_attention": {"width": 5, "heads": 2},
        "relative_self_attention": {"reach": 0},
        "selective_kernel": {"branches": 1},
    }.items():
        with pytest.raises(OptionError, match=str(next(iter(options.values())))):
            build_block(name, channels=8, options=options)
