"""Co-attention against plain loops over the equations; padding, masks and half precision."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from captioner.errors import OptionError
from captioner.model.co_attention import CO_ATTENTIONS, CoAttended, CoAttention
from captioner.model.grid import Grid

WIDTH, CELLS, LENGTHS = 8, 6, ((3, 5, 1), (4, 2, 5))
HEADS = {"parallel": 1, "alternating": 1, "multihead": 2}


def _softmax(scores: list[float]) -> np.ndarray:
    powers = np.exp(np.array(scores) - max(scores))
    return powers / powers.sum()


def _inputs(*, masked: bool = False) -> tuple[Tensor, Tensor, Grid]:
    torch.manual_seed(0)
    words = torch.randn(2, 3, 5, WIDTH)
    mask = torch.tensor([[[t < n for t in range(5)] for n in some] for some in LENGTHS])
    cells = torch.rand(2, CELLS) > 0.3 if masked else None
    return words, mask, Grid(torch.randn(2, CELLS, WIDTH), (2, 3), cells)


def _mechanism(name: str) -> CoAttention:
    torch.manual_seed(1)
    return CO_ATTENTIONS[name](width=WIDTH, heads=HEADS[name]).eval()


def _run(name: str, *, masked: bool = False) -> tuple[CoAttention, CoAttended, Tensor, Tensor, Grid]:
    words, mask, grid = _inputs(masked=masked)
    mechanism = _mechanism(name)
    with torch.no_grad():
        return mechanism, mechanism(words, mask, mechanism.prepare(grid)), words, mask, grid


def _questions(words: Tensor, grid: Grid):  # type: ignore[no-untyped-def]
    """Each question's real words and its picture's real cells, as arrays, with its place."""
    for b, some in enumerate(LENGTHS):
        kept = np.arange(CELLS) if grid.mask is None else np.flatnonzero(grid.mask[b].numpy())
        for k, length in enumerate(some):
            yield b, k, words[b, k, :length].numpy().astype(np.float64), grid.features[b, kept].numpy(), kept


def _check(found: CoAttended, b: int, k: int, cells: np.ndarray, kept: np.ndarray, words: np.ndarray) -> None:
    np.testing.assert_allclose(found.cells[b, 0, k, kept].numpy(), cells, atol=1e-5)
    np.testing.assert_allclose(found.words[b, 0, k, : len(words)].numpy(), words, atol=1e-5)
    assert found.words[b, 0, k, len(words) :].abs().sum() == 0


def test_scores_of_strong_features_stay_finite_in_half_precision() -> None:
    """256 products of 20 by 20 are more than 65504; divided by the root of the width they are not."""
    mechanism = CO_ATTENTIONS["multihead"](width=256, heads=1).eval()
    with torch.no_grad():
        mechanism.learned.fill_(20)
        for layer in (mechanism.word_key, mechanism.cell_key):
            layer.weight.copy_(torch.eye(256))
        for layer in (mechanism.cell_query, mechanism.word_query):
            layer.weight.zero_()
            layer.bias.fill_(20)
    mechanism = mechanism.half()
    grid = Grid(torch.tensor([20.0, -20.0]).half()[None, :, None].expand(1, 2, 256), (1, 2))
    words = grid.features[:, None]  # (1, 1, 2, 256)
    found = mechanism(words, torch.ones(1, 1, 2, dtype=torch.bool), mechanism.prepare(grid))
    assert found.cells.flatten().tolist() == found.words.flatten().tolist() == [1, 0]


@pytest.mark.parametrize("masked", [False, True])
def test_parallel_is_its_equations(masked: bool) -> None:
    m, found, words, _, grid = _run("parallel", masked=masked)
    w_b, w_v, w_q = (layer.weight.detach().numpy() for layer in (m.affinity, m.of_cells, m.of_words))
    s_v, s_q = (layer.weight.detach().numpy()[0] for layer in (m.score_cells, m.score_words))
    for b, k, q, v, kept in _questions(words, grid):
        affinity = [[math.tanh((w_b @ q[t]) @ v[i]) for i in range(len(v))] for t in range(len(q))]
        h_v = [np.tanh(w_v @ v[i] + sum(affinity[t][i] * (w_q @ q[t]) for t in range(len(q)))) for i in range(len(v))]
        h_q = [np.tanh(w_q @ q[t] + sum(affinity[t][i] * (w_v @ v[i]) for i in range(len(v)))) for t in range(len(q))]
        a_v, a_q = _softmax([s_v @ h for h in h_v]), _softmax([s_q @ h for h in h_q])
        _check(found, b, k, a_v, kept, a_q)
        np.testing.assert_allclose(found.picture[b, k].numpy(), a_v @ v, atol=1e-5)
        np.testing.assert_allclose(found.question[b, k].numpy(), a_q @ q, atol=1e-5)


def _guided(step, features: np.ndarray, guide: np.ndarray | None) -> np.ndarray:  # type: ignore[no-untyped-def]
    w_x, w = step.of_features.weight.detach().numpy(), step.score.weight.detach().numpy()[0]
    added = 0 if guide is None else step.of_guide.weight.detach().numpy() @ guide
    return _softmax([w @ np.tanh(w_x @ x + added) for x in features])


@pytest.mark.parametrize("masked", [False, True])
def test_alternating_is_its_equations(masked: bool) -> None:
    m, found, words, _, grid = _run("alternating", masked=masked)
    for b, k, q, v, kept in _questions(words, grid):
        summary = _guided(m.summary, q, None) @ q
        a_v = _guided(m.on_cells, v, summary)
        a_q = _guided(m.on_words, q, a_v @ v)
        _check(found, b, k, a_v, kept, a_q)
        np.testing.assert_allclose(found.question[b, k].numpy(), a_q @ q, atol=1e-5)


@pytest.mark.parametrize("masked", [False, True])
def test_multihead_is_scaled_dot_products_in_three_steps(masked: bool) -> None:
    m, found, words, _, grid = _run("multihead", masked=masked)
    heads, width = 2, WIDTH // 2

    def linear(layer, x: np.ndarray) -> np.ndarray:  # type: ignore[no-untyped-def]
        bias = 0 if layer.bias is None else layer.bias.detach().numpy()
        return layer.weight.detach().numpy() @ x + bias

    def norm(layer, x: np.ndarray) -> np.ndarray:  # type: ignore[no-untyped-def]
        return (x - x.mean()) / np.sqrt(x.var() + layer.eps)  # weight 1 and bias 0 at first

    def attend(query: np.ndarray, keys: list[np.ndarray], values: list[np.ndarray]) -> tuple[list, np.ndarray]:
        weights, context = [], []
        for h in range(heads):
            part = slice(h * width, (h + 1) * width)
            a = _softmax([query[part] @ key[part] / math.sqrt(width) for key in keys])
            weights.append(a)
            context.append(sum(p * value[part] for p, value in zip(a, values, strict=True)))
        return weights, np.concatenate(context)

    for b, k, q, v, kept in _questions(words, grid):
        word_keys, word_values = [linear(m.word_key, x) for x in q], [linear(m.word_value, x) for x in q]
        _, summary = attend(m.learned.detach().numpy(), word_keys, word_values)
        a_v, seen = attend(
            linear(m.cell_query, summary), [linear(m.cell_key, x) for x in v], [linear(m.cell_value, x) for x in v]
        )
        picture = norm(m.picture_norm, linear(m.cell_output, seen))
        a_q, asked = attend(linear(m.word_query, picture), word_keys, word_values)
        for h in range(heads):
            np.testing.assert_allclose(found.cells[b, h, k, kept].numpy(), a_v[h], atol=1e-5)
            np.testing.assert_allclose(found.words[b, h, k, : len(q)].numpy(), a_q[h], atol=1e-5)
        np.testing.assert_allclose(found.picture[b, k].numpy(), picture, atol=1e-4)
        np.testing.assert_allclose(
            found.question[b, k].numpy(), norm(m.question_norm, linear(m.word_output, asked)), atol=1e-4
        )


@pytest.mark.parametrize("name", CO_ATTENTIONS)
def test_weights_sum_to_one_and_padding_changes_nothing(name: str) -> None:
    mechanism, found, words, mask, grid = _run(name, masked=True)
    torch.testing.assert_close(found.cells.sum(-1), torch.ones(found.cells.shape[:-1]))
    torch.testing.assert_close(found.words.sum(-1), torch.ones(found.words.shape[:-1]))
    longer = torch.cat((words.masked_fill(~mask.unsqueeze(-1), 7.0), torch.full((2, 3, 2, WIDTH), -9.0)), 2)
    wider = torch.cat((mask, torch.zeros(2, 3, 2, dtype=torch.bool)), 2)
    with torch.no_grad():
        again = mechanism(longer, wider, mechanism.prepare(grid))
    torch.testing.assert_close(again.picture, found.picture, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(again.words[..., :5], found.words, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", CO_ATTENTIONS)
def test_half_precision_is_near_and_finite(name: str, kind: torch.dtype) -> None:
    mechanism, found, words, mask, grid = _run(name)
    mechanism = mechanism.to(kind)
    with torch.no_grad():
        half = mechanism(words.to(kind), mask, mechanism.prepare(grid.with_features(grid.features.to(kind))))
    assert half.cells.dtype == kind
    torch.testing.assert_close(half.cells.float(), found.cells, atol=0.05, rtol=0.1)
    torch.testing.assert_close(half.words.float(), found.words, atol=0.05, rtol=0.1)


@pytest.mark.parametrize("name", ["parallel", "alternating"])
def test_one_head_where_there_can_be_no_more(name: str) -> None:
    with pytest.raises(OptionError, match=r"not 4.*multihead"):
        CO_ATTENTIONS[name](width=8, heads=4)
    with pytest.raises(OptionError, match="8 is not a multiple of its 3"):
        CO_ATTENTIONS["multihead"](width=8, heads=3)
