"""Results show themselves through what is registered to draw them."""

import copy
import json
import pickle
import re
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from PIL import Image

import captioner.show.drawings  # noqa: F401  (registers what draws the results)
from captioner.errors import OptionError
from captioner.geometry import Geometry
from captioner.results import Alternative, Answer, Caption, ClipCaption, Contrast, Heads, Word
from captioner.results.shown import DRAWINGS, Shown


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.png"
    Image.new("RGB", (40, 30), "red").save(path)
    return path


@pytest.fixture
def caption(photo: Path) -> Caption:
    map_ = np.full((2, 2), 0.25, np.float32)
    return Caption(
        text="dog",
        words=(Word("dog", 0.5, map_),),
        score=-1.0,
        finished=True,
        image=str(photo),
        model="m",
        geometry=Geometry(size=(40, 30), side=32, grid=(2, 2), pad=False),
        source=photo,
    )


def results_of_each_kind() -> list[Caption | Answer]:
    """Also with other characters than ASCII, without words, with maps of very small and of equal numbers."""
    rng = np.random.default_rng(0)
    maps = np.exp(rng.normal(-12, 6, (3, 2, 4))).astype(np.float32)
    maps[1] = [[0, 1, 0.5, 0], [0, -0.0, 1e-30, 0]]
    geometry = Geometry(size=(40, 30), side=32, grid=(2, 4), pad=False)
    common: dict[str, Any] = {"image": "ein Bär.png", "model": "m", "geometry": geometry, "source": "ein Bär.png"}
    words = tuple(Word(text, 0.5, map_, off_grid=0.25) for text, map_ in zip(("a", "bär", '"'), maps, strict=True))
    of_caption: dict[str, Any] = {"score": -1.0, "finished": True, **common}
    other = Alternative(text="a", words=words[:1], score=-2.0, finished=False)
    return [
        Caption(text='a bär "', words=words, **of_caption),
        Caption(text="", words=(), needs_review=True, **of_caption),
        Caption(text='a bär "', words=words, alternatives=(other, other), **of_caption),
        ClipCaption(text='a bär "', words=words, frames=2, **of_caption),
        Answer(text="ja", probability=0.5, question="ist das ein Bär?", words=(), map=maps[1], **common),
    ]


@pytest.mark.parametrize("compact", [False, True])
@pytest.mark.parametrize("result", results_of_each_kind(), ids=lambda one: type(one).__name__)
def test_a_line_of_json_holds_the_plain_values(result: Caption | Answer, compact: bool) -> None:
    line = result.as_json(compact=compact)
    assert json.loads(line) == result.as_dict()
    assert "\n" not in line and line.isascii() is not compact
    # What json.dumps writes, but for the points of whole numbers in maps.
    usual = {"separators": (",", ":"), "ensure_ascii": False} if compact else {}
    assert re.sub(r"\b([01])\.0\b", r"\1", json.dumps(result.as_dict(), **usual)) == re.sub(
        r"\b([01])\.0\b", r"\1", line
    )


def test_maps_of_5_significant_digits_are_floats(caption: Caption) -> None:
    map_ = np.array([[1 / 3, 1], [0, 1.23456789e-7]], np.float32)
    one = replace(caption, words=(Word("dog", 0.5, map_),))
    rows = one.as_dict()["words"][0]["map"]
    assert rows == [[0.33333, 1.0], [0.0, 1.2346e-07]]
    assert all(type(value) is float for row in rows for value in row)
    assert one.as_json(image="other.png", more=1).endswith(
        '"map": [[0.33333, 1], [0, 1.2346e-07]]}], "alternatives": [], "more": 1}'
    )
    assert json.loads(one.as_json(image="other.png"))["image"] == "other.png"


def test_numbers_that_are_not_finite_are_written_as_before(caption: Caption) -> None:
    one = replace(caption, words=(Word("dog", 0.5, np.array([[np.nan, np.inf]], np.float32)),))
    assert '"map": [[NaN, Infinity]]' in one.as_json()
    assert one.as_dict()["words"][0]["map"][0][1] == float("inf")
    with pytest.raises(ValueError, match="JSON"):
        one.as_json(compact=True)


def test_views_of_a_word_are_not_written_onto_their_picture(caption: Caption, photo: Path, tmp_path: Path) -> None:
    maps = np.full((1, 2, 2, 2), 0.25, np.float32)
    link = tmp_path / "link.png"
    link.symlink_to(photo)
    before = photo.read_bytes()
    views = (
        Heads(caption=caption, place=0, maps=maps),
        Contrast(caption=caption, place=0, other="cat", probabilities=(0.5, 0.1), map=maps[0, 0]),
    )
    for view in views:
        for path in (photo, link):
            with pytest.raises(OptionError, match=r"photo|link"):
                view.figure(path)
    assert photo.read_bytes() == before


def test_a_pickle_shows_itself_where_nothing_was_imported(caption: Caption, tmp_path: Path) -> None:
    path = tmp_path / "caption.pickle"
    path.write_bytes(pickle.dumps(caption))
    code = "import pickle, sys; print(pickle.load(open(sys.argv[1], 'rb'))._repr_html_().count('<iframe'))"
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "1"
    assert pickle.loads(path.read_bytes()) == caption == copy.deepcopy(caption) == copy.copy(caption)


def test_a_result_of_another_package_is_drawn_by_what_it_registers(tmp_path: Path) -> None:
    @dataclass(frozen=True)
    class Tag(Shown):
        kind: ClassVar[str] = "tag"
        text: str

        def _pictures(self) -> list[Any]:
            return []

    with pytest.raises(OptionError, match=r"'tag'.*caption"):
        Tag("dog").page()

    class Drawn:
        @classmethod
        def page(cls, result: Any, path: str | Path | None) -> str:
            return f"<b>{result.text}</b>"

    DRAWINGS.register("tag")(Drawn)  # type: ignore[arg-type]
    try:
        assert Tag("dog").page() == "<b>dog</b>"
    finally:
        DRAWINGS.unregister("tag")
