"""Failures, and the outcomes that they and captions are."""

import os
from dataclasses import dataclass, field
from typing import Any

from captioner.errors import CaptionerError
from captioner.image import Picture, ReadsBytes
from captioner.results.captions import Caption


@dataclass(frozen=True)
class Failure:
    """A picture that could not be captioned; it takes the place of its `Caption`.

    Attributes:
        image: the path or name of the picture, "" for one that came from memory.
        error: one line for the user: which picture, what is wrong, with which value.
        remedy: what the user can do; "" where nothing is known.
        source: what was to be captioned.
    """

    image: str
    error: str
    remedy: str = ""
    source: Picture | None = field(default=None, repr=False, compare=False)

    @classmethod
    def of(cls, picture: Picture, error: CaptionerError) -> "Failure":
        """The failure of a picture for which an error was raised."""
        return cls(path_of(picture), str(error).removesuffix(f"; {error.remedy}"), error.remedy, picture)

    def __str__(self) -> str:
        return f"{self.error}; {self.remedy}" if self.remedy else self.error

    def as_dict(self) -> dict[str, Any]:
        """Plain values: "image", "error" and, where one is known, "remedy"."""
        return {"image": self.image, "error": self.error, **({"remedy": self.remedy} if self.remedy else {})}


Outcome = Caption | Failure
"""What comes out for each picture that goes in, in the same order."""


def path_of(picture: Picture) -> str:
    """The path of a picture, or the name of one that reads its own bytes; "" for one that came from memory."""
    try:
        if isinstance(picture, (str, os.PathLike)):
            return os.fsdecode(picture)
        return str(picture) if isinstance(picture, ReadsBytes) else ""
    except Exception:  # a foreign class may raise anything; opening the picture reports it
        return ""
