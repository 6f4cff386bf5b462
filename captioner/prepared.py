"""Pictures opened and fitted to the input of a model."""

import contextlib
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from numbers import Integral
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from captioner.backends.base import AnsweringBackend, Backend, Encoded, FitsPictures
from captioner.errors import CheckpointError, OptionError
from captioner.image import MAX_PIXELS, Geometry, Picture, fit, open_with_orientation
from captioner.results import path_of

_T = TypeVar("_T")
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
    side = max(backend.fitting.width, backend.fitting.height) if isinstance(backend, FitsPictures) else backend.side
    needed = max(_REDUCED * side, _SHARP)
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


class KeptPicture:
    """A picture that a captioning model has encoded once, for any number of later captions, readings and answers.

    Args:
        prepared: the picture, and what the encoder took of it.
        encoded: it alone, behind the border of the backend that made it.
        backend: that made it.
        max_pixels: that the picture may have.
    """

    def __init__(self, prepared: Prepared, encoded: Encoded, backend: Backend, *, max_pixels: int) -> None:
        self.prepared, self.encoded, self._backend, self._max_pixels = prepared, encoded, backend, max_pixels
        self._lock = threading.Lock()
        self._other: tuple[AnsweringBackend, Any] | None = None

    def require(self, backend: Backend) -> None:
        """Raises CheckpointError if another model encoded it."""
        if backend is not self._backend:
            raise CheckpointError("the picture was encoded by another model", remedy="encode it with this one")

    def for_answers(self, backend: AnsweringBackend, encode: Callable[[Prepared], _T]) -> _T:
        """What the encoder of an answering model makes of the picture; computed at the first call, and kept.

        A model with the same input takes the same pixels; for another the picture is opened once more.

        Args:
            backend: of the model.
            encode: returns what it makes of the prepared picture.

        Raises:
            ImageError: the picture is gone.
        """
        with self._lock:
            if self._other is None or self._other[0] is not backend:
                prepared, mine = self.prepared, self._backend
                same = (backend.side, backend.pad) == (mine.side, mine.pad)
                if not same or isinstance(mine, FitsPictures):  # a foreign model may crop, which ours never do
                    again = prepare(prepared.picture, backend, max_pixels=self._max_pixels)
                    prepared = replace(again, picture=prepared.picture, image=prepared.image)
                prepared = replace(prepared, geometry=replace(prepared.geometry, grid=backend.grid_shape))
                self._other = backend, encode(prepared)
            found: _T = self._other[1]
            return found


def prepared_or_kept(
    picture: Picture | KeptPicture, backend: Backend, prepare: Callable[[Picture], Prepared]
) -> Prepared | KeptPicture:
    """A picture that is prepared, or was kept.

    Raises:
        CheckpointError: another model encoded the kept picture.
        ImageError: the other does not open.
    """
    if not isinstance(picture, KeptPicture):
        return prepare(picture)
    picture.require(backend)
    return picture


def detached(picture: Picture | KeptPicture) -> Picture | KeptPicture:
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
