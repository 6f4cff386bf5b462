"""Names in model files of format version 1, and what they are now."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

OLD_OPTIONS = {
    "decoder": {"longest": "max_length", "look_after_reading": "attend_after_lstm"},
}


def current_names(config: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """A configuration of format version 1 with the names of today, and the names that were replaced."""
    renamed: dict[str, Any] = dict(config)
    found = []
    for part, names in OLD_OPTIONS.items():
        if isinstance(config.get(part), dict):
            found += [f"{old} (now {new})" for old, new in names.items() if old in config[part]]
            renamed[part] = {names.get(name, name): value for name, value in config[part].items()}
    return renamed, found


OLD_WEIGHTS = {
    "decoder.from_hidden.": "decoder.hidden_to_embedding.",
    "decoder.from_context.": "decoder.context_to_embedding.",
    "decoder.deep.": "decoder.deep_output.",
    "refiner.normalise.": "refiner.input_norm.",
    "refiner.project.": "refiner.projection.",
}
OLD_BLOCK_WEIGHTS = {
    "norm_words": "self_norm",
    "qkv": "self_qkv",
    "join": "self_output",
    "norm_look": "cross_norm",
    "look": "cross_attention",
    "from_image": "cross_output",
    "norm_think": "feed_forward_norm",
    "think": "feed_forward",
}


def current_weight_name(name: str) -> str:
    """The present name of a weight of format version 1."""
    for old, new in OLD_WEIGHTS.items():
        if name.startswith(old):
            return new + name.removeprefix(old)
    parts = name.split(".")
    if parts[:2] == ["decoder", "blocks"] and len(parts) > 3:
        parts[3] = OLD_BLOCK_WEIGHTS.get(parts[3], parts[3])
    return ".".join(parts)
