"""What a run puts before and after each caption."""

import os
from dataclasses import dataclass, replace
from pathlib import Path
from string import Formatter

from captioner.errors import OptionError
from captioner.results import Caption

FIELDS = ("name", "stem", "folder", "parent", "index")


@dataclass(frozen=True, kw_only=True)
class Affixes:
    """Texts before and after every caption, in every output.

    ``{name}`` stands for the picture's file name, ``{stem}`` for that without its ending, ``{folder}`` for the path of
    its folder as it was given, ``{parent}`` for the name of its folder, and ``{index}`` for its number in the run, from
    1; ``{index:04}`` has four digits. Braces that are meant are doubled.

    Attributes:
        prefix, suffix: the texts.

    Raises:
        OptionError: another name in braces, or a brace that is not closed.
    """

    prefix: str = ""
    suffix: str = ""

    def __post_init__(self) -> None:
        for option in ("prefix", "suffix"):
            text = getattr(self, option)
            try:
                self._filled(text, dict.fromkeys(FIELDS, ""), 1)
            except (ValueError, LookupError) as error:
                raise OptionError(
                    f"--{option} '{text}': {error}",
                    remedy=f"in braces stand {', '.join(FIELDS)}; write {{{{ and }}}} for braces",
                ) from None

    def applied(self, caption: Caption, index: int) -> Caption:
        """The caption, and its alternatives, with both texts. ``words`` stay those of the model."""
        if not (self.prefix or self.suffix):
            return caption
        picture = Path(caption.image)
        values = {
            "name": picture.name,
            "stem": picture.stem,
            "folder": os.fspath(picture.parent),
            "parent": Path(os.path.abspath(picture)).parent.name,  # noqa: PTH100 - links keep the name they were given
        }
        values = {name: os.fsencode(value).decode("utf-8", "replace") for name, value in values.items()}
        before, after = (self._filled(text, values, index) for text in (self.prefix, self.suffix))
        return replace(
            caption,
            text=f"{before}{caption.text}{after}",
            alternatives=tuple(replace(one, text=f"{before}{one.text}{after}") for one in caption.alternatives),
        )

    @staticmethod
    def _filled(text: str, values: dict[str, str], index: int) -> str:
        parts = []
        for literal, name, form, conversion in Formatter().parse(text):
            parts.append(literal)
            if name is None:
                continue
            if name not in FIELDS:
                raise ValueError(f"there is no {{{name}}}")
            if conversion or (form and (name != "index" or not form.isdigit())):
                raise ValueError(f"{{{name}}} takes no '{conversion or form}'")
            if form and len(form) > 3:
                raise ValueError(f"{{index:{form}}} has too many digits")
            parts.append(format(index, form or "") if name == "index" else values[name])
        return "".join(parts)
