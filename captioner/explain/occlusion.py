"""Occlusion: how much less likely a word becomes when a part of the picture is hidden (Zeiler and Fergus 2014)."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from captioner.image import Geometry

Pixels = NDArray[np.uint8]

LogProbabilities = Callable[[Sequence[Pixels]], NDArray[np.float32]]
"""The log-probabilities (V, k, T) of some captions on V inputs."""


def occlusion_maps(
    pixels: Pixels, geometry: Geometry, block: int, log_probabilities: LogProbabilities
) -> NDArray[np.float32]:
    """The loss of log-probability when the block about each cell has the picture's mean colour.

    Args:
        pixels: the input (side, side, 3).
        geometry: of the picture.
        block: width of the occluded block, in cells; odd.
        log_probabilities: asks the model about variants of the input.

    Returns:
        (k, T, h, w) for k captions of T steps, non-negative.
    """
    fill = mean_colour(pixels, geometry)
    centres, cells = blocks(geometry, block)
    log_p = log_probabilities([pixels, *(occlude(pixels, fill, some) for some in cells)])
    steps = np.zeros((*log_p.shape[1:], *geometry.grid), dtype=np.float32)
    for (row, column), occluded in zip(centres, log_p[1:], strict=True):
        steps[:, :, row, column] = (log_p[0] - occluded).clip(min=0)
    return steps


def mean_colour(pixels: Pixels, geometry: Geometry) -> Pixels:
    """The model's input (side, side, 3) with all of the picture in its mean colour; padding stays."""
    left, top, right, bottom = geometry.content_box
    filled = pixels.copy()
    filled[top:bottom, left:right] = pixels[top:bottom, left:right].reshape(-1, 3).mean(0).round()
    return filled


def blurred(pixels: Pixels, geometry: Geometry) -> Pixels:
    """The model's input with the picture blurred until no thing can be told from another."""
    left, top, right, bottom = geometry.content_box
    filled = pixels.copy()
    picture = Image.fromarray(pixels[top:bottom, left:right])
    filled[top:bottom, left:right] = np.asarray(picture.filter(ImageFilter.GaussianBlur(geometry.side / 10)))
    return filled


def occlude(pixels: Pixels, fill: Pixels, cells: NDArray[np.bool_]) -> Pixels:
    """The input with some of its cells (h, w) replaced by those of ``fill``, an input of the same shape."""
    rows, columns = (_cell_of_pixels(side, count) for side, count in zip(pixels.shape[:2], cells.shape, strict=True))
    return np.where(cells[rows[:, None], columns][:, :, None], fill, pixels)


def _cell_of_pixels(side: int, cells: int) -> NDArray[np.intp]:
    """The row or column of cells in which the centre of each row or column of pixels lies."""
    return ((np.arange(side) + 0.5) * cells / side).astype(np.intp)


def blocks(geometry: Geometry, width: int) -> tuple[list[tuple[int, int]], list[NDArray[np.bool_]]]:
    """Each cell that holds picture, and the block of ``width`` x ``width`` cells about it."""
    rows, columns = geometry.grid
    reach = width // 2
    centres = [(int(i), int(j)) for i, j in np.argwhere(geometry.mask)]
    i, j = np.arange(rows)[:, None], np.arange(columns)
    return centres, [(abs(i - row) <= reach) & (abs(j - column) <= reach) for row, column in centres]


def orders_of(scores: NDArray[np.float64], counts: Sequence[int]) -> list[NDArray[np.bool_]]:
    """For each count, the so many cells (h, w) of the highest scores; cells at -inf come last."""
    order = np.argsort(-scores.ravel(), kind="stable")
    chosen = []
    for count in counts:
        cells = np.zeros(scores.size, dtype=np.bool_)
        cells[order[:count]] = True
        chosen.append(cells.reshape(scores.shape))
    return chosen
