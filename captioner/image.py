"""Opening pictures of every kind, and the geometry between their pixels, the model's input and the grid."""

import io
import os
import threading
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Union, runtime_checkable

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from captioner.errors import ImageError, TooManyPixelsError

if TYPE_CHECKING:
    from numpy.typing import NDArray


@runtime_checkable
class ReadsBytes(Protocol):
    """A file that is not simply at a path: in a tar file, an archive, a store. ``str()`` names it."""

    def read_bytes(self) -> bytes:
        """The whole file. Raises OSError."""


Picture = Union[str, "os.PathLike[str]", bytes, Image.Image, "NDArray[Any]", ReadsBytes]
"""What can be captioned: a path, the bytes of a file, a PIL image, an array (h, w), (h, w, 1), 3 or 4, or a file
that reads its own bytes."""

MAX_PIXELS = 100_000_000
"""Larger pictures are refused unless the caller raises the limit: a small file can unpack to gigabytes."""

SUFFIXES = frozenset(
    (".jpg", ".jpeg", ".jfif", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".pgm", ".jp2", ".avif")
)
"""File names that are taken for pictures when a folder is captioned."""

UNREADABLE_SUFFIXES = frozenset((".heic", ".heif", ".tga", ".psd", ".raw", ".cr2", ".nef", ".arw", ".dng"))
"""Endings of pictures that cannot be opened; in folders they are named as failures."""

_ORIENTATION = 0x0112  # the EXIF tag
_pillow_limit = threading.Lock()


