"""Conversions of pixels: every mode of picture, and arrays, to 8-bit RGB."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from captioner.errors import ImageError
from captioner.formats import too_many_pixels

_BLOCK = 1 << 18  # values that are converted together
_ROUNDING = 1e-6  # how far a float may lie outside [0, 1] and still be a colour
_DEPTHS = (10, 12, 14, 16)  # bits of the values that cameras and scanners store in 16 bits


def to_rgb(image: Image.Image) -> Image.Image:
    """RGB of a loaded image: the same object where it is RGB already, else a new one."""
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return Image.fromarray(_stretch(np.asarray(image), image.mode)).convert("RGB")
    if image.mode == "LAB":
        from PIL import ImageCms  # not in every build of Pillow

        profiles = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        rgb = ImageCms.profileToProfile(image, *profiles, outputMode="RGB")
        assert rgb is not None  # not in place
    elif image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or (
        image.mode in ("1", "L", "P", "RGB") and image.has_transparency_data  # also of a palette
    ):
        rgba = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
        rgb = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    else:
        rgb = image.convert("RGB")
    profile = image.info.get("icc_profile") if image.mode in ("RGB", "RGBA", "P") else None  # of RGB, not of CMYK
    rgb.info = {"icc_profile": profile} if profile else {}
    return rgb


def _stretch(values: NDArray[Any], mode: str) -> NDArray[np.uint8]:
    """Gray values (h, w) of more than 8 bits to 8: 16-bit ones by their depth, others by their extremes."""
    if mode.startswith("I;16"):
        return to_8_bits(values)
    extremes = [(block.min(), block.max()) for block in map(_finite, _blocks(values))]
    low, high = float(min(low for low, _ in extremes)), float(max(high for _, high in extremes))
    if mode == "I" and low >= 0 and high <= 65535:  # 32 bits, in which files of 8 and of 16 come
        return to_8_bits(values) if high > 255 else values.astype(np.uint8)
    if mode == "F" and low >= -_ROUNDING and high <= 1 + _ROUNDING:
        low, high = 0.0, 1.0
    scale = 255.0 / (high - low) if high > low else 0.0
    return _in_blocks(values, lambda block: (_finite(block).clip(low, high) - low) * scale)


def to_8_bits(values: NDArray[Any]) -> NDArray[np.uint8]:
    """16-bit values to 8 bits: by the depth of the largest, 10 to 16 bits; a night picture stays dark.

    Of (h, w, 4), the last channel is opacity, which has a depth of its own.
    """
    if values.ndim == 3 and values.shape[2] == 4:
        return np.concatenate([to_8_bits(values[..., :3]), to_8_bits(values[..., 3:])], 2)
    largest = int(values.max())
    bits = next(depth for depth in _DEPTHS if largest < 1 << depth) if largest > 255 else 16
    return _in_blocks(values, lambda block: block * (255 / ((1 << bits) - 1)))


def _finite(values: NDArray[Any]) -> NDArray[np.float64]:
    """The values, with 0 for those that are no numbers."""
    with np.errstate(invalid="ignore"):  # a signalling NaN in a file is no news to the host
        return np.nan_to_num(values.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)


def _blocks(values: NDArray[Any]) -> Iterator[NDArray[Any]]:
    """The values (h, w, ...) by some rows at a time, so that 8 bytes for each take little memory."""
    rows = max(1, _BLOCK * len(values) // values.size)
    for first in range(0, len(values), rows):
        yield values[first : first + rows]


def _in_blocks(values: NDArray[Any], convert: Callable[[NDArray[Any]], NDArray[np.floating]]) -> NDArray[np.uint8]:
    """Converted values, rounded."""
    found, at = np.empty(values.shape, dtype=np.uint8), 0
    for block in _blocks(values):
        found[at : at + len(block)] = convert(block).round()
        at += len(block)
    return found


def from_array(array: NDArray[Any], max_pixels: int) -> Image.Image:
    """A new RGB image of an array; see `captioner.image.open_image`."""
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4))) or 0 in array.shape:
        raise ImageError(f"an array of shape {array.shape} is no picture", remedy="use (h, w), (h, w, 3) or (h, w, 4)")
    height, width = array.shape[:2]
    if height * width > max_pixels:
        raise too_many_pixels("an array", (width, height), max_pixels)
    kind, size = array.dtype.kind, array.dtype.itemsize
    if kind == "b":
        array = array.astype(np.uint8) * 255
    elif (kind, size) == ("u", 2):
        array = to_8_bits(array)
    elif kind == "f":
        low, high = float(array.min()), float(array.max())
        if not (low >= -_ROUNDING and high <= 1 + _ROUNDING):
            raise ImageError(
                f"floating-point pictures have values from 0 to 1, not {low:g} to {high:g}",
                remedy="divide by 255 if they are bytes",
            )
        array = _in_blocks(array, lambda block: block.clip(0, 1) * 255)
    elif (kind, size) != ("u", 1):
        raise ImageError(f"an array of {array.dtype} is no picture", remedy="use uint8, uint16, bool or float")
    return to_rgb(Image.fromarray(np.ascontiguousarray(array)))
