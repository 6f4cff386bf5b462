"""The geometry between the picture's pixels, the model's input and the grid."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from numpy.typing import NDArray

Box = tuple[float, float, float, float]
"""(left, top, right, bottom) in pixels; (0, 0) is the outer corner of the top left pixel."""


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """Where the cells of a grid lie on a picture.

    The picture is resized whole into the input, by each side on its own (squashed) or by the same factor and then
    padded to the right and below (``pad``), or the input shows any other ``window`` of it; the grid tiles the input
    evenly.

    Attributes:
        size: (width, height) of the upright picture, in pixels.
        side: the width of the input, in pixels, and its height where ``height`` is None.
        grid: (h, w) cells.
        pad: the picture keeps its shape.
        orientation: the EXIF orientation, 1 to 8, that the picture was turned from.
        height: of the input, in pixels.
        window: (left, top, right, bottom), the rectangle that the whole input shows, in pixels of the upright picture:
            a part of the picture where it is cropped, more than the picture where it is padded on all sides. None for
            the whole picture, with what ``pad`` adds. `Fitting` makes one.
    """

    size: tuple[int, int]
    side: int
    grid: tuple[int, int]
    pad: bool = False
    orientation: int = 1
    height: int | None = None
    window: Box | None = None

    @property
    def input(self) -> tuple[int, int]:
        """(width, height) of the model's input, in pixels."""
        return self.side, self.side if self.height is None else self.height

    @property
    def content(self) -> tuple[int, int]:
        """(width, height) of the input that holds picture; the rest is padding."""
        if self.window is not None:
            left, top, right, bottom = self.content_box
            return right - left, bottom - top
        if not self.pad:
            return self.input
        width, height = self.size
        factor = min(self.input[0] / width, self.input[1] / height)
        return max(1, round(width * factor)), max(1, round(height * factor))

    @property
    def content_box(self) -> tuple[int, int, int, int]:
        """(left, top, right, bottom) of the input that holds picture, in its pixels."""
        if self.window is None:
            return 0, 0, *self.content
        (left, right), (top, bottom) = (self._content_span(axis) for axis in (0, 1))
        return left, top, right, bottom

    def _content_span(self, axis: int) -> tuple[int, int]:
        start, stop = self.span(axis)
        scale, whole = self.input[axis] / (stop - start), self.input[axis]
        first = min(max(0, round(-start * scale)), whole - 1)
        return first, max(first + 1, min(whole, round((self.size[axis] - start) * scale)))

    def span(self, axis: int) -> tuple[float, float]:
        """Where the grid begins and ends along the picture's width (axis 0) or height (1), in its pixels."""
        if self.window is not None:
            return self.window[axis], self.window[axis + 2]
        return 0.0, self.size[axis] * self.input[axis] / self.content[axis]

    def cell_box(self, row: int, column: int) -> Box:
        """The rectangle of the upright picture that a cell stands for; of no area where it is all padding.

        Raises:
            IndexError: the grid has no such cell.
        """
        rows, columns = self.grid
        if not (0 <= row < rows and 0 <= column < columns):
            raise IndexError(f"cell ({row}, {column}) is not in a grid of {rows} x {columns}")
        left, right = (self._to_picture(edge, columns, 0) for edge in (column, column + 1))
        top, bottom = (self._to_picture(edge, rows, 1) for edge in (row, row + 1))
        return left, top, right, bottom

    def _to_picture(self, edge: int, cells: int, axis: int) -> float:
        """From an edge of one of so many cells to pixels of the upright picture, clipped to it."""
        if self.window is not None:
            start, stop = self.span(axis)
            return min(max(start + (stop - start) * edge / cells, 0.0), float(self.size[axis]))
        # Whole numbers until the last division: a cell is either empty or not, whatever floats round to.
        whole = cells * self.content[axis]
        return min(edge * self.input[axis], whole) * self.size[axis] / whole

    def edges(self, axis: int) -> "NDArray[np.float64]":
        """The edges of the grid's columns (axis 0) or rows (1), in fractions of the picture and clipped to it."""
        cells = self.grid[1 - axis]
        return np.array([self._to_picture(edge, cells, axis) for edge in range(cells + 1)]) / self.size[axis]

    def cell_of(self, x: float, y: float) -> tuple[int, int]:
        """The cell (row, column) in which a point of the upright picture lies.

        Raises:
            ValueError: the point is not on the picture, or it was cropped away.
        """
        width, height = self.size
        left, top, right, bottom = self.extent
        if not (max(0, left) <= x <= min(width, right) and max(0, top) <= y <= min(height, bottom)):
            raise ValueError(f"({x}, {y}) is not on a picture of {width} x {height}, or not in what the model sees")
        return self._cell(y, 1), self._cell(x, 0)

    def _cell(self, place: float, axis: int) -> int:
        """The row (axis 1) or column (axis 0) at a place of the picture; at its very end, the last with picture."""
        cells = self.grid[1 - axis]
        if self.window is not None:
            start, stop = self.span(axis)
            last = np.flatnonzero(np.diff(self.edges(axis)) > 0)[-1]
            return min(int((place - start) / (stop - start) * cells), int(last))
        whole = cells * self.content[axis]
        return min(int(place / self.size[axis] * whole / self.input[axis]), (whole - 1) // self.input[axis])

    def coverage(self, box: Box) -> "NDArray[np.float32]":
        """The share of each cell that a box covers, (h, w); the box in fractions of the upright picture."""
        covered = []
        for axis in (1, 0):
            cells, (start, stop) = self.grid[1 - axis], self.span(axis)
            # From fractions of the picture to cells.
            first, last = ((box[i] * self.size[axis] - start) / (stop - start) * cells for i in (axis, axis + 2))
            place = np.arange(cells)
            covered.append((np.minimum(place + 1, last) - np.maximum(place, first)).clip(0, 1))
        return np.asarray(covered[0][:, None] * covered[1][None], dtype=np.float32)

    @property
    def mask(self) -> "NDArray[np.bool_]":
        """(h, w), True where a cell holds any part of the picture."""
        rows, columns = self.grid
        if self.window is not None:
            down, across = np.diff(self.edges(1)) > 0, np.diff(self.edges(0)) > 0
        else:
            (wide, high), (width, height) = self.input, self.content
            down, across = np.arange(rows) * high < rows * height, np.arange(columns) * wide < columns * width
        return np.asarray(down[:, None] & across[None])

    @property
    def extent(self) -> Box:
        """The rectangle that the whole grid covers, in pixels of the upright picture.

        It is the picture, more where there is padding, and less where the picture is cropped. A map that is drawn over
        this rectangle and clipped to the picture lies exactly where it belongs.
        """
        (left, right), (top, bottom) = self.span(0), self.span(1)
        return left, top, right, bottom

    def to_stored(self, box: Box) -> Box:
        """From the upright picture to the pixels as the file stores them, before EXIF turned it."""
        width, height = self.size
        corners = [_unturn(x, y, width, height, self.orientation) for x, y in (box[:2], box[2:])]
        (x0, y0), (x1, y1) = corners
        return min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1)


