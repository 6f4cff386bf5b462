"""The mean of models: weights in proportion, and a refusal where a mean would be nonsense."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from captioner import checkpoint
from captioner.errors import OptionError
from captioner.model.caption_model import CaptionModel
from captioner.training import mean
from captioner.training.mean import mean_of
from captioner.training.start import recipes_of
from captioner.vocabulary import Vocabulary


def moved(file: Path, output: Path, *, by: float, recipe: str = "") -> Path:
    """The model with every weight raised."""
    model = checkpoint.load(file)
    with torch.no_grad():
        for parameter in model.model.parameters():
            parameter += by
    about = {"recipe": {"objective": recipe}, "earlier": [model.about["recipe"]]} if recipe else model.about
    checkpoint.save(output, replace(model, about=about), half=False)
    return output


def test_every_weight_is_the_weighted_mean(scene_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    start = scene_run / "best.safetensors"
    one = moved(start, tmp_path / "1.safetensors", by=0.0, recipe="one")
    two = moved(start, tmp_path / "2.safetensors", by=0.4, recipe="two")
    output = tmp_path / "mean.safetensors"
    monkeypatch.setattr(sys, "argv", ["mean", str(one), str(two), "--shares", "3", "1", "--output", str(output)])
    assert mean.main() == 0
    found, base = checkpoint.load(output), checkpoint.load(one)
    for (name, weight), before in zip(found.model.named_parameters(), base.model.parameters(), strict=True):
        torch.testing.assert_close(weight, before + 0.1, atol=1e-6, rtol=1e-5, msg=name)
    assert found.model.config == base.model.config
    assert found.vocabulary == base.vocabulary
    # The runs that it was made by: the common one once, then each, then the mean.
    assert [recipe["objective"] for recipe in recipes_of(str(output))] == ["words", "one", "two", "mean"]
    assert recipes_of(str(output))[-1]["shares"] == [3, 1]


def test_models_may_take_pictures_of_another_size(scene_run: Path, tmp_path: Path) -> None:
    start = scene_run / "best.safetensors"
    larger = checkpoint.load(start)
    larger.model.take_side(64)
    checkpoint.save(tmp_path / "larger.safetensors", larger, half=False)
    assert mean_of([tmp_path / "larger.safetensors", start]).model.config.encoder.side == 64


@pytest.mark.parametrize("shares", [[1.0], [1.0, 0.0], [1.0, -1.0], [1.0, float("nan")], [1.0, float("inf")]])
def test_shares_are_one_for_each_and_above_zero(scene_run: Path, shares: list[float]) -> None:
    with pytest.raises(OptionError, match="shares above 0"):
        mean_of([scene_run / "best.safetensors"] * 2, shares=shares)


def test_one_model_has_no_mean(
    scene_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["mean", str(scene_run / "best.safetensors"), "--output", str(tmp_path / "mean.safetensors")]
    monkeypatch.setattr(sys, "argv", arguments)
    assert mean.main() == 2
    assert capsys.readouterr().err == "mean: a mean is of two model files or more, not of 1\n"
    assert not (tmp_path / "mean.safetensors").exists()


def test_models_of_other_words_or_shapes_have_no_mean(scene_run: Path, tmp_path: Path) -> None:
    start = checkpoint.load(scene_run / "best.safetensors")
    words = start.vocabulary.words
    other = replace(start, vocabulary=Vocabulary((*words[:-1], "zebra")))
    checkpoint.save(tmp_path / "words.safetensors", other)
    with pytest.raises(OptionError, match=r"words\.safetensors knows other words than"):
        mean_of([scene_run / "best.safetensors", tmp_path / "words.safetensors"])
    config = replace(start.model.config, refiner=replace(start.model.config.refiner, position=0.0))
    checkpoint.save(
        tmp_path / "shape.safetensors",
        replace(start, model=CaptionModel(config, vocabulary_size=len(words)).eval()),
    )
    with pytest.raises(OptionError, match=r"shape\.safetensors is of another shape than"):
        mean_of([scene_run / "best.safetensors", tmp_path / "shape.safetensors"])


def test_the_mean_is_a_whole_model(scene_run: Path, tmp_path: Path) -> None:
    start = scene_run / "best.safetensors"
    found = mean_of([start, moved(start, tmp_path / "2.safetensors", by=0.01)])
    json.dumps(found.about)  # plain values
    with torch.inference_mode():
        logits, maps = found.model(torch.zeros(1, 3, 48, 48), torch.ones(1, 3, dtype=torch.long))
    assert logits.isfinite().all()
    torch.testing.assert_close(maps.sum((2, 3)), torch.ones(1, 3))
