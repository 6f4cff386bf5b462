"""The mechanisms against their papers' equations, written as plain loops over pictures, words and cells."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from captioner.errors import OptionError
from captioner.model.attention import (
    Attended,
    Attention,
    AttentionPooling,
    HardAttention,
    VisionLanguageAttention,
    VisualSentinel,
)
from captioner.model.attention.base import build_attention
from captioner.model.attention.hard import HardCache
from captioner.model.grid import Grid

B, T, TEXT, IMAGE, WIDTH = 2, 3, 10, 8, 12
ROWS, COLUMNS = 4, 5
L = ROWS * COLUMNS


def build(name: str, *, heads: int = 1, **options: object) -> Attention:
    torch.manual_seed(3)
    return build_attention(name, text_width=TEXT, image_width=IMAGE, width=WIDTH, heads=heads, options=options).eval()


@pytest.fixture
def query() -> Tensor:
    return torch.randn(B, T, TEXT, generator=torch.Generator().manual_seed(1))


@pytest.fixture(params=["whole", "padded"])
def grid(request: pytest.FixtureRequest) -> Grid:
    features = torch.randn(B, L, IMAGE, generator=torch.Generator().manual_seed(2))
    mask = torch.ones(B, ROWS, COLUMNS, dtype=torch.bool)
    mask[1, 3:] = False
    mask[1, :, 4:] = False
    return Grid(features, (ROWS, COLUMNS), mask.flatten(1) if request.param == "padded" else None)


def valid(grid: Grid, picture: int) -> list[int]:
    return [cell for cell in range(L) if grid.mask is None or grid.mask[picture, cell]]


def softmax(scores: dict[int, Tensor]) -> dict[int, Tensor]:
    total = sum(score.exp() for score in scores.values())
    return {cell: score.exp() / total for cell, score in scores.items()}


def by_loops(grid: Grid, query: Tensor, weigh: Callable[[int, Tensor], dict[int, Tensor]]) -> Tensor:
    """(B, T, L): the weights that ``weigh(picture, query)`` gives."""
    weights = torch.zeros(B, T, L)
    for b in range(B):
        for t in range(T):
            for cell, weight in weigh(b, query[b, t]).items():
                weights[b, t, cell] = weight
    return weights


def additive(attention: Attention, q: Tensor, vector: Tensor) -> Tensor:
    return attention.score((attention.query(q) + attention.key(vector)).tanh())[0]


def check(attended: Attended, weights: Tensor, context: Tensor) -> None:
    torch.testing.assert_close(attended.weights[:, 0], weights, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(attended.context, context, rtol=1e-4, atol=1e-5)


def answer(attention: Attention, query: Tensor, grid: Grid, **taken: Tensor) -> Attended:
    attended: Attended = attention(query, attention.keys_values(grid), **taken)
    return attended


def test_adaptive_is_one_softmax_over_cells_and_sentinel(query: Tensor, grid: Grid) -> None:
    attention = build("adaptive")
    sentinel = torch.randn(B, T, TEXT, generator=torch.Generator().manual_seed(5))
    weights, context, beta = torch.zeros(B, T, L), torch.zeros(B, T, IMAGE), torch.zeros(B, T)
    for b in range(B):
        for t in range(T):
            q, s = attention.query(query[b, t]), sentinel[b, t]
            z = {cell: additive(attention, query[b, t], grid.features[b, cell]) for cell in valid(grid, b)}
            own = attention.score((attention.sentinel_key(s) + q).tanh())[0]
            alpha, everything = softmax(z), softmax({**z, L: own})  # equations 7 and 12
            beta[b, t] = everything[L]
            seen = sum(alpha[cell] * grid.features[b, cell] for cell in alpha)
            context[b, t] = beta[b, t] * attention.sentinel_value(s) + (1 - beta[b, t]) * seen  # equation 11
            for cell in alpha:
                weights[b, t, cell] = (1 - beta[b, t]) * alpha[cell]
    attended = answer(attention, query, grid, sentinel=sentinel)
    check(attended, weights, context)
    torch.testing.assert_close(attended.off_grid[:, 0], beta)


def test_the_visual_sentinel_is_a_gate_on_the_memory_cell() -> None:
    torch.manual_seed(0)
    sentinel = VisualSentinel(input_width=6, width=4)
    x, h, m = torch.randn(3, 6), torch.randn(3, 4), torch.randn(3, 4)
    for n in range(3):
        gate = torch.sigmoid(
            sentinel.gate_input.weight @ x[n] + sentinel.gate_input.bias + sentinel.gate_hidden.weight @ h[n]
        )
        torch.testing.assert_close(sentinel(x, h, m)[n], gate * m[n].tanh())


def test_hard_takes_the_likeliest_cell_when_it_is_not_trained(query: Tensor, grid: Grid) -> None:
    attention = build("hard")
    weights = by_loops(
        grid, query, lambda b, q: softmax({c: additive(attention, q, grid.features[b, c]) for c in valid(grid, b)})
    )
    attended = answer(attention, query, grid)
    best = weights.argmax(-1)
    check(attended, weights, torch.stack([grid.features[b, best[b]] for b in range(B)]))
    assert torch.equal(attended.others["cell"], best)


def test_hard_draws_cells_as_often_as_their_probability_says(grid: Grid) -> None:
    attention = build("hard", expected_share=0.0).train()
    query = torch.randn(B, 1, TEXT, generator=torch.Generator().manual_seed(1)).expand(-1, 4000, -1)
    torch.manual_seed(0)
    attended = answer(attention, query, grid)
    cells = attended.others["cell"]
    for b in range(B):
        drawn = torch.bincount(cells[b], minlength=L) / 4000
        assert (drawn - attended.weights[b, 0, 0]).abs().max() < 0.03
        assert set(cells[b].tolist()) <= set(valid(grid, b))
        torch.testing.assert_close(attended.context[b], grid.features[b, cells[b]])
    expected = attended.weights[:, 0].gather(-1, cells[..., None])[..., 0].log()
    torch.testing.assert_close(attended.others["log_p"], expected)


def test_a_share_of_the_pictures_takes_the_expected_context(query: Tensor, grid: Grid) -> None:
    attention = build("hard", expected_share=1.0).train()
    attended = answer(attention, query, grid)
    assert attended.others["log_p"].abs().max() == 0
    torch.testing.assert_close(attended.context, attended.weights[:, 0] @ grid.features)


def test_a_pictures_words_all_take_the_expected_context_or_none_does() -> None:
    """The share is of pictures (section 4.1), also where the words come one by one."""
    attention = build("hard", expected_share=0.5).train()
    generator = torch.Generator().manual_seed(4)
    grid = Grid(torch.randn(40, 6, IMAGE, generator=generator), (2, 3))
    torch.manual_seed(2)
    cache = attention.keys_values(grid)
    steps = [attention(torch.randn(40, 3, TEXT, generator=generator), cache) for _ in range(5)]
    taken = torch.cat([step.others["log_p"] == 0 for step in steps], 1)  # (40, 15)
    assert torch.equal(taken.any(1), taken.all(1))
    assert 10 < int(taken.all(1).sum()) < 30
    again = attention.keys_values(grid)
    assert isinstance(again, HardCache) and isinstance(cache, HardCache)
    assert not torch.equal(again.expected, cache.expected)


def test_hard_attention_has_a_moving_baseline() -> None:
    attention = build("hard")
    assert isinstance(attention, HardAttention)
    assert attention.follow(torch.tensor([-2.0, -4.0])).item() == -3.0
    assert attention.follow(torch.tensor([-1.0])).item() == pytest.approx(-3)
    assert attention.baseline.item() == pytest.approx(0.9 * -3 + 0.1 * -1)
    for options in ({"expected_share": 2.0}, {"reward_weight": -1.0}):
        with pytest.raises(OptionError, match=str(next(iter(options.values())))):
            build("hard", **options)


def local_weights(
    attention: Attention, grid: Grid, b: int, q: Tensor, centre: tuple[float, float]
) -> dict[int, Tensor]:
    window = 1.5
    scores = {}
    for cell in valid(grid, b):
        row, column = divmod(cell, COLUMNS)
        if abs(row - centre[0]) <= window and abs(column - centre[1]) <= window:
            align = attention.query(q) @ attention.key(grid.features[b, cell]) / math.sqrt(WIDTH)
            distance = (row - centre[0]) ** 2 + (column - centre[1]) ** 2
            scores[cell] = align - distance / (2 * (window / 2) ** 2)  # the Gaussian of equation 10
    return softmax(scores)


def test_local_is_a_gaussian_window_about_a_predicted_centre(query: Tensor, grid: Grid) -> None:
    attention = build("local", window=1.5)

    def weigh(b: int, q: Tensor) -> dict[int, Tensor]:
        cells = valid(grid, b)
        size = (len({cell // COLUMNS for cell in cells}), len({cell % COLUMNS for cell in cells}))
        share = torch.sigmoid(attention.centre.weight @ torch.tanh(attention.centre_hidden(q))).tolist()  # equation 9
        return local_weights(attention, grid, b, q, (size[0] * share[0] - 0.5, size[1] * share[1] - 0.5))

    weights = by_loops(grid, query, weigh)
    assert (weights == 0).sum() > weights.numel() / 3, "cells outside the window have no weight"
    check(answer(attention, query, grid), weights, weights @ grid.features)


def test_local_goes_on_from_where_the_word_before_was_seen(query: Tensor, grid: Grid) -> None:
    attention = build("local_previous", window=1.5)
    before = torch.zeros(B, T, L)
    before[:, :, 6] = 0.5  # row 1, column 1
    before[:, :, 8] = 0.5  # row 1, column 3
    weights = by_loops(grid, query, lambda b, q: local_weights(attention, grid, b, q, (1.0, 2.0)))
    check(answer(attention, query, grid, previous=before), weights, weights @ grid.features)
    for b, start in enumerate(answer(attention, query, grid).others["centre"][:, 0].tolist()):
        rows, columns = zip(*(divmod(cell, COLUMNS) for cell in valid(grid, b)), strict=True)
        assert start == pytest.approx([sum(rows) / len(rows), sum(columns) / len(columns)], abs=1e-5)


def test_a_window_without_picture_falls_back_to_the_picture(query: Tensor, grid: Grid) -> None:
    attention = build("local_previous", window=1)
    before = torch.zeros(B, T, L)
    before[:, :, L - 1] = 1.0
    mask = torch.ones(B, ROWS, COLUMNS, dtype=torch.bool)
    mask[1, 2:] = False  # nothing is near the last cell
    padded = Grid(grid.features, grid.shape, mask.flatten(1))
    weights = answer(attention, query, padded, previous=before).weights
    torch.testing.assert_close(weights.sum(-1), torch.ones(B, 1, T))
    assert (weights[1, 0][:, mask[1].flatten()] > 0).all(), "all of the picture counts"
    assert (weights[0, 0] > 0).sum(-1).max() < L, "the window holds where it has picture"


def test_memory_slots_stand_beside_the_cells(query: Tensor, grid: Grid) -> None:
    heads, slots, share = 2, 3, WIDTH // 2
    attention = build("memory", heads=heads, slots=slots)
    weights, memory = torch.zeros(B, heads, T, L), torch.zeros(B, T, heads, slots)
    context = torch.zeros(B, T, IMAGE)
    for b in range(B):
        for t in range(T):
            heads_read = []
            for h in range(heads):
                part = slice(h * share, (h + 1) * share)
                q = attention.query(query[b, t])[part]
                keys = {cell: attention.key(grid.features[b, cell])[part] for cell in valid(grid, b)}
                keys |= {L + m: attention.slot_keys[h, m] for m in range(slots)}
                found = softmax({one: q @ key / math.sqrt(share) for one, key in keys.items()})
                values = {cell: attention.value(grid.features[b, cell])[part] for cell in valid(grid, b)}
                values |= {L + m: attention.slot_values[h, m] for m in range(slots)}
                heads_read.append(sum(found[one] * values[one] for one in found))
                for one, weight in found.items():
                    if one < L:
                        weights[b, h, t, one] = weight
                    else:
                        memory[b, t, h, one - L] = weight
            context[b, t] = attention.output(torch.cat(heads_read))
    attended = answer(attention, query, grid)
    torch.testing.assert_close(attended.weights, weights, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(attended.others["slots"], memory, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(attended.off_grid, memory.sum(-1).transpose(1, 2), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(attended.context, context, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(attention.context(query, attention.keys_values(grid)), attended.context)


def test_attention_on_attention_gates_what_was_found(query: Tensor, grid: Grid) -> None:
    attention = build("attention_on_attention", heads=2)
    plain = build("multihead", heads=2)
    plain.load_state_dict(attention.state_dict(), strict=False)
    found = answer(plain, query, grid)
    attended = answer(attention, query, grid)
    for b in range(B):
        for t in range(T):
            q, v = query[b, t], found.context[b, t]
            i = attention.information.weight[:, :TEXT] @ q + attention.information.weight[:, TEXT:] @ v
            g = attention.gate.weight[:, :TEXT] @ q + attention.gate.weight[:, TEXT:] @ v
            gate = torch.sigmoid(g + attention.gate.bias)
            torch.testing.assert_close(attended.context[b, t], gate * (i + attention.information.bias))
            torch.testing.assert_close(attended.others["gate"][b, t], gate)
    torch.testing.assert_close(attended.weights, found.weights)
    torch.testing.assert_close(attention.context(query, attention.keys_values(grid)), attended.context)


def test_channels_are_weighed_for_each_word_and_then_cells(query: Tensor, grid: Grid) -> None:
    attention = build("channel", channel_width=4)
    weights, context, channels = torch.zeros(B, T, L), torch.zeros(B, T, IMAGE), torch.zeros(B, T, IMAGE)
    for b in range(B):
        cells = valid(grid, b)
        mean = sum(grid.features[b, cell] for cell in cells) / len(cells)
        for t in range(T):
            scores = {}
            for c in range(IMAGE):
                hidden = attention.channel.weight[:, 0] * mean[c] + attention.channel.bias
                scores[c] = attention.channel_score((hidden + attention.channel_query(query[b, t])).tanh())[0]
            for c, weight in softmax(scores).items():
                channels[b, t, c] = weight
            weighed = {cell: IMAGE * channels[b, t] * grid.features[b, cell] for cell in cells}
            found = softmax({cell: additive(attention, query[b, t], weighed[cell]) for cell in cells})
            context[b, t] = sum(found[cell] * weighed[cell] for cell in cells)
            for cell in cells:
                weights[b, t, cell] = found[cell]
    attended = answer(attention, query, grid)
    check(attended, weights, context)
    torch.testing.assert_close(attended.others["channels"], channels, rtol=1e-4, atol=1e-6)


def two_levels(attention: Attention, q: Tensor, features: Tensor, groups: list[list[int]]) -> dict[int, Tensor]:
    inside, scores = {}, {}
    for g, cells in enumerate(groups):
        if cells:
            inside[g] = softmax({cell: additive(attention, q, features[cell]) for cell in cells})
            vector = sum(inside[g][cell] * features[cell] for cell in cells)
            scores[g] = attention.group_score((attention.group_query(q) + attention.group_key(vector)).tanh())[0]
    outer = softmax(scores)
    return {cell: outer[g] * weight for g in outer for cell, weight in inside[g].items()}


def test_hierarchical_weighs_cells_inside_regions_and_then_regions(query: Tensor, grid: Grid) -> None:
    attention = build("hierarchical", regions=2)

    def weigh(b: int, q: Tensor) -> dict[int, Tensor]:
        groups: list[list[int]] = [[], [], [], []]
        for cell in valid(grid, b):
            row, column = divmod(cell, COLUMNS)
            groups[2 * (row * 2 // ROWS) + column * 2 // COLUMNS].append(cell)
        return two_levels(attention, q, grid.features[b], groups)

    weights = by_loops(grid, query, weigh)
    attended = answer(attention, query, grid)
    check(attended, weights, weights @ grid.features)
    upper_left = [0, 1, 2, 5, 6, 7]
    torch.testing.assert_close(attended.others["regions"][..., 0], weights[..., upper_left].sum(-1))
    with pytest.raises(OptionError, match="4 x 5"):
        answer(build("hierarchical", regions=5), query, grid)


def test_temporal_weighs_cells_inside_frames_and_then_frames(query: Tensor) -> None:
    attention = build("temporal")
    frames, cells = 3, 4
    features = torch.randn(frames * B, cells, IMAGE, generator=torch.Generator().manual_seed(4))
    clips = [Grid.of_frames(Grid(features[b * frames : (b + 1) * frames], (2, 2))) for b in range(B)]
    clip = Grid(torch.cat([one.features for one in clips]), (2, 2), frames=frames)
    attended = answer(attention, query, clip)
    for b in range(B):
        for t in range(T):
            groups = [list(range(f * cells, (f + 1) * cells)) for f in range(frames)]
            expected = two_levels(attention, query[b, t], clip.features[b], groups)
            found = torch.stack([expected[cell] for cell in range(frames * cells)])
            torch.testing.assert_close(attended.weights[b, 0, t], found, rtol=1e-4, atol=1e-6)
    maps = clip.maps(attended.weights[:, 0])
    assert maps.shape == (B, T, frames, 2, 2), "words, frames, rows, columns"
    torch.testing.assert_close(attended.others["frames"], maps.sum((3, 4)))


def test_a_clip_of_frames_with_one_cell_is_the_temporal_attention_of_the_paper(query: Tensor) -> None:
    attention = build("temporal")
    features = torch.randn(B, 5, IMAGE, generator=torch.Generator().manual_seed(4))
    attended = answer(attention, query, Grid(features, (1, 1), frames=5))
    hidden = attention.group_query(query)[:, :, None] + attention.group_key(features)[:, None]
    expected = attention.group_score(hidden.tanh())[..., 0].softmax(-1)  # Yao et al. 2015, equations 6 and 7
    torch.testing.assert_close(attended.weights[:, 0], expected)


def test_the_simple_form_takes_text_and_image() -> None:
    torch.manual_seed(0)
    attention = VisionLanguageAttention(image_width=2048, text_width=768, width=512)
    image, text = torch.randn(2, 49, 2048), torch.randn(2, 10, 768)
    context, weights = attention(image, text)
    assert context.shape == (2, 10, 2048) and weights.shape == (2, 10, 49)
    layer = attention.attention
    for t in (0, 9):
        scores = [layer.query(text[1, t]) @ layer.key(image[1, cell]) / math.sqrt(512) for cell in range(49)]
        expected = torch.stack(scores).softmax(0)
        torch.testing.assert_close(weights[1, t], expected, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(context[1, t], expected @ image[1], rtol=1e-4, atol=1e-5)
    mask = torch.ones(2, 49, dtype=torch.bool)
    mask[0, 40:] = False
    masked = attention(image, text, mask)
    assert masked.weights[0, :, 40:].abs().max() == 0
    torch.testing.assert_close(masked.weights.sum(-1), torch.ones(2, 10))
    with pytest.raises(OptionError, match=r"\(2, 49, 2048\)"):
        attention(image, text[:1])


def test_pooling_gives_as_many_vectors_as_queries_and_the_map_of_each() -> None:
    torch.manual_seed(0)
    pooling = AttentionPooling(width=1024, queries=128, heads=8)
    cells = torch.randn(16, 196, 1024)
    with torch.no_grad():
        vectors, weights = pooling(cells)
    assert vectors.shape == (16, 128, 1024) and weights.shape == (16, 8, 128, 196)
    torch.testing.assert_close(weights.sum(-1), torch.ones(16, 8, 128))


def test_pooling_is_the_formula(grid: Grid) -> None:
    torch.manual_seed(0)
    pooling = AttentionPooling(width=IMAGE, queries=3, heads=2)
    found = pooling(grid.features, grid.mask)
    layer, half = pooling.attention, IMAGE // 2
    for b in range(B):
        normed = pooling.cells_norm(grid.features[b])
        for i in range(3):
            q = layer.query(pooling.query_norm(pooling.latents[i]))
            read = []
            for h in range(2):
                part = slice(h * half, (h + 1) * half)
                scores = {c: q[part] @ layer.key(normed[c])[part] / math.sqrt(half) for c in valid(grid, b)}
                alpha = softmax(scores)
                read.append(sum(alpha[c] * layer.value(normed[c])[part] for c in alpha))
                for c in range(L):
                    torch.testing.assert_close(
                        found.weights[b, h, i, c], alpha.get(c, torch.zeros(())), rtol=1e-4, atol=1e-6
                    )
            x = pooling.latents[i] + layer.output(torch.cat(read))
            torch.testing.assert_close(found.vectors[b, i], x + pooling.feed_forward(x), rtol=1e-4, atol=1e-5)
    with pytest.raises(OptionError, match="0"):
        AttentionPooling(width=8, queries=0)
