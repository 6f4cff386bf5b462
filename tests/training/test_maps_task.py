"""The objective "maps": fine maps learn from boxes, and nothing else changes."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from captioner.checkpoint import load, save
from captioner.cli import main
from captioner.data.readers import read
from captioner.data.records import Record
from captioner.errors import DataError, OptionError
from captioner.pipeline import load as load_model
from captioner.training.loop import Trainer
from captioner.training.recipe import Recipe
from captioner.training.start import first_model, stored_options

FINE: dict[str, Any] = {"encoder_options": {"fine_stage": 1}, "decoder_options": {"fine_width": 16}}


@pytest.fixture
def recipe(scene_run: Path) -> Recipe:
    return Recipe(
        objective="maps",
        start_from=str(scene_run / "best.safetensors"),
        **FINE,
        epochs=4,
        frozen_epochs=4,
        map_supervision=1.0,
        batch_pictures=10,
        captions_per_picture=1,
        max_length=12,
        warmup_steps=5,
        learning_rate=1e-2,
        ema_decay=0.5,
    )


@pytest.fixture
def scenes(scene_run: Path) -> list[Record]:
    return read(scene_run / "scenes" / "captions.jsonl")


@pytest.mark.parametrize("cache", [True, False])
def test_maps_learn_and_words_stay(cache: bool, recipe: Recipe, scenes: list[Record], tmp_path: Path) -> None:
    scores = []
    trainer = Trainer(replace(recipe, cache=cache), scenes, tmp_path, device="cpu")
    for progress in trainer.steps():
        if progress.what.startswith("dev after"):
            scores.append(progress.figures)
    before, after = load(recipe.start_from), load(tmp_path / "best.safetensors")
    assert after.vocabulary.words == before.vocabulary.words
    weights = after.model.state_dict()
    for name, tensor in before.model.state_dict().items():
        assert torch.equal(tensor, weights[name]), name
    assert {name.split(".")[1] for name in weights.keys() - before.model.state_dict().keys()} == {"fine"}
    blank = before.model.encoder.grid_shape
    assert after.model.encoder.map_shape == (2 * blank[0], 2 * blank[1])
    untrained = Trainer(replace(recipe, epochs=1, frozen_epochs=1, learning_rate=1e-9), scenes, tmp_path / "0")
    with untrained:
        _, first = untrained.task.dev_score(untrained.model.eval())
    for name, least in first.items():
        assert scores[-1][name] > least + 0.1
    photo = scenes[-1].image
    texts = [
        load_model(file, backend="torch").caption(photo) for file in (recipe.start_from, tmp_path / "best.safetensors")
    ]
    assert texts[0].text == texts[1].text
    assert texts[1].words[0].map.shape == after.model.encoder.map_shape


def test_a_model_goes_on_with_its_fine_maps(recipe: Recipe, scenes: list[Record], tmp_path: Path) -> None:
    """Other objectives train them with the rest, and a second run of this one needs no options."""
    short = replace(recipe, epochs=1, frozen_epochs=1)
    Trainer(short, scenes, tmp_path / "a", device="cpu").run()
    second = replace(short, start_from=str(tmp_path / "a" / "last.safetensors"), encoder_options={}, decoder_options={})
    Trainer(second, scenes, tmp_path / "b", device="cpu").run()
    third = replace(second, objective="cross_entropy", map_regularisation=0.1, frozen_epochs=0)
    Trainer(third, scenes, tmp_path / "c", device="cpu").run()
    first, *others = (load(tmp_path / run / "last.safetensors") for run in "abc")
    name = "decoder.fine.key.weight"
    for other in others:
        assert other.model.config == first.model.config
        assert not torch.equal(other.model.state_dict()[name], first.model.state_dict()[name])
    assert others[1].about["earlier"][-1]["objective"] == "maps"


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"encoder_options": {}, "decoder_options": {}}, "no fine maps to train"),
        ({"decoder_options": {}}, "both or neither"),
        ({"encoder_options": {"fine_stage": 9}}, "fine_stage 9"),
        ({"start_from": ""}, "start_from"),
        ({"map_supervision": 0.0}, "map_supervision"),
        ({"frozen_epochs": 3}, "frozen_epochs is 3 of 4"),
        ({"word_dropout": 0.1}, "word_dropout"),
        ({"off_grid_supervision": 0.1}, "off_grid_supervision"),
    ],
)
def test_what_does_not_fit_is_refused(
    changes: dict[str, Any], found: str, recipe: Recipe, scenes: list[Record], tmp_path: Path
) -> None:
    with pytest.raises(OptionError, match=found):
        Trainer(replace(recipe, **changes), scenes, tmp_path, device="cpu")


@pytest.mark.parametrize("split", ["train", "dev"])
def test_pictures_without_boxes_are_refused(split: str, recipe: Recipe, scenes: list[Record], tmp_path: Path) -> None:
    bare = [replace(record, boxes=()) if record.split == split else record for record in scenes]
    with pytest.raises(DataError, match=f"'{split}' has boxes"):
        Trainer(recipe, bare, tmp_path, device="cpu")


def test_on_the_command_line(recipe: Recipe, scene_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    options = f"--recipe fine-maps --data {scene_run / 'scenes' / 'captions.jsonl'} --start-from {recipe.start_from}"
    options += f" --output {tmp_path / 'run'} --epochs 1 --frozen-epochs 1 --train-pictures 20 --dev-pictures 5"
    stage = ["--encoder-options", '{"fine_stage": 1}']
    assert main(["train", *options.split(), *stage]) == 0
    assert "strongest_inside" in capsys.readouterr().err
    assert load(tmp_path / "run" / "best.safetensors").model.config.decoder.fine_width == 128


def test_parts_of_models_are_taken_without_their_fine_maps(
    recipe: Recipe, scenes: list[Record], tmp_path: Path
) -> None:
    Trainer(replace(recipe, epochs=1, frozen_epochs=1), scenes, tmp_path / "fine", device="cpu").run()
    fine = str(tmp_path / "fine" / "last.safetensors")
    train = [record for record in scenes if record.split == "train"]
    both = Recipe(encoder_from=fine, decoder_from=fine, max_length=12, refiner_options={"width": 48})
    model, _ = first_model(both, train)
    assert model.config.encoder.fine_stage is None
    assert model.config.decoder.fine_width == 0
    again, _ = first_model(replace(both, **FINE), train)
    assert again.encoder.map_shape == (2 * again.encoder.grid_shape[0], 2 * again.encoder.grid_shape[1])
    for one in (model, again):
        for name, tensor in load(fine).model.state_dict().items():
            if name.startswith(("encoder.", "decoder.")) and not name.startswith("decoder.fine."):
                assert torch.equal(one.state_dict()[name], tensor), name


def test_a_part_of_a_step_may_have_no_box(recipe: Recipe, scenes: list[Record], tmp_path: Path) -> None:
    few = [replace(record, boxes=()) if i % 4 else record for i, record in enumerate(scenes)]
    short = replace(recipe, epochs=1, frozen_epochs=1, batch_pictures=4, gradient_accumulation_steps=4)
    Trainer(short, few, tmp_path, device="cpu").run()


def test_maps_that_are_not_supervised_stay(recipe: Recipe, scenes: list[Record], tmp_path: Path) -> None:
    Trainer(replace(recipe, epochs=1, frozen_epochs=1), scenes, tmp_path / "fine", device="cpu").run()
    fine = tmp_path / "fine" / "last.safetensors"
    later = Recipe(start_from=str(fine), epochs=1, frozen_epochs=1, max_length=12, batch_pictures=10, ema_decay=0)
    for run, changes in {"words": {}, "reward": {"objective": "self_critical", "samples": 2}}.items():
        Trainer(replace(later, **changes), scenes, tmp_path / run, device="cpu").run()
        before, after = (load(one).model.state_dict() for one in (fine, tmp_path / run / "last.safetensors"))
        changed = {name for name, tensor in before.items() if not torch.equal(tensor, after[name])}
        assert "decoder.embed.weight" in changed
        assert not [name for name in changed if name.startswith("decoder.fine.")]


def test_the_options_of_the_first_model_are_kept(recipe: Recipe, scenes: list[Record], tmp_path: Path) -> None:
    start = load(recipe.start_from)
    maps = {
        "explain": "gradient",
        "gradient": {"sinks": "keep", "delay": 0},
        "attention": {"sinks": "subtract", "delay": 0},
    }
    about = {**start.about, "decoding": {"width": 2, "length_penalty": 0.8}, "maps": maps}
    save(tmp_path / "start.safetensors", replace(start, about=about))
    changed = replace(recipe, start_from=str(tmp_path / "start.safetensors"), epochs=1, frozen_epochs=1)
    Trainer(changed, scenes, tmp_path / "run", device="cpu").run()
    found = load(tmp_path / "run" / "best.safetensors").about
    assert (found["decoding"], found["maps"]) == (about["decoding"], maps)
    delayed = stored_options(replace(changed, map_delay=1))["maps"]
    assert delayed["attention"].items() >= {"sinks": "subtract", "delay": 1}.items()
    assert {**delayed, "attention": maps["attention"]} == maps
