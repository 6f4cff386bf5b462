"""Opening pictures of every kind."""

import io
import os
import re
import stat
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Protocol, Union, runtime_checkable

import numpy as np
from PIL import Image

from captioner.conversion import from_array, to_8_bits, to_rgb
from captioner.errors import CaptionerError, ImageError, one_line
from captioner.formats import SUFFIXES as SUFFIXES
from captioner.formats import UNREADABLE_SUFFIXES as UNREADABLE_SUFFIXES
from captioner.formats import decode, orientation_of, pillow, too_many_pixels
from captioner.geometry import Box as Box
from captioner.geometry import Geometry as Geometry
from captioner.geometry import fit as fit
from captioner.scans import check_scans

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

_URL = re.compile(r"([a-z][a-z0-9+.-]+):/+", re.IGNORECASE)
_LARGEST_PIPE = 1 << 28  # bytes
_LONGEST_WAIT = 10.0  # seconds for the writer of a pipe
_TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@dataclass(frozen=True, kw_only=True)
class Opened:
    """A picture that was opened.

    Attributes:
        image: upright, RGB; no other object shares its memory.
        orientation: the EXIF orientation, 1 to 8, that it was turned from.
        size: (width, height) of the upright picture in its file; ``image`` has fewer pixels where ``at_least``
            let it be decoded at reduced size.
    """

    image: Image.Image
    orientation: int
    size: tuple[int, int]


