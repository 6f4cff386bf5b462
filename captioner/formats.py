"""The picture formats that are opened, and Pillow without its settings for the whole process.

Pillow checks sizes against a global limit, and it reports odd files as Python warnings. Both belong to the host
program. While this module opens a picture, the limit is the caller's, and Pillow's warnings are dropped. This holds
only for the thread that opens the picture. `PIL.Image.MAX_IMAGE_PIXELS` and the filters of `warnings` are never
changed.
"""

import functools
import importlib
import importlib.util
import struct
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from types import ModuleType
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from captioner.containers import codestream_size, icon_sizes, too_many_parts, without_large_text
from captioner.errors import ImageError, TooManyPixelsError
from captioner.scans import check_scans

if TYPE_CHECKING:
    from numpy.typing import NDArray

_HAS_HEIF = importlib.util.find_spec("pillow_heif") is not None  # the extra captioner[heic]

# What messages call a format: Pillow's names for it, and the endings of its files.
FORMATS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "JPEG": (("JPEG",), (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo")),
    "PNG": (("PNG",), (".png", ".apng")),
    "WebP": (("WEBP",), (".webp",)),
    "GIF": (("GIF",), (".gif",)),
    "BMP": (("BMP", "DIB"), (".bmp", ".dib")),
    "TIFF": (("TIFF",), (".tif", ".tiff")),
    "AVIF": (("AVIF",), (".avif", ".avifs")),
    "ICO": (("ICO",), (".ico",)),
    "PNM": (("PPM",), (".ppm", ".pgm", ".pbm", ".pnm", ".pfm")),
    "JPEG 2000": (("JPEG2000",), (".jp2", ".j2k", ".jpx", ".jpf", ".jpc", ".j2c")),
}
_HEIC_SUFFIXES = frozenset((".heic", ".heif", ".hif"))
if _HAS_HEIF:
    FORMATS["HEIC"] = (("HEIF",), tuple(sorted(_HEIC_SUFFIXES)))

SUFFIXES = frozenset(suffix for _, suffixes in FORMATS.values() for suffix in suffixes)
"""Endings, in lower case, of the files that are taken for pictures when a folder is captioned."""

_OTHER_SUFFIXES = (
    # Drawings, and formats that need another program.
    ".eps .epsf .ai .svg .svgz .wmf .emf .psd .psb .xcf .kra .djvu "
    # Rare and old formats.
    ".tga .icb .vda .vst .pcx .dcx .dds .exr .hdr .jxl .jxr .wdp .hdp .qoi .icns .cur .sgi .ras .xbm .xpm .pam "
    ".pict .pct .flif .bpg .fits .dcm "
    # What cameras call raw.
    ".dng .cr2 .cr3 .crw .nef .nrw .arw .srf .sr2 .orf .rw2 .raf .pef .srw .rwl .3fr .fff .iiq .erf .kdc .dcr "
    ".mrw .mos .x3f .raw"
)
UNREADABLE_SUFFIXES = (frozenset(_OTHER_SUFFIXES.split()) | _HEIC_SUFFIXES | {".avif", ".avifs"}) - SUFFIXES
"""Endings, in lower case, of pictures that cannot be opened here; runs over folders name such files."""

_PLUGINS = "Jpeg Mpo Png WebP Gif Bmp Tiff Avif Ico Ppm Jpeg2K"
_HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx")  # ISO/IEC 23008-12, Annex B
_LARGEST_TILE = 1 << 24  # pixels of a TIFF's tile that are fine in a picture of any size


def known_formats() -> str:
    """The formats that are opened, for messages."""
    names = list(FORMATS)
    return f"{', '.join(names[:-1])} and {names[-1]}"


# Pillow without its global settings.


@dataclass(frozen=True)
class _Limit:
    """What a thread is opening."""

    name: str
    pixels: int
    slack: int = 1

    def check(self, size: tuple[int, int]) -> None:
        width, height = size
        if width * height > self.pixels * self.slack:
            raise too_many_pixels(self.name, size, self.pixels)

    def check_tile(self, image: Image.Image) -> None:
        """A tile of a TIFF may be far larger than the picture that it is a part of."""
        tags = getattr(image, "tag_v2", {})
        width, height = tags.get(322, 0), tags.get(323, 0)
        if isinstance(width, int) and isinstance(height, int) and width * height > max(self.pixels, _LARGEST_TILE):
            raise too_many_pixels(f"{self.name}: a tile", (width, height), self.pixels)


_limit: ContextVar[_Limit | None] = ContextVar("captioner_limit", default=None)
_prepare = threading.Lock()


def too_many_pixels(name: str, size: tuple[int, int], limit: int) -> TooManyPixelsError:
    """The error for a picture of this (width, height)."""
    return TooManyPixelsError(
        f"{name}: {size[0]} x {size[1]} is more than the limit of {limit:,} pixels",
        size,
        remedy="make it smaller, or raise max_pixels (captioner caption --max-pixels) if you trust the file",
    )


class _Warnings(ModuleType):
    """The module `warnings` as Pillow's modules see it: silent in a thread that is opening a picture here."""

    def __getattr__(self, name: str) -> Any:
        return getattr(warnings, name)

    def warn(self, message: Any, category: Any = None, stacklevel: int = 1, *rest: Any, **options: Any) -> None:
        if _limit.get() is None:
            warnings.warn(message, category, stacklevel + 1, *rest, **options)


@functools.cache
def _load_plugins() -> None:
    """Import the plugins of the formats, which registers them with Pillow, and make them ask `_limit` first.

    Pillow's own function checks a size where this module is not at work, so the host's pictures are checked as ever.
    """
    for plugin in _PLUGINS.split():
        importlib.import_module(f"PIL.{plugin}ImagePlugin")
    if _HAS_HEIF:
        importlib.import_module("pillow_heif").register_heif_opener()
    pillow_check = getattr(Image, "_decompression_bomb_check", None)
    if pillow_check is not None:

        @functools.wraps(pillow_check)
        def check(size: tuple[int, int], *arguments: Any, **options: Any) -> None:
            limit = _limit.get()
            if limit is None:
                pillow_check(size, *arguments, **options)
            else:
                limit.check(size)

        Image._decompression_bomb_check = check  # type: ignore[attr-defined, unused-ignore]
    quiet = _Warnings("warnings")
    for name in ("Image", "ImageFile", "ImageOps", *(f"{plugin}ImagePlugin" for plugin in _PLUGINS.split())):
        module = sys.modules.get(f"PIL.{name}")
        if getattr(module, "warnings", None) is warnings:
            module.warnings = quiet  # type: ignore[union-attr]


@contextmanager
def pillow(name: str, max_pixels: int, *, slack: int = 1) -> Iterator[None]:
    """Within it, Pillow works for this thread with the caller's limit and without warnings.

    Args:
        name: the picture in messages.
        max_pixels: the limit of Pillow's own checks, which then raise `TooManyPixelsError`.
        slack: times the limit that these checks allow.
    """
    with _prepare:
        _load_plugins()
    token = _limit.set(_Limit(name, max_pixels, slack))
    try:
        yield
    finally:
        _limit.reset(token)


# Files.


def decode(file: IO[bytes], name: str, max_pixels: int, *, at_least: int | None = None) -> "Decoded":
    """Decode the first frame of a file; call it within `pillow`.

    Args:
        file: can be read and sought; it stays open.
        name: the picture in messages.
        max_pixels: larger pictures are refused before they are decoded.
        at_least: let a JPEG that is much larger be decoded at 1/2, 1/4 or 1/8 of its size, as long as each side keeps
            at least so many pixels.

    Raises:
        ImageError: the format is unknown or too large.
        Exception: whatever Pillow raises for a damaged file.
    """
    try:
        return _decode(file, name, max_pixels, at_least)
    except (ValueError, SyntaxError, OSError):
        slim = without_large_text(file)
        if slim is None:
            raise
    return _decode(slim, name, max_pixels, at_least)


@dataclass(frozen=True)
class Decoded:
    """A decoded picture as its file stores it.

    Attributes:
        image: in any mode.
        orientation: the EXIF orientation, 1 to 8, of the file.
        turned: the orientation is applied already, as Pillow does for TIFF.
        size: (width, height) of ``image`` at full size; it is smaller where it was decoded at reduced size.
        deep: (h, w, bands) uint16 where a colour picture stores 16 bits of which it uses fewer; else None.
    """

    image: Image.Image
    orientation: int
    turned: bool
    size: tuple[int, int]
    deep: "NDArray[np.uint16] | None" = None


def _decode(file: IO[bytes], name: str, max_pixels: int, at_least: int | None) -> Decoded:
    check_scans(file, name)
    if parts := too_many_parts(file):
        raise ImageError(f"{name}: a file with {parts}", remedy="save it as a new file")
    image = _open(file, name, max_pixels)
    limit = _Limit(name, max_pixels)
    limit.check(image.size)
    if image.format == "JPEG2000":
        limit.check(codestream_size(file) or image.size)
    is_tiff = image.format == "TIFF"
    if is_tiff:
        limit.check_tile(image)
        orientation = orientation_of(image)  # first: loading turns a TIFF and forgets its orientation
    size = image.size
    is_jpeg = image.format in ("JPEG", "MPO")
    if at_least is not None and is_jpeg:
        image.draft(None, (max(1, at_least), max(1, at_least)))
    is_deep = ";16" in _raw_mode(image)
    image.load()
    if is_tiff:
        size = image.size
    else:
        orientation = orientation_of(image)  # a PNG's may stand behind its pixels
    deep = _deep(image, file, name, max_pixels) if is_deep and image.mode in ("RGB", "RGBA") else None
    return Decoded(image, orientation, is_tiff, size, deep)


def _open(file: IO[bytes], name: str, max_pixels: int) -> Image.Image:
    file.seek(0)
    start = file.read(64)
    names = [pillow_name for names, _ in FORMATS.values() for pillow_name in names]
    if start[4:8] == b"ftyp" and any(brand in start[8:] for brand in _HEIC_BRANDS):
        if not _HAS_HEIF:
            raise ImageError(f"{name}: HEIC, which is not opened here", remedy="pip install 'captioner[heic]'")
        names.insert(0, "HEIF")  # AVIF takes the same kind of container
    slack = 1
    if start.startswith(b"\0\0\1\0"):
        for size in icon_sizes(file):
            _Limit(name, max_pixels).check(size)
        slack = 2  # Pillow checks the height of a bitmap with its mask
    file.seek(0)
    try:
        with pillow(name, max_pixels, slack=slack):
            return Image.open(file, formats=names)
    except UnidentifiedImageError as error:
        if _has_known_start(start[:16], names):
            raise SyntaxError(str(error.__context__ or "its beginning is damaged")) from None
        raise ImageError(
            f"{name}: not an image in a format that is known", remedy=f"known are {known_formats()}"
        ) from None


def _has_known_start(start: bytes, names: list[str]) -> bool:
    for name in names:
        accept = Image.OPEN[name][1] if name in Image.OPEN else None
        try:
            if accept is not None and accept(start) is True:
                return True
        except (IndexError, TypeError, struct.error):  # too short for this format
            continue
    return False


def orientation_of(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8, that an image asks for; 1 where its EXIF cannot be read."""
    try:
        orientation = image.getexif().get(0x0112, 1)
    except Exception:  # Pillow reads EXIF with few checks: a damaged one costs the EXIF, not the picture
        return 1
    return orientation if isinstance(orientation, int) and orientation in range(1, 9) else 1


# Colour pictures of 16 bits, of which Pillow keeps the upper 8.


def _raw_mode(image: Image.Image) -> str:
    """Pillow's name for the order of the bytes in the file; "" where it has none."""
    tiles = getattr(image, "tile", None)
    arguments = tiles[0][3] if tiles else None
    return str(arguments[0] if isinstance(arguments, tuple) and arguments else arguments or "")


def _deep(image: Image.Image, file: IO[bytes], name: str, max_pixels: int) -> "NDArray[np.uint16] | None":
    """(h, w, bands) of a picture whose largest value has 14 bits or fewer; None of another.

    Pillow keeps the upper byte of each value, which is next to nothing then. Reading the file again with the bytes of
    each value swapped gives the lower one.
    """
    upper = np.asarray(image)
    if upper[..., :3].max() >= 1 << 6:
        return None
    again = _open(file, name, max_pixels)
    raw = _raw_mode(again)
    is_little = raw.endswith("L") or (raw.endswith("N") and sys.byteorder == "little")
    raw = raw[:-1] + ("B" if is_little else "L")
    tiles = getattr(again, "tile", [])
    tiles[:] = [tile._replace(args=(raw, *tile[3][1:]) if isinstance(tile[3], tuple) else raw) for tile in tiles]
    try:
        again.load()
    except (ValueError, OSError):  # Pillow does not know the swapped order for this kind of picture
        return None
    deep = upper.astype(np.uint16)
    deep <<= 8
    deep |= np.asarray(again)
    return deep
