"""Maps laid over the picture, exactly where they belong.

All maps of a caption share one scale: how many times the attention of a cell exceeds its even share, in logarithms,
for twice as much means as much from 2 as from 20 times the even share. An even map is invisible, and the strongest
glow of the figure is the strongest attention of the caption. (Stretching each map to its own range would make a flat
map look as if it had something to say.)
"""

import io
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, LogNorm
from matplotlib.figure import Figure
from PIL import Image
from scipy.interpolate import PchipInterpolator

from captioner.errors import OptionError
from captioner.image import Geometry

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from captioner.results import Caption

FAINTEST_TOP = 3.0  # a caption whose maps stay below three times their even share must not look focused
MAP_OF = {
    "attention": "attention of a cell",
    "gradient": "what a cell says for the word",
    "occlusion": "what hiding a cell costs the word",
}
"""What a caption's maps are made of, by `Caption.explain`; the viewer's maps.js has the same words."""
_STRONGEST = 0.82  # opacity at the top of the scale
_SMALL_DPI = 60
_PANEL_PIXELS = 480  # longer side of each panel's picture
_COLOURS = colormaps["inferno"]


class CaptionFigure(Figure):
    """A figure that a notebook shows where it is the value of a cell, though no backend was chosen there."""

    def _repr_png_(self) -> bytes | None:
        if _notebook_draws_figures():
            return None
        buffer = io.BytesIO()
        self.savefig(buffer, format="png", dpi=_SMALL_DPI)
        return buffer.getvalue()


def _notebook_draws_figures() -> bool:
    """Whether the notebook that this runs in, if any, shows figures by itself, as after ``%matplotlib inline``."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    if shell is None:
        return False
    formatters = shell.display_formatter.formatters.values()
    return any(Figure in formatter.type_printers for formatter in formatters)


def times_even(map_: "NDArray[np.float32]", geometry: Geometry) -> "NDArray[np.float32]":
    """A map (h, w) in multiples of the even share: 1 everywhere for a uniform map, whatever the grid."""
    return map_ * np.float32(geometry.mask.sum())


def top_of_scale(caption: "Caption") -> float:
    """The value, in multiples of the even share, at which the caption's scale ends."""
    strongest = max((float(times_even(m, caption.geometry).max()) for m in caption.maps), default=1.0)
    return max(strongest, FAINTEST_TOP)


def glow(map_: "NDArray[np.float32]", geometry: Geometry, *, top: float) -> "NDArray[np.float32]":
    """How strongly each cell of a map (h, w) glows: 0 at the even share and below, 1 at the top of the scale."""
    values = times_even(map_, geometry)
    return np.asarray((np.log(values.clip(1)) / np.log(top)).clip(0, 1), dtype=np.float32)


