"""Results show themselves through what is registered to draw them."""

import copy
import pickle
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from PIL import Image

import captioner.show.drawings  # noqa: F401  (registers what draws the results)
from captioner.errors import OptionError
from captioner.geometry import Geometry
from captioner.results import Caption, Contrast, Heads, Word
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