def open_image(picture: Picture, *, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Open a picture, upright and in RGB.

    EXIF orientation is applied. Gray, palette, 16-bit, floating-point and CMYK pictures are converted,
    transparency is laid on white, and of an animation the first frame is taken.

    Args:
        picture: a path, bytes of an image file, a PIL image, or an array: (h, w), (h, w, 1), (h, w, 3) or
            (h, w, 4); uint8, uint16, bool, or floating point in [0, 1].
        max_pixels: larger pictures are refused.

    Raises:
        ImageError: the file is missing, is no image, is truncated or too large, or the array has another
            shape or type.
    """
    return _open(picture, max_pixels=max_pixels)[0]


def open_with_orientation(picture: Picture, *, max_pixels: int = MAX_PIXELS) -> tuple[Image.Image, int]:
    """As `open_image`, with the EXIF orientation (1 to 8) that the picture was turned from."""
    return _open(picture, max_pixels=max_pixels)


def _open(picture: Picture, *, max_pixels: int) -> tuple[Image.Image, int]:
    if isinstance(picture, np.ndarray):
        return _from_array(picture, max_pixels), 1
    name = _name(picture)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of bombs and of odd EXIF; the limit here is ours
            opened = _pillow_open(picture)
            _refuse_bomb(opened, name, max_pixels)
            orientation = opened.getexif().get(_ORIENTATION, 1)  # first: loading a TIFF turns it and forgets
            opened.load()
            upright = ImageOps.exif_transpose(opened)  # a copy, whether it turns or not
            del opened  # 50 megapixels are 200 megabytes
            rgb = _to_rgb(upright)
    except ImageError:
        raise
    except FileNotFoundError:
        raise ImageError(f"{name}: no such file") from None
    except IsADirectoryError:
        raise ImageError(f"{name}: a folder, not a picture") from None
    except PermissionError:
        raise ImageError(f"{name}: not permitted to read it") from None
    except UnidentifiedImageError:
        raise ImageError(f"{name}: not an image in a format that is known") from None
    except Image.DecompressionBombError:
        raise ImageError(f"{name}: more pixels than the limit of {max_pixels:,}; raise max_pixels") from None
    except OSError as error:
        what = f"cannot be read ({error.strerror})" if error.strerror else f"truncated or damaged ({error})"
        raise ImageError(f"{name}: {what}") from None
    except (SyntaxError, ValueError, EOFError, KeyError, IndexError, OverflowError) as error:
        # What Pillow's decoders raise for damaged files, each in its own way.
        raise ImageError(f"{name}: truncated or damaged ({error})") from None
    return rgb, orientation if orientation in range(1, 9) else 1


def _pillow_open(picture: Picture) -> Image.Image:
    if isinstance(picture, Image.Image):
        return picture
    if isinstance(picture, (bytes, bytearray, memoryview)):
        if not picture:
            raise ImageError("the picture has no bytes")
        return _without_bomb_check(io.BytesIO(bytes(picture)))
    if isinstance(picture, (str, os.PathLike)):
        if not os.fspath(picture):
            raise ImageError("the path is empty")
        path = Path(picture)
        if path.is_file() and path.stat().st_size == 0:
            raise ImageError(f"{path}: the file is empty")
        return _without_bomb_check(path)
    if isinstance(picture, ReadsBytes):
        return _without_bomb_check(io.BytesIO(picture.read_bytes()))
    raise ImageError(f"a picture is a path, bytes, a PIL image or a numpy array, not {type(picture).__name__}")


def _without_bomb_check(source: Any) -> Image.Image:
    # Pillow's own check is a module-wide setting that would override the caller's limit; ours follows at once,
    # before any pixel is decoded. One thread at a time, or one would take another's None for the limit.
    with _pillow_limit:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            return Image.open(source)
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def _refuse_bomb(image: Image.Image, name: str, max_pixels: int) -> None:
    width, height = image.size
    if width * height > max_pixels:
        raise TooManyPixelsError(
            f"{name}: {width} x {height} is more than the limit of {max_pixels:,} pixels; "
            "raise it with max_pixels (--max-pixels) if you trust the file",
            (width, height),
        )
    if width == 0 or height == 0:
        raise ImageError(f"{name}: {width} x {height} has no pixels")


def _to_rgb(image: Image.Image) -> Image.Image:
    """RGB of an image that is ours alone: it may be what is returned."""
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        values = np.asarray(image, dtype=np.float64)
        return Image.fromarray(_stretch(values, image.mode)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, "white")
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")


def _stretch(values: "NDArray[Any]", mode: str) -> "NDArray[np.uint8]":
    """Gray values of more than 8 bits to 8: 16-bit ones by their range, others by their extremes."""
    finite = np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0)
    low, high = float(finite.min()), float(finite.max())
    if mode.startswith("I;16"):
        low, high = 0.0, 65535.0
    elif mode == "I" and low >= 0 and high <= 65535:  # 32 bits, in which files of 8 and of 16 come
        low, high = 0.0, 65535.0 if high > 255 else 255.0
    elif mode == "F" and low >= 0 and high <= 1:
        low, high = 0.0, 1.0
    scale = 255.0 / (high - low) if high > low else 0.0
    return np.asarray(((finite - low) * scale).round(), dtype=np.uint8)


def _from_array(array: "NDArray[Any]", max_pixels: int) -> Image.Image:
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4))) or 0 in array.shape:
        raise ImageError(f"an array of shape {array.shape} is no picture: (h, w), (h, w, 3) or (h, w, 4) is")
    height, width = array.shape[:2]
    if height * width > max_pixels:
        raise ImageError(f"an array of {width} x {height} is more than the limit of {max_pixels:,} pixels")
    if array.dtype == np.bool_:
        array = array.astype(np.uint8) * 255
    elif array.dtype == np.uint16:
        array = (array / 257).round().astype(np.uint8)
    elif np.issubdtype(array.dtype, np.floating):
        if not np.isfinite(array).all() or array.min() < 0 or array.max() > 1:
            raise ImageError(f"floating-point pictures have values from 0 to 1, not {array.min():g} to {array.max():g}")
        array = (array * 255).round().astype(np.uint8)
    elif array.dtype != np.uint8:
        raise ImageError(f"an array of {array.dtype} is no picture: uint8, uint16, bool and float are")
    return _to_rgb(Image.fromarray(np.ascontiguousarray(array)))


def _name(picture: Picture) -> str:
    if isinstance(picture, (str, os.PathLike)):
        return os.fspath(picture)
    if isinstance(picture, ReadsBytes):
        return str(picture)
    return getattr(picture, "filename", "") or "the picture"


Box = tuple[float, float, float, float]
"""(left, top, right, bottom) in pixels; (0, 0) is the outer corner of the top left pixel."""


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """Where the cells of a grid lie on a picture.

    The picture is resized whole into a square input, by each side on its own (squashed) or by the same
    factor and then padded to the right and below (``pad``); the grid tiles the input evenly.

    Attributes:
        size: (width, height) of the upright picture, in pixels.
        side: of the square input, in pixels.
        grid: (h, w) cells.
        pad: the picture keeps its shape.
        orientation: the EXIF orientation, 1 to 8, that the picture was turned from.
    """

    size: tuple[int, int]
    side: int
    grid: tuple[int, int]
    pad: bool = False
    orientation: int = 1

    @property
    def content(self) -> tuple[int, int]:
        """(width, height) of the input that holds picture; the rest is padding."""
        if not self.pad:
            return self.side, self.side
        width, height = self.size
        factor = self.side / max(width, height)
        return max(1, round(width * factor)), max(1, round(height * factor))

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
        # Whole numbers until the last division: a cell is either empty or not, whatever floats round to.
        whole = cells * self.content[axis]
        return min(edge * self.side, whole) * self.size[axis] / whole

    def cell_of(self, x: float, y: float) -> tuple[int, int]:
        """The cell (row, column) in which a point of the upright picture lies.

        Raises:
            ValueError: the point is not on the picture.
        """
        width, height = self.size
        if not (0 <= x <= width and 0 <= y <= height):
            raise ValueError(f"({x}, {y}) is not on a picture of {width} x {height}")
        return self._cell(y / height, 1), self._cell(x / width, 0)

    def _cell(self, fraction: float, axis: int) -> int:
        """The row (axis 1) or column (axis 0) at a fraction of the picture; at its very end, the last with picture."""
        whole = self.grid[1 - axis] * self.content[axis]
        return min(int(fraction * whole / self.side), (whole - 1) // self.side)

    def coverage(self, box: Box) -> "NDArray[np.float32]":
        """The share of each cell that a box covers, (h, w); the box in fractions of the upright picture."""
        rows, columns = self.grid
        # From fractions of the picture to cells.
        across, down = columns * self.content[0] / self.side, rows * self.content[1] / self.side
        left, top, right, bottom = box[0] * across, box[1] * down, box[2] * across, box[3] * down
        x, y = np.arange(columns), np.arange(rows)
        wide = (np.minimum(x + 1, right) - np.maximum(x, left)).clip(0, 1)
        high = (np.minimum(y + 1, bottom) - np.maximum(y, top)).clip(0, 1)
        return np.asarray(high[:, None] * wide[None], dtype=np.float32)

    @property
    def mask(self) -> "NDArray[np.bool_]":
        """(h, w), True where a cell holds picture, were it a sliver."""
        rows, columns = self.grid
        width, height = self.content
        down, across = np.arange(rows) * self.side < rows * height, np.arange(columns) * self.side < columns * width
        return np.asarray(down[:, None] & across[None])

    @property
    def extent(self) -> Box:
        """The rectangle that the whole grid covers, in pixels of the upright picture.

        It is the picture, and more where there is padding: a map drawn over this rectangle and clipped to the
        picture lies exactly where it belongs.
        """
        across, down = (self.size[axis] * self.side / self.content[axis] for axis in (0, 1))
        return 0.0, 0.0, across, down

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
    """The model's input for an upright RGB picture: (side, side, 3), padded with mid-gray."""
    width, height = geometry.content
    resized = image.resize((width, height), Image.Resampling.BICUBIC, reducing_gap=3.0)
    if (width, height) == (geometry.side, geometry.side):
        return np.asarray(resized)
    canvas = np.full((geometry.side, geometry.side, 3), 128, dtype=np.uint8)
    canvas[:height, :width] = np.asarray(resized)
    return canvas
