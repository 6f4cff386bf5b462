"""Every attention mechanism, and the arithmetic that they share."""

import math

import pytest
import torch

from captioner.errors import OptionError
from captioner.model.attention import (
    ATTENTIONS,
    Attended,
    Attention,
    HierarchicalAttention,
    LocalAttention,
    LocalPreviousAttention,
    MultiHeadAttention,
    masked_softmax,
)
from captioner.model.attention.base import build_attention
from captioner.model.grid import Grid

B, T, L, TEXT, IMAGE = 2, 3, 6, 10, 8


SEVERAL_HEADS = ("multihead", "memory", "attention_on_attention")
OPTIONS = {"hierarchical": {"regions": 2}, "local": {"window": 1.5}, "local_previous": {"window": 1.5}}


@pytest.fixture(params=list(ATTENTIONS))
def attention(request: pytest.FixtureRequest) -> Attention:
    torch.manual_seed(0)
    name, heads = request.param, 4 if request.param in SEVERAL_HEADS else 1
    built = build_attention(name, text_width=TEXT, image_width=IMAGE, width=16, heads=heads, options=OPTIONS.get(name))
    return built.eval()


def made() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(B, T, TEXT, generator=generator), torch.randn(B, L, IMAGE, generator=generator)


def answer(attention: Attention, query: torch.Tensor, grid: Grid) -> Attended:
    attended: Attended = attention(query, attention.keys_values(grid))
    return attended


def test_context_weights_and_off_grid_have_the_promised_shapes_and_sum_to_one(attention: Attention) -> None:
    query, features = made()
    attended = answer(attention, query, Grid(features, (2, 3)))
    heads = 4 if isinstance(attention, MultiHeadAttention) else 1
    assert attended.context.shape == (B, T, IMAGE)
    assert attended.weights.shape == (B, heads, T, L)
    assert attended.off_grid.shape == (B, heads, T)
    assert attended.weights.min() >= 0
    torch.testing.assert_close(attended.weights.sum(-1) + attended.off_grid, torch.ones(B, heads, T))


@pytest.mark.parametrize("name", ["dot", "multihead", "memory"])
def test_scores_of_strong_features_stay_finite_in_half_precision(name: str) -> None:
    """256 products of 20 by 20 are more than 65504; divided by the root of the width they are not."""
    built = build_attention(name, text_width=256, image_width=256, width=256, heads=1).eval()
    with torch.no_grad():
        for layer in (built.query, built.key):
            layer.weight.copy_(torch.eye(256))
    built.query.bias.data.zero_()
    signs = torch.sign(torch.randn(2, 256, generator=torch.Generator().manual_seed(0)))
    grid = Grid(20 * signs[None].half(), (1, 2))
    attended = answer(built.half(), 20 * signs[None, :1].half(), grid)
    assert attended.weights[0, 0, 0].tolist() == [1, 0]
    assert attended.context.isfinite().all()


def test_the_cache_knows_the_grid_and_can_drop_pictures(attention: Attention) -> None:
    query, features = made()
    cache = attention.keys_values(Grid(features, (2, 3)))
    assert cache.shape == (2, 3) and len(cache) == B
    second = cache.select(torch.tensor([1]))
    torch.testing.assert_close(attention(query[1:], second).context, attention(query, cache).context[1:])


def test_masked_cells_get_nothing_and_give_nothing(attention: Attention) -> None:
    query, features = made()
    mask = torch.ones(B, L, dtype=torch.bool)
    mask[1, 4:] = False
    attended = answer(attention, query, Grid(features, (2, 3), mask))
    assert attended.weights[1, ..., 4:].abs().max() == 0
    torch.testing.assert_close(attended.weights.sum(-1) + attended.off_grid, torch.ones_like(attended.off_grid))
    changed = features.clone()
    changed[1, 4:] = 1e4
    torch.testing.assert_close(answer(attention, query, Grid(changed, (2, 3), mask)).context, attended.context)


def test_each_query_is_answered_on_its_own(attention: Attention) -> None:
    query, features = made()
    cache = attention.keys_values(Grid(features, (2, 3)))
    together = attention(query, cache).context
    for t in range(T):
        torch.testing.assert_close(attention(query[:, t : t + 1], cache).context, together[:, t : t + 1])


def test_cells_in_another_order_are_weighed_the_same(attention: Attention) -> None:
    if isinstance(attention, (LocalAttention, LocalPreviousAttention, HierarchicalAttention)):
        pytest.skip("it knows where the cells are")
    query, features = made()
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    attended = answer(attention, query, Grid(features, (2, 3)))
    shuffled = answer(attention, query, Grid(features[:, order], (2, 3)))
    torch.testing.assert_close(attended.context, shuffled.context)
    torch.testing.assert_close(attended.weights[..., order], shuffled.weights)


