"""Files of training options: those in the package, by name, and the user's own."""

import tomllib
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from captioner.errors import OptionError
from captioner.training import aliases
from captioner.training.recipe import default_of, options

_KINDS = {bool: "true or false", int: "a whole number", float: "a number", str: "text", dict: "a table"}


def named_recipes() -> list[str]:
    """The names of the recipes in the package."""
    folder = files(__package__).joinpath("recipes")
    return sorted(Path(file.name).stem for file in folder.iterdir() if file.name.endswith(".toml"))


def read_recipe(name: str | Path) -> tuple[dict[str, Any], str]:
    """The options that a recipe file sets.

    Args:
        name: one of `named_recipes`, or the path of a TOML file.

    Returns:
        The options by today's names, and a warning that names the renamed ones; empty if there are none.

    Raises:
        OptionError: there is no such recipe, it is not TOML, or an option is unknown or has the wrong type.
    """
    if str(name) in named_recipes():
        text, place = files(__package__).joinpath("recipes", f"{name}.toml").read_text(encoding="utf-8"), str(name)
    else:
        place = str(name)
        if not Path(name).is_file():
            raise OptionError(
                f"no recipe is called '{name}', and there is no such file",
                remedy=f"give a TOML file or one of {', '.join(named_recipes())}",
            )
        try:
            text = Path(name).read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise OptionError(f"{name}: cannot be read ({error})") from None
    try:
        values = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise OptionError(f"{place}: not TOML ({error})") from None
    try:
        values, renamed = aliases.current(values)
    except OptionError as error:
        raise OptionError(f"{place}: {error}") from None
    return checked(values, place), aliases.warning(renamed, place=place)


def checked(values: Mapping[str, Any], place: str) -> dict[str, Any]:
    """The options, which are known and have the types of their defaults.

    Raises:
        OptionError: one is unknown or has another type; the message begins with ``place``.
    """
    known = {option.name: default_of(option) for option in options()}
    for name, value in values.items():
        if name not in known:
            raise OptionError(f"{place}: no option is called '{name}'", remedy="'captioner train --help' lists them")
        default = known[name]
        kinds = (int, float) if isinstance(default, float) else (type(default),)
        if not isinstance(value, kinds) or (isinstance(value, bool) and not isinstance(default, bool)):
            raise OptionError(f"{place}: {name} must be {_KINDS[type(default)]}, not {value!r}")
    return dict(values)
