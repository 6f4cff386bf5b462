"""What training minimises, against the formulas written out."""

import math

import pytest
import torch

from captioner.training.losses import (
    attribute_loss,
    caption_loss,
    distillation_loss,
    doubly_stochastic_penalty,
    map_supervision,
)


def test_cross_entropy_is_the_mean_over_the_words_to_be_said() -> None:
    logits = torch.randn(2, 3, 6)
    targets = torch.tensor([[4, 2, 0], [5, 3, 2]])  # padded with 0; 3 is <unk>
    log_p = logits.log_softmax(-1)
    asked = [(0, 0, 4), (0, 1, 2), (1, 0, 5), (1, 2, 2)]
    expected = -sum(log_p[n, t, word] for n, t, word in asked) / len(asked)
    torch.testing.assert_close(caption_loss(logits, targets), expected)


def test_unknown_words_are_not_asked_for() -> None:
    logits = torch.zeros(1, 2, 6, requires_grad=True)
    caption_loss(logits, torch.tensor([[3, 4]])).backward()
    assert logits.grad is not None
    assert logits.grad[0, 0].abs().max() == 0
    assert logits.grad[0, 1, 4] < 0


def test_smoothing_spreads_a_share_over_all_words() -> None:
    logits = torch.randn(1, 1, 5)
    log_p = logits.log_softmax(-1)[0, 0]
    expected = -(0.8 * log_p[4] + 0.2 * log_p.mean())
    torch.testing.assert_close(caption_loss(logits, torch.tensor([[4]]), label_smoothing=0.2), expected)


def test_the_distance_from_a_teacher_is_the_divergence_where_words_are_said() -> None:
    ours, theirs = torch.randn(2, 3, 6, requires_grad=True), torch.randn(2, 3, 6)
    says = torch.tensor([[4, 2, 0], [3, 2, 0]])  # padded with 0; what follows <unk> is asked for too
    p, q = theirs.softmax(-1), ours.softmax(-1)
    expected = (p * (p / q).log()).sum(-1)[:, :2].mean()
    loss = distillation_loss(ours, theirs, says)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(distillation_loss(ours, theirs, says, count=8), expected / 2)
    loss.backward()
    assert ours.grad is not None
    torch.testing.assert_close(ours.grad[:, :2], (q - p)[:, :2] / 4)
    assert ours.grad[:, 2].abs().max() == 0
    assert distillation_loss(theirs, theirs, says).item() == pytest.approx(0, abs=1e-6)


def test_even_maps_cost_nothing_whatever_grid_length_and_padding() -> None:
    for height, width, steps in ((2, 2, 3), (7, 7, 11), (14, 14, 5)):
        maps = torch.full((2, steps, height, width), 1 / (height * width))
        targets = torch.full((2, steps), 4)
        targets[1, 2:] = 0
        assert doubly_stochastic_penalty(maps, targets).item() == pytest.approx(0, abs=1e-9)
    mask = torch.ones(2, 2, 2, dtype=torch.bool)
    mask[:, 1] = False
    half = torch.zeros(2, 3, 2, 2)
    half[:, :, 0] = 0.5
    assert doubly_stochastic_penalty(half, torch.full((2, 3), 4), mask).item() == pytest.approx(0, abs=1e-9)


def test_a_fixed_stare_costs_its_formula() -> None:
    maps = torch.zeros(1, 4, 2, 3)
    maps[:, :, 0, 0] = 1  # all four words at one of six cells: coverage 4, share 4 / 6
    expected = ((4 / (4 / 6) - 1) ** 2 + 5 * 1) / 6
    assert doubly_stochastic_penalty(maps, torch.full((1, 4), 9)).item() == pytest.approx(expected)


def test_supervision_is_the_share_of_attention_that_misses() -> None:
    maps = torch.zeros(1, 2, 1, 4)
    maps[0, 0] = torch.tensor([[0.1, 0.2, 0.3, 0.4]])
    maps[0, 1] = 0.25
    targets = torch.zeros(1, 2, 1, 4)
    targets[0, 0, 0, 2:] = torch.tensor([1.0, 0.5])
    assert map_supervision(maps, targets).item() == pytest.approx(-math.log(0.3 + 0.2))
    assert map_supervision(maps, torch.zeros(1, 2, 1, 4)).item() == 0


def test_attributes_cost_their_binary_cross_entropy_where_they_are_known() -> None:
    logits = torch.tensor([[2.0, -1.0, 0.5], [-3.0, 1.5, 0.0]])
    shows = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    known = torch.tensor([[1.0, 1.0, 0.0], [1.0, 1.0, 1.0]])
    probability = [[1 / (1 + math.exp(-one)) for one in row] for row in logits.tolist()]
    first = -math.log(probability[0][0]) - math.log(1 - probability[0][1])
    second = -math.log(1 - probability[1][0]) - math.log(probability[1][1]) - math.log(1 - probability[1][2])
    assert float(attribute_loss(logits, shows, known, count=2)) == pytest.approx((first + second) / 2)
    parts = [attribute_loss(logits[i : i + 1], shows[i : i + 1], known[i : i + 1], count=2) for i in range(2)]
    assert float(sum(parts)) == pytest.approx((first + second) / 2)
