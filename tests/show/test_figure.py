"""Maps lie on the picture exactly where they belong, on one scale, and an even map shows nothing."""

import io
import math
import xml.etree.ElementTree as ElementTree
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from captioner.errors import OptionError
from captioner.image import Geometry
from captioner.options import EXPLAIN
from captioner.results import Caption, Word
from captioner.show.figure import FIGURE_PIXELS, _layout, draw_caption, save_figure
from captioner.show.page import save_page
from captioner.show.scale import MAP_OF, on_picture, overlay, top_of_scale

GEOMETRIES = [
    Geometry(size=size, side=224, grid=grid, pad=pad)
    for size in ((320, 240), (241, 317), (97, 501), (640, 95))
    for grid in ((7, 7), (8, 5))
    for pad in (False, True)
]


def one_hot(geometry: Geometry, cell: tuple[int, int]) -> np.ndarray:
    map_ = np.zeros(geometry.grid, np.float32)
    map_[cell] = 1
    return map_


def even(geometry: Geometry) -> np.ndarray:
    return (geometry.mask / geometry.mask.sum()).astype(np.float32)


def peak(values: np.ndarray) -> tuple[float, float]:
    """The centre of the brightest pixels, (x, y)."""
    ys, xs = np.nonzero(values >= values.max() * 0.999)
    return float(xs.mean()) + 0.5, float(ys.mean()) + 0.5


def noise(size: tuple[int, int]) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels)


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
@pytest.mark.parametrize("smooth", [True, False])
def test_a_map_of_one_cell_peaks_in_that_cells_rectangle(geometry: Geometry, smooth: bool) -> None:
    for cell in zip(*geometry.mask.nonzero(), strict=True):
        left, top, right, bottom = geometry.cell_box(*cell)
        if min(right - left, bottom - top) < 2:
            continue  # a sliver at the padding may lie between the centres of pixels
        spread = on_picture(one_hot(geometry, cell), geometry, geometry.size, smooth=smooth)
        assert spread.shape == geometry.size[::-1]
        x, y = peak(spread)
        assert left < x < right
        assert top < y < bottom


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
def test_unsmoothed_every_pixel_has_the_value_of_its_cell(geometry: Geometry) -> None:
    values = np.arange(geometry.grid[0] * geometry.grid[1], dtype=np.float32).reshape(geometry.grid)
    spread = on_picture(values, geometry, geometry.size, smooth=False)
    width, height = geometry.size
    for y in range(0, height, 7):
        for x in range(0, width, 7):
            near_edge = geometry.cell_of(x + 0.49, y + 0.49) != geometry.cell_of(x + 0.51, y + 0.51)
            assert near_edge or spread[y, x] == values[geometry.cell_of(x + 0.5, y + 0.5)]


def test_smoothed_a_map_keeps_its_place_at_another_size() -> None:
    geometry = Geometry(size=(3000, 2000), side=224, grid=(7, 7), pad=True)
    left, top, right, bottom = (edge / 10 for edge in geometry.cell_box(3, 5))
    x, y = peak(on_picture(one_hot(geometry, (3, 5)), geometry, (300, 200)))
    assert abs(x - (left + right) / 2) < 1
    assert abs(y - (top + bottom) / 2) < 1


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
@pytest.mark.parametrize("smooth", [True, False])
def test_an_even_map_leaves_the_picture_as_it_is(geometry: Geometry, smooth: bool) -> None:
    picture = noise(geometry.size)
    assert (overlay(picture, even(geometry), geometry, top=3.0, smooth=smooth) == np.asarray(picture)).all()


def test_the_overlay_changes_the_cell_and_nothing_far_from_it() -> None:
    geometry = Geometry(size=(210, 140), side=224, grid=(7, 7))
    picture = Image.new("RGB", geometry.size, (0, 0, 0))
    changed = overlay(picture, one_hot(geometry, (2, 4)), geometry, top=49.0).any(2)
    rows, columns = changed.nonzero()
    # Bilinear light reaches the centres of the neighbouring cells: half a cell beyond the cell itself.
    assert columns.min() + 1 >= 3.5 * 30
    assert columns.max() <= 5.5 * 30
    assert rows.min() + 1 >= 1.5 * 20
    assert rows.max() <= 3.5 * 20
    assert changed[50, 135]


