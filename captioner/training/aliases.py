"""Former names of recipe options and their values: recipes, run folders and model files of older versions hold them."""

from collections.abc import Mapping
from typing import Any

from captioner.errors import OptionError

OPTIONS: Mapping[str, str] = {
    "hide_words": "word_dropout",
    "own_words": "scheduled_sampling",
    "cut": "crop",
    "light": "colour_jitter",
    "average": "ema_decay",
    "accumulate": "gradient_accumulation_steps",
    "longest": "max_length",
    "warm_up": "warmup_steps",
    "final_rate": "final_learning_rate_ratio",
    "clip": "clip_norm",
    "flips": "horizontal_flip",
    "cross_entropy": "cross_entropy_weight",
}
"""Former option -> option."""

VALUES: Mapping[str, Mapping[str, str]] = {
    "objective": {
        "words": "cross_entropy",
        "reward": "self_critical",
        "text": "language_model",
        "mean": "average",
    },
}
"""Option -> former value -> value."""

NESTED: Mapping[str, Mapping[str, str]] = {
    "decoder_options": {"longest": "max_length", "look_after_reading": "attend_after_lstm"},
}
"""Option that is a table -> former key -> key."""

MOVED: Mapping[str, Mapping[str, str]] = {"refiner_options": {"kind": "refiner"}}
"""Option that is a table -> former key -> the option that it is now."""


def current(values: Mapping[str, Any]) -> tuple[dict[str, Any], list[tuple[str, str]]]:
    """A recipe in today's names.

    Args:
        values: options by name, some of them perhaps under their former names.

    Returns:
        The same options by today's names, and each (former, today's) name that was replaced, in order. The name of a
        value is "objective words", that of a key in a table "decoder_options.longest".

    Raises:
        OptionError: an option is given under both names.
    """
    renamed: list[tuple[str, str]] = []
    result: dict[str, Any] = {}
    for option, value in values.items():
        name = OPTIONS.get(option, option)
        if name != option:
            if name in values:
                raise OptionError(f"{option} and {name} are one option and both are given", remedy=f"give only {name}")
            renamed.append((option, name))
        if name in VALUES and isinstance(value, str) and value in VALUES[name]:
            renamed.append((f"{name} {value}", f"{name} {VALUES[name][value]}"))
            value = VALUES[name][value]
        if name in MOVED and isinstance(value, dict):
            value = _without_moved(name, value, values, result, renamed)
        if name in NESTED and isinstance(value, dict):
            value = _current_keys(name, value, renamed)
        result[name] = value
    return result, renamed


def _without_moved(
    table: str,
    given: Mapping[str, Any],
    values: Mapping[str, Any],
    result: dict[str, Any],
    renamed: list[tuple[str, str]],
) -> dict[str, Any]:
    """A table without the keys that are options now; these go to the result."""
    kept = dict(given)
    for key, name in MOVED[table].items():
        if key in kept:
            if name in values:
                raise OptionError(
                    f"{key} of {table} and {name} are one option and both are given", remedy=f"give only {name}"
                )
            result[name] = kept.pop(key)
            renamed.append((f"{table}.{key}", name))
    return kept


def _current_keys(table: str, values: Mapping[str, Any], renamed: list[tuple[str, str]]) -> dict[str, Any]:
    result = {}
    for key, value in values.items():
        name = NESTED[table].get(key, key)
        if name != key:
            if name in values:
                raise OptionError(
                    f"{key} and {name} of {table} are one option and both are given", remedy=f"give only {name}"
                )
            renamed.append((f"{table}.{key}", f"{table}.{name}"))
        result[name] = value
    return result


def warning(renamed: list[tuple[str, str]], *, place: str = "") -> str:
    """The line that tells a user the names to use from now on; empty where nothing was renamed."""
    if not renamed:
        return ""
    line = ", ".join(f"{old} is now {new}" for old, new in renamed)
    return f"{place}: {line}" if place else line


def flag(name: str) -> str:
    """The command-line form of an option's name."""
    return "--" + name.replace("_", "-")
