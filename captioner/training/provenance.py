"""What the file of a model that is made of others says of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from captioner.training.start import each_once, recipes_of

_KEPT = ("epoch", "training_pictures")


@dataclass(frozen=True)
class Member:
    """A model file that another model is made of.

    Attributes:
        file: its path.
        about: what it says about itself, see `captioner.checkpoint.Checkpoint`.
        more: what is said of it beside that, such as its weight.
    """

    file: str | Path
    about: Mapping[str, Any]
    more: Mapping[str, Any] = field(default_factory=dict)


def about_of(objective: str, members: Sequence[Member]) -> dict[str, Any]:
    """What the file of the new model says.

    Map and decoding options are the first member's. Its recipe is ``objective``, which names the members under
    ``OBJECTIVE_of``; "earlier" are the recipes of all their runs. Scores are not taken over.
    """
    named: list[dict[str, Any]] = []
    runs: list[dict[str, Any]] = []
    before: list[dict[str, Any]] = []
    teachers: list[dict[str, Any]] = []
    for one in members:
        kept = {name: one.about[name] for name in _KEPT if name in one.about}
        named.append({"file": "/".join(Path(one.file).parts[-2:]), **one.more, **kept})
        teachers += one.about.get("teacher", [])
        *earlier, last = recipes_of(str(one.file)) or [{}]
        before += [recipe for recipe in earlier if recipe not in before]
        runs += [last] if last else []
    if len(members) > 1:
        runs = [recipe for recipe in runs if recipe not in before]  # the start, if it is one of them
    first = members[0].about
    about: dict[str, Any] = {name: first[name] for name in ("maps", "decoding") if name in first}
    about |= {"recipe": {"objective": objective, f"{objective}_of": named}, "earlier": before + runs}
    return about | ({"teacher": each_once(teachers)} if teachers else {})