def _unturn(x: float, y: float, width: int, height: int, orientation: int) -> tuple[float, float]:
    """A point of the upright picture in the stored one; ``width`` and ``height`` are the upright picture's."""
    return {
        1: (x, y),
        2: (width - x, y),
        3: (width - x, height - y),
        4: (x, height - y),
        5: (y, x),
        6: (y, width - x),
        7: (height - y, width - x),
        8: (height - y, x),
    }[orientation]


def fit(image: Image.Image, geometry: Geometry) -> "NDArray[np.uint8]":
    """The model's input for an upright RGB picture: (side, side, 3) uint8, padded with mid-gray (128).

    The image may have fewer pixels than ``geometry.size``, as `captioner.image.open_with_orientation` returns it.
    `Fitting` fits a picture to an input of another shape, or to a window.
    """
    width, height = geometry.content
    resized = image.resize((width, height), Image.Resampling.BICUBIC, reducing_gap=3.0)
    if (width, height) == (geometry.side, geometry.side):
        return np.asarray(resized)
    canvas = np.full((geometry.side, geometry.side, 3), 128, dtype=np.uint8)
    canvas[:height, :width] = np.asarray(resized)
    return canvas


_LARGEST_CANVAS = 4096  # pixels a side; of larger pictures the input's pixels are means anyway


