"""Where the file lies that a model file shares its encoder with."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TypeGuard

_LONGEST_NAME = 200  # bytes

SHARED_PARTS = ("encoder.", "refiner.")
"""What the names of weights begin with that a file may leave to another: its encoder, and perhaps its refiner."""


def is_shared_name(name: object) -> TypeGuard[str]:
    """Whether a file may name another so: without a folder, since a stranger's file reads nothing elsewhere."""
    return (
        isinstance(name, str)
        and name.endswith(".safetensors")
        and name.isprintable()
        and len(name.encode("utf-8", "replace")) <= _LONGEST_NAME
        and set(name).isdisjoint("/\\:")
    )


def places_of(name: str, path: str) -> list[str]:
    """The files of a name that the file at a path may mean: beside it and in the folder above, of a link and of what
    it leads to."""
    files = dict.fromkeys((os.path.abspath(path), os.path.realpath(path)))  # noqa: PTH100
    folders = [os.path.dirname(file) for file in files]  # noqa: PTH120
    places = [os.path.join(up, name) for folder in folders for up in (folder, os.path.dirname(folder))]  # noqa: PTH118, PTH120
    return [place for place in dict.fromkeys(places) if os.path.isfile(place)]  # noqa: PTH113
