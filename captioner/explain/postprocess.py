"""From what was computed at each step to the maps of a caption's words."""

import numpy as np
from numpy.typing import NDArray

from captioner.options import MapOptions

Maps = NDArray[np.float32]


def postprocess(
    steps: Maps, valid: NDArray[np.bool_], options: MapOptions, off_grid: NDArray[np.floating] | None = None
) -> tuple[Maps, NDArray[np.float32]]:
    """The maps of a caption's words from those of its steps.

    Args:
        steps: (n + 1, h, w), non-negative: for each of n words, and for the end.
        valid: (h, w), the cells that hold picture.
        options: what to do about sinks and delay.
        off_grid: (n + 1,), the weight off the grid at each step; None where there is none.

    Returns:
        Maps (n, h, w), non-negative, and the words' weight off the grid (n,): each map sums to ``1 - off_grid`` over
        the valid cells. A map of which nothing is left is even: it says nothing about that word.
    """
    words = len(steps) - 1
    maps = steps.astype(np.float64)
    if options.sinks != "keep":
        maps = maps - maps.mean(0)
    if options.sinks == "standardise":
        # Cells that hardly vary would dominate: none counts as steadier than a tenth of the typical cell.
        deviation = maps.std(0)
        maps = maps / (deviation + 0.1 * deviation[valid].mean() + 1e-12)
    chosen = slice(options.delay, words + options.delay)
    maps = np.where(valid, maps.clip(min=0), 0)[chosen]
    off = np.zeros(words) if off_grid is None else np.asarray(off_grid, dtype=np.float64)[chosen].clip(0, 1)
    total = maps.sum((1, 2), keepdims=True)
    maps = np.where(total > 1e-12, maps / np.maximum(total, 1e-12), valid / valid.sum())
    return np.asarray(maps * (1 - off)[:, None, None], dtype=np.float32), off.astype(np.float32)
