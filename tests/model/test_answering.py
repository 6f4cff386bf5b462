"""Answerers: shapes, weights, padding, and the options of their configurations."""

from dataclasses import replace

import pytest
import torch

from captioner.errors import OptionError
from captioner.model.answer_model import AnswerConfig, AnswerModel
from captioner.model.answering import ANSWERERS, HierarchicalConfig, PooledConfig
from captioner.model.encoder import EncoderConfig
from captioner.model.grid import Grid
from captioner.model.refiners import RefinerConfig

SMALL = {"embedding": 8, "width": 16, "heads": 2, "hidden": 12, "dropout": 0.0}
CONFIGS = {
    "multihead": HierarchicalConfig(**SMALL),
    "shared": HierarchicalConfig(**SMALL, levels=("word", "question"), shared=True),
    "parallel": HierarchicalConfig(**{**SMALL, "heads": 1}, co_attention="parallel", products=False),
    "alternating": HierarchicalConfig(**{**SMALL, "heads": 1}, co_attention="alternating"),
    "attributes": HierarchicalConfig(**SMALL, attributes=(5, 9, 7)),
    "attribute_map": HierarchicalConfig(
        **SMALL, attributes=(5, 9, 7), attribute_map=0.25, attribute_answers=(1, -1, 0)
    ),
    "pooled": PooledConfig(**SMALL, latents=3),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_an_answer_has_a_map_and_weights_and_does_not_depend_on_its_neighbours(name: str) -> None:
    torch.manual_seed(2)
    config = CONFIGS[name]
    answerer = (
        ANSWERERS[ANSWERERS.name_of(config)]
        .build(question_vocabulary=20, answers=5, image_width=16, config=config)
        .eval()
    )
    grid = Grid(torch.randn(2, 6, 16), (2, 3))
    questions = torch.tensor([[[4, 5, 6, 7], [8, 9, 0, 0]], [[4, 0, 0, 0], [5, 6, 7, 0]]])
    with torch.no_grad():
        found = answerer(grid, questions)
        alone = answerer(grid.select(torch.tensor([1])), questions[1:, 1:, :3])
    assert found.logits.shape == (2, 2, 5) and found.maps.shape == (2, 2, 2, 3)
    torch.testing.assert_close(found.maps.sum((2, 3)), torch.ones(2, 2))
    torch.testing.assert_close(found.words.sum(-1), torch.ones(2, 2))
    assert found.words[0, 1, 2:].sum() == 0
    torch.testing.assert_close(alone.logits[0, 0], found.logits[1, 1], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(alone.maps[0, 0], found.maps[1, 1], atol=1e-5, rtol=1e-4)


def test_the_map_is_in_part_that_of_the_attributes() -> None:
    torch.manual_seed(2)
    config = CONFIGS["attribute_map"]
    build = ANSWERERS["hierarchical"].build
    answerer = build(question_vocabulary=20, answers=5, image_width=16, config=config).eval()
    torch.nn.init.normal_(answerer.attributes.found.weight)
    grid, questions = Grid(torch.randn(2, 6, 16), (2, 3)), torch.tensor([[[4, 5, 6]], [[7, 9, 0]]])
    maps = {}
    for share in (0.0, 0.25, 1.0):
        answerer.config = replace(config, attribute_map=share, attribute_answers=())
        found = answerer(grid, questions)
        maps[share] = found.maps
    torch.testing.assert_close(maps[0.25], 0.75 * maps[0.0] + 0.25 * maps[1.0])
    torch.testing.assert_close(maps[0.0].flatten(2), found.cells[:, -2:].mean(1))
    attributes = answerer.attributes
    asked = answerer.question(questions[:, 0], attributes.word_features(found.attributes, questions)[:, 0])[1]
    weights = attributes.attend(found.attributes, asked[:, None], answerer.question.embed.weight)[1]
    for b in range(2):
        expected = sum((weights[b, 0, n] * found.attribute_maps[b, n] for n in range(3)), torch.zeros(2, 3))
        torch.testing.assert_close(maps[1.0][b, 0], expected)
    answerer.config = replace(config, attribute_map=1.0, attribute_answers=(3, -1, 0))
    named = answerer(grid, questions)
    for b in range(2):
        p = named.logits[b, 0].softmax(-1)
        own = p[3] * found.attribute_maps[b, 0] + p[0] * found.attribute_maps[b, 2]
        torch.testing.assert_close(named.maps[b, 0], own + (1 - p[3] - p[0]) * maps[1.0][b, 0])
    torch.testing.assert_close(named.maps.sum((2, 3)), torch.ones(2, 1))
    with pytest.raises(OptionError, match="attribute_answers are 2 for 3"):
        replace(config, attribute_answers=(3, -1))
    for wrong in ((3, -1, 3), (5, -1, 0), (-2, -1, 0)):
        with pytest.raises(OptionError, match="numbers of 5 answers, each once"):
            build(question_vocabulary=20, answers=5, image_width=16, config=replace(config, attribute_answers=wrong))


@pytest.mark.parametrize("name", ["multihead", "attribute_map", "pooled"])
def test_the_map_of_an_answer_lies_on_cells_where_a_refiner_gives_fewer_vectors(name: str) -> None:
    config = CONFIGS[name]
    build = ANSWERERS[ANSWERERS.name_of(config)].build
    answerer = build(question_vocabulary=20, answers=5, image_width=16, config=config).eval()
    grid = Grid(torch.randn(2, 4, 16), (2, 3), sources=torch.rand(2, 4, 6).softmax(-1))
    with torch.no_grad():
        maps = answerer(grid, torch.tensor([[[4, 5]], [[6, 0]]])).maps
    assert maps.shape == (2, 1, 2, 3)
    torch.testing.assert_close(maps.sum((2, 3)), torch.ones(2, 1))


def test_the_picture_and_the_question_both_matter() -> None:
    torch.manual_seed(2)
    config = AnswerConfig(
        encoder=EncoderConfig(backbone="tiny", side=64), refiner=RefinerConfig(width=16), answerer=CONFIGS["multihead"]
    )
    model = AnswerModel(config, vocabulary_size=20, answers=5)
    pixels, questions = torch.randn(2, 3, 64, 64), torch.tensor([[[4, 5]], [[4, 5]]])
    logits = model(pixels, questions).logits
    assert (logits[0] - logits[1]).abs().max() > 1e-5
    assert (logits[0] - model(pixels, questions + 3).logits[0]).abs().max() > 1e-5
    logits.sum().backward()
    unused = [name for name, tensor in model.named_parameters() if tensor.requires_grad and tensor.grad is None]
    assert not unused, "a parameter that is never used is an error under several processes"
    assert AnswerConfig.from_dict(config.as_dict()) == config


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"levels": ("question", "word")}, "levels"),
        ({"levels": ("word",)}, "levels"),
        ({"map_heads": (24,)}, "24"),
        ({"width": 0}, "width"),
        ({"dropout": 1.0}, "1.0"),
        ({"attribute_map": 1.5}, "attribute_map"),
        ({"attributes": tuple(range(4, 1005))}, "1,000 attributes, not 1,001"),
    ],
)
def test_options_out_of_range_are_named(options: dict[str, object], named: str) -> None:
    with pytest.raises(OptionError, match=named):
        HierarchicalConfig(**options)
