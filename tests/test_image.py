"""Pictures of every kind open upright and in RGB; what is no picture gets an error that names it."""

import io
import struct
import time
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from captioner.errors import ImageError
from captioner.image import Geometry, open_image, open_with_orientation

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
    with pytest.raises(ImageError, match=r"bomb.png: 100000 x 100000 is more than the limit of 100,000,000 pixels"):
        open_image(path)


def test_the_limit_is_the_callers_in_both_directions(
    make_picture: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_picture(size=(40, 30))
    assert open_image(path, max_pixels=1200).size == (40, 30)
    with pytest.raises(ImageError, match=r"photo.png: 40 x 30 is more than the limit of 1,199 .*--max-pixels"):
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

    def open_slowly(source: Any) -> Image.Image:
        time.sleep(0.002)  # time for another thread to come between
        return really_open(source)

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


def test_flipped_bytes_give_a_picture_or_an_error_and_nothing_else(tmp_path: Path) -> None:
    """Decoders fail in many ways on damaged files: whatever they raise, the caller sees an ImageError."""
    random = np.random.default_rng(5)
    image = Image.fromarray(random.integers(0, 256, (12, 12, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    refused = 0
    for form in ("JPEG", "PNG", "GIF", "TIFF", "WEBP", "BMP", "PPM", "TGA"):
        buffer = io.BytesIO()
        image.save(buffer, form, **({"exif": exif} if form in ("JPEG", "PNG", "TIFF", "WEBP") else {}))
        for _ in range(120):
            damaged = bytearray(buffer.getvalue())
            for place in random.integers(0, min(len(damaged), 200), 3):
                damaged[place] = random.integers(256)
            try:
                assert open_image(bytes(damaged), max_pixels=10_000).mode == "RGB"
            except ImageError:
                refused += 1
    assert refused > 50  # the damage was real


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
    assert str(raised.value) == f"{path}: {words}"


def test_a_file_that_may_not_be_read(make_picture: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(source: Any) -> Any:  # the administrator, as whom tests may run, can read every file
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
