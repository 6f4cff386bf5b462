"""The geometry between the picture's pixels, the model's input and the grid's cells is exact."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from captioner.geometry import Fitting
from captioner.image import Geometry, fit
from captioner.show.scale import on_picture

sizes = st.tuples(st.integers(1, 3000), st.integers(1, 3000))
grids = st.tuples(st.integers(1, 20), st.integers(1, 20))
geometries = st.builds(
    Geometry, size=sizes, side=st.sampled_from([32, 96, 224, 225, 257, 300]), grid=grids, pad=st.booleans()
)


def cells_of(geometry: Geometry) -> list[tuple[int, int]]:
    return [(row, column) for row in range(geometry.grid[0]) for column in range(geometry.grid[1])]


def area(box: tuple[float, float, float, float]) -> float:
    left, top, right, bottom = box
    assert left <= right
    assert top <= bottom
    return (right - left) * (bottom - top)


@given(geometries)
def test_cells_tile_the_picture(geometry: Geometry) -> None:
    width, height = geometry.size
    boxes = {cell: geometry.cell_box(*cell) for cell in cells_of(geometry)}
    assert sum(map(area, boxes.values())) == pytest.approx(width * height, rel=1e-9)
    for (row, column), (left, top, right, bottom) in boxes.items():
        # Neighbours share their edge to the bit: no gap and no overlap.
        assert left == (boxes[row, column - 1][2] if column else 0)
        assert top == (boxes[row - 1, column][3] if row else 0)
        assert right <= width
        assert bottom <= height
    assert boxes[geometry.grid[0] - 1, geometry.grid[1] - 1][2:] == (width, height)


@given(geometries)
def test_the_mask_has_the_cells_that_hold_picture(geometry: Geometry) -> None:
    holds = [area(geometry.cell_box(*cell)) > 0 for cell in cells_of(geometry)]
    assert geometry.mask.shape == geometry.grid
    assert geometry.mask.ravel().tolist() == holds


@given(geometries)
def test_the_point_in_a_cells_middle_is_in_that_cell(geometry: Geometry) -> None:
    for cell in cells_of(geometry):
        left, top, right, bottom = geometry.cell_box(*cell)
        if geometry.mask[cell]:
            assert geometry.cell_of((left + right) / 2, (top + bottom) / 2) == cell


@given(geometries, st.floats(0, 1), st.floats(0, 1))
def test_a_point_lies_in_the_box_of_its_cell(geometry: Geometry, across: float, down: float) -> None:
    x, y = across * geometry.size[0], down * geometry.size[1]
    cell = geometry.cell_of(x, y)
    left, top, right, bottom = geometry.cell_box(*cell)
    slack = 1e-9 * max(geometry.size)  # a point on an edge may be in either cell
    assert left - slack <= x <= right + slack
    assert top - slack <= y <= bottom + slack
    assert geometry.mask[cell]


@given(geometries, st.tuples(*[st.floats(0, 1)] * 4))
def test_coverage_is_the_area_of_the_box_in_cells(
    geometry: Geometry, corners: tuple[float, float, float, float]
) -> None:
    (left, right), (top, bottom) = sorted(corners[:2]), sorted(corners[2:])
    covered = geometry.coverage((left, top, right, bottom))
    assert covered.shape == geometry.grid
    assert covered.min() >= 0
    assert covered.max() <= 1
    rows, columns = geometry.grid
    picture = rows * columns * geometry.content[0] * geometry.content[1] / geometry.side**2  # in cells
    assert covered.sum(dtype=np.float64) == pytest.approx((right - left) * (bottom - top) * picture, abs=1e-4)
    assert (covered[~geometry.mask] == 0).all()


@given(geometries)
def test_coverage_of_a_cells_own_box_is_that_cell_alone(geometry: Geometry) -> None:
    width, height = geometry.size
    cell = geometry.cell_of(width * 0.4, height * 0.6)
    left, top, right, bottom = geometry.cell_box(*cell)
    covered = geometry.coverage((left / width, top / height, right / width, bottom / height))
    others = covered.copy()
    others[cell] = 0
    assert covered[cell] > 0
    assert others.max() == pytest.approx(0, abs=1e-5)


@given(sizes, st.integers(32, 300))
def test_padding_keeps_the_shape_and_fills_the_longer_side(size: tuple[int, int], side: int) -> None:
    geometry = Geometry(size=size, side=side, grid=(7, 7), pad=True)
    width, height = geometry.content
    assert max(width, height) == side
    # The shorter side is off by the rounding to whole pixels at most, and never vanishes.
    exact = min(size) / max(size) * side
    assert abs(min(width, height) - exact) <= (0.5 if exact >= 0.5 else 1)
    assert min(width, height) >= 1


def test_the_corners_of_a_padded_picture_are_in_cells_that_hold_picture() -> None:
    """The picture ends where a cell does: its last edge belongs to that cell, not to the padding after it."""
    geometry = Geometry(size=(400, 200), side=200, grid=(4, 4), pad=True)
    assert geometry.cell_of(400, 200) == (1, 3)
    assert geometry.cell_of(0, 0) == (0, 0)


def test_a_cell_and_a_point_outside_are_refused() -> None:
    geometry = Geometry(size=(40, 30), side=64, grid=(8, 8))
    for row, column in ((8, 0), (0, 8), (-1, 0), (0, -1)):
        with pytest.raises(IndexError, match=r"8 x 8"):
            geometry.cell_box(row, column)
    for x, y in ((-1, 0), (0, 31), (41, 0), (float("nan"), 0)):
        with pytest.raises(ValueError, match=r"40 x 30"):
            geometry.cell_of(x, y)


def test_a_known_case_by_hand() -> None:
    """400 x 300 padded to 200: 0.5 of its size, 150 pixels high, so of 4 rows of cells the last is padding."""
    geometry = Geometry(size=(400, 300), side=200, grid=(4, 4), pad=True)
    assert geometry.content == (200, 150)
    assert geometry.cell_box(0, 0) == (0, 0, 100, 100)
    assert geometry.cell_box(2, 3) == (300, 200, 400, 300)
    assert area(geometry.cell_box(3, 0)) == 0
    assert geometry.mask.tolist() == [[True] * 4] * 3 + [[False] * 4]
    assert geometry.extent == (0, 0, 400, 400)


@settings(max_examples=60)
@given(
    size=st.tuples(st.integers(40, 400), st.integers(40, 400)),
    grid=st.tuples(st.integers(2, 10), st.integers(2, 10)),
    pad=st.booleans(),
    data=st.data(),
)
def test_what_is_drawn_in_a_cell_arrives_in_that_cell_of_the_input(
    size: tuple[int, int], grid: tuple[int, int], pad: bool, data: st.DataObject
) -> None:
    """A white mark on black, through `fit`: all of its light lands in the cell that `cell_of` names."""
    geometry = Geometry(size=size, side=240, grid=grid, pad=pad)
    x = data.draw(st.integers(0, size[0] - 1))
    y = data.draw(st.integers(0, size[1] - 1))
    row, column = geometry.cell_of(x + 0.5, y + 0.5)
    left, top, right, bottom = (round(edge) for edge in geometry.cell_box(row, column))
    picture = np.zeros((size[1], size[0], 3), np.uint8)
    picture[top : max(bottom, top + 1), left : max(right, left + 1)] = 255
    given_to_model = fit(Image.fromarray(picture), geometry)
    assert given_to_model.shape == (240, 240, 3)
    width, height = geometry.content
    assert (given_to_model[height:] == 128).all()
    assert (given_to_model[:, width:] == 128).all()

    light = given_to_model[:, :, 0].astype(float)
    light[height:] = light[:, width:] = 0
    ys, xs = np.mgrid[0:240, 0:240] + 0.5
    centre = (light * ys).sum() / light.sum() / 240 * grid[0], (light * xs).sum() / light.sum() / 240 * grid[1]
    # The mark was rounded to whole pixels of the picture: half a pixel, in cells, is what it may be off by.
    slack = [0.5 * geometry.content[1 - axis] / size[1 - axis] / 240 * grid[axis] + 0.05 for axis in (0, 1)]
    lowest, highest = (row, column), (min(row + 1, height / 240 * grid[0]), min(column + 1, width / 240 * grid[1]))
    for axis in (0, 1):
        middle = (lowest[axis] + highest[axis]) / 2
        assert abs(centre[axis] - middle) <= slack[axis]


def test_an_input_that_needs_no_resizing_is_the_picture_itself() -> None:
    pixels = np.random.default_rng(2).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    for pad in (False, True):
        assert (fit(Image.fromarray(pixels), Geometry(size=(64, 64), side=64, grid=(8, 8), pad=pad)) == pixels).all()


FITTINGS = {
    "squashed, not square": Fitting(width=96, height=48),
    "cropped": Fitting(width=64, height=64, mode="crop", resized=64),
    "cropped within": Fitting(width=56, height=56, mode="crop", resized=64),
    "cropped of a fixed size": Fitting(width=56, height=48, mode="crop", resized=(64, 64)),
    "padded on all sides": Fitting(width=64, height=64, mode="pad"),
    "padded, not square": Fitting(width=96, height=48, mode="pad"),
}


@pytest.mark.parametrize("size", [(90, 60), (60, 90), (64, 64), (301, 57), (1, 7)])
@pytest.mark.parametrize("fitting", FITTINGS.values(), ids=FITTINGS)
def test_cells_of_a_fitting_tile_what_it_shows(fitting: Fitting, size: tuple[int, int]) -> None:
    geometry = fitting.geometry(size, (4, 6))
    left, top, right, bottom = geometry.extent
    shown = (min(right, size[0]) - max(left, 0)) * (min(bottom, size[1]) - max(top, 0))
    assert sum(area(geometry.cell_box(*cell)) for cell in cells_of(geometry)) == pytest.approx(shown, rel=1e-9)
    for cell in cells_of(geometry):
        box = geometry.cell_box(*cell)
        assert geometry.mask[cell] == (area(box) > 0)
        if geometry.mask[cell]:
            assert geometry.cell_of((box[0] + box[2]) / 2, (box[1] + box[3]) / 2) == cell
            within = (box[0] / size[0], box[1] / size[1], box[2] / size[0], box[3] / size[1])
            assert geometry.coverage(within).argmax() == np.ravel_multi_index(cell, (4, 6))
    pixels = fitting.fit(Image.new("RGB", size, (255, 255, 255)), geometry)
    assert pixels.shape == (fitting.height, fitting.width, 3)
    x0, y0, x1, y1 = geometry.content_box
    if min(size) > 10:  # a picture of a few pixels has soft edges all over
        assert (pixels[y0 + 2 : y1 - 2, x0 + 2 : x1 - 2] == 255).all()


@pytest.mark.parametrize("fitting", FITTINGS.values(), ids=FITTINGS)
def test_a_fitted_picture_has_each_part_where_its_cell_is(fitting: Fitting) -> None:
    """One bright quarter of the picture's middle, found again in the input and on the map of the picture."""
    size = (240, 160)
    picture = np.zeros((160, 240, 3), dtype=np.uint8)
    picture[80:120, 120:180] = 255
    geometry = fitting.geometry(size, (8, 8))
    inside = fitting.fit(Image.fromarray(picture), geometry).astype(float).mean(-1)
    rows, columns = np.nonzero(inside > 200)
    left, top, right, bottom = geometry.extent
    across, down = (right - left) / fitting.width, (bottom - top) / fitting.height
    seen = (left + columns.min() * across, top + rows.min() * down, left + (columns.max() + 1) * across)
    assert seen == pytest.approx((120, 80, min(180, right)), abs=1.5 * max(across, down))
    covered = geometry.coverage((0.5, 0.5, 0.75, 0.75))
    spread = on_picture(covered, geometry, size, smooth=False)
    assert spread[100, 150] > 0.5 and spread[20, 20] == spread[150, 20] == 0


