"""Figures of the views of a word: the grid of heads, and the contrast in two colours."""

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from captioner.show import FIGURE_PIXELS
from captioner.show.figure import CaptionFigure, draw_scale, own_settings, panel_picture
from captioner.show.scale import FAINTEST_TOP, MAP_OF, STRONGEST, on_picture, overlay, times_even

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from captioner.results import Contrast, Heads

_DPI = 110
_PANEL_INCHES = 1.9
_TOP_INCHES, _SCALE_INCHES = 0.5, 0.8
_FOR, _AGAINST = np.array((235, 120, 30), np.float32), np.array((40, 110, 220), np.float32)


def draw_heads(heads: "Heads", *, smooth: bool = True) -> CaptionFigure:
    """A row for each layer and a column for each head, all on one scale; a frame marks the heads of the word's map."""
    caption, (layers, count) = heads.caption, heads.maps.shape[:2]
    picture = panel_picture(caption.picture)
    shape = min(max(picture.height / picture.width, 0.4), 2.0)
    inches = min(_PANEL_INCHES, FIGURE_PIXELS / _DPI / count, FIGURE_PIXELS / _DPI / (layers * (shape + 0.2) + 1))
    top = max(
        float(max(times_even(m, caption.geometry).max() for m in heads.maps.reshape(-1, *heads.maps.shape[2:]))), 1
    )
    top = max(top, FAINTEST_TOP)
    with own_settings():
        size = (max(3.2, count * inches), layers * inches * (shape + 0.2) + _TOP_INCHES + _SCALE_INCHES)
        figure = CaptionFigure(figsize=size, dpi=100, layout="constrained")
        figure.suptitle(f"{heads.word}  -  {caption.text}", fontsize=11, parse_math=False)
        axes = figure.subplots(layers, count, squeeze=False)
        for layer in range(layers):
            for head in range(count):
                axis = axes[layer, head]
                map_ = heads.maps[layer, head]
                axis.imshow(overlay(picture, map_, caption.geometry, top=top, smooth=smooth))
                axis.set_xticks([])
                axis.set_yticks([])
                chosen = (layer, head) in heads.chosen
                for edge in axis.spines.values():
                    edge.set(visible=chosen, color="tab:red", linewidth=2)
                off = 1 - float(map_.sum())
                beside = f"  off {off:.2f}" if off > 5e-3 else ""
                axis.set_title(f"layer {layer + 1}, head {head + 1}{beside}", fontsize=8)
        draw_scale(figure, list(axes.ravel()), top, MAP_OF["attention"])
    return figure


def draw_contrast(contrast: "Contrast", *, smooth: bool = True) -> CaptionFigure:
    """The picture, and the picture with the difference of both words laid over it."""
    caption = contrast.caption
    picture = panel_picture(caption.picture)
    shape = min(max(picture.height / picture.width, 0.4), 2.0)
    with own_settings():
        figure = CaptionFigure(figsize=(7.6, 3.6 * shape + 0.9), dpi=100, layout="constrained")
        figure.suptitle(caption.text, fontsize=12, parse_math=False)
        axes = figure.subplots(1, 2)
        for axis in axes:
            axis.set_axis_off()
        axes[0].imshow(np.asarray(picture))
        axes[0].set_title("the picture", fontsize=10, color="0.4")
        axes[1].imshow(two_colours(picture, contrast, smooth=smooth))
        (first, second), (word, other) = contrast.probabilities, (contrast.word, contrast.other)
        axes[1].set_title(f"why {word} ({first:.2f}), not {other} ({second:.2f})", fontsize=10).set_parse_math(False)
        for colour, text in ((_FOR, f"for {word}"), (_AGAINST, f"for {other}")):
            axes[1].plot([], [], "s", color=tuple(colour / 255), label=text)
        axes[1].legend(loc="lower right", fontsize=8, framealpha=0.9)
    return figure


def two_colours(picture: Image.Image, contrast: "Contrast", *, smooth: bool = True) -> "NDArray[np.uint8]":
    """The picture, orange where it speaks for the word and blue where it speaks for the other, (height, width, 3).

    Opacity is linear in the difference, and strongest where the difference is largest.
    """
    strongest = float(np.abs(contrast.map).max())
    values = contrast.map / strongest if strongest > 0 else contrast.map
    spread = on_picture(values.astype(np.float32), contrast.caption.geometry, picture.size, smooth=smooth)[:, :, None]
    alpha = STRONGEST * np.abs(spread)
    blended = np.asarray(picture, np.float32) * (1 - alpha) + np.where(spread > 0, _FOR, _AGAINST) * alpha
    return np.asarray(blended.round().clip(0, 255), dtype=np.uint8)
