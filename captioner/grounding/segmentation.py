"""COCO's outlines of objects (polygons and run-length encodings) to masks.

Polygons are drawn by pycocotools, so that masks are those of COCO's own evaluation. Everything is checked first:
pycocotools trusts its input and reads or allocates beyond it when that is damaged.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]

BORDER = 2.0
"""Pixels by which boxes and outlines may exceed the picture; annotation tools round outwards."""


def check_segmentation(segmentation: Any, width: int, height: int) -> str:
    """What is wrong with an outline of COCO's format for a picture of that size; "" where nothing is.

    Args:
        segmentation: a list of polygons ``[x0, y0, x1, y1, ...]`` in pixels, or a run-length encoding
            ``{"size": [height, width], "counts": ...}`` whose counts are a list or COCO's compressed string;
            None or an empty list for an object without outline.
        width, height: of the picture, in pixels.
    """
    if segmentation is None or segmentation == []:
        return ""
    if isinstance(segmentation, list):
        return next((wrong for polygon in segmentation if (wrong := _check_polygon(polygon, width, height))), "")
    if isinstance(segmentation, dict):
        return _check_runs(segmentation, width, height)
    return f"'segmentation' is neither a list of polygons nor a run-length encoding: {str(segmentation)[:40]}"


def decode_segmentation(segmentation: Any, width: int, height: int) -> Mask:
    """The mask (height, width) of an outline that `check_segmentation` accepts; all False for none."""
    if not segmentation:
        return np.zeros((height, width), dtype=np.bool_)
    if isinstance(segmentation, dict):
        counts = _counts(segmentation["counts"])
        values = np.arange(len(counts)) % 2 == 1  # the first run is of background
        return np.repeat(values, counts).reshape(width, height).T
    from pycocotools import mask as masks

    encoded = masks.frPyObjects(segmentation, height, width)
    return np.asarray(masks.decode(masks.merge(encoded)), dtype=np.bool_)


def _check_polygon(polygon: Any, width: int, height: int) -> str:
    if not isinstance(polygon, list) or len(polygon) < 6 or len(polygon) % 2:
        return f"a polygon needs x and y of 3 points or more, an even count of numbers: {str(polygon)[:40]}"
    if not all(is_number(value) for value in polygon):
        return f"a polygon has a value that is not a finite number: {str(polygon)[:40]}"
    x, y = polygon[::2], polygon[1::2]
    if min(*x, *y) < -BORDER or max(x) > width + BORDER or max(y) > height + BORDER:
        return f"a polygon lies outside the picture of {width} x {height} pixels"
    return ""


def _check_runs(segmentation: dict[Any, Any], width: int, height: int) -> str:
    if segmentation.get("size") != [height, width]:
        return f"the mask's 'size' is {str(segmentation.get('size'))[:40]}, not the picture's [{height}, {width}]"
    try:
        counts = _counts(segmentation.get("counts"))
    except ValueError as error:
        return f"the mask's 'counts' are damaged ({error})"
    if sum(counts) != width * height:
        return f"the mask's 'counts' describe {sum(counts)} pixels, not {width} x {height}"
    return ""


def _counts(counts: Any) -> list[int]:
    """The run lengths, down the columns, of background and object in turn. Raises ValueError."""
    runs = _decompress(counts) if isinstance(counts, str) else counts
    if not isinstance(runs, list) or not all(type(run) is int and run >= 0 for run in runs):
        raise ValueError("neither a list of lengths nor COCO's compressed text")
    return runs


def _decompress(text: str) -> list[int]:
    """COCO's compressed run lengths: 5 bits a character, of differences to the run before the last one."""
    runs: list[int] = []
    at = 0
    while at < len(text):
        value, shift, more = 0, 0, True
        while more:
            if at == len(text):
                raise ValueError("cut short")
            code = ord(text[at]) - 48
            if not 0 <= code < 64 or shift > 60:
                raise ValueError(f"character {at} is not of this code")
            value |= (code & 31) << shift
            more = bool(code & 32)
            at += 1
            shift += 5
            if not more and code & 16:
                value -= 1 << shift
        if len(runs) > 2:
            value += runs[-2]
        if value < 0:
            raise ValueError("a run has a negative length")
        runs.append(value)
    return runs


def is_number(value: Any) -> bool:
    """Whether a value of JSON is a finite number, and not a truth value."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer beyond every float
        return False