def test_what_was_cropped_away_has_no_map_and_no_cell() -> None:
    geometry = FITTINGS["cropped"].geometry((128, 64), (4, 4))
    assert geometry.extent == (32, 0, 96, 64)
    spread = on_picture(np.ones((4, 4), dtype=np.float32), geometry, (128, 64))
    assert (spread[:, :32] == 0).all() and (spread[:, 96:] == 0).all() and (spread[:, 32:96] == 1).all()
    with pytest.raises(ValueError, match="sees"):
        geometry.cell_of(10, 10)


@pytest.mark.parametrize("size", [(30_000, 300), (200_000, 1), (1, 65_000)])
def test_a_long_strip_is_padded_in_little_memory(size: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[tuple[int, int]] = []
    new = Image.new

    def noted(mode: str, size: tuple[int, int], *colour: Any) -> Image.Image:
        made.append(size)
        return new(mode, size, *colour)

    strip = new("RGB", size, "white")
    fitting = Fitting(width=60, height=60, mode="pad", fill=(9, 9, 9))
    monkeypatch.setattr(Image, "new", noted)
    pixels = fitting.fit(strip, fitting.geometry(strip.size, (4, 4)))
    assert max(max(sides) for sides in made) <= 4100  # the square of the first would have 3.6 GB
    assert pixels.shape == (60, 60, 3)
    away = pixels[:28] if size[0] > size[1] else pixels[:, :28]
    assert (away == 9).all()
    if size[1] == 300:
        assert pixels[30, 30].min() > 60  # a band of 0.6 pixels