def on_picture(
    map_: "NDArray[np.float32]", geometry: Geometry, size: tuple[int, int], *, smooth: bool = True
) -> "NDArray[np.float32]":
    """A map (h, w) spread over the pixels of the picture.

    Args:
        map_: values of the cells.
        geometry: where the cells lie.
        size: (width, height) at which the picture is shown; it need not be the original's.
        smooth: between the centres of cells, where each has its own value, a cubic that adds no peak and overshoots
            nowhere (Fritsch and Butland 1984); False gives each cell its rectangle.

    Returns:
        (height, width) float32.
    """
    values = map_
    for axis in (0, 1):  # down, then across
        cells, content, pixels = geometry.grid[axis], geometry.content[1 - axis], size[1 - axis]
        # In cells; only a part of the grid is covered by the picture, the rest is padding.
        places = (np.arange(pixels) + 0.5) / pixels * (cells * content / geometry.side)
        if smooth:
            held = values.take(range(-(-cells * content // geometry.side)), axis)
            # Level beyond the outermost centres, as if the edge's cells went on.
            ends = np.concatenate([held.take([0], axis), held, held.take([-1], axis)], axis)
            values = PchipInterpolator(np.arange(-0.5, held.shape[axis] + 1), ends, axis)(places)
        else:
            values = values.take(np.minimum(places.astype(int), cells - 1), axis)
    return np.asarray(values, dtype=np.float32)


def overlay(
    picture: Image.Image, map_: "NDArray[np.float32]", geometry: Geometry, *, top: float, smooth: bool = True
) -> "NDArray[np.uint8]":
    """The picture with one map glowing on it, (height, width, 3) of the picture's own size.

    Args:
        picture: upright RGB, in any size.
        map_: (h, w).
        geometry: where the cells lie.
        top: the end of the scale, in multiples of the even share; see `top_of_scale`.
        smooth: see `on_picture`.
    """
    strength = on_picture(glow(map_, geometry, top=top), geometry, picture.size, smooth=smooth)
    colours = _COLOURS(0.3 + 0.7 * strength)[:, :, :3] * 255
    alpha = _opacity(strength)[:, :, None]
    blended = np.asarray(picture, dtype=np.float32) * (1 - alpha) + colours * alpha
    return np.asarray(blended.round().clip(0, 255), dtype=np.uint8)


def _opacity(strength: "NDArray[np.float32]") -> "NDArray[np.float32]":
    return np.asarray(_STRONGEST * strength, dtype=np.float32)


def draw_caption(caption: "Caption", *, smooth: bool = True) -> CaptionFigure:
    """The picture, then once per word the picture with the word's map; titles are word and probability.

    Args:
        caption: with its picture.
        smooth: see `on_picture`.
    """
    picture = caption.picture.copy()
    picture.thumbnail((_PANEL_PIXELS, _PANEL_PIXELS))
    width, height = picture.size
    panels = len(caption.words) + 1
    columns = min(panels, max(2, min(6, round(5 * height / width) + 1)))
    rows = -(-panels // columns)
    panel_width = 2.6
    panel_height = panel_width * height / width + 0.35
    figure = CaptionFigure(figsize=(columns * panel_width, rows * panel_height + 1.1), layout="constrained")
    # A file name or a word may hold a dollar sign: never formulae.
    figure.suptitle(caption.text, fontsize=13, parse_math=False)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis in axes:
        axis.set_axis_off()
    axes[0].imshow(np.asarray(picture))
    axes[0].set_title("the picture", fontsize=10, color="0.4")
    top = top_of_scale(caption)
    for axis, word in zip(axes[1:], caption.words, strict=False):
        axis.imshow(overlay(picture, word.map, caption.geometry, top=top, smooth=smooth))
        title = axis.set_title(f"{word.text}  {word.probability:.2f}", fontsize=11)
        title.set_parse_math(False)
    _draw_scale(figure, list(axes), top, MAP_OF[caption.explain])
    return figure


def _draw_scale(figure: Figure, axes: list[Axes], top: float, what: str) -> None:
    steps = np.linspace(0, 1, 256, dtype=np.float32)
    alpha = _opacity(steps)[:, None]
    on_white = 1 - alpha + _COLOURS(0.3 + 0.7 * steps)[:, :3] * alpha
    scale = ScalarMappable(LogNorm(1, top), ListedColormap(on_white))
    bar = figure.colorbar(scale, ax=axes, location="bottom", shrink=0.35, aspect=40, pad=0.02)
    ticks = [value for value in (1, 2, 3, 5, 10, 20, 30, 50, 100, 200, 500) if value <= top]
    bar.set_ticks(ticks, labels=[str(value) for value in ticks], minor=False)
    bar.ax.minorticks_off()
    bar.set_label(f"{what}, in multiples of its even share", fontsize=8)
    bar.ax.tick_params(labelsize=8)


def small_figure(caption: "Caption") -> bytes:
    """The figure of a caption as a JPEG of some 50 to 100 KB."""
    buffer = io.BytesIO()
    draw_caption(caption).savefig(buffer, format="jpeg", dpi=_SMALL_DPI, pil_kwargs={"quality": 85})
    return buffer.getvalue()


def save_figure(figure: Figure, path: str | Path) -> None:
    """Write a figure in the format that the path's ending names.

    Raises:
        OptionError: the ending is no format of matplotlib, or the file cannot be written.
    """
    path = Path(path)
    known = figure.canvas.get_supported_filetypes()
    if path.suffix.lstrip(".").lower() not in known:
        raise OptionError(f"{path}: a figure ends in .png, .pdf or .svg, not '{path.suffix}'")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=110)
    except OSError as error:
        raise OptionError(f"{path}: cannot be written ({error.strerror or error})") from None
