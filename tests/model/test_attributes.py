"""Attributes against loops over the equations."""

import math

import pytest
import torch
import torch.nn.functional as F

from captioner.errors import OptionError
from captioner.model.answering.attributes import Attributes
from captioner.model.grid import Grid

WORDS = (5, 9, 7)


@pytest.fixture
def attributes() -> Attributes:
    torch.manual_seed(4)
    found = Attributes(WORDS, vocabulary_size=12, embedding=6, image_width=8, width=10)
    for parameter in found.parameters():
        torch.nn.init.normal_(parameter)
    return found


@pytest.fixture
def grid() -> Grid:
    torch.manual_seed(5)
    return Grid(torch.randn(2, 4, 8), (2, 2), torch.tensor([[True, True, True, False], [True, False, True, True]]))


def test_logits_are_those_of_the_equation(attributes: Attributes, grid: Grid) -> None:
    assert grid.mask is not None
    for masked in (grid, Grid(grid.features, (2, 2))):
        found, cells = attributes(masked)
        for b in range(2):
            real = [i for i in range(4) if masked.mask is None or masked.mask[b, i]]
            h = [torch.relu(attributes.cells(attributes.norm(masked.features[b, i]))) for i in real]
            for n in range(3):
                weights = torch.stack([attributes.query[n] @ one for one in h]).softmax(0)
                context = sum(weight * one for weight, one in zip(weights, h, strict=True))
                mean = sum(h, torch.zeros(10)) / len(h)
                expected = attributes.found.weight[n] @ context + attributes.found.bias[n]
                expected = expected + attributes.whole.weight[n] @ mean
                torch.testing.assert_close(found[b, n], expected, atol=1e-4, rtol=1e-4)
                torch.testing.assert_close(cells[b, n, real], weights)
                assert cells[b, n].sum().item() == pytest.approx(1)


def test_words_of_a_question_have_their_own_logits(attributes: Attributes) -> None:
    logits = torch.tensor([[-1.0, 2.0, 0.5], [3.0, -4.0, 1.0]])
    questions = torch.tensor([[[4, 9, 0], [7, 7, 5]], [[5, 11, 9], [6, 0, 0]]])
    found = attributes.word_features(logits, questions)
    assert found.shape == (2, 2, 3, 6)
    for b in range(2):
        for k in range(2):
            for t in range(3):
                word = int(questions[b, k, t])
                if word not in WORDS:
                    assert (found[b, k, t] == 0).all()
                    continue
                own = logits[b, WORDS.index(word)]
                expected = attributes.presence.weight @ torch.stack((own.sigmoid(), own / 4, torch.tensor(1.0)))
                torch.testing.assert_close(found[b, k, t], expected)


def test_a_question_attends_to_what_it_asks_for_among_what_is_there(attributes: Attributes) -> None:
    torch.manual_seed(6)
    logits, asked, embed = torch.randn(2, 3), torch.randn(2, 4, 10), torch.randn(12, 6)
    found, among = attributes.attend(logits, asked, embed)
    for b in range(2):
        for k in range(4):
            scores = [
                attributes.query_of_question(asked[b, k]) @ attributes.key(embed[word]) / math.sqrt(10)
                + F.logsigmoid(logits[b, n])
                for n, word in enumerate(WORDS)
            ]
            weights = torch.stack(scores).softmax(0)
            context = sum(weight * attributes.value(embed[word]) for weight, word in zip(weights, WORDS, strict=True))
            torch.testing.assert_close(found[b, k], attributes.context_norm(context), atol=1e-4, rtol=1e-4)
            torch.testing.assert_close(among[b, k], weights, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("words", [(5, 6, 5), (12, 5), (-1,), (3,)])
def test_attributes_are_different_words_of_the_questions(words: tuple[int, ...]) -> None:
    with pytest.raises(OptionError, match=rf"attribute {words[-1] if len(words) != 2 else 12} .* 4 to 11"):
        Attributes(words, vocabulary_size=12, embedding=6, image_width=8, width=10)
