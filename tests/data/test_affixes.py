"""What goes before and after captions."""

import pytest

from captioner.data.affixes import Affixes
from captioner.errors import OptionError
from captioner.image import Geometry
from captioner.results import Caption


def caption(image: str) -> Caption:
    geometry = Geometry(size=(4, 4), side=4, grid=(1, 1))
    return Caption(
        text="a dog", words=(), score=0.0, finished=True, image=image, model="m", geometry=geometry, source=image
    )


@pytest.mark.parametrize(
    ("prefix", "suffix", "text"),
    [
        ("{stem}: ", "", "b c: a dog"),
        ("{name} {folder}/", " [{parent}]", "b c.jpg x/a/a dog [a]"),
        ("{index} {index:03} ", "{{}}", "7 007 a dog{}"),
    ],
)
def test_fields(prefix: str, suffix: str, text: str) -> None:
    assert Affixes(prefix=prefix, suffix=suffix).applied(caption("x/a/b c.jpg"), 7).text == text


def test_names_that_are_no_text_do_not_spoil_it() -> None:
    Affixes(prefix="{name}").applied(caption("b\udcff.jpg"), 1).text.encode("utf-8")


@pytest.mark.parametrize(
    "text", ["{size}", "{name!r}", "{name:>9}", "{0}", "{}", "{", "}", "{index:x}", "{index:99999}", "{name.x}"]
)
def test_other_braces_are_refused(text: str) -> None:
    with pytest.raises(OptionError, match=r"--suffix.*name, stem, folder, parent, index"):
        Affixes(suffix=text)