def make_caption(maps: list[np.ndarray], words: list[str], *, size: tuple[int, int] = (120, 90)) -> Caption:
    geometry = Geometry(size=size, side=64, grid=(4, 4))
    return Caption(
        text=" ".join(words),
        words=tuple(Word(text, 0.5, map_) for text, map_ in zip(words, maps, strict=True)),
        score=-1.0,
        finished=True,
        image="",
        model="tiny",
        geometry=geometry,
        source=noise(size),
    )


def shapes(strengths: list[float]) -> list[np.ndarray]:
    """Maps on 4 x 4 cells with so many times the even share in one cell, the rest shared evenly."""
    maps = []
    for strength in strengths:
        map_ = np.full((4, 4), (1 - strength / 16) / 15, np.float32)
        map_[1, 2] = strength / 16
        maps.append(map_)
    return maps


def panels_of(figure: Figure) -> list[np.ndarray]:
    return [np.asarray(axis.images[0].get_array()) for axis in figure.axes if axis.images]


def test_one_scale_for_the_whole_caption() -> None:
    """The weaker map of a caption stays the weaker one in the figure: no map is stretched to its own range."""
    caption = make_caption(shapes([8.0, 4.0, 1.0]), ["a", "dog", "runs"])
    assert top_of_scale(caption) == pytest.approx(8)
    picture, strong, weak, flat = (panel.astype(int) for panel in panels_of(draw_caption(caption)))
    assert np.abs(strong - picture).mean() > 1.3 * np.abs(weak - picture).mean() > 0
    assert (flat == picture).all()
    # Alone, the weaker map would have the scale to itself and glow as the strong one does.
    alone = panels_of(draw_caption(make_caption(shapes([4.0]), ["dog"])))[1].astype(int)
    assert np.abs(alone - picture).mean() > 1.3 * np.abs(weak - picture).mean()


@pytest.mark.parametrize("explain", EXPLAIN)
def test_the_scale_says_what_the_maps_are_made_of(explain: str) -> None:
    caption = replace(make_caption(shapes([8.0]), ["dog"]), explain=explain)
    label = draw_caption(caption).axes[-1].get_xlabel()
    assert label == f"{MAP_OF[explain]}, in multiples of its even share"
    assert len(set(MAP_OF.values())) == len(EXPLAIN)


def test_a_caption_of_nearly_even_maps_does_not_look_focused() -> None:
    caption = make_caption(shapes([1.2, 1.1]), ["a", "dog"])
    assert top_of_scale(caption) == 3
    assert top_of_scale(make_caption([], [])) == 3


def test_every_word_has_a_panel_function_words_too() -> None:
    words = ["a", "dog", "and", "the", "cat", "'s", "ball", "in", "a", "park"]
    figure = draw_caption(make_caption(shapes([2.0] * 10), words))
    assert len(panels_of(figure)) == 11
    titles = [axis.get_title() for axis in figure.axes if axis.images]
    assert titles == ["the picture", *(f"{word}  0.50" for word in words)]


def test_a_panel_says_how_much_likelier_the_picture_makes_its_word() -> None:
    caption = make_caption(shapes([2.0] * 5), ["a", "b", "c", "d", "e"])
    gains = (0.0, math.log(12.4), -math.log(2), -9.0, 30.0)
    words = tuple(replace(word, gain=gain) for word, gain in zip(caption.words, gains, strict=True))
    titles = [axis.get_title() for axis in draw_caption(replace(caption, words=words)).axes if axis.images]
    assert [title.split()[-1] for title in titles[1:6]] == ["1.0×", "12×", "0.5×", "<0.1×", ">1000×"]


def test_a_panel_says_that_its_word_points_at_nothing() -> None:
    caption = make_caption(shapes([2.0] * 3), ["a", "dog", "of"])
    words = tuple(replace(word, off_grid=off) for word, off in zip(caption.words, (0.0, 0.31, 0.84), strict=True))
    titles = [axis.title for axis in draw_caption(replace(caption, words=words)).axes if axis.images][1:]
    assert [title.get_text() for title in titles] == ["a  0.50", "dog  0.50", "of  0.50  off-grid 84%"]
    assert [title.get_color() for title in titles] == ["0", "0", "0.55"]


