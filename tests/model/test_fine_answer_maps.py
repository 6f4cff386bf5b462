"""Fine maps of attributes and of answers."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from captioner import checkpoint
from captioner.asking import load_answering
from captioner.cli import main
from captioner.errors import OptionError
from captioner.export.answers import write_answering_graphs
from captioner.model.answer_model import AnswerModel
from captioner.model.answering import HierarchicalConfig
from captioner.model.fine_maps import maps_of_parts, repeat_cells
from captioner.training.growth import add_fine_answer_maps

Make = Callable[..., checkpoint.AnswerCheckpoint]
QUESTIONS = torch.tensor([[[4, 5, 7]], [[4, 8, 0]]])


def grown(make_answering: Make, *, learned: bool) -> AnswerModel:
    model = add_fine_answer_maps(make_answering().model, {"fine_stage": 1}, {"fine_width": 8}).eval()
    if learned:
        torch.manual_seed(7)
        torch.nn.init.normal_(model.answerer.attributes.fine_query, std=3)
    return model


@torch.no_grad()
def test_answers_do_not_depend_on_fine_maps(make_answering: Make) -> None:
    torch.manual_seed(8)
    start, pixels = make_answering().model.eval(), torch.randn(2, 3, 64, 64)
    old, new, learned = (
        one(pixels, QUESTIONS)
        for one in (start, grown(make_answering, learned=False), grown(make_answering, learned=True))
    )
    for one in (new, learned):
        assert torch.equal(one.logits, old.logits)
        assert torch.equal(one.words, old.words)
        assert torch.equal(one.attributes, old.attributes)
        torch.testing.assert_close(one.maps.sum((2, 3)), torch.ones(2, 1))
        torch.testing.assert_close(one.attribute_maps.sum((2, 3)), torch.ones(2, 2))
    torch.testing.assert_close(new.maps, repeat_cells(old.maps))
    torch.testing.assert_close(new.attribute_maps, repeat_cells(old.attribute_maps))
    assert (learned.attribute_maps - new.attribute_maps).abs().max() > 1e-3


@torch.no_grad()
def test_an_answers_map_is_made_of_its_attributes_maps(make_answering: Make) -> None:
    model = grown(make_answering, learned=True)
    torch.manual_seed(9)
    grid = model.encode(torch.randn(2, 3, 64, 64))
    answered = model.answerer(grid, QUESTIONS)
    attributes = model.answerer.attributes
    logits, cells = attributes(grid)
    parts = attributes.fine(attributes.fine_query.expand(2, -1, -1), attributes.fine.hidden_units(grid), cells)
    torch.testing.assert_close(answered.attribute_maps, maps_of_parts(parts, grid.shape))
    asked = model.answerer.question(QUESTIONS.flatten(0, 1), attributes.word_features(logits, QUESTIONS).flatten(0, 1))
    _, weights = attributes.attend(logits, asked[1].reshape(2, 1, -1), model.answerer.question.embed.weight)
    dog = answered.logits.softmax(-1)[:, 0, 2]  # the only attribute that is an answer
    share = weights[:, 0] * (1 - dog[:, None])
    share[:, 0] += dog
    heads = answered.cells[:, -2:].mean(1).unflatten(2, grid.shape)
    expected = 0.75 * repeat_cells(heads) + 0.25 * (share[:, :, None, None] * answered.attribute_maps).sum(1, True)
    torch.testing.assert_close(answered.maps, expected)


def test_options_that_do_not_fit_are_refused(make_answering: Make) -> None:
    start = make_answering().model
    assert add_fine_answer_maps(start, {}, {}) is start
    for stage, width in (({"fine_stage": 1}, {}), ({}, {"fine_width": 8})):
        with pytest.raises(OptionError, match="both or neither"):
            add_fine_answer_maps(start, stage, width)
    for wrong in ({"fine_width": -1}, {"fine_width": 8, "attributes": ()}, {"fine_width": 1.5}):
        with pytest.raises(OptionError, match="fine_width"):
            HierarchicalConfig(**{"attributes": (4,), **wrong})


def test_both_runtimes_agree(make_answering: Make, make_picture: Callable[..., Path], tmp_path: Path) -> None:
    answering = make_answering()
    path = tmp_path / "fine.safetensors"
    about = dict(answering.about)
    model = grown(make_answering, learned=True)
    checkpoint.save(
        path,
        checkpoint.AnswerCheckpoint(
            model=model, vocabulary=answering.vocabulary, answers=answering.answers, about=about
        ),
    )
    found = write_answering_graphs(path)
    assert max(found.log_p, found.maps) < 1e-5
    picture, questions = make_picture(size=(50, 20)), ["what is the dog doing", "how many"]
    ours, theirs = (load_answering(path, backend=name).ask(picture, questions) for name in ("onnx", "torch"))
    for one, other in zip(ours, theirs, strict=True):
        assert one.text == other.text
        assert one.map.shape == one.geometry.grid == (16, 16)
        np.testing.assert_allclose(one.map, other.map, atol=1e-5)
    options = ["ask", str(picture), "what is the dog doing", "--model", str(path)]
    assert main([*options, "--figure", str(tmp_path / "f.png"), "--page", str(tmp_path / "p.html")]) == 0
    assert main(["export", str(path), "--output", str(tmp_path / "folder")]) == 0
    (again,) = load_answering(tmp_path / "folder").ask(picture, questions[:1])
    np.testing.assert_allclose(again.map, ours[0].map, atol=1e-5)
    assert main(["export", str(path), "--output", str(tmp_path / "eight"), "--precision", "int8"]) == 0
    (eight,) = load_answering(tmp_path / "eight").ask(picture, questions[:1])
    np.testing.assert_allclose(eight.map, ours[0].map, atol=0.1 * ours[0].map.max())
    assert eight.map.sum() == pytest.approx(ours[0].map.sum(), rel=1e-3)
    assert main(["models", str(path), "--diagram", str(tmp_path / "flow.gv")]) == 0
    source = (tmp_path / "flow.gv").read_text()
    assert "feature maps of stage 1\\n16 x 16 x 64" in source
    assert "feature maps\\n8 x 8 x 96" in source
