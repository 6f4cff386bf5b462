"""Frames of clips: animated GIF, WebP and PNG files through Pillow, video files through PyAV where it is installed."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from captioner.errors import CaptionerError, ImageError, OptionError, one_line
from captioner.image import MAX_PIXELS, SUFFIXES, open_image
from captioner.options import plain_number

_OF_FRAMES = ("GIF", "WEBP", "PNG")
ANIMATED = (*_OF_FRAMES, "JPEG")
MOST_FRAMES = 64
"""Frames of a caption, at most: their cells are attended to together."""
_MOST_READ = 100_000


def read_frames(path: str | Path, count: int, *, max_pixels: int = MAX_PIXELS) -> list[Image.Image]:
    """As `frames_of`, all at once."""
    return list(frames_of(path, count, max_pixels=max_pixels))


def frames_of(path: str | Path, count: int, *, max_pixels: int = MAX_PIXELS) -> Iterator[Image.Image]:
    """Frames of a clip, evenly spread over it, as RGB pictures, one by one: 64 large ones may not fit into memory.

    The clip is cut into ``count`` parts of equal length, and the frame in the middle of each is taken. A clip of fewer
    frames gives them all; a still picture gives one, as `captioner.image.open_image` opens it.

    Args:
        path: of the file.
        count: from 1 to 64.
        max_pixels: larger frames are refused.

    Raises:
        ImageError: it is no clip that opens; the message names the file.
        OptionError: a number that is out of range, or a video where PyAV is not installed.
    """
    count = plain_number(count)
    if type(count) is not int or not 1 <= count <= MOST_FRAMES:
        raise OptionError(f"frames must be a whole number from 1 to {MOST_FRAMES}, not {count!r}")
    path = Path(path)
    if os.path.isdir(path):  # noqa: PTH112 - unlike Path.is_dir, it takes names that are too long
        raise ImageError(f"{path}: a folder, and no clip", remedy="name the files in it")
    if not os.path.isfile(path):  # noqa: PTH113
        raise ImageError(f"{path}: no such file")
    try:
        with Image.open(path, formats=ANIMATED) as animation:
            _check_size(path, animation.size, max_pixels)
            # A JPEG of several pictures is one photograph with its preview or its other eye.
            if animation.format in _OF_FRAMES and getattr(animation, "n_frames", 1) > 1:
                yield from _of_animation(animation, count, max_pixels)
                return
        yield open_image(path, max_pixels=max_pixels)
    except UnidentifiedImageError:
        if path.suffix.lower() in SUFFIXES:
            yield open_image(path, max_pixels=max_pixels)
        else:
            yield from _of_video(path, count, max_pixels)
    except CaptionerError:
        raise
    except Exception as error:  # Pillow's decoders raise nearly every exception for damaged files
        raise ImageError(f"{path}: does not open as a clip ({one_line(error)})") from None


def chosen(total: int, count: int) -> list[int]:
    """The numbers of the frames that are taken of ``total``: the middle of each of ``count`` equal parts."""
    if total <= count:
        return list(range(total))
    return [int((i + 0.5) * total / count) for i in range(count)]


def _of_animation(animation: Image.Image, count: int, max_pixels: int) -> Iterator[Image.Image]:
    for number in chosen(min(getattr(animation, "n_frames", 1), _MOST_READ), count):
        animation.seek(number)
        yield open_image(animation, max_pixels=max_pixels)


def _check_size(path: Path, size: tuple[int, int], max_pixels: int) -> None:
    if size[0] * size[1] > max_pixels:
        raise ImageError(
            f"{path}: frames of {size[0]} x {size[1]} are more than {max_pixels:,} pixels", remedy="raise max_pixels"
        )


def _of_video(path: Path, count: int, max_pixels: int) -> Iterator[Image.Image]:
    try:
        import av
    except ImportError:
        raise OptionError(
            f"{path}: no animated GIF, WebP or PNG; videos need PyAV, which is not installed",
            remedy="pip install 'captioner[video]'",
        ) from None
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise ImageError(f"{path}: holds no video")
            total = sum(1 for _ in _decoded(container))
        wanted = set(chosen(total, count))
        with av.open(str(path)) as container:
            for number, frame in enumerate(_decoded(container)):
                if number in wanted:
                    _check_size(path, (frame.width, frame.height), max_pixels)
                    yield _upright(frame)
    except (av.FFmpegError, OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:160]
        raise ImageError(f"{path}: neither an animation nor a video that opens ({reason})") from None
    if not wanted:
        raise ImageError(f"{path}: holds no frame")


def _upright(frame: Any) -> Image.Image:
    """A frame as players show it: phones write what they film upright lying on its side, with a rotation."""
    picture = Image.fromarray(np.asarray(frame.to_ndarray(format="rgb24"), np.uint8))
    turned = {90: Image.Transpose.ROTATE_90, 180: Image.Transpose.ROTATE_180, 270: Image.Transpose.ROTATE_270}
    how = turned.get(round(getattr(frame, "rotation", 0)) % 360)
    return picture if how is None else picture.transpose(how)


def _decoded(container: Any) -> Iterator[Any]:
    """The frames of the first video stream, as many as are ever read."""
    for number, frame in enumerate(container.decode(container.streams.video[0])):
        if number >= _MOST_READ:
            return
        yield frame
