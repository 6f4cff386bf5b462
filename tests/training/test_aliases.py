"""Former names of options: each still works, with one warning that names today's."""

import argparse
import json
from pathlib import Path
from typing import Any

import pytest

from captioner.commands import train
from captioner.errors import OptionError
from captioner.training import aliases
from captioner.training.aliases import current, warning
from captioner.training.recipe import BUILT_IN, Recipe, default_of, options
from captioner.training.recipe_files import read_recipe

DEFAULTS = {option.name: default_of(option) for option in options()}


def parse(*words: str) -> tuple[Recipe, list[str]]:
    parser = argparse.ArgumentParser()
    train.add_arguments(parser)
    return train.chosen_recipe(parser.parse_args(["--data", "d", "--output", "o", *words]))


def other_value(name: str) -> Any:
    """A valid value that is not the default."""
    default = DEFAULTS[name]
    return not default if isinstance(default, bool) else default + 1 if isinstance(default, int) else 0.25


def test_the_help_and_the_completion_name_the_parts_of_the_registries() -> None:
    pytest.importorskip("torch")
    from captioner.model.answering.base import ANSWERERS
    from captioner.model.backbones import BACKBONES
    from captioner.model.decoder import DECODERS
    from captioner.model.refiners import REFINERS
    from captioner.training.tasks import TASKS

    registries = {
        "objective": TASKS,
        "decoder": DECODERS,
        "answerer": ANSWERERS,
        "backbone": BACKBONES,
        "refiner": REFINERS,
    }
    assert BUILT_IN.keys() == registries.keys()
    for option, registry in registries.items():
        assert sorted(BUILT_IN[option]) == sorted(registry), option
    for option in options():
        for name in BUILT_IN.get(option.name, ()):
            assert name in option.metadata["help"]


def test_a_key_of_a_table_that_is_an_option_now() -> None:
    recipe, lines = parse("--refiner-options", '{"kind": "cbam", "width": 16}')
    assert (recipe.refiner, recipe.refiner_options) == ("cbam", {"width": 16})
    (line,) = lines
    assert "--refiner-options kind is now --refiner" in line
    with pytest.raises(OptionError, match="give only refiner"):
        parse("--refiner-options", '{"kind": "cbam"}', "--refiner", "se")


@pytest.mark.parametrize(("old", "new"), aliases.OPTIONS.items())
def test_every_former_flag_is_taken_for_todays(old: str, new: str) -> None:
    value = other_value(new)
    words = ["--no-" + old.replace("_", "-")] if value is False else ["--" + old.replace("_", "-"), str(value)]
    recipe, lines = parse(*words)
    assert getattr(recipe, new) == value
    assert lines == [f"{aliases.flag(old)} is now {aliases.flag(new)}"]


@pytest.mark.parametrize(("old", "new"), aliases.OPTIONS.items())
def test_every_former_option_of_a_file_is_taken_for_todays(old: str, new: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(f"{old} = {json.dumps(other_value(new))}")
    values, line = read_recipe(file)
    assert values == {new: other_value(new)}
    assert line == f"{file}: {old} is now {new}"
    file.write_text(f"{old} = {json.dumps(other_value(new))}\n{new} = {json.dumps(other_value(new))}")
    with pytest.raises(OptionError, match=f"{old} and {new}.*give only {new}"):
        read_recipe(file)


@pytest.mark.parametrize(
    ("old", "new"), [("words", "cross_entropy"), ("reward", "self_critical"), ("text", "language_model")]
)
def test_former_objectives_are_taken_for_todays(old: str, new: str) -> None:
    recipe, lines = parse("--objective", old)
    assert recipe.objective == new
    assert lines == [f"--objective {old} is now --objective {new}"]


@pytest.mark.parametrize(("old", "new"), aliases.NESTED["decoder_options"].items())
def test_former_keys_of_the_decoder_are_taken_for_todays(old: str, new: str) -> None:
    recipe, lines = parse("--decoder-options", json.dumps({old: 7, "width": 8}))
    assert recipe.decoder_options == {new: 7, "width": 8}
    assert len(lines) == 1
    assert old in lines[0]
    assert new in lines[0]
    with pytest.raises(OptionError, match=f"{old} and {new} of decoder_options"):
        current({"decoder_options": {old: 7, new: 7}})


def test_both_names_on_the_command_line_are_refused() -> None:
    with pytest.raises(OptionError, match="hide_words and word_dropout"):
        parse("--hide-words", "0.1", "--word-dropout", "0.1")


def test_a_flag_goes_before_the_file_whatever_their_names(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text("warm_up = 7\ncut = 0.1")
    recipe, lines = parse("--recipe", str(file), "--warmup-steps", "9")
    assert (recipe.warmup_steps, recipe.crop) == (9, 0.1)
    assert lines == [f"{file}: warm_up is now warmup_steps, cut is now crop"]


def test_todays_names_give_no_warning() -> None:
    assert current({"word_dropout": 0.1, "objective": "cross_entropy"})[1] == []
    assert warning([]) == ""
    assert not aliases.OPTIONS.keys() & DEFAULTS.keys(), "a name means one thing"
    assert set(aliases.OPTIONS.values()) <= DEFAULTS.keys()