def test_dot_product_is_the_formula() -> None:
    query, features = made()
    attention = build_attention("dot", text_width=TEXT, image_width=IMAGE, width=16, heads=1)
    q, k = attention.query(query), features @ attention.key.weight.T
    expected = (torch.einsum("bta,bla->btl", q, k) / math.sqrt(16)).softmax(-1)
    attended = answer(attention, query, Grid(features, (2, 3)))
    torch.testing.assert_close(attended.weights[:, 0], expected)
    torch.testing.assert_close(attended.context, torch.einsum("btl,bld->btd", expected, features))


def test_additive_is_the_formula() -> None:
    query, features = made()
    attention = build_attention("additive", text_width=TEXT, image_width=IMAGE, width=16, heads=1)
    scores = torch.empty(B, T, L)
    for b in range(B):
        for t in range(T):
            for cell in range(L):
                hidden = torch.tanh(attention.query(query[b, t]) + attention.key(features[b, cell]))
                scores[b, t, cell] = attention.score(hidden)
    attended = answer(attention, query, Grid(features, (2, 3)))
    torch.testing.assert_close(attended.weights[:, 0], scores.softmax(-1))


def test_the_fused_kernel_gives_the_context_of_the_manual_one() -> None:
    query, features = made()
    torch.manual_seed(0)
    attention = MultiHeadAttention(text_width=TEXT, image_width=IMAGE, width=16, heads=4)
    mask = torch.ones(B, L, dtype=torch.bool)
    mask[0, 2:] = False
    for grid in (Grid(features, (2, 3)), Grid(features, (2, 3), mask)):
        cache = attention.keys_values(grid)
        torch.testing.assert_close(attention.context(query, cache), attention(query, cache).context)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_masked_softmax_survives_half_precision_and_empty_rows(dtype: torch.dtype) -> None:
    scores = torch.tensor([[6e4, -6e4, 3.0], [1.0, 2.0, 3.0]], dtype=dtype, requires_grad=True)
    mask = torch.tensor([[False, True, True], [False, False, False]])
    weights = masked_softmax(scores, mask)
    assert weights.dtype == dtype
    assert weights[0].tolist() == [0.0, 0.0, 1.0]
    assert weights[1].tolist() == [0.0, 0.0, 0.0]
    weights.sum().backward()
    assert scores.grad is not None and scores.grad.isfinite().all()


def test_wrong_names_and_heads_are_refused() -> None:
    with pytest.raises(OptionError, match=r"'nowhere'.*additive.*dot.*multihead"):
        build_attention("nowhere", text_width=4, image_width=4, width=4, heads=1)
    with pytest.raises(OptionError, match="has one head, not 2"):
        build_attention("dot", text_width=4, image_width=4, width=4, heads=2)
    with pytest.raises(OptionError, match="width 6 is not a multiple of its 4 heads"):
        build_attention("multihead", text_width=4, image_width=4, width=6, heads=4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_gives_about_the_same(attention: Attention, dtype: torch.dtype) -> None:
    query, features = made()
    mask = torch.ones(B, L, dtype=torch.bool)
    mask[1, 4:] = False
    expected = answer(attention, query, Grid(features, (2, 3), mask))
    halved = answer(attention.to(dtype), query.to(dtype), Grid(features.to(dtype), (2, 3), mask))
    assert halved.weights.dtype == halved.context.dtype == dtype
    assert halved.weights[1, ..., 4:].abs().max() == 0
    if "cell" not in expected.others:  # the likeliest of cells that are nearly as likely may be another
        torch.testing.assert_close(halved.context.float(), expected.context, rtol=0.05, atol=0.05)
    torch.testing.assert_close(halved.weights.float(), expected.weights, rtol=0.05, atol=0.02)


def test_a_picture_without_a_valid_cell_gives_no_nan(attention: Attention) -> None:
    query, features = made()
    mask = torch.ones(B, L, dtype=torch.bool)
    mask[1] = False
    attended = answer(attention, query, Grid(features, (2, 3), mask))
    assert attended.context.isfinite().all() and attended.weights[1].abs().max() == 0


def test_unknown_options_of_a_mechanism_are_named() -> None:
    with pytest.raises(OptionError, match=r"'dot'.*window"):
        build_attention("dot", text_width=4, image_width=4, width=4, heads=1, options={"window": 3})
    for name, options in (("local", {"window": 0}), ("memory", {"slots": 0}), ("hierarchical", {"regions": 0})):
        with pytest.raises(OptionError, match="0"):
            build_attention(name, text_width=4, image_width=4, width=4, heads=1, options=options)


def test_gradients_reach_the_weights_that_are_returned(attention: Attention) -> None:
    query, features = made()
    attended = answer(attention, query, Grid(features, (2, 3)))
    (gradient,) = torch.autograd.grad(attended.context[1, 2].sum(), attended.weights)
    assert gradient[1, :, 2].abs().min() > 0
    assert gradient[0].abs().max() == 0 and gradient[1, :, :2].abs().max() == 0
