"""Pictures of every kind open upright and in RGB; what is no picture gets an error that names it."""

import functools
import gc
import io
import os
import struct
import threading
import time
import tracemalloc
import warnings
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import numpy as np
import PIL
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageSequence
from PIL.PngImagePlugin import PngInfo

from captioner.errors import ImageError, TooManyPixelsError
from captioner.image import SUFFIXES, UNREADABLE_SUFFIXES, Geometry, fit, open_image, open_with_orientation

# Left to right: red, green, blue, white; small enough to compare whole, no two pixels of a row alike.
ROW = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)]


def pixels_of(picture: Any) -> list[list[tuple[int, int, int]]]:
    image = open_image(picture)
    assert image.mode == "RGB"
    return [[tuple(pixel) for pixel in row] for row in np.asarray(image).tolist()]


def save(path: Path, image: Image.Image, **options: Any) -> Path:
    image.save(path, **options)
    return path


def test_gray(tmp_path: Path) -> None:
    image = Image.new("L", (2, 1))
    image.putdata([0, 200])
    assert pixels_of(save(tmp_path / "gray.png", image)) == [[(0, 0, 0), (200, 200, 200)]]


def test_one_bit(tmp_path: Path) -> None:
    image = Image.new("1", (2, 1))
    image.putdata([0, 1])
    assert pixels_of(save(tmp_path / "bits.png", image)) == [[(0, 0, 0), (255, 255, 255)]]


def palette_image() -> Image.Image:
    image = Image.new("P", (4, 1))
    image.putpalette([channel for colour in ROW for channel in colour])
    image.putdata([0, 1, 2, 3])
    return image


def test_palette(tmp_path: Path) -> None:
    assert pixels_of(save(tmp_path / "palette.png", palette_image())) == [ROW]


def test_palette_with_a_transparent_colour_lies_on_white(tmp_path: Path) -> None:
    path = save(tmp_path / "palette.png", palette_image(), transparency=1)  # green is see-through
    assert pixels_of(path) == [[ROW[0], (255, 255, 255), ROW[2], ROW[3]]]


def test_palette_with_an_opacity_for_each_colour(tmp_path: Path) -> None:
    path = save(tmp_path / "palette.png", palette_image(), transparency=bytes([255, 0, 51, 255]))
    # Blue at a fifth on white: 255 * 0.8 of red and green remain.
    assert pixels_of(path) == [[ROW[0], (255, 255, 255), (204, 204, 255), ROW[3]]]


def test_palette_of_colours_with_opacity_lies_on_white() -> None:
    quantised = Image.new("RGBA", (8, 8), (0, 0, 0, 0)).quantize()
    assert quantised.mode == "P" and "transparency" not in quantised.info
    assert np.asarray(open_image(quantised)).min() == 255


def test_rgb_with_a_transparent_colour_lies_on_white(tmp_path: Path) -> None:
    image = Image.new("RGB", (4, 1))
    image.putdata(ROW)
    path = save(tmp_path / "key.png", image, transparency=(255, 0, 0))
    assert pixels_of(path) == [[(255, 255, 255), *ROW[1:]]]


@pytest.mark.parametrize(
    ("mode", "pixels", "expected"),
    [
        ("RGBA", [(255, 0, 0, 255), (255, 0, 0, 0), (0, 0, 0, 51)], [(255, 0, 0), (255, 255, 255), (204, 204, 204)]),
        ("LA", [(90, 255), (90, 0), (0, 51)], [(90, 90, 90), (255, 255, 255), (204, 204, 204)]),
    ],
)
def test_transparency_lies_on_white(tmp_path: Path, mode: str, pixels: list[Any], expected: list[Any]) -> None:
    image = Image.new(mode, (3, 1))
    image.putdata(pixels)
    assert pixels_of(save(tmp_path / "see-through.png", image)) == [expected]
    assert pixels_of(image) == [expected]


@pytest.mark.parametrize("brightest", [65535, 200])
def test_sixteen_bit_gray_keeps_its_scale(tmp_path: Path, brightest: int) -> None:
    """A night picture stays dark: 16-bit values are not stretched to what happens to be in the picture."""
    values = np.array([[0, brightest]], dtype=np.uint16)
    path = save(tmp_path / "deep.png", Image.fromarray(values))
    level = round(brightest / 257)
    assert pixels_of(path) == [[(0, 0, 0), (level, level, level)]]


@pytest.mark.parametrize("shape", [(4, 6), (4, 6, 1), (4, 6, 3)])
def test_sixteen_bit_arrays_are_as_the_file_of_the_same_values(tmp_path: Path, shape: tuple[int, ...]) -> None:
    values = np.random.default_rng(1).integers(0, 65536, shape, dtype=np.uint16)
    expected = np.round(values / 257).astype(int)
    expected = np.broadcast_to(expected.reshape(4, 6, -1), (4, 6, 3))
    assert (np.asarray(open_image(values)) == expected).all()
    if len(shape) == 2:
        path = save(tmp_path / "deep.png", Image.fromarray(values))
        assert (np.asarray(open_image(path)) == expected).all()


def test_cmyk_jpeg(tmp_path: Path) -> None:
    path = save(tmp_path / "print.jpg", Image.new("CMYK", (16, 16), (0, 255, 255, 0)), quality=95)
    red, green, blue = pixels_of(path)[8][8]
    assert red > 240
    assert max(green, blue) < 15


def test_an_animation_gives_its_first_frame(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ROW[:3]]
    path = save(tmp_path / "moving.gif", frames[0], save_all=True, append_images=frames[1:])
    assert pixels_of(path)[0][0] == (255, 0, 0)


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif", ".webp", ".gif", ".ppm", ".jp2"])
def test_lossless_formats_give_the_same_pixels(tmp_path: Path, suffix: str) -> None:
    image = Image.new("RGB", (4, 16))
    image.putdata(ROW * 16)
    options = {".webp": {"lossless": True}, ".jp2": {"irreversible": False}}.get(suffix, {})
    assert pixels_of(save(tmp_path / f"rows{suffix}", image, **options)) == [ROW] * 16


