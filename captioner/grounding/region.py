"""Regions of a picture: unions of boxes and masks, and how the cells of a grid cover them."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from captioner.image import Box, Geometry

Floats = NDArray[np.float64]


class Region:
    """A part of a picture, in fractions of its width and height: a union of boxes, or a mask.

    The picture is divided into rectangles by the edges ``x`` and ``y``; each rectangle is inside or outside.

    Args:
        x: (m + 1,) edges of columns, ascending from 0 to 1.
        y: (n + 1,) edges of rows, ascending from 0 to 1.
        inside: (n, m), whether each rectangle belongs to the region.
    """

    def __init__(self, x: Floats, y: Floats, inside: NDArray[np.bool_]) -> None:
        self.x, self.y, self.inside = x, y, inside

    @classmethod
    def of_boxes(cls, boxes: Iterable[Box]) -> "Region":
        """The union of boxes (left, top, right, bottom), in fractions of the picture."""
        corners = np.asarray(list(boxes), dtype=np.float64).reshape(-1, 4).clip(0, 1)
        x = np.unique(np.concatenate(([0.0, 1.0], corners[:, 0], corners[:, 2])))
        y = np.unique(np.concatenate(([0.0, 1.0], corners[:, 1], corners[:, 3])))
        across = (corners[:, 0, None] <= x[:-1]) & (x[1:] <= corners[:, 2, None])  # (boxes, columns)
        down = (corners[:, 1, None] <= y[:-1]) & (y[1:] <= corners[:, 3, None])  # (boxes, rows)
        return cls(x, y, np.asarray((down[:, :, None] & across[:, None]).any(0)))

    @classmethod
    def of_mask(cls, mask: NDArray[np.bool_]) -> "Region":
        """The True pixels of a mask (height, width) of the whole picture, at any resolution."""
        height, width = mask.shape
        return cls(np.linspace(0, 1, width + 1), np.linspace(0, 1, height + 1), np.asarray(mask, dtype=np.bool_))

    @property
    def area(self) -> float:
        """The share of the picture that the region covers."""
        return float(np.diff(self.y) @ self.inside @ np.diff(self.x))

    def contains(self, x: Floats, y: Floats) -> NDArray[np.bool_]:
        """Whether the points (x, y), in fractions of the picture, lie in the region: (len(y), len(x)).

        The region's edges belong to it.
        """
        bordered = np.pad(self.inside, 1)  # indices -1 and n are outside
        columns = [np.searchsorted(self.x, x, side) for side in ("left", "right")]
        rows = [np.searchsorted(self.y, y, side) for side in ("left", "right")]
        found = [bordered[row[:, None], column] for row in rows for column in columns]
        return np.asarray(np.logical_or.reduce(found))

    def coverage(self, geometry: Geometry) -> Floats:
        """The covered share of each cell's part of the picture, (h, w); 0 for a cell without picture (padding)."""
        x, y = cell_edges(geometry)
        total = np.zeros((len(self.y), len(self.x)))
        total[1:, 1:] = (np.diff(self.y)[:, None] * self.inside * np.diff(self.x)).cumsum(0).cumsum(1)
        # The covered area left of and above each corner of a cell; between edges it is linear along each axis.
        along = np.stack([np.interp(x, self.x, row) for row in total])
        corner = np.stack([np.interp(y, self.y, column) for column in along.T], axis=1)
        covered = np.diff(np.diff(corner, axis=0), axis=1)
        whole = np.diff(y)[:, None] * np.diff(x)
        return np.divide(covered, whole, out=np.zeros_like(covered), where=whole > 0)


def cell_edges(geometry: Geometry) -> tuple[Floats, Floats]:
    """The edges of columns (w + 1,) and rows (h + 1,) in fractions of the picture; cells of padding have no width.

    Where the picture is cropped, the first is above 0 and the last below 1."""
    return geometry.edges(0), geometry.edges(1)


@dataclass(frozen=True, eq=False)
class CellRegion:
    """A region on the grid of a model: what a map (h, w) is compared with.

    Attributes:
        hits: (h, w), whether the centre of each cell's part of the picture lies in the region.
        coverage: (h, w), the share of that part that the region covers.
        valid: (h, w), which cells hold picture and not padding.
    """

    hits: NDArray[np.bool_]
    coverage: Floats
    valid: NDArray[np.bool_]

    @classmethod
    def of(cls, region: Region, geometry: Geometry) -> "CellRegion":
        """The region on the grid of a geometry."""
        x, y = cell_edges(geometry)
        hits = region.contains((x[1:] + x[:-1]) / 2, (y[1:] + y[:-1]) / 2) & geometry.mask
        return cls(hits, region.coverage(geometry), geometry.mask)

    @property
    def reachable(self) -> bool:
        """Whether the peak of any map can hit the region."""
        return bool(self.hits.any())

    def pointing(self, map_: NDArray[np.floating[Any]]) -> float:
        """1 if the peak of the map (h, w) hits the region, else 0; where cells tie, the share of them that hit."""
        peak = (map_ == map_.max(where=self.valid, initial=-np.inf)) & self.valid
        return float(self.hits[peak].mean())

    def mass(self, map_: NDArray[np.floating[Any]]) -> float:
        """The share of the map (h, w) that lies in the region."""
        return float(np.minimum((map_ * self.coverage).sum(), 1.0))  # the weights sum to 1 to rounding; NaN stays