def open_image(picture: Picture, *, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Open a picture, upright and in RGB.

    The EXIF orientation is applied. Gray, palette, 16-bit, floating-point, CMYK and Lab pictures are converted,
    transparency is laid on white, and the first frame of an animation is taken. 16-bit values that use only 10, 12 or
    14 bits are stretched to the full range. The image shares no memory with what was given.

    Args:
        picture: a path, the bytes of an image file, a PIL image, or an array: (h, w), (h, w, 1), (h, w, 3) or
            (h, w, 4); uint8, uint16, bool, or floating point in [0, 1].
        max_pixels: larger pictures are refused before they are decoded.

    Raises:
        ImageError: the file is missing, is no image of a known format, is damaged or too large, or the array has
            another shape or type.
    """
    return open_with_orientation(picture, max_pixels=max_pixels).image


def open_with_orientation(picture: Picture, *, max_pixels: int = MAX_PIXELS, at_least: int | None = None) -> Opened:
    """As `open_image`, with the EXIF orientation and the size of the picture.

    Args:
        picture: as of `open_image`.
        max_pixels: as of `open_image`.
        at_least: pixels that each side needs at least. A JPEG file that is larger is decoded at 1/2, 1/4 or 1/8 of
            its size, the smallest whose sides both have so many pixels; this is faster and changes pixels slightly.
            None decodes at full size.
    """
    if isinstance(picture, np.ndarray):
        image = from_array(picture, max_pixels)
        return Opened(image=image, orientation=1, size=image.size)
    name = _name(picture)
    with _errors(name), pillow(name, max_pixels):
        if isinstance(picture, Image.Image):
            return _from_image(picture, name, max_pixels)
        with _file(picture, name) as file:
            decoded = decode(file, name, max_pixels, at_least=at_least)
            image, size, orientation = decoded.image, decoded.size, decoded.orientation
            rgb = to_rgb(image) if decoded.deep is None else to_rgb(Image.fromarray(to_8_bits(decoded.deep)))
            turn = 1 if decoded.turned else decoded.orientation
            del decoded  # 50 megapixels are 200 megabytes
            upright = _turned(rgb, turn, is_own=rgb is not image)
        return Opened(image=upright, orientation=orientation, size=size if turn < 5 else size[::-1])


def _from_image(image: Image.Image, name: str, max_pixels: int) -> Opened:
    """A PIL image of the caller's, which is loaded if it is not yet, and not changed."""
    _check_size(image, name, max_pixels)
    file = getattr(image, "fp", None)  # None where it is loaded
    if image.format in ("JPEG", "MPO") and file is not None:
        place = file.tell()
        check_scans(file, name)
        file.seek(place)
    is_turned_by_loading = image.format == "TIFF"
    orientation = orientation_of(image)
    image.load()
    rgb = to_rgb(image)
    turn = orientation_of(image) if is_turned_by_loading else orientation
    upright = _turned(rgb, turn, is_own=rgb is not image)
    return Opened(image=upright, orientation=orientation, size=upright.size)


def _turned(image: Image.Image, orientation: int, *, is_own: bool) -> Image.Image:
    """A new upright image; of the file's metadata it keeps the colour profile."""
    method = _TRANSPOSE.get(orientation)
    turned = image.transpose(method) if method is not None else image if is_own else image.copy()
    turned.info = {key: value for key, value in turned.info.items() if key == "icc_profile" and value}
    return turned


@contextmanager
def _errors(name: str) -> Iterator[None]:
    """Turn whatever Pillow raises into an `ImageError` that names the picture."""
    try:
        yield
    except CaptionerError:
        raise
    except FileNotFoundError:
        if url := _URL.match(name):
            address = f"{url[1]}://{name[url.end() :]}"  # pathlib removes a slash
            raise ImageError(f"{address}: a URL, and pictures are files", remedy="fetch it first") from None
        raise ImageError(f"{name}: no such file") from None
    except IsADirectoryError:
        raise ImageError(f"{name}: a folder, not a picture") from None
    except PermissionError:
        raise ImageError(f"{name}: not permitted to read it") from None
    except MemoryError:
        raise ImageError(
            f"{name}: too large for this machine's memory",
            remedy="make it smaller, or lower max_pixels (captioner caption --max-pixels)",
        ) from None
    except OSError as error:
        if error.strerror:
            raise ImageError(f"{name}: cannot be read ({error.strerror})") from None
        raise _damaged(name, error) from None
    except Exception as error:  # Pillow's decoders raise nearly every exception for damaged files
        raise _damaged(name, error) from None


def _damaged(name: str, error: Exception) -> ImageError:
    what = one_line(error) or type(error).__name__
    return ImageError(f"{name}: truncated or damaged ({what})", remedy="download or export it again")


def _open(path: str | os.PathLike[str], name: str) -> IO[bytes]:
    """A file, open for reading.

    Opening a named pipe would wait for its writer, and no signal ends that in a thread: one without a writer is given
    up. Raises ImageError.
    """
    try:
        is_pipe = stat.S_ISFIFO(os.stat(path).st_mode)  # noqa: PTH116
    except (OSError, ValueError):
        is_pipe = False  # what is wrong is said when it is opened
    if not is_pipe or not hasattr(os, "O_NONBLOCK"):
        return open(path, "rb")  # noqa: PTH123 - Path.open drops a trailing slash, and so names another file
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        first = b""
        # A shell's own pipes, under /dev, have had their writer.
        until = time.monotonic() + (0 if name.startswith(("/dev/", "/proc/")) else _LONGEST_WAIT)
        with suppress(BlockingIOError):  # a writer that takes its time
            while not (first := os.read(descriptor, 1)):  # no writer yet, or no longer
                if time.monotonic() >= until:
                    raise ImageError(f"{name}: a pipe into which nothing is written")
                time.sleep(0.02)
        os.set_blocking(descriptor, True)
        with os.fdopen(os.dup(descriptor), "rb") as rest:
            return io.BytesIO(first + _read_pipe(rest, name))
    finally:
        os.close(descriptor)


@contextmanager
def _file(picture: Picture, name: str) -> Iterator[IO[bytes]]:
    """A picture's file, open for reading from its beginning."""
    if isinstance(picture, (bytes, bytearray, memoryview)):
        if not len(picture):
            raise ImageError("the picture has no bytes")
        yield io.BytesIO(picture)
    elif isinstance(picture, (str, os.PathLike)):
        if not name:
            raise ImageError("the path is empty")
        if "\0" in name or not _is_encodable(name):
            raise ImageError(f"{name!r} is no path")
        with _open(picture, name) as file:
            whole = file if file.seekable() else io.BytesIO(_read_pipe(file, name))
            if not whole.read(1) and Path(name).is_file():  # a device has no size
                raise ImageError(f"{name}: the file is empty")
            yield whole
    elif isinstance(picture, ReadsBytes):
        data = picture.read_bytes()
        if not data:
            raise ImageError(f"{name}: the file is empty")
        yield io.BytesIO(data)
    else:
        other: object = picture  # what the types do not allow
        remedy = ""
        if hasattr(other, "read"):
            remedy = "give the bytes of an open file, its read()"
        elif isinstance(other, list):
            remedy = "give one picture"
        elif isinstance(other, Iterable):
            remedy = "put several into a list"
        raise ImageError(
            f"a picture is a path, bytes, a PIL image or a numpy array, not {type(picture).__name__}", remedy=remedy
        )


def _read_pipe(file: IO[bytes], name: str) -> bytes:
    data = file.read(_LARGEST_PIPE + 1)
    if len(data) > _LARGEST_PIPE:  # it may have no end
        raise ImageError(f"{name}: more than {_LARGEST_PIPE:,} bytes from a pipe", remedy="give it as a file")
    return data


def _is_encodable(name: str) -> bool:
    try:
        os.fsencode(name)
    except UnicodeEncodeError:  # a lone surrogate that stands for no byte
        return False
    return True


def _check_size(image: Image.Image, name: str, max_pixels: int) -> None:
    width, height = image.size
    if width == 0 or height == 0:
        raise ImageError(f"{name}: {width} x {height} has no pixels")
    if width * height > max_pixels:
        raise too_many_pixels(name, image.size, max_pixels)


def _name(picture: Picture) -> str:
    try:
        if isinstance(picture, (str, os.PathLike)):
            return os.fsdecode(picture)
        if isinstance(picture, ReadsBytes):
            return str(picture)
        return os.fsdecode(getattr(picture, "filename", "") or "the picture")
    except Exception:  # a foreign class may raise anything
        return type(picture).__name__
