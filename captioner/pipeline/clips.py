"""One caption of a clip, over the cells of all its frames. Their cells are joined, so it needs the model on torch."""

import os
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from PIL import Image

from captioner.backends.base import Backend
from captioner.decoding import Hypothesis, decode
from captioner.errors import OptionError
from captioner.image import Geometry, Picture, open_image
from captioner.options import Greedy
from captioner.pipeline.assembly import decoded_alternative
from captioner.pipeline.word_maps import encode, steps_of
from captioner.prepared import Prepared, prepare
from captioner.results import ClipCaption, across_strip, strip_layout

_FRAME_PIXELS = 480
_AT_ONCE = 8  # frames that are encoded together


def caption_clip(
    frames: Iterable[Picture],
    options: Greedy,
    *,
    delay: int,
    backend: Backend,
    open_torch: Callable[[], Any],
    model: str,
    max_pixels: int,
) -> ClipCaption:
    """See `Captioner.caption_clip`; ``open_torch`` returns the model on torch, ``model`` is its name, ``delay`` that of
    its maps.

    Returns:
        The caption, whose maps lie on the frames side by side.
    """
    if backend.name == "huggingface":
        raise OptionError(
            f"clips need a model of ours, and '{model}' is one of transformers", remedy="leave --model out"
        )
    if isinstance(frames, (str, bytes, os.PathLike)):
        raise OptionError(
            f"frames are a list of pictures, not {frames!r:.60}", remedy="read them with captioner.data.clips"
        )
    if not isinstance(frames, Iterable):
        raise OptionError(f"frames are a list of pictures, not {type(frames).__name__}")
    ready = [prepare(frame, backend, max_pixels=max_pixels, keep=_FRAME_PIXELS) for frame in frames]
    on_torch = open_torch()
    _require_one_size(ready)
    encoded = [encode(on_torch, ready[i : i + _AT_ONCE]) for i in range(0, len(ready), _AT_ONCE)]
    key = zlib.crc32(b"".join(one.pixels.tobytes() for one in ready))
    (found,) = decode(on_torch, on_torch.join(*encoded), options, keys=[key])
    found = [_delayed(one, delay) for one in found]
    layout, grid = strip_layout(len(ready)), ready[0].geometry.grid
    strip = _strip(ready, layout)
    best, *others = (decoded_alternative(_on_strip(one, layout, len(ready), grid), backend.vocabulary) for one in found)
    return ClipCaption(
        text=best.text,
        words=best.words,
        score=best.score,
        finished=best.finished,
        image="",
        model=model,
        geometry=Geometry(
            size=strip.size, side=ready[0].geometry.side, grid=(layout[0] * grid[0], layout[1] * grid[1])
        ),
        alternatives=tuple(others),
        source=strip,
        frames=len(ready),
    )


def _require_one_size(ready: Sequence[Prepared]) -> None:
    sizes = {one.geometry.size for one in ready}
    if len(sizes) != 1:
        what = "no frames" if not sizes else f"frames of {len(sizes)} sizes"
        raise OptionError(f"a clip has one size, and these are {what}", remedy="give frames of one clip")


def _delayed(one: Hypothesis, delay: int) -> Hypothesis:
    """Each word with the attention of so many steps later."""
    steps, off_grid = steps_of(one)
    words = slice(delay, len(one.tokens) + delay)
    return replace(one, maps=steps[words], off_grid=off_grid[words])


def _on_strip(one: Hypothesis, layout: tuple[int, int], frames: int, grid: tuple[int, int]) -> Hypothesis:
    """A hypothesis whose maps (n, frames * h * w) are laid out as the strip is."""
    maps = np.asarray(one.maps, np.float32).reshape(-1, frames, *grid)
    return replace(one, maps=across_strip(maps, layout))


def _strip(ready: Sequence[Prepared], layout: tuple[int, int]) -> Image.Image:
    """The frames side by side, in rows and columns."""
    rows, columns = layout
    tiles = [_tile(one) for one in ready]
    width, height = tiles[0].size
    strip = Image.new("RGB", (columns * width, rows * height))
    for i, tile in enumerate(tiles):
        strip.paste(tile, (i % columns * width, i // columns * height))
    return strip


def _tile(prepared: Prepared) -> Image.Image:
    """A frame as the cells tile it: padded to a square where the model pads."""
    picture = open_image(prepared.picture)
    if not prepared.geometry.pad:
        return picture
    square = Image.new("RGB", (max(picture.size),) * 2, (128, 128, 128))
    square.paste(picture)
    return square