def test_a_path_a_string_bytes_an_image_and_an_array_are_the_same_picture(make_picture: Callable[..., Path]) -> None:
    path = make_picture(size=(7, 5))
    with Image.open(path) as image:
        array = np.asarray(image)
        expected = array.tolist()
        for picture in (path, str(path), path.read_bytes(), bytearray(path.read_bytes()), image, array):
            assert np.asarray(open_image(picture)).tolist() == expected


def test_the_callers_own_image_is_left_as_it_is() -> None:
    image = Image.new("RGB", (2, 2), "red")
    open_image(image).putpixel((0, 0), (0, 0, 255))
    assert image.getpixel((0, 0)) == (255, 0, 0)


# Arrays: what, the array, the first pixel.
ARRAYS: dict[str, tuple[np.ndarray[Any, Any], tuple[int, int, int]]] = {
    "gray": (np.full((2, 3), 7, np.uint8), (7, 7, 7)),
    "gray with a channel": (np.full((2, 3, 1), 7, np.uint8), (7, 7, 7)),
    "RGB": (np.full((2, 3, 3), (1, 2, 3), np.uint8), (1, 2, 3)),
    "RGBA": (np.full((2, 3, 4), (9, 9, 9, 0), np.uint8), (255, 255, 255)),
    "bool": (np.ones((2, 3), np.bool_), (255, 255, 255)),
    "float32": (np.full((2, 3, 3), (0.0, 0.5, 1.0), np.float32), (0, 128, 255)),
    "float64 gray": (np.full((2, 3), 0.2), (51, 51, 51)),
    "a view with strides": (np.full((4, 6, 3), (1, 2, 3), np.uint8)[::2, ::-2, ::-1], (3, 2, 1)),
}


@pytest.mark.parametrize("what", ARRAYS)
def test_arrays(what: str) -> None:
    array, expected = ARRAYS[what]
    pixels = pixels_of(array)
    assert (len(pixels), len(pixels[0])) == (2, 3)
    assert pixels[0][0] == expected


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.zeros((2, 3, 2), np.uint8), "shape (2, 3, 2)"),
        (np.zeros(5, np.uint8), "shape (5,)"),
        (np.zeros((1, 2, 3, 3), np.uint8), "shape (1, 2, 3, 3)"),
        (np.zeros((0, 3), np.uint8), "shape (0, 3)"),
        (np.zeros((2, 3), np.int64), "int64"),
        (np.full((2, 3), 255.0), "from 0 to 1, not 255 to 255"),
        (np.full((2, 3), np.nan), "from 0 to 1"),
    ],
)
def test_arrays_that_are_no_pictures(array: np.ndarray[Any, Any], words: str) -> None:
    with pytest.raises(ImageError) as raised:
        open_image(array)
    assert words in str(raised.value)


def test_floating_point_image_files(tmp_path: Path) -> None:
    path = save(tmp_path / "float.tif", Image.fromarray(np.array([[0.0, 0.2, 1.0]], np.float32)))
    assert pixels_of(path) == [[(0, 0, 0), (51, 51, 51), (255, 255, 255)]]


def test_values_that_are_no_numbers_are_black_and_not_warned_of() -> None:
    """A signalling NaN, an infinity and 2; numpy warns of the first while it converts it."""
    data = b"Pf\n3 1\n-1.0\n" + struct.pack("<IIf", 0x7F800001, 0x7F800000, 2.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert pixels_of(data) == [[(0, 0, 0), (0, 0, 0), (255, 255, 255)]]


# EXIF: how each orientation stores an upright picture, in terms of numpy alone.
STORED: dict[int, Callable[[Any], Any]] = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: a.swapaxes(0, 1)[::-1],
    7: lambda a: a.swapaxes(0, 1)[::-1, ::-1],
    8: lambda a: a.swapaxes(0, 1)[:, ::-1],
}


@pytest.mark.parametrize("suffix", [".png", ".tif", ".webp"])
@pytest.mark.parametrize("orientation", STORED)
def test_exif_orientation(tmp_path: Path, orientation: int, suffix: str) -> None:
    """Every orientation gives the same upright picture, and rectangles of it find their stored pixels."""
    upright = np.random.default_rng(3).integers(0, 256, (5, 8, 3), dtype=np.uint8)
    stored = STORED[orientation](upright)
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if suffix == ".webp" else {}
    path = save(tmp_path / f"turned{suffix}", Image.fromarray(np.ascontiguousarray(stored)), exif=exif, **options)

    opened = open_with_orientation(path)
    image, found = opened.image, opened.orientation
    assert (np.asarray(image) == upright).all()
    assert (found, opened.size) == (orientation, image.size)

    geometry = Geometry(size=image.size, side=64, grid=(4, 4), orientation=found)
    for box in ((0, 0, 8, 5), (1, 2, 4, 3), (6, 0, 8, 4)):
        left, top, right, bottom = box
        x0, y0, x1, y1 = (int(edge) for edge in geometry.to_stored(box))
        cut = stored[y0:y1, x0:x1]
        assert (cut == STORED[orientation](upright[top:bottom, left:right])).all()


