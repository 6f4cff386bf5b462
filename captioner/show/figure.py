"""Figures: the picture once per word, with the word's map laid over it. The only module here that needs matplotlib."""

import io
import sys
import textwrap
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backend_bases import RendererBase
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, LogNorm
from matplotlib.figure import Figure
from PIL import ExifTags, Image

from captioner.errors import OptionError
from captioner.partial import written_output
from captioner.show import FIGURE_PIXELS
from captioner.show.scale import MAP_OF, colours, opacity, overlay, times_likelier, top_of_scale
from captioner.tokenizer.detokenize import detokenize

if TYPE_CHECKING:
    from captioner.results import Answer, Caption

_DPI = 110
_SMALL_DPI = 60
_PANEL_PIXELS = 480  # longer side of each panel's picture
_PANEL_INCHES = 2.6  # width of a panel
_TITLE_INCHES = 0.35  # above each panel
_MARGIN_INCHES = 1.1  # for the caption and the scale
_LONGEST_SHAPE = 16  # a picture that is thinner than 1 : 16 is drawn as thick as that
_TALLEST_PANEL = 2.0  # height of a panel in widths; a taller picture is drawn narrower
_MOST_COLUMNS = 12
_ANSWER_INCHES = 3.6  # width of the picture beside a question
_MOSTLY_OFF_GRID = 0.5
_LONGEST_TITLE = 24  # characters

# What belongs to the program and not to how a figure looks.
_NOT_STYLE = ("backend", "interactive", "toolbar", "timezone", "datapath", "webagg", "tk.", "docstring", "date.epoch")
_drawing = threading.RLock()


@contextmanager
def own_settings() -> Iterator[None]:
    """Within it, matplotlib's settings are its defaults, whatever the user's matplotlibrc or style sets.

    The settings are the process's, so they are touched only where they differ, by one thread at a time, and are as
    they were afterwards. (Matplotlib itself is not safe to use from several threads.)
    """
    with _drawing:
        different = {
            key: value
            for key, value in matplotlib.rcParamsDefault.items()
            if not key.startswith(_NOT_STYLE) and matplotlib.rcParams[key] != value
        }
        if not different:
            yield
            return
        with matplotlib.rc_context(different):
            yield


class CaptionFigure(Figure):
    """A figure that always looks the same, and that a notebook shows where it is the value of a cell."""

    def draw(self, renderer: RendererBase) -> None:
        with own_settings():
            super().draw(renderer)

    def savefig(self, fname: Any, **options: Any) -> None:
        with own_settings():
            super().savefig(fname, **options)

    def _repr_png_(self) -> bytes | None:
        if _notebook_draws_figures():
            return None
        buffer = io.BytesIO()
        self.savefig(buffer, format="png", dpi=_SMALL_DPI)
        return buffer.getvalue()


