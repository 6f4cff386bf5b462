"""Frames of clips: which are taken, and what is no clip."""

import contextlib
import struct
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from captioner.data.clips import chosen, frames_of, read_frames
from captioner.errors import ImageError, OptionError
from captioner.image import open_image


def animation(path: Path, frames: int) -> Path:
    """Frame i is of the grey level 20 * i."""
    pictures = [Image.new("RGB", (16, 12), (20 * i,) * 3) for i in range(frames)]
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=100, lossless=True)
    return path


def levels(frames: list[Image.Image]) -> list[int]:
    return [round(float(np.asarray(frame).mean()) / 20) for frame in frames]


def test_frames_are_the_middles_of_equal_parts() -> None:
    assert chosen(10, 5) == [1, 3, 5, 7, 9]
    assert chosen(9, 3) == [1, 4, 7]
    assert chosen(3, 8) == [0, 1, 2]


@pytest.mark.parametrize("ending", [".gif", ".webp", ".png"])
def test_animations_give_their_frames(ending: str, tmp_path: Path) -> None:
    frames = read_frames(animation(tmp_path / f"clip{ending}", 8), 4)
    assert levels(frames) == [1, 3, 5, 7]
    assert {(frame.mode, frame.size) for frame in frames} == {("RGB", (16, 12))}


def test_a_still_picture_is_a_clip_of_one_frame(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8), (40, 40, 40)).save(tmp_path / "still.png")
    assert levels(read_frames(tmp_path / "still.png", 8)) == [2]
    turned = Image.Exif()
    turned[0x0112] = 6  # a quarter turn
    Image.new("RGB", (8, 4), (40, 40, 40)).save(tmp_path / "turned.jpg", exif=turned)
    assert [frame.size for frame in read_frames(tmp_path / "turned.jpg", 2)] == [(4, 8)]


def test_a_photograph_with_its_preview_is_one_frame(tmp_path: Path) -> None:
    photograph, preview = Image.new("RGB", (64, 32), (40, 40, 40)), Image.new("RGB", (32, 16))
    photograph.save(tmp_path / "still.jpg", format="MPO", save_all=True, append_images=[preview])
    assert Image.open(tmp_path / "still.jpg").n_frames == 2
    assert [frame.size for frame in read_frames(tmp_path / "still.jpg", 4)] == [(64, 32)]


def test_a_still_picture_is_the_one_that_is_captioned(tmp_path: Path) -> None:
    grey = np.full((6, 8), 40 * 257, dtype=np.uint16)
    Image.fromarray(grey).save(tmp_path / "deep.png")
    Image.fromarray(grey.astype(np.uint8)).save(tmp_path / "still.bmp")
    (odd := Image.Exif())[0x0112] = 6
    damaged = odd.tobytes().replace(b"\x01\x12\x00\x03", b"\x01\x12\x00\x02")  # an orientation that is a text
    Image.new("RGB", (8, 4), (40, 40, 40)).save(tmp_path / "odd.jpg", exif=damaged)
    for path in sorted(tmp_path.iterdir()):
        (frame,) = read_frames(path, 3)
        assert frame.tobytes() == open_image(path).tobytes(), path.name


def test_frames_come_one_by_one(tmp_path: Path) -> None:
    frames = frames_of(animation(tmp_path / "clip.gif", 8), 4)
    assert levels([next(frames)]) == [1]
    assert levels(list(frames)) == [3, 5, 7]


def test_what_is_no_clip_is_named(tmp_path: Path) -> None:
    clip = animation(tmp_path / "clip.gif", 3)
    for count in (0, 65):
        with pytest.raises(OptionError, match=str(count)):
            read_frames(clip, count)
    with pytest.raises(ImageError, match="16 x 12"):
        read_frames(clip, 2, max_pixels=100)
    with pytest.raises(ImageError, match="nowhere"):
        read_frames(tmp_path / "nowhere.gif", 2)
    with pytest.raises(ImageError, match=r"a folder.*name the files"):
        read_frames(tmp_path, 2)
    broken = tmp_path / "broken.gif"
    broken.write_bytes(clip.read_bytes()[:30])
    with pytest.raises((ImageError, OptionError), match=r"broken\.gif"):
        read_frames(broken, 2)
    noise = Image.effect_noise((60, 40), 90)
    noise.save(clip, save_all=True, append_images=[noise.rotate(angle) for angle in (90, 180)])
    whole = clip.read_bytes()
    for length in range(1000, len(whole), 97):  # Pillow's exceptions are of many kinds
        broken.write_bytes(whole[:length])
        with contextlib.suppress(ImageError):
            read_frames(broken, 3)


def test_videos_need_pyav(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "clip.mp4").write_bytes(b"no animation")
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(OptionError, match=r"captioner\[video\]"):
        read_frames(tmp_path / "clip.mp4", 2)


def video(path: Path, frames: list[np.ndarray]) -> Path:
    av = pytest.importorskip("av", reason="needs PyAV, which is not installed")
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.height, stream.width, stream.pix_fmt = *frames[0].shape[:2], "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return path


@pytest.mark.parametrize(
    ("matrix", "bright"),
    [((0, 1, -1, 0), "top"), ((-1, 0, 0, -1), "right"), ((0, -1, 1, 0), "bottom"), ((1, 0, 0, 1), "left")],
)
def test_videos_are_turned_as_players_turn_them(matrix: tuple[int, ...], bright: str, tmp_path: Path) -> None:
    left = np.zeros((48, 64, 3), np.uint8)
    left[:, :32] = 255
    path = video(tmp_path / "clip.mp4", [left])
    content = bytearray(path.read_bytes())
    where = content.index(struct.pack(">9i", 1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30), content.index(b"tkhd"))
    a, b, c, d = (value << 16 for value in matrix)
    content[where : where + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(content)
    (frame,) = read_frames(path, 1)
    assert frame.size == ((64, 48) if bright in ("left", "right") else (48, 64))
    shown = np.asarray(frame.convert("L"))
    halves = {"left": shown[:, :24], "right": shown[:, -24:], "top": shown[:24], "bottom": shown[-24:]}
    assert max(halves, key=lambda side: halves[side].mean()) == bright


def test_videos_give_their_frames(tmp_path: Path) -> None:
    path = video(tmp_path / "clip.mp4", [np.full((48, 64, 3), 20 * i, np.uint8) for i in range(10)])
    frames = read_frames(path, 5)
    assert levels(frames) == [1, 3, 5, 7, 9]
    assert frames[0].size == (64, 48)
    (tmp_path / "broken.mp4").write_bytes(path.read_bytes()[:50])
    with pytest.raises(ImageError, match=r"broken\.mp4"):
        read_frames(tmp_path / "broken.mp4", 2)