@pytest.mark.parametrize("orientation", [0, 9, 4000])
def test_an_orientation_that_does_not_exist_is_none(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save(tmp_path / "odd.png", Image.new("RGB", (3, 2)), exif=exif)
    opened = open_with_orientation(path)
    assert (opened.image.size, opened.orientation) == ((3, 2), 1)


def test_damaged_exif_does_not_cost_the_picture(tmp_path: Path) -> None:
    path = save(tmp_path / "odd.jpg", Image.new("RGB", (16, 8), "red"), exif=b"Exif\x00\x00MM\x00*\xff\xff\xff\xff")
    opened = open_with_orientation(path)
    assert (opened.image.size, opened.orientation) == ((16, 8), 1)


# What is too large.


def png_header(width: int, height: int) -> bytes:
    """A PNG file that claims a size and holds next to nothing: decoding it would take gigabytes, or fail."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    start = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + start + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def test_a_bomb_is_refused_before_it_is_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "bomb.png"
    path.write_bytes(png_header(100_000, 100_000))

    def decoded(self: Image.Image) -> None:
        raise AssertionError("the picture was decoded")

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", decoded)
    with pytest.raises(ImageError, match=r"bomb.png.*100000 x 100000.*100,000,000"):
        open_image(path)


def test_the_limit_is_the_callers_in_both_directions(
    make_picture: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_picture(size=(40, 30))
    assert open_image(path, max_pixels=1200).size == (40, 30)
    with pytest.raises(ImageError, match=r"photo.png.*40 x 30.*1,199.*--max-pixels"):
        open_image(path, max_pixels=1199)
    with pytest.raises(ImageError, match="40 x 30 is more than the limit of 1,199"):
        open_image(np.zeros((30, 40), np.uint8), max_pixels=1199)
    # Pillow's own limit is for programs that have none; the caller's may be above it.
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    assert open_image(path, max_pixels=1200).size == (40, 30)
    assert Image.MAX_IMAGE_PIXELS == 100


def test_pillows_own_limit_is_left_alone_by_threads(
    make_picture: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is a setting of the whole process, and pictures are opened by several threads at once."""
    data = make_picture(size=(4, 4)).read_bytes()
    really_open = Image.open

    def open_slowly(source: Any, **options: Any) -> Image.Image:
        time.sleep(0.002)  # time for another thread to come between
        return really_open(source, **options)

    monkeypatch.setattr(Image, "open", open_slowly)
    before = Image.MAX_IMAGE_PIXELS
    with ThreadPoolExecutor(8) as pool:
        pictures = list(pool.map(open_image, [data] * 40))
    assert len(pictures) == 40
    assert before is not None
    assert before == Image.MAX_IMAGE_PIXELS


# What is no picture.


def test_whatever_is_cut_off_a_file_is_an_error_that_names_it(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (48, 48, 3), dtype=np.uint8)
    for name in ("photo.jpg", "photo.png", "photo.webp", "photo.gif", "photo.tif", "photo.bmp"):
        whole = save(tmp_path / name, Image.fromarray(noise)).read_bytes()
        for share in (0.01, 0.1, 0.5, 0.9):
            path = tmp_path / f"cut-{name}"
            path.write_bytes(whole[: int(len(whole) * share)])
            with pytest.raises(ImageError) as raised:
                open_image(path)
            assert f"cut-{name}" in str(raised.value)


def encoded(image: Image.Image, form: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def with_orientation(orientation: int = 6) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    exif[0x010F] = "a camera of some make"
    return exif


@functools.cache
def whole_files() -> list[bytes]:
    """Small pictures of all formats that are opened, with and without what goes along with pictures."""
    pixels = np.random.default_rng(5).integers(0, 256, (12, 14, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    gray, exif = image.convert("L"), with_orientation()
    deep = Image.fromarray(pixels[..., 0].astype(np.uint16) * 16)
    info = PngInfo()
    info.add_text("history", "edited; " * 20, zip=True)
    frames = {"save_all": True, "append_images": [gray.convert("RGB")]}
    return [
        encoded(image, "JPEG", exif=exif, icc_profile=b"profile" * 9, comment=b"hello"),
        encoded(image.convert("CMYK"), "JPEG", progressive=True),
        encoded(image, "MPO", save_all=True, append_images=[gray], exif=exif),
        encoded(image, "PNG", exif=exif, pnginfo=info, icc_profile=b"profile" * 9),
        encoded(image, "PNG", **frames),
        encoded(image.convert("P"), "PNG", transparency=bytes(range(256))),
        encoded(deep, "PNG"),
        encoded(image, "GIF", **frames, transparency=3),
        encoded(image, "WEBP", exif=exif, icc_profile=b"profile" * 9),
        encoded(image.convert("RGBA"), "WEBP", lossless=True, **frames),
        encoded(image, "BMP"),
        encoded(image.convert("P"), "BMP"),
        encoded(image, "DIB"),
        encoded(image, "TIFF", exif=exif),
        encoded(image, "TIFF", compression="tiff_deflate"),
        encoded(image, "TIFF", compression="jpeg"),
        encoded(gray.convert("1"), "TIFF", compression="group4"),
        encoded(deep, "TIFF", compression="tiff_lzw"),
        encoded(image, "AVIF", exif=exif, speed=10),
        encoded(image, "AVIF", speed=10, **frames),
        encoded(image.resize((16, 16)), "ICO"),  # before Pillow 13, icons of other sizes are written without a picture
        encoded(image.resize((16, 16)), "ICO", bitmap_format="bmp"),
        encoded(image, "PPM"),
        encoded(gray.convert("1"), "PPM"),
        b"P3 2 2 255 1 2 3 4 5 6 7 8 9 10 11 12",
        encoded(gray.convert("F"), "PPM"),
        encoded(image, "JPEG2000"),
        encoded(image, "JPEG2000", no_jp2=True),
        encoded(gray, "JPEG2000", tile_size=(8, 8)),
    ]


FILE = st.integers(0, 28)


@settings(max_examples=1500, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
@given(
    which=FILE,
    changes=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), min_size=1, max_size=6),
    early=st.booleans(),
    cut=st.none() | st.floats(0, 1),
)
def test_changed_bytes_give_a_picture_or_an_error(
    which: int, changes: list[tuple[float, int]], early: bool, cut: float | None
) -> None:
    """Pillow raises nearly every exception for damaged files; the caller sees an ImageError, whatever it is."""
    data = bytearray(whole_files()[which])
    for place, value in changes:
        data[int(place * (min(len(data), 120 if early else len(data)) - 1))] = value
    if cut is not None:
        del data[int(cut * len(data)) :]
    try:
        opened = open_with_orientation(bytes(data), max_pixels=10_000)
    except ImageError as error:
        assert str(error)
    else:
        assert opened.image.mode == "RGB"
        assert opened.image.size == opened.size
        assert opened.image.width * opened.image.height <= 10_000


def test_all_formats_open(tmp_path: Path) -> None:
    """The files above are sound, and so is what they are changed from."""
    files = whole_files()
    assert len(files) == 29
    for data in files:
        assert open_image(data).mode == "RGB"


# What the name and the beginning of a file are not.


@pytest.mark.parametrize("name", ["drawing.eps", "photo.jpg", "photo.png"])
def test_postscript_is_never_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    ran = tmp_path / "ran"
    (tmp_path / "gs").write_text(f"#!/bin/sh\ntouch {ran}\n")
    (tmp_path / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    drawing = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 60 40\n%%EndComments\nshowpage\n%%EOF\n"
    (tmp_path / name).write_bytes(drawing)
    for picture in (tmp_path / name, drawing):
        with pytest.raises(ImageError) as raised:
            open_image(picture)
        assert all(form in raised.value.remedy for form in ("JPEG", "PNG", "WebP", "AVIF", "JPEG 2000"))
    assert not ran.exists()


@pytest.mark.parametrize("form", ["TGA", "PCX", "ICNS", "SGI", "DDS"])
def test_other_formats_of_pillow_are_unknown(form: str) -> None:
    data = encoded(Image.new("RGB", (16, 16), "red"), form)
    with pytest.raises(ImageError) as raised:
        open_image(data)
    assert "WebP" in raised.value.remedy


@pytest.mark.skipif(".heic" in SUFFIXES, reason="pillow-heif is installed")
def test_heic_without_its_package_names_the_extra() -> None:
    data = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(40)
    with pytest.raises(ImageError) as raised:
        open_image(data)
    assert "captioner[heic]" in raised.value.remedy
    assert {".heic", ".heif"} <= UNREADABLE_SUFFIXES


def test_endings() -> None:
    assert not SUFFIXES & UNREADABLE_SUFFIXES
    assert {".jpe", ".mpo", ".apng", ".dib", ".avif", ".ico", ".pnm", ".pfm", ".j2k", ".jpc"} <= SUFFIXES
    assert {".tga", ".eps", ".psd", ".svg", ".cr2", ".nef", ".dng"} <= UNREADABLE_SUFFIXES
    assert all(suffix == suffix.lower() and suffix.startswith(".") for suffix in SUFFIXES | UNREADABLE_SUFFIXES)


# Sound files that are unusual.


@functools.cache
def compressible_chunks() -> dict[str, bytes]:
    image = Image.fromarray(np.full((4, 6, 3), (9, 80, 200), np.uint8))
    text, international, after, many = PngInfo(), PngInfo(), PngInfo(), PngInfo()
    text.add_text("history", "edited; " * 260_000, zip=True)
    international.add_itxt("history", "edited; " * 260_000, zip=True)
    after.add(b"zTXt", b"history\0\0" + zlib.compress(bytes(2_000_000)), after_idat=True)
    for number in range(70):
        many.add_text(f"history {number}", "x" * 1_000_000, zip=True)
    return {
        "zTXt": encoded(image, "PNG", pnginfo=text),
        "iTXt": encoded(image, "PNG", pnginfo=international),
        "zTXt after the pixels": encoded(image, "PNG", pnginfo=after),
        "much text": encoded(image, "PNG", pnginfo=many),
        "iCCP": encoded(image, "PNG", icc_profile=bytes(2_000_000)),
    }


@pytest.mark.parametrize("what", ["zTXt", "iTXt", "zTXt after the pixels", "much text", "iCCP"])
def test_a_large_text_or_profile_does_not_cost_the_picture(what: str) -> None:
    assert (np.asarray(open_image(compressible_chunks()[what])) == (9, 80, 200)).all()


def test_a_large_text_leaves_the_orientation() -> None:
    text = PngInfo()
    text.add_text("history", "edited; " * 260_000, zip=True)
    data = encoded(Image.new("RGB", (6, 4)), "PNG", pnginfo=text, exif=with_orientation(6))
    opened = open_with_orientation(data)
    assert (opened.image.size, opened.orientation) == ((4, 6), 6)


@pytest.mark.parametrize("bits", [10, 12, 14, 16])
@pytest.mark.parametrize("form", ["PNG", "TIFF", "array", "gray array"])
def test_values_of_16_bits_are_stretched_by_the_bits_that_are_used(bits: int, form: str) -> None:
    top = (1 << bits) - 1
    gray = np.array([[0, top // 4, top // 2, top]], np.uint16)
    expected = (gray * (255 / top)).round()
    picture: Any = {"array": np.stack([gray] * 3, 2), "gray array": gray}.get(form)
    if picture is None:
        picture = encoded(Image.fromarray(gray), form)
    assert (np.asarray(open_image(picture)) == expected[:, :, None]).all()
    if "array" in form:  # the same values in the other order of bytes
        assert (np.asarray(open_image(picture.astype(">u2"))) == expected[:, :, None]).all()


def colour_png(values: np.ndarray[Any, Any]) -> bytes:
    """A PNG of 16 bits a colour, which Pillow does not write."""
    height, width, bands = values.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", width, height, 16, {3: 2, 4: 6}[bands], 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    parts = [struct.pack(">I", len(d)) + kind + d + struct.pack(">I", zlib.crc32(kind + d)) for kind, d in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def test_colours_of_12_bits_in_16_are_stretched() -> None:
    values = np.array([[[0, 1000, 4095], [4095, 17, 2048]]], np.uint16)
    expected = (values * (255 / 4095)).round()
    assert (np.asarray(open_image(colour_png(values))) == expected).all()
    opaque = np.concatenate([values, np.full((1, 2, 1), 65535, np.uint16)], 2)
    assert (np.asarray(open_image(colour_png(opaque))) == expected).all()
    full = values * 16 + 15
    assert (np.asarray(open_image(colour_png(full))) == full >> 8).all()  # as Pillow reads them


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_floats_that_are_off_by_a_rounding_are_clipped(kind: Any) -> None:
    array = np.full((2, 3, 3), 0.5, kind)
    array[0, 0], array[1, 1] = np.nextafter(kind(1), kind(2)), -1e-7
    pixels = np.asarray(open_image(array))
    assert pixels[0, 0].tolist() == [255] * 3
    assert pixels[1, 1].tolist() == [0] * 3
    array[0, 0] = 1.01
    with pytest.raises(ImageError, match=r"1\.01"):
        open_image(array)


def test_lab(tmp_path: Path) -> None:
    """Pillow converts it by colour profiles alone."""
    image = Image.new("LAB", (4, 4), (255, 128, 128))  # white
    assert (np.asarray(open_image(save(tmp_path / "lab.tif", image))) > 250).all()


# Damaged EXIF.


def test_damaged_exif_keeps_the_orientation_where_it_can_be_read() -> None:
    """A value that points nowhere and a text that is none, beside an orientation that is fine."""
    entries = [(0x0112, 3, 1, 6), (0x011A, 5, 1, 0xFFFFFF), (0x8769, 4, 1, 0xFFFFF0), (0x0132, 2, 90, 0xFFFF)]
    exif = b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", len(entries))
    exif += b"".join(struct.pack("<HHII", *entry) for entry in entries) + bytes(4)
    for form, options in (("JPEG", {}), ("WEBP", {"lossless": True}), ("PNG", {})):
        opened = open_with_orientation(encoded(Image.new("RGB", (16, 8), "red"), form, exif=exif, **options))
        assert (opened.image.size, opened.orientation) == ((8, 16), 6)


def test_exif_that_cannot_be_written_again_does_not_cost_the_picture() -> None:
    """Turning needs no new EXIF: values that Pillow reads and cannot write do no harm."""
    entries = [(0x0112, 3, 1, 6), (0x9C9E, 4, 1, 7), (0x0100, 12, 1, 8), (0x0101, 11, 1, 0x7FC00000)]
    exif = b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", len(entries))
    exif += b"".join(struct.pack("<HHII", *entry) for entry in entries) + bytes(4)
    opened = open_with_orientation(encoded(Image.new("RGB", (16, 8), "red"), "JPEG", exif=exif))
    assert (opened.image.size, opened.orientation) == ((8, 16), 6)


@pytest.mark.parametrize(
    "error",
    [struct.error("odd"), TypeError("odd"), RuntimeError("odd"), NotImplementedError("odd"), MemoryError("odd")],
)
@pytest.mark.parametrize("where", ["PIL.Image.open", "PIL.ImageFile.ImageFile.load"])
def test_whatever_pillow_raises_is_an_image_error(
    make_picture: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, where: str, error: type[Exception]
) -> None:
    path = make_picture("photo.bmp")
    open_image(path)

    def fail(*arguments: Any, **options: Any) -> None:
        raise error("odd")

    monkeypatch.setattr(where, fail)
    with pytest.raises(ImageError, match=r"photo\.bmp"):
        open_image(path)


def test_an_interrupt_is_no_image_error(make_picture: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*arguments: Any, **options: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Image, "open", interrupt)
    with pytest.raises(KeyboardInterrupt):
        open_image(make_picture())


# Reduced JPEG.


@pytest.mark.parametrize(
    ("size", "at_least", "expected"),
    [
        ((800, 600), None, (800, 600)),
        ((800, 600), 601, (800, 600)),
        ((800, 600), 300, (400, 300)),
        ((800, 600), 299, (400, 300)),
        ((800, 600), 151, (400, 300)),
        ((800, 600), 150, (200, 150)),
        ((803, 601), 75, (101, 76)),
        ((800, 600), 1, (100, 75)),
        ((800, 30), 30, (800, 30)),
        ((4, 4), 224, (4, 4)),
    ],
)
@pytest.mark.parametrize("orientation", [1, 6])
def test_a_large_jpeg_is_decoded_at_reduced_size(
    size: tuple[int, int], at_least: int | None, expected: tuple[int, int], orientation: int
) -> None:
    smooth = Image.linear_gradient("L").resize(size).convert("RGB")
    data = encoded(smooth, "JPEG", exif=with_orientation(orientation), quality=95)
    opened = open_with_orientation(data, at_least=at_least)
    full = open_with_orientation(data)
    turned = slice(None, None, -1 if orientation == 6 else 1)
    assert opened.image.size == expected[turned]
    assert opened.size == full.size == size[turned]
    assert opened.orientation == orientation
    geometry = Geometry(size=opened.size, side=32, grid=(4, 4))
    difference = fit(opened.image, geometry).astype(int) - fit(full.image, geometry)
    assert np.abs(difference).max() <= 12
    if at_least is None:
        assert (difference == 0).all()


def test_only_jpeg_is_reduced() -> None:
    for form in ("PNG", "WEBP", "TIFF"):
        assert open_with_orientation(encoded(Image.new("RGB", (80, 60)), form), at_least=8).image.size == (80, 60)
    image = Image.open(io.BytesIO(encoded(Image.new("RGB", (80, 60)), "JPEG")))
    assert open_with_orientation(image, at_least=8).image.size == (80, 60)
    assert image.size == (80, 60)


# The picture is the caller's, and so is the process.


@pytest.mark.parametrize("what", [*ARRAYS, "RGB"])
def test_an_array_that_is_filled_again_leaves_the_picture(what: str) -> None:
    array = np.array(ARRAYS[what][0])
    image = open_image(array)
    before = image.tobytes()
    array[:] = 1 - array.astype(bool)
    assert image.tobytes() == before


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P", "CMYK", "1", "I;16", "F"])
def test_an_image_that_is_drawn_on_leaves_the_picture(mode: str) -> None:
    given = Image.new("RGB", (4, 3), (200, 30, 90)).convert("L").convert(mode) if mode in ("I;16", "F") else None
    given = given or Image.new("RGB", (4, 3), (200, 30, 90)).convert(mode)
    image = open_image(given)
    before = image.tobytes()
    given.paste(0, (0, 0, 4, 3))
    assert image.tobytes() == before
    assert type(image) is Image.Image


def test_frames_of_an_animation_stay_apart() -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ROW[:3]]
    for form in ("GIF", "WEBP", "PNG", "TIFF"):
        data = encoded(frames[0], form, save_all=True, append_images=frames[1:])
        with Image.open(io.BytesIO(data)) as moving:
            opened = [open_image(frame) for frame in ImageSequence.Iterator(moving)]
        for image, colour in zip(opened, ROW[:3], strict=True):
            assert np.abs(np.asarray(image).astype(int) - colour).max() < 12


def test_a_picture_carries_no_metadata() -> None:
    """A page and a saved copy must not hold the comment or the place of the photograph."""
    data = encoded(Image.new("RGB", (8, 8)), "JPEG", exif=with_orientation(1), comment=b"secret", xmp=b"<x/>")
    assert open_image(data).info == {}
    assert open_image(Image.open(io.BytesIO(data))).info == {}


def test_files_are_closed(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ROW[:3]]
    for suffix in (".gif", ".tif", ".png", ".webp"):
        path = save(tmp_path / f"moving{suffix}", frames[0], save_all=True, append_images=frames[1:])
        open_image(path)
        path.write_bytes(path.read_bytes()[:60])
        with suppress(ImageError):
            open_image(path)
    gc.collect()
    assert [str(warning.message) for warning in recwarn if warning.category is ResourceWarning] == []


def odd_tiff() -> bytes:
    """A sound TIFF at which Pillow warns: a tag with a value too many, and one that points beyond the file."""
    values = [(256, 4, 1, 4), (257, 4, 1, 2), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1), (273, 4, 1, 8)]
    values += [(277, 3, 1, 1), (278, 3, 2, 0x00020002), (279, 4, 1, 8), (305, 2, 99999, 8)]
    directory = b"".join(struct.pack("<HHII", *value) for value in values)
    return b"II*\0" + struct.pack("<I", 16) + bytes(8) + struct.pack("<H", len(values)) + directory + bytes(4)


def test_the_hosts_warnings_and_limit_are_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads open pictures at which Pillow warns, while the host warns and opens pictures of its own."""
    odd, large = odd_tiff(), png_header(60, 60)
    shown: list[str] = []
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 2000)  # of 3600: the host is to be warned
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        monkeypatch.setattr(warnings, "showwarning", lambda message, *rest, **options: shown.append(str(message)))
        with Image.open(io.BytesIO(odd)):
            pass
        assert shown, "Pillow no longer warns of this file"
        shown.clear()
        filters, limit, done = list(warnings.filters), Image.MAX_IMAGE_PIXELS, threading.Event()

        def work() -> None:
            while not done.is_set():
                assert open_image(odd).size == (4, 2)
                with pytest.raises(ImageError):
                    open_image(large, max_pixels=3000)

        with ThreadPoolExecutor(4) as pool:
            workers = [pool.submit(work) for _ in range(4)]
            given = []
            for number in range(60):
                warnings.warn(f"the host's {number}", stacklevel=1)
                given.append(f"the host's {number}")
                with Image.open(io.BytesIO(large)):  # Pillow's warning, which belongs to the host
                    given.append("bomb")
                assert (Image.MAX_IMAGE_PIXELS, list(warnings.filters)) == (limit, filters)
                time.sleep(0.001)
            done.set()
            for worker in workers:
                worker.result()
        assert ["bomb" if "decompression bomb" in line else line for line in shown] == given
        with pytest.raises(Image.DecompressionBombError), Image.open(io.BytesIO(png_header(100, 100))):
            pass


# What grows.


def icon(data: bytes) -> bytes:
    return struct.pack("<HHHBBBBHHII", 0, 1, 1, 16, 16, 0, 0, 1, 32, len(data), 22) + data


def tiled_tiff(side: int) -> bytes:
    """A TIFF of 16 x 16 in one tile of side x side."""
    data = zlib.compress(bytes(side * side))
    values = [(256, 4, 1, 16), (257, 4, 1, 16), (258, 3, 1, 8), (259, 3, 1, 8), (262, 3, 1, 1), (277, 3, 1, 1)]
    values += [(322, 4, 1, side), (323, 4, 1, side), (324, 4, 1, 8), (325, 4, 1, len(data))]
    directory = b"".join(struct.pack("<HHII", *value) for value in values)
    return b"II*\0" + struct.pack("<I", 8 + len(data)) + data + struct.pack("<H", len(values)) + directory + bytes(4)


@functools.cache
def bombs() -> dict[str, bytes]:
    large = Image.new("L", (1200, 900))
    gif, jp2 = encoded(large, "GIF"), encoded(large, "JPEG2000")
    webp = encoded(Image.new("RGBA", (16, 16), (1, 2, 3, 4)), "WEBP")
    canvas, header = webp.index(b"VP8X") + 12, jp2.index(b"ihdr") + 4
    return {
        "a PNG": encoded(large, "PNG"),
        "a PNG in an icon of 16 x 16": icon(encoded(large, "PNG")),
        "a bitmap in an icon of 16 x 16": icon(encoded(large.convert("RGB"), "DIB")),
        "a frame larger than the GIF's screen": gif[:6] + struct.pack("<HH", 16, 16) + gif[10:],
        "a codestream larger than its JP2 says": jp2[:header] + struct.pack(">II", 16, 16) + jp2[header + 8 :],
        "a codestream": encoded(large, "JPEG2000", no_jp2=True),
        "a WebP's canvas": webp[:canvas] + b"\xff\x3f\0\xff\x3f\0" + webp[canvas + 6 :],
        "a TIFF's tile": tiled_tiff(4112),
        "an AVIF": encoded(large, "AVIF", speed=10),
        "a JPEG": encoded(large, "JPEG"),
        "an APNG": encoded(large, "PNG", save_all=True, append_images=[large]),
        "an MPO": encoded(large, "MPO", save_all=True, append_images=[large]),
        "a PGM": encoded(large, "PPM"),
    }


@pytest.mark.parametrize("what", bombs().keys())
def test_pictures_are_refused_by_their_inner_size_before_they_are_decoded(
    what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = bombs()[what]
    with suppress(ImageError):  # where the sizes disagree
        assert open_image(data, max_pixels=20_000_000).size >= (16, 16)
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda self: pytest.fail("the picture was decoded"))
    with pytest.raises(ImageError) as raised:
        open_image(data, max_pixels=20_000)
    if what == "a WebP's canvas" and int(PIL.__version__.partition(".")[0]) < 13:
        assert "damaged" in str(raised.value)  # its decoder is not even made
        return
    assert isinstance(raised.value, TooManyPixelsError)
    assert raised.value.size[0] * raised.value.size[1] > 20_000
    assert "max_pixels" in raised.value.remedy


def png_chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def tiff_of_strips(count: int) -> bytes:
    """A gray picture of one column, a strip for each pixel."""
    offsets, sizes = 8 + 2 + 12 * 9 + 4, 8 + 2 + 12 * 9 + 4 + 4 * count
    tags = {256: 1, 257: count, 258: 8, 259: 1, 262: 1, 273: offsets, 277: 1, 278: 1, 279: sizes}
    entries = b"".join(
        struct.pack("<HHII", tag, 4, count if tag in (273, 279) else 1, value) for tag, value in tags.items()
    )
    places = np.arange(count, dtype="<u4") + (sizes + 4 * count)
    ones = np.ones(count, dtype="<u4")
    header = b"II*\0" + struct.pack("<IH", 8, len(tags))
    return header + entries + bytes(4) + places.tobytes() + ones.tobytes() + bytes(count)


def of_many_parts(what: str, count: int) -> bytes:
    """A small sound picture, whose file has so many parts that are no pixels; or none that may be repeated."""
    image = Image.new("RGB", (2, 2), "red")
    if what == "strips":
        return tiff_of_strips(count)
    if what.startswith("comments"):
        plain = b"P3 2 2 255\n" + b"#\n" * count + b"1 2 3 4 5 6 7 8 9 10 11 12\n"
        return plain if what == "comments of pixels" else b"P6 " + b"#\n" * count + b"2 2 255\n" + bytes(12)
    if what == "chunks":
        data = encoded(image, "PNG")
        return data[:33] + png_chunk(b"abCd", b"") * count + data[33:]
    data = encoded(image, "JPEG")
    return data[:2] + (b"\xff" if what == "fill bytes" else b"\xff\xfe\0\2") * count + data[2:]


@pytest.mark.parametrize(
    ("what", "count"),
    [
        ("strips", (1 << 19) + 1),
        ("comments of pixels", 10_001),
        ("comments of a header", 1 << 16),
        ("chunks", 100_001),
        ("fill bytes", 1 << 17),
        ("segments", 10_001),
    ],
)
def test_parts_that_cost_time_and_show_nothing_are_bounded(
    what: str, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert open_image(of_many_parts(what, 100)).size in ((2, 2), (1, 100))
    data = of_many_parts(what, count)

    def too_late(*arguments: Any, **options: Any) -> Any:
        raise AssertionError("Pillow reads the parts one by one")

    monkeypatch.setattr("PIL.Image.open", too_late)
    with pytest.raises(ImageError, match="more than") as raised:
        open_image(data)
    assert raised.value.remedy == "save it as a new file"


def test_bytes_behind_the_end_of_a_png_are_no_chunks() -> None:
    assert open_image(encoded(Image.new("RGB", (2, 2)), "PNG") + bytes(2_000_000)).size == (2, 2)


def test_texts_of_a_png_are_unpacked_to_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    text = png_chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(1 << 20)))
    data = encoded(Image.new("RGB", (2, 2)), "PNG")
    unpacked = []
    monkeypatch.setattr("captioner.containers._unpacked_size", lambda chunk, kind: unpacked.append(kind) or 1 << 20)
    assert open_image(data[:33] + text * 100 + data[33:]).size == (2, 2)
    assert len(unpacked) == 8


def test_tiles_and_icons_that_are_sound_are_not_bombs() -> None:
    assert open_image(tiled_tiff(256), max_pixels=16 * 16).size == (16, 16)
    for form in ("bmp", "png"):
        data = encoded(Image.new("RGB", (32, 32)), "ICO", bitmap_format=form, sizes=[(32, 32)])
        assert open_image(data, max_pixels=32 * 32).size == (32, 32)
        with pytest.raises(TooManyPixelsError):
            open_image(data, max_pixels=32 * 32 - 1)


def text_file(folder: Path) -> Path:
    (folder / "notes.jpg").write_text("this is not a picture\n")
    return folder / "notes.jpg"


def empty_file(folder: Path) -> Path:
    (folder / "nothing.jpg").touch()
    return folder / "nothing.jpg"


# What is given, how it is made in a folder, the words of the message after the file's name.
NO_PICTURES: dict[str, tuple[Callable[[Path], Path], str]] = {
    "a text file": (text_file, "not an image in a format that is known"),
    "an empty file": (empty_file, "the file is empty"),
    "a missing file": (lambda folder: folder / "nowhere.jpg", "no such file"),
    "a folder": (lambda folder: folder, "a folder, not a picture"),
    "a name that is too long": (lambda folder: folder / ("x" * 300), "cannot be read (File name too long)"),
    "a file as a folder": (lambda folder: text_file(folder) / "x.jpg", "cannot be read (Not a directory)"),
}


@pytest.mark.parametrize("what", NO_PICTURES)
def test_what_is_no_picture(tmp_path: Path, what: str) -> None:
    make, words = NO_PICTURES[what]
    path = make(tmp_path)
    with pytest.raises(ImageError) as raised:
        open_image(path)
    assert str(raised.value).startswith(f"{path}: {words}")


def test_a_file_that_may_not_be_read(make_picture: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(source: Any, **options: Any) -> Any:  # the administrator, as whom tests may run, can read every file
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Image, "open", refuse)
    with pytest.raises(ImageError, match=r"photo.png: not permitted to read it"):
        open_image(make_picture())


@pytest.mark.parametrize(
    ("picture", "words"),
    [
        (b"", "no bytes"),
        (b"hello", "not an image"),
        ("", "the path is empty"),
        (None, "not NoneType"),
        (3, "not int"),
        (Image.new("RGB", (0, 4)), "0 x 4 has no pixels"),
    ],
)
def test_other_things_that_are_no_pictures(picture: Any, words: str) -> None:
    with pytest.raises(ImageError, match=words):
        open_image(picture)


@pytest.mark.parametrize(
    "what", ["16 bits", "16 bits of colour", "12 bits with opacity", "float64", "mode I", "mode F"]
)
def test_values_of_more_than_8_bits_are_converted_in_little_memory(what: str) -> None:
    side = 1500
    ramp = np.linspace(0, 1, side * side).reshape(side, side)
    pictures: dict[str, Callable[[], Any]] = {
        "16 bits": lambda: (ramp * 65535).astype(np.uint16),
        "16 bits of colour": lambda: np.stack([(ramp * 65535).astype(np.uint16)] * 3, 2),
        "12 bits with opacity": lambda: np.stack(
            [*[(ramp * 4095).astype(np.uint16)] * 3, np.full((side, side), 4095, np.uint16)], 2
        ),
        "float64": lambda: ramp,
        "mode I": lambda: Image.fromarray((ramp * 65535).astype(np.int32)),
        "mode F": lambda: Image.fromarray((ramp * 1000).astype(np.float32)),
    }
    picture = pictures[what]()
    tracemalloc.start()
    try:
        opened = np.asarray(open_image(picture))[..., 0]
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert np.abs(opened - ramp * 255).max() <= 1
    assert peak < 13 * side * side  # one copy as float64 and its rounding would be 16


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
@pytest.mark.parametrize("whole", [True, False])
def test_a_pipe_is_read_to_a_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: bool) -> None:
    monkeypatch.setattr("captioner.image._LARGEST_PIPE", 100_000)
    Image.new("RGB", (4, 3)).save(tmp_path / "a.png")
    data = (tmp_path / "a.png").read_bytes() + bytes(0 if whole else 200_000)
    pipe = tmp_path / "pipe.png"
    os.mkfifo(pipe)

    def write() -> None:
        with suppress(BrokenPipeError), pipe.open("wb") as file:
            file.write(data)

    with ThreadPoolExecutor(1) as pool:
        pool.submit(write)
        if whole:
            assert open_image(pipe).size == (4, 3)
        else:
            with pytest.raises(ImageError, match=r"pipe.png.*100,000"):
                open_image(pipe)


@pytest.mark.parametrize("start", [b"MM*\0", b"II\0*"])
def test_every_beginning_that_pillow_takes_for_a_tiff_is_bounded(start: bytes) -> None:
    order: Literal["big", "little"] = "big" if start[:1] == b"M" else "little"
    entry = (273).to_bytes(2, order) + (4).to_bytes(2, order) + ((1 << 19) + 1).to_bytes(4, order) + bytes(4)
    data = start + (8).to_bytes(4, order) + (1).to_bytes(2, order) + entry + bytes(4)
    with pytest.raises(ImageError, match="more than 524288 strips"):
        open_image(data)


def test_a_pnm_header_of_any_kind_is_bounded() -> None:
    with pytest.raises(ImageError, match="a header of more than"):
        open_image(b"P0CMYK " + b"#\n" * (1 << 16) + b"1 1 255\n" + bytes(4))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_without_a_writer_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("captioner.image._LONGEST_WAIT", 0.1)
    os.mkfifo(tmp_path / "pipe.jpg")
    with pytest.raises(ImageError, match=r"pipe\.jpg: a pipe into which nothing is written"):
        open_image(tmp_path / "pipe.jpg")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
@pytest.mark.parametrize("pause", [0.0, 0.3])
def test_a_writer_of_a_pipe_may_take_its_time(tmp_path: Path, pause: float) -> None:
    content = io.BytesIO()
    Image.new("RGB", (300, 200), "red").save(content, "BMP")  # larger than a pipe's buffer
    pipe = tmp_path / "pipe.bmp"
    os.mkfifo(pipe)

    def write() -> None:
        time.sleep(pause)
        with pipe.open("wb") as file:
            time.sleep(pause)
            file.write(content.getvalue())

    writer = threading.Thread(target=write)
    writer.start()
    assert open_image(pipe).size == (300, 200)
    writer.join()