def test_a_caption_without_words_is_its_picture() -> None:
    assert len(panels_of(draw_caption(make_caption([], [])))) == 1


@pytest.mark.parametrize("size", [(120, 90), (40, 300), (900, 60), (1, 1)])
def test_panels_show_the_whole_picture(size: tuple[int, int]) -> None:
    figure = draw_caption(make_caption(shapes([2.0]), ["dog"], size=size))
    for panel in panels_of(figure):
        assert panel.shape[1] / panel.shape[0] == pytest.approx(size[0] / size[1], rel=0.05)
        assert max(panel.shape) <= 480


MAGIC = {".png": b"\x89PNG", ".pdf": b"%PDF", ".svg": b"<?xml", ".jpg": b"\xff\xd8"}


@pytest.mark.parametrize("suffix", MAGIC)
def test_words_with_special_characters_are_drawn_in_every_format(tmp_path: Path, suffix: str) -> None:
    """Dollar signs would start a formula, and angle brackets a tag."""
    words = ["$5", "$\\frac{$", "<b>", "&", "]]>", '"', "_^%#", "{}"]
    path = tmp_path / "new" / f"figure{suffix}"
    make_caption(shapes([2.0] * len(words)), words).figure(path)
    assert path.read_bytes().startswith(MAGIC[suffix])
    if suffix == ".svg":
        ElementTree.parse(path)


def test_a_notebook_shows_a_figure_that_is_the_value_of_a_cell() -> None:
    png = draw_caption(make_caption(shapes([2.0]), ["dog"]))._repr_png_()
    with Image.open(io.BytesIO(png)) as shown:
        assert shown.format == "PNG"
        assert np.ptp(np.asarray(shown.convert("L"))) > 100


def test_figures_of_other_formats_are_refused(tmp_path: Path) -> None:
    figure = draw_caption(make_caption(shapes([2.0]), ["dog"]))
    for name in ("figure.docx", "figure"):
        with pytest.raises(OptionError, match=rf"{name}: a figure ends in .png, .pdf or .svg"):
            save_figure(figure, tmp_path / name)
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(OptionError, match=r"folder.png.*directory"):
        save_figure(figure, tmp_path / "folder.png")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder.png"]


# How large, and under which settings.


