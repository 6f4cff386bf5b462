"""JPEG files of very many scans are refused by whatever opens pictures."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from captioner.cli import main
from captioner.errors import ImageError
from captioner.image import open_image
from captioner.scans import MOST_SCANS, check_scans


def jpeg(mode: str = "L", **options: object) -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 255, (300, 400), dtype=np.uint8)
    Image.fromarray(pixels).convert(mode).save(buffer, "JPEG", **options)
    return buffer.getvalue()


def with_scans(whole: bytes, count: int) -> bytes:
    """The file with its last scan repeated so many times."""
    return whole[:-2] + whole[whole.rindex(b"\xff\xda") : -2] * count + whole[-2:]


PROGRESSIVE = jpeg(progressive=True)


@pytest.mark.parametrize("kind", ["path", "bytes", "PIL image", "MPO"])
def test_very_many_scans_are_refused(tmp_path: Path, kind: str) -> None:
    bomb = with_scans(PROGRESSIVE, 2 * MOST_SCANS)
    path = tmp_path / "bomb.jpg"
    path.write_bytes(bomb)
    pictures: dict[str, Callable[[], object]] = {
        "path": lambda: path,
        "bytes": lambda: bomb,
        "PIL image": lambda: Image.open(path),
        "MPO": lambda: bomb + PROGRESSIVE,
    }
    with pytest.raises(ImageError, match=rf"(?s){'bomb.jpg' if kind in ('path', 'PIL image') else ''}.*{MOST_SCANS}"):
        open_image(pictures[kind]())  # type: ignore[arg-type]


def test_the_command_names_the_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "bomb.jpg"
    path.write_bytes(with_scans(PROGRESSIVE, 2 * MOST_SCANS))
    assert main(["caption", str(path)]) == 2
    error = capsys.readouterr().err
    assert str(path) in error
    assert str(MOST_SCANS) in error
    assert error.count("\n") == 1


def test_the_scans_of_a_sequential_file_are_bounded_too() -> None:
    """Its components may come in scans of their own, and then libjpeg reads all scans before it decodes."""
    whole = jpeg("RGB", subsampling=0)
    at = whole.index(b"\xff\xda")
    scan = b"\xff\xda\x00\x08\x01\x01\x00\x00\x3f\x00" + whole[at + 14 : -2]  # the first component alone
    with pytest.raises(ImageError, match=str(MOST_SCANS)):
        check_scans(io.BytesIO(whole[:at] + scan * (MOST_SCANS + 1) + b"\xff\xd9"), "a.jpg")


@pytest.mark.parametrize(
    "data",
    [
        PROGRESSIVE,
        with_scans(PROGRESSIVE, 50),
        jpeg("RGB"),
        jpeg("CMYK"),
        PROGRESSIVE + with_scans(PROGRESSIVE, 200),  # after its end
        PROGRESSIVE[:2] + b"\xff\xe1\x40\x02" + b"\xff\xda\x00\x02" * 0x1000 + PROGRESSIVE[2:],  # in a segment
    ],
)
def test_sound_files_open(data: bytes) -> None:
    assert open_image(data).size == (400, 300)


def test_files_that_are_cut_off_are_read_to_their_end() -> None:
    for cut in range(0, len(PROGRESSIVE), 200):
        check_scans(io.BytesIO(PROGRESSIVE[:cut] + b"\xff"), "a.jpg")


def test_a_marker_on_the_border_of_two_chunks_is_found() -> None:
    scan = b"\xff\xda\x00\x02"
    for length in range(65_500, 65_560):
        data = b"\xff\xd8\xff\xc2\x00\x08\x08\x00\x10\x00\x10\x01" + (scan + bytes(length)) * (MOST_SCANS + 1)
        with pytest.raises(ImageError, match=str(MOST_SCANS)):
            check_scans(io.BytesIO(data), "a.jpg")


@pytest.mark.parametrize("before", [b"\xff\xd9", b"\xff\xf0\xff\xff"])
def test_segments_are_counted_as_pillow_reads_them(before: bytes) -> None:
    """An end before the first scan ends nothing, and a marker without a handler has no length."""
    comments = b"\xff\xfe\0\2" * 10_001
    with pytest.raises(ImageError, match="10000"):
        check_scans(io.BytesIO(b"\xff\xd8" + before + comments + PROGRESSIVE[2:]), "a.jpg")
