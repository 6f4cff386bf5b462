"""What draws the results, registered by kind. Figures and pages are imported when the first is drawn."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from captioner.results import Answer, Caption, Contrast, Heads, WordView
from captioner.results.shown import DRAWINGS

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class _Drawing:
    """A `captioner.results.shown.Drawing`. A child has ``draw``, and ``entries`` where a page has more than one."""

    @staticmethod
    def draw(result: Any, *, smooth: bool) -> "Figure":
        raise NotImplementedError

    @staticmethod
    def entries(result: Any) -> Sequence[Caption | Answer]:
        return [result]

    @classmethod
    def figure(cls, result: Any, path: str | Path | None, *, smooth: bool) -> "Figure":
        from captioner.show.figure import save_figure

        figure = cls.draw(result, smooth=smooth)
        if path is not None:
            save_figure(figure, path)
        return figure

    @classmethod
    def page(cls, result: Any, path: str | Path | None) -> str:
        from captioner.show.page import page_with_views

        return page_with_views(cls.entries(result), path)

    @classmethod
    def notebook(cls, result: Any) -> str:
        from captioner.show.page import notebook

        return notebook(cls.entries(result)[-1])

    @classmethod
    def small(cls, result: Any) -> bytes:
        from captioner.show.figure import small_jpeg

        return small_jpeg(cls.draw(result, smooth=True))


@DRAWINGS.register(Caption.kind)
class CaptionDrawing(_Drawing):
    """The picture once per word."""

    @staticmethod
    def draw(result: Caption, *, smooth: bool) -> "Figure":
        from captioner.show.figure import draw_caption

        return draw_caption(result, smooth=smooth)


@DRAWINGS.register(Answer.kind)
class AnswerDrawing(_Drawing):
    """The picture with the map of the answer, beside the weights of the question's words."""

    @staticmethod
    def draw(result: Answer, *, smooth: bool) -> "Figure":
        from captioner.show.figure import draw_answers

        return draw_answers([result], smooth=smooth)


class _ViewDrawing(_Drawing):
    """The page of a view is its caption's, with the view below."""

    @staticmethod
    def entries(result: WordView) -> Sequence[Caption | Answer]:
        return [result.caption, result.as_caption()]


@DRAWINGS.register(Heads.kind)
class HeadsDrawing(_ViewDrawing):
    """A grid of layers x heads; frames mark the chosen heads."""

    @staticmethod
    def draw(result: Heads, *, smooth: bool) -> "Figure":
        from captioner.show.view_figures import draw_heads

        return draw_heads(result, smooth=smooth)


@DRAWINGS.register(Contrast.kind)
class ContrastDrawing(_ViewDrawing):
    """The picture, and the difference of both words in two colours."""

    @staticmethod
    def draw(result: Contrast, *, smooth: bool) -> "Figure":
        from captioner.show.view_figures import draw_contrast

        return draw_contrast(result, smooth=smooth)
