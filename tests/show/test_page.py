"""Pages: what they hold, how exactly, and that nothing from outside becomes part of them."""

import base64
import html
import io
import json
import os
import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from captioner.data.writers import PageFile
from captioner.errors import ImageError, OptionError
from captioner.image import Geometry
from captioner.results import Caption
from captioner.show.page import EVEN, assets, page, payload, quantise, restore
from captioner.show.scale import top_of_scale

MakeCaption = Callable[..., Caption]

HOSTILE = [
    "</script><script>alert(1)</script>",
    "<!--<script>",
    "]]>",
    '"><img src=x onerror=alert(1)>',
    "'\"&amp;<b>",
    "\u2028\u2029\u0000\x1b",
    "\u202egnp.exe",
    "{{constructor}}${1}`\\",
    "javascript:alert(1)",
    "__proto__",
]


class Document(HTMLParser):
    """What a browser makes of a document: its elements, and the text in them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {}
        self._open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in ("meta", "img"):
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open:
            self.texts.setdefault(self._open[-1], []).append(data)

    def tags(self) -> list[str]:
        return [tag for tag, _ in self.elements]


# How exact the maps are.


@given(
    seed=st.integers(0, 2**32 - 1),
    rows=st.integers(1, 20),
    columns=st.integers(1, 20),
    sharpness=st.floats(0, 60),
    pad=st.booleans(),
)
def test_a_byte_a_cell_is_as_exact_as_is_said(seed: int, rows: int, columns: int, sharpness: float, pad: bool) -> None:
    geometry = Geometry(size=(90, 60), side=64, grid=(rows, columns), pad=pad)
    random = np.random.default_rng(seed)
    maps = []
    for _ in range(3):
        map_ = np.exp(sharpness * random.random(geometry.grid)) * geometry.mask
        maps.append((map_ / map_.sum()).astype(np.float32))
    bytes_, top = quantise(maps, geometry)
    assert bytes_.dtype == np.uint8
    values = np.stack(maps) * geometry.mask.sum()
    error = np.abs(restore(bytes_, top) - values)
    assert (error[values < 1] <= 1 / 128 + 1e-5).all()
    seen = values >= 1
    assert (np.abs(np.log(restore(bytes_, top)[seen] / values[seen])) <= np.log(top) / 382 + 1e-4).all()
    assert top == pytest.approx(max(3.0, values.max()), rel=1e-5)


@pytest.mark.parametrize("pad", [False, True])
@pytest.mark.parametrize("grid", [(1, 1), (7, 7), (14, 14), (3, 31)])
def test_an_even_map_is_even_to_the_bit(grid: tuple[int, int], pad: bool) -> None:
    geometry = Geometry(size=(90, 60), side=64, grid=grid, pad=pad)
    bytes_, top = quantise([(geometry.mask / geometry.mask.sum()).astype(np.float32)], geometry)
    assert set(np.unique(bytes_[0][geometry.mask])) == {EVEN}
    assert (restore(bytes_, top)[0][geometry.mask] == 1).all()


def test_the_scale_is_that_of_the_figure(make_caption: MakeCaption) -> None:
    for strength in (2.0, 9.0):
        map_ = np.full((4, 4), (1 - strength / 16) / 15, np.float32)
        map_[1, 2] = strength / 16
        caption = make_caption(["dog"], [map_])
        assert payload(caption)["captions"][0]["scale"] == [pytest.approx(top_of_scale(caption))]


# What the viewer is given.


def test_the_data_of_a_caption(make_caption: MakeCaption, tmp_path: Path) -> None:
    geometry = Geometry(size=(90, 60), side=64, grid=(2, 3), pad=True)
    map_ = np.array([[0.5, 0.25, 0.25], [0, 0, 0]], np.float32)
    Image.new("RGB", (90, 60), "red").save(tmp_path / "dog.png")
    path = str(tmp_path / "dog.png")
    caption = make_caption(
        ["a", "dog"], [map_, map_], geometry=geometry, others=[["a", "red", "dog"]], image=path, source=path
    )
    data = json.loads(json.dumps(payload(caption)))
    assert data["name"] == "dog.png"
    assert data["size"] == [90, 60]
    assert data["extent"] == pytest.approx(geometry.extent)
    assert data["grid"] == [2, 3]
    assert data["model"] == "tiny"
    assert data["explain"] == "attention"
    assert payload(replace(caption, explain="occlusion"))["explain"] == "occlusion"
    best, other = data["captions"]
    assert best["text"] == "a dog"
    assert best["words"] == [{"word": "a", "probability": 0.95}, {"word": "dog", "probability": 0.88}]
    assert (best["score"], best["finished"]) == (-0.25, True)
    assert other["text"] == "a red dog"
    bytes_ = np.frombuffer(base64.b64decode(other["maps"]), np.uint8)
    assert bytes_.shape == (3 * 2 * 3,)
    maps = restore(np.frombuffer(base64.b64decode(best["maps"]), np.uint8), *best["scale"]).reshape(2, 2, 3)
    np.testing.assert_allclose(maps / geometry.mask.sum(), caption.maps, atol=0.01)

    assert payload(caption, image_url="/pictures/7")["image"] == "/pictures/7"


@pytest.mark.parametrize("size", [(4000, 3000), (3000, 4000), (1500, 20), (300, 200), (1, 1)])
def test_the_picture_goes_along_but_no_larger_than_needed(make_caption: MakeCaption, size: tuple[int, int]) -> None:
    geometry = Geometry(size=size, side=64, grid=(4, 4))
    caption = make_caption(["dog"], geometry=geometry, source=Image.new("RGB", size, (200, 30, 30)))
    kind, _, content = payload(caption)["image"].partition(",")
    assert kind == "data:image/jpeg;base64"
    picture = Image.open(io.BytesIO(base64.b64decode(content)))
    assert max(picture.size) == min(max(size), 1024)
    assert picture.width / picture.height == pytest.approx(size[0] / size[1], rel=0.05)


@pytest.mark.parametrize("size", [(3, 3000), (3, 30000), (30000, 3), (1, 1)])
def test_the_picture_of_a_page_has_a_largest_size(make_caption: MakeCaption, size: tuple[int, int]) -> None:
    geometry = Geometry(size=size, side=64, grid=(4, 4))
    caption = make_caption(["dog"], geometry=geometry, source=Image.new("RGB", size, (200, 30, 30)))
    picture = Image.open(io.BytesIO(base64.b64decode(payload(caption)["image"].partition(",")[2])))
    assert max(picture.size) == min(max(size), 1024)
    assert min(picture.size) >= 1
    assert len(caption.page()) < 80_000


def test_a_page_opens_the_picture_once_and_leaves_it(
    make_caption: MakeCaption, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = []
    picture = Image.new("RGB", (3000, 2000), (200, 30, 30))
    monkeypatch.setattr(Caption, "picture", property(lambda self: opened.append(self) or picture))
    caption = make_caption(["a", "dog"], others=[["a", "cat"], ["dogs"]])
    page([caption])
    assert len(opened) == 1
    assert picture.size == (3000, 2000)  # it may be the caption's own
    payload(caption, image_url="/pictures/7")
    assert len(opened) == 1


def test_how_much_the_picture_mattered_is_there_where_it_is_known(make_caption: MakeCaption) -> None:
    caption = make_caption(["a", "dog"])
    words = (caption.words[0], replace(caption.words[1], probability=0.5, off_grid=0.25))
    data = payload(replace(caption, words=words))["captions"][0]["words"]
    assert data == [{"word": "a", "probability": 0.95}, {"word": "dog", "probability": 0.5, "off_grid": 0.25}]


def test_a_caption_without_words(make_caption: MakeCaption) -> None:
    (only,) = payload(make_caption([]))["captions"]
    assert (only["words"], only["maps"], only["scale"]) == ([], "", [3.0])
    assert "<section><p></p>" in page([make_caption([])])


def test_a_picture_that_is_gone(make_caption: MakeCaption, tmp_path: Path) -> None:
    caption = make_caption(["dog"], image="gone.jpg", source=str(tmp_path / "gone.jpg"))
    with pytest.raises(ImageError, match=r"gone.jpg: no such file"):
        caption.page(tmp_path / "page.html")
    assert list(tmp_path.iterdir()) == []
    assert caption._repr_html_() is None
    assert caption._repr_jpeg_() is None


# The document.


def test_the_document_lets_nothing_run_but_the_viewer(make_caption: MakeCaption) -> None:
    document = Document(page([make_caption(["a", "dog"])]))
    policy = next(a["content"] for tag, a in document.elements if tag == "meta" and "http-equiv" in a)
    assert policy is not None
    assert policy.startswith("default-src 'none'; img-src data:; ")
    assert "unsafe" not in policy
    assert "*" not in policy
    for _, attributes in document.elements:
        assert not any(name.startswith("on") or name in ("style", "src", "href") for name in attributes)
    assert document.tags().count("style") == 1
    assert document.tags().count("script") == 2  # the data and the viewer
    script, style = assets()
    assert "</script" not in script.lower()
    assert "</style" not in style.lower()
    for forbidden in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "Function(", "fetch("):
        assert forbidden not in script
    assert "url(" not in style
    assert "@import" not in style


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_names_and_words_stay_text(make_caption: MakeCaption, text: str) -> None:
    picture = Image.new("RGB", (120, 90))
    plain = Document(page([make_caption(["a", "dog"], others=[["b"]], image="x.jpg", source=picture)]))
    caption = make_caption(["a", text], others=[[text]], image=f"photos/{text}", source=picture)
    for document in (Document(caption.page()), Document(page([caption], title=text))):
        assert document.elements == plain.elements
        data = json.loads(document.texts["script"][0])
        assert data["captions"][0]["words"][1]["word"] == text
        assert data["captions"][1]["text"] == text
        assert data["name"] == text.rpartition("/")[2]
    assert "".join(document.texts["title"]) == text
    assert "".join(document.texts["p"]) == f"a {text}"
    block = caption.page().partition('<script type="application/json">')[2].partition("</script>")[0]
    assert not set("<>&\u2028\u2029") & set(block)


def test_names_that_are_no_text(make_caption: MakeCaption, tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9.jpg")
    caption = make_caption(["dog"], image=f"photos/{name}")
    text = caption.page(tmp_path / "page.html")
    assert (tmp_path / "page.html").read_text(encoding="utf-8") == text
    assert payload(caption)["name"] == "caf\ufffd.jpg"
    assert "<title>caf\ufffd.jpg</title>" in text


def test_titles(make_caption: MakeCaption) -> None:
    def title(text: str) -> str:
        return html.unescape(re.findall("<title>(.*)</title>", text)[0])

    assert title(make_caption(["a", "dog"]).page()) == "a dog"
    assert title(make_caption(["a", "dog"], image="photos/x.jpg").page()) == "x.jpg"
    assert title(page([make_caption(["dog"])] * 3)) == "3 captions"
    assert title(page([make_caption(["dog"])], title="Holidays & more")) == "Holidays & more"


def test_a_page_is_small(make_caption: MakeCaption) -> None:
    """Noise is the worst of pictures; what is not picture is less than 60 KB."""
    caption = make_caption(["dog"] * 12, image="x.jpg")
    assert len(caption.page()) - len(payload(caption)["image"]) < 60_000


# Notebooks.


def test_a_notebook_shows_the_page_in_a_frame_of_its_own(make_caption: MakeCaption) -> None:
    caption = make_caption(["a", HOSTILE[0], HOSTILE[3]], image=f"photos/{HOSTILE[4]}")
    shown = caption._repr_html_()
    assert shown is not None
    outer = Document(shown)
    (frame, attributes), (plain, _) = outer.elements
    assert (frame, plain) == ("iframe", "p")
    assert attributes["sandbox"] == "allow-scripts"  # no allow-same-origin: it cannot reach the notebook
    assert attributes["title"] == caption.text
    assert "".join(outer.texts["p"]) == caption.text
    inner = Document(attributes["srcdoc"] or "")
    assert json.loads(inner.texts["script"][0])["captions"][0]["text"] == caption.text
    assert repr(caption).count("array") == 0


def test_what_shows_no_pages_shows_the_figure_small(make_caption: MakeCaption) -> None:
    geometry = Geometry(size=(800, 600), side=64, grid=(8, 8))
    caption = make_caption(["dog"] * 11, geometry=geometry)
    shown = caption._repr_jpeg_()
    assert shown is not None
    assert len(shown) < 400_000  # of noise
    figure = Image.open(io.BytesIO(shown)).convert("RGB")
    assert 400 < figure.width < 1200
    full = caption.figure()
    whole = io.BytesIO()
    full.savefig(whole, dpi=60)
    # Its colours are those of the figure.
    difference = np.asarray(figure, dtype=float) - np.asarray(Image.open(whole).convert("RGB"), dtype=float)
    assert np.abs(difference).mean() < 10


# Files.


def test_a_page_goes_to_a_file(make_caption: MakeCaption, tmp_path: Path) -> None:
    caption = make_caption(["a", "dog"])
    path = tmp_path / "new" / "words.html"
    assert caption.page(path) == path.read_text(encoding="utf-8") == page([caption])
    assert [file.name for file in path.parent.iterdir()] == ["words.html"]


def test_a_file_of_several_is_the_page_of_several(make_caption: MakeCaption, tmp_path: Path) -> None:
    captions = [make_caption(["a", "dog"]), make_caption(["a", "cat"])]
    with PageFile(tmp_path / "all.htm", title="Pets", several=True, smooth=False) as file:
        for caption in captions:
            file.write(caption)
    assert (tmp_path / "all.htm").read_text(encoding="utf-8") == page(captions, title="Pets", smooth=False)


def test_what_was_there_stays_until_the_page_is_whole(make_caption: MakeCaption, tmp_path: Path) -> None:
    path = tmp_path / "words.html"
    path.write_text("the old one")

    def failing() -> None:
        with PageFile(path) as file:
            file.write(make_caption(["a", "dog"]))
            assert path.read_text() == "the old one"
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        failing()
    with PageFile(path):
        pass  # no caption came
    assert path.read_text() == "the old one"
    assert [file.name for file in tmp_path.iterdir()] == ["words.html"]


def test_a_link_stays_a_link(make_caption: MakeCaption, tmp_path: Path) -> None:
    (tmp_path / "link.html").symlink_to(tmp_path / "real.html")
    make_caption(["dog"]).page(tmp_path / "link.html")
    assert (tmp_path / "link.html").is_symlink()
    assert (tmp_path / "real.html").read_text(encoding="utf-8").startswith("<!DOCTYPE html>")


def test_places_where_no_page_can_be(make_caption: MakeCaption, tmp_path: Path) -> None:
    (tmp_path / "folder.html").mkdir()
    (tmp_path / "file").touch()
    for name, message in (
        ("words.pdf", r"words.pdf: a page ends in .html, not '.pdf'"),
        ("words", r"words: a page ends in .html, not ''"),
        ("folder.html", r"folder.html: cannot be written \(Is a directory\)"),
        ("file/words.html", r"words.html: cannot be written"),
        ("x" * 300 + ".html", r"x.html: cannot be written \(File name too long\)"),
    ):
        with pytest.raises(OptionError, match=message):
            make_caption(["dog"]).page(tmp_path / name)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["file", "folder.html"]
