"""Blotting out cells of the model's input."""

from collections.abc import Sequence

import numpy as np

from captioner.explain.occlusion import blocks, blurred, mean_colour, occlude, occlusion_maps, orders_of
from captioner.image import Geometry

SQUARE = Geometry(size=(30, 30), side=30, grid=(4, 4))
WIDE = Geometry(size=(40, 20), side=32, grid=(4, 4), pad=True)


def noise(side: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)


def test_only_the_cells_are_taken_from_the_fill() -> None:
    pixels, fill = noise(30), np.zeros((30, 30, 3), dtype=np.uint8)
    cells = np.zeros((4, 4), dtype=bool)
    cells[1, 2] = True
    blotted = occlude(pixels, fill, cells)
    changed = (blotted == 0).all(2) & (pixels != 0).any(2)
    rows, columns = np.nonzero(changed)
    # Cell (1, 2) is rows 7.5 to 15 and columns 15 to 22.5; a pixel belongs to where its centre is.
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (7, 14, 15, 21)
    assert changed.sum() == 8 * 7
    np.testing.assert_array_equal(blotted[~changed], pixels[~changed])
    np.testing.assert_array_equal(occlude(pixels, fill, np.ones((4, 4), dtype=bool)), fill)


def test_fills_leave_the_padding() -> None:
    pixels = noise(32)
    pixels[16:] = 128
    for fill in (mean_colour(pixels, WIDE), blurred(pixels, WIDE)):
        assert (fill[16:] == 128).all()
        assert fill[:16].std() < 30 < pixels[:16].std()
    gray = mean_colour(pixels, WIDE)
    assert len(np.unique(gray[:16].reshape(-1, 3), axis=0)) == 1
    assert abs(gray[0, 0, 0] - pixels[:16, :, 0].mean()) <= 0.5
    assert pixels[:16].std() > 30, "the input itself stays"


def test_blocks_are_about_every_cell_with_picture() -> None:
    centres, cells = blocks(WIDE, 3)
    assert centres == [(row, column) for row in (0, 1) for column in range(4)]
    assert cells[0].sum() == 4
    assert cells[5][:3, :3].all() and cells[5].sum() == 9
    _, single = blocks(SQUARE, 1)
    assert [block.sum() for block in single] == [1] * 16


def test_the_strongest_cells_come_first() -> None:
    scores = np.array([[0.1, 0.4], [0.3, -np.inf]])
    none, two, three = orders_of(scores, [0, 2, 3])
    assert none.sum() == 0
    np.testing.assert_array_equal(two, [[False, True], [True, False]])
    np.testing.assert_array_equal(three, [[True, True], [True, False]])


def test_a_map_is_the_loss_of_log_probability_where_the_cell_is() -> None:
    pixels = noise(30)
    geometry = Geometry(size=(30, 30), side=30, grid=(3, 5))
    fill = mean_colour(pixels, geometry)
    before, loss, gain = -1.0, 0.75, 0.5

    def log_probabilities(variants: Sequence[np.ndarray]) -> np.ndarray:
        """Hiding row 0 and column 3 makes the word less likely, hiding row 2 and column 1 likelier."""
        found = []
        for one in variants:
            hidden = [(one[5 + 10 * row, 3 + 6 * column] == fill[0, 0]).all() for row, column in ((0, 3), (2, 1))]
            found.append([[before - loss * hidden[0] + gain * hidden[1]]])
        return np.array(found, dtype=np.float32)

    maps = occlusion_maps(pixels, geometry, 1, log_probabilities)
    expected = np.zeros((1, 1, 3, 5))
    expected[0, 0, 0, 3] = loss
    np.testing.assert_allclose(maps, expected, atol=1e-6)
    wide = occlusion_maps(pixels, geometry, 3, log_probabilities)[0, 0]
    np.testing.assert_allclose(wide > 0, np.abs(np.indices((3, 5)) - [[[0]], [[3]]]).max(0) <= 1)
