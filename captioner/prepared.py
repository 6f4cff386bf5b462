"""Pictures opened and fitted to the input of a model."""

import contextlib
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from captioner.backends.base import AnsweringBackend, Backend, FitsPictures
from captioner.errors import OptionError
from captioner.image import MAX_PIXELS, Geometry, Picture, fit, open_with_orientation
from captioner.results import path_of

_REDUCED = 3  # times the model's input
_SHARP = 640  # pixels a side, so that pages and figures of small models look well


@dataclass(frozen=True, eq=False)
class Prepared:
    """A picture, and what the encoder takes of it.

    Attributes:
        picture: what the caption shows itself on: a path, the bytes of a file, or an upright copy, which may be
            smaller, because the geometry holds the size.
        geometry: of the picture as it was opened.
        pixels: (side, side, 3), or the shape that the backend's `captioner.geometry.Fitting` makes.
        image: the path that was given, "" for a picture that came from memory.
    """

    picture: Picture
    geometry: Geometry
    pixels: NDArray[np.uint8]
    image: str = ""


def prepare(
    picture: Picture, backend: Backend | AnsweringBackend, *, max_pixels: int = MAX_PIXELS, keep: int | None = None
) -> Prepared:
    """Open a picture and fit it to a backend's input; computes nothing with the backend, so any thread can.

    Args:
        picture: see `captioner.image.open_image`.
        backend: whose input it is to fit.
        max_pixels: larger pictures are refused.
        keep: keep an upright copy of at most so many pixels a side, and not what was given.

    Raises:
        ImageError: it does not open.
        OptionError: a number is not positive.
    """
    check_numbers(max_pixels=max_pixels, keep=keep)
    # As many pixels as the resizing looks at (see `captioner.image.fit`): a large JPEG is decoded at reduced scale.
    # ``keep`` has no say in it, so that a caption does not depend on whether it is shown.
    needed = max(_REDUCED * backend.side, _SHARP)
    opened = open_with_orientation(picture, max_pixels=max_pixels, at_least=needed)
    image = opened.image
    if isinstance(backend, FitsPictures):
        geometry = backend.fitting.geometry(opened.size, backend.grid_shape, orientation=opened.orientation)
        pixels = backend.fitting.fit(image, geometry)
    else:
        geometry = Geometry(
            size=opened.size,
            side=backend.side,
            grid=backend.grid_shape,
            pad=backend.pad,
            orientation=opened.orientation,
        )
        pixels = fit(image, geometry)
    source: Picture = picture
    if keep is not None:
        image.thumbnail((keep, keep), reducing_gap=3.0)  # upright, and shared with nobody
        source = image
    elif isinstance(picture, (np.ndarray, Image.Image)):
        source = image  # the caller may change what was given
    return Prepared(source, geometry, pixels, image=path_of(picture))


def detached(picture: Picture) -> Picture:
    """A picture that its giver can no longer change: pixels in memory are copied. An iterator may change what it
    yielded when it is asked for the next."""
    if isinstance(picture, (np.ndarray, Image.Image)):
        with contextlib.suppress(Exception):  # a damaged one is reported when it is opened
            return picture.copy()
    return bytes(picture) if isinstance(picture, (bytearray, memoryview)) else picture


def check_numbers(**numbers: Any) -> None:
    """Numbers of pictures and pixels: whole and positive; ``keep`` may be None.

    Raises:
        OptionError: one is not; the message names it.
    """
    for name, value in numbers.items():
        if name == "keep" and value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, Integral) or value < 1:
            raise OptionError(f"{name} must be a whole number of at least 1, not {value!r:.60}")