@dataclass(frozen=True, kw_only=True)
class Fitting:
    """How pictures are brought to the input of a model that is not ours: what its image processor does.

    Attributes:
        width, height: of the input, in pixels.
        mode: "squash" resizes each side on its own; "crop" keeps the shape and cuts the middle out; "pad" keeps the
            shape and centres the picture on ``fill``.
        resized: of "crop": the shorter side after resizing, or (width, height), of which the middle is cut out.
        resample: a filter of Pillow, by number.
        fill: the colour of padding.
    """

    width: int
    height: int
    mode: str = "squash"
    resized: int | tuple[int, int] = 0
    resample: int = Image.Resampling.BICUBIC
    fill: tuple[int, int, int] = (128, 128, 128)

    def geometry(self, size: tuple[int, int], grid: tuple[int, int], *, orientation: int = 1) -> Geometry:
        """Where the cells lie on a picture of (width, height) pixels."""
        window = None
        if self.mode == "crop":
            width, height = self._resized(size)
            # Whole pixels, as image processors count them: half of what is left over, rounded towards 0.
            left, top = int((width - self.width) / 2), int((height - self.height) / 2)
            across, down = size[0] / width, size[1] / height
            window = (left * across, top * down, (left + self.width) * across, (top + self.height) * down)
        elif self.mode == "pad":
            scale = max(size[0] / self.width, size[1] / self.height)  # pixels of the picture in one of the input
            # As image processors do: half of the padding, rounded down, comes first.
            left, top = -((round(self.width * scale) - size[0]) // 2), -((round(self.height * scale) - size[1]) // 2)
            window = (left, top, left + self.width * scale, top + self.height * scale)
        return Geometry(
            size=size, side=self.width, height=self.height, grid=grid, orientation=orientation, window=window
        )

    def _resized(self, size: tuple[int, int]) -> tuple[int, int]:
        """The whole picture's (width, height) before its middle is cut out."""
        if not isinstance(self.resized, int):
            return self.resized
        short, long = sorted(size)
        longer = int(self.resized * long / short)
        return (self.resized, longer) if size[0] <= size[1] else (longer, self.resized)

    def fit(self, image: Image.Image, geometry: Geometry) -> "NDArray[np.uint8]":
        """The input (height, width, 3) for an upright RGB picture, which may have fewer pixels than it was."""
        if self.mode == "pad":
            return self._padded(image, geometry)
        left, top, right, bottom = geometry.content_box
        across, down = (image.size[axis] / geometry.size[axis] for axis in (0, 1))
        x0, y0, x1, y1 = geometry.extent
        box = (
            max(x0 * across, 0.0),
            max(y0 * down, 0.0),
            min(x1 * across, float(image.width)),
            min(y1 * down, float(image.height)),
        )
        part = image.resize((right - left, bottom - top), Image.Resampling(self.resample), box=box, reducing_gap=3.0)
        if (right - left, bottom - top) == (self.width, self.height):
            return np.asarray(part)
        canvas = np.full((self.height, self.width, 3), self.fill, dtype=np.uint8)
        canvas[top:bottom, left:right] = np.asarray(part)
        return canvas

    def _padded(self, image: Image.Image, geometry: Geometry) -> "NDArray[np.uint8]":
        """The picture on ``fill``, resized with it: the border is as soft as the picture's own edges."""
        left, top, right, bottom = geometry.extent
        ends = ((left, right), (top, bottom))
        longest = max(image.size[i] * (last - first) / geometry.size[i] for i, (first, last) in enumerate(ends))
        if longest > _LARGEST_CANVAS:  # of a strip, whose square would fill the memory
            factor = math.ceil(longest / _LARGEST_CANVAS)
            scale = image.size[0] / geometry.size[0] / factor, image.size[1] / geometry.size[1] / factor
            image = image.reduce(factor)  # whose sides are rounded up
        else:
            scale = image.size[0] / geometry.size[0], image.size[1] / geometry.size[1]
        across, down = scale
        canvas = Image.new("RGB", (round((right - left) * across), round((bottom - top) * down)), self.fill)
        canvas.paste(image, (round(-left * across), round(-top * down)))
        resized = canvas.resize((self.width, self.height), Image.Resampling(self.resample), reducing_gap=3.0)
        return np.asarray(resized)