@pytest.mark.parametrize("count", [0, 1, 8])
@pytest.mark.parametrize("size", [(3, 3000), (3, 30000), (30000, 3), (1, 1), (300, 4000)])
def test_a_figure_has_a_largest_size(size: tuple[int, int], count: int) -> None:
    caption = make_caption(shapes([2.0] * count), ["dog"] * count, size=(4, 3))
    caption = replace(caption, geometry=replace(caption.geometry, size=size), source=Image.new("RGB", size))
    figure = draw_caption(caption)
    assert max(figure.get_size_inches()) * 110 <= FIGURE_PIXELS
    for panel in panels_of(figure):
        assert max(panel.shape) <= 480
        assert min(panel.shape[:2]) >= min(min(size), 480 // 16)


@pytest.mark.parametrize("shape", [1 / 16, 0.75, 2, 16])
def test_many_words_make_no_larger_figure(shape: float) -> None:
    for panels in (1, 2, 7, 30, 101, 1001):
        columns, rows, (width, height) = _layout(panels, shape)
        assert columns * rows >= panels
        assert max(columns * width, rows * height + 1.1) * 110 <= FIGURE_PIXELS + 1e-6


@pytest.mark.parametrize("size", [(3, 3000), (30000, 3)])
def test_the_maps_of_a_thin_picture_can_be_seen(tmp_path: Path, size: tuple[int, int]) -> None:
    caption = make_caption(shapes([9.0]), ["dog"], size=(4, 3))
    caption = replace(caption, geometry=replace(caption.geometry, size=size), source=Image.new("RGB", size))
    caption.figure(tmp_path / "figure.png")
    with Image.open(tmp_path / "figure.png") as figure:
        assert max(figure.size) <= FIGURE_PIXELS
        bright = (np.asarray(figure.convert("RGB")).astype(int) @ [1, 1, -2] > 150).sum()  # the scale's yellow
    assert bright > 100


def test_long_words_and_captions_stay_on_the_figure() -> None:
    figure = draw_caption(make_caption(shapes([2.0] * 3), ["x" * 5000, "a" * 60, "dog"]))
    titles = [axis.get_title() for axis in figure.axes if axis.images]
    assert all(len(title) < 40 for title in titles)
    assert max(map(len, figure.get_suptitle().splitlines())) <= 100


ODD_SETTINGS = {
    "text.usetex": True,
    "savefig.bbox": "tight",
    "savefig.facecolor": "black",
    "savefig.dpi": 20,
    "axes.grid": True,
    "axes.titlelocation": "left",
    "image.origin": "lower",
    "image.interpolation": "nearest",
    "font.size": 30,
    "figure.facecolor": "0.2",
    "text.color": "red",
    "xtick.labelsize": 30,
}


def pixels_of(caption: Caption, path: Path) -> np.ndarray:
    caption.figure(path)
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def test_a_figure_looks_the_same_under_all_settings(tmp_path: Path) -> None:
    """Those of a matplotlibrc or a style; LaTeX, of which words such as & are commands, is not even run."""
    caption = make_caption(shapes([8.0, 2.0]), ["a", "&"])
    expected = pixels_of(caption, tmp_path / "plain.png")
    with matplotlib.rc_context(ODD_SETTINGS):
        before = dict(matplotlib.rcParams)
        assert np.array_equal(pixels_of(caption, tmp_path / "odd.png"), expected)
        caption.figure().savefig(tmp_path / "later.png", dpi=110)  # drawn after `figure` has returned
        caption._repr_jpeg_()
        assert dict(matplotlib.rcParams) == before
    with Image.open(tmp_path / "later.png") as image:
        assert np.array_equal(np.asarray(image.convert("RGB")), expected)


def test_a_figure_of_threads_is_the_same_and_leaves_the_settings(tmp_path: Path) -> None:
    caption = make_caption(shapes([8.0]), ["dog"])
    expected = pixels_of(caption, tmp_path / "plain.png")
    with matplotlib.rc_context(ODD_SETTINGS):
        before = dict(matplotlib.rcParams)
        with ThreadPoolExecutor(4) as pool:
            drawn = list(pool.map(lambda i: pixels_of(caption, tmp_path / f"{i}.png"), range(6)))
        assert dict(matplotlib.rcParams) == before
    assert all(np.array_equal(pixels, expected) for pixels in drawn)


def test_a_figure_opens_the_picture_once(monkeypatch: pytest.MonkeyPatch) -> None:
    opened = []
    picture = noise((120, 90))
    monkeypatch.setattr(Caption, "picture", property(lambda self: opened.append(self) or picture))
    before = picture.tobytes()
    draw_caption(make_caption(shapes([8.0]), ["dog"]))
    assert len(opened) == 1
    assert (picture.size, picture.tobytes()) == ((120, 90), before)  # it may be the caption's own


@pytest.mark.parametrize("ending", [".png", ".html"])
def test_what_was_there_stays_where_a_figure_or_a_page_cannot_be_written(ending: str, tmp_path: Path) -> None:
    def write(path: Path) -> None:
        save_figure(figure, path) if ending == ".png" else save_page("new", path)

    class Full(Figure):
        def savefig(self, fname: Path, **_: object) -> None:  # type: ignore[override]
            fname.write_bytes(b"half a fig")
            raise OSError(28, "No space left on device")

    figure = Figure(figsize=(1, 1))
    long = tmp_path / f"{'x' * (255 - len(ending))}{ending}"  # the longest name that there is
    write(long)
    assert long.read_bytes().startswith(b"\x89PNG" if ending == ".png" else b"new")
    if ending == ".png":
        figure, before = Full(), long.read_bytes()
        with pytest.raises(OptionError, match="No space left"):
            write(long)
        assert long.read_bytes() == before
    assert list(tmp_path.iterdir()) == [long]