def _notebook_draws_figures() -> bool:
    """Whether this runs in a notebook that shows figures by itself, as after ``%matplotlib inline``."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    if shell is None:
        return False
    formatters = shell.display_formatter.formatters.values()
    return any(Figure in formatter.type_printers for formatter in formatters)


def draw_caption(caption: "Caption", *, smooth: bool = True) -> CaptionFigure:
    """The picture, then once per word the picture with the word's map; titles are word and probability.

    Where it was computed, how many times likelier the picture makes the word follows its probability ("12×"). A word
    that points at nothing, since most of its attention went to no cell, has a grey title with that share ("off-grid
    84%").
    The figure's size is bounded by `FIGURE_PIXELS`. A picture that is thinner than 1 : 16 is drawn at that shape,
    so that its maps are visible.

    Args:
        caption: with its picture.
        smooth: see `captioner.show.scale.on_picture`.

    Raises:
        ImageError: the picture's file is no longer there.
    """
    picture = panel_picture(caption.picture)
    columns, rows, panel = _layout(len(caption.words) + 1, picture.height / picture.width)
    with own_settings():
        figure = CaptionFigure(
            figsize=(columns * panel[0], rows * panel[1] + _MARGIN_INCHES), dpi=100, layout="constrained"
        )
        sentence = textwrap.fill(caption.text, max(24, int(9 * columns * panel[0])), max_lines=6, placeholder=" …")
        # A file name or a word may hold a dollar sign, which starts no formula here.
        figure.suptitle(sentence, fontsize=13, parse_math=False)
        axes = figure.subplots(rows, columns, squeeze=False).ravel()
        for axis in axes:
            axis.set_axis_off()
        axes[0].imshow(np.asarray(picture))
        axes[0].set_title("the picture", fontsize=10, color="0.4")
        top = top_of_scale(caption)
        for axis, word in zip(axes[1:], caption.words, strict=False):
            axis.imshow(overlay(picture, word.map, caption.geometry, top=top, smooth=smooth))
            gain = "" if word.gain is None else f"  {times_likelier(word.gain)}"
            mostly_off = word.off_grid >= _MOSTLY_OFF_GRID
            title = (
                f"{_label(word.text)}  {word.probability:.2f}{gain}" + f"  off-grid {word.off_grid:.0%}" * mostly_off
            )
            axis.set_title(title, fontsize=11, color="0.55" if mostly_off else "0").set_parse_math(False)
        draw_scale(figure, list(axes), top, MAP_OF[caption.explain])
    return figure


def draw_answers(answers: "Sequence[Answer]", *, smooth: bool = True) -> CaptionFigure:
    """A row for each question: the picture with the answer's map, and the words of the question with their weights.

    Args:
        answers: one at least; `FIGURE_PIXELS` bounds how many rows are drawn at full size.
        smooth: see `captioner.show.scale.on_picture`.

    Raises:
        ImageError: the picture's file is no longer there.
    """
    shape = answers[0].geometry.size[1] / answers[0].geometry.size[0]
    height = _ANSWER_INCHES * min(max(shape, 1 / 3), 1.5) + 0.6
    rows = len(answers)
    height = min(height, (FIGURE_PIXELS / _DPI - _MARGIN_INCHES) / rows)
    with own_settings():
        figure = CaptionFigure(
            figsize=(2.2 * _ANSWER_INCHES, rows * height + _MARGIN_INCHES), dpi=100, layout="constrained"
        )
        axes = figure.subplots(rows, 2, squeeze=False)
        top = max(top_of_scale(answer) for answer in answers)
        for (seen, asked), answer in zip(axes, answers, strict=True):
            seen.set_axis_off()
            seen.imshow(overlay(panel_picture(answer.picture), answer.map, answer.geometry, top=top, smooth=smooth))
            title = textwrap.fill(f"{answer.text}  {answer.probability:.2f}", 48, max_lines=2, placeholder=" …")
            seen.set_title(title, fontsize=12).set_parse_math(False)
            _draw_words(asked, answer)
        draw_scale(figure, list(axes.ravel()), top, MAP_OF["attention"])
    return figure


def _label(word: str) -> str:
    """A word as text has it, where there is room for it."""
    text = detokenize([word])
    return text if len(text) <= _LONGEST_TITLE else f"{text[: _LONGEST_TITLE - 1]}…"


def _draw_words(axes: Axes, answer: "Answer") -> None:
    """The words of a question from top to bottom, with a bar for each as long as its weight."""
    places = range(len(answer.words))
    axes.barh(list(places), [word.weight for word in answer.words], color="#bc3754", height=0.7)
    labels = [_label(word.text) for word in answer.words]
    axes.set_yticks(list(places), labels, fontsize=9, parse_math=False)
    axes.invert_yaxis()
    axes.set_xlim(0, 1)
    axes.set_xlabel("weight of a word", fontsize=8)
    axes.tick_params(axis="x", labelsize=8)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    title = textwrap.fill(answer.question, 44, max_lines=2, placeholder=" …")
    axes.set_title(title, fontsize=11, color="0.25").set_parse_math(False)


def panel_picture(picture: Image.Image) -> Image.Image:
    """A picture at the size of a panel; a new image."""
    width, height = (float(side) for side in picture.size)
    width, height = max(width, height / _LONGEST_SHAPE), max(height, width / _LONGEST_SHAPE)
    scale = min(1.0, _PANEL_PIXELS / max(width, height))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return picture.resize(size, Image.Resampling.BICUBIC, reducing_gap=2.0)


def _layout(panels: int, shape: float) -> tuple[int, int, tuple[float, float]]:
    """Columns, rows, and (width, height) of a panel in inches, for pictures of this height in widths."""
    tallest = FIGURE_PIXELS / _DPI - _MARGIN_INCHES
    width = min(_PANEL_INCHES, max(1.4, _PANEL_INCHES * _TALLEST_PANEL / shape))
    height = _PANEL_INCHES * min(shape, _TALLEST_PANEL) + _TITLE_INCHES
    columns = min(panels, max(2, min(6, round(5 * shape) + 1)))
    while columns < _MOST_COLUMNS and -(-panels // columns) * height > tallest:
        columns += 1
    rows = -(-panels // columns)
    return columns, rows, (width, min(height, tallest / rows))


def draw_scale(figure: Figure, axes: list[Axes], top: float, what: str) -> None:
    """Draw the colour scale below some axes; ``top`` is its end, ``what`` the quantity."""
    steps = np.linspace(0, 1, 256, dtype=np.float32)
    alpha = opacity(steps)[:, None]
    on_white = 1 - alpha + colours(steps) / 255 * alpha
    scale = ScalarMappable(LogNorm(1, top), ListedColormap(on_white))
    bar = figure.colorbar(scale, ax=axes, location="bottom", shrink=0.35, aspect=40, pad=0.02)
    ticks = [value for value in (1, 2, 3, 5, 10, 20, 30, 50, 100, 200, 500) if value <= top]
    bar.set_ticks(ticks, labels=[str(value) for value in ticks], minor=False)
    bar.ax.minorticks_off()
    bar.set_label(f"{what}, in multiples of its even share", fontsize=8)
    bar.ax.tick_params(labelsize=8)


def small_jpeg(figure: Figure) -> bytes:
    """A figure as a JPEG file of 50 to 100 KB, for notebooks."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="jpeg", dpi=_SMALL_DPI, pil_kwargs={"quality": 85})
    return buffer.getvalue()


def _mark(format_: str) -> dict[str, Any]:
    """Options of `savefig` that name captioner as the program that made the file: a later run may replace it. In other
    formats Matplotlib names itself."""
    if format_ == "png":
        return {"metadata": {"Software": f"captioner, Matplotlib {matplotlib.__version__}"}}
    if format_ in ("jpg", "jpeg", "webp", "tif", "tiff"):
        exif = Image.Exif()
        exif[ExifTags.Base.Software] = "captioner"
        return {"pil_kwargs": {"exif": exif}}
    return {}


def save_figure(figure: Figure, path: str | Path) -> None:
    """Write a figure in the format that the path's ending names; what was there stays until the new file is whole.

    Raises:
        OptionError: the ending is no format of matplotlib, or the file cannot be written.
    """
    path = Path(path)
    format_ = path.suffix.lstrip(".").lower()
    if format_ not in figure.canvas.get_supported_filetypes():
        raise OptionError(f"{path}: a figure ends in .png, .pdf or .svg, not '{path.suffix}'")
    try:
        empty = path.stat().st_size == 0  # made and locked by the caller, who moves it to its place
    except (OSError, ValueError):
        empty = False
    try:
        with nullcontext(path) if empty else written_output(path) as partial:
            figure.savefig(partial, dpi=_DPI, format=format_, **_mark(format_))
    except OSError as error:
        raise OptionError(f"{path}: cannot be written ({error.strerror or error})") from None
