"""What captions and answers share: their picture, and that they show themselves."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
from PIL import Image

from captioner.errors import ImageError, OptionError
from captioner.image import Geometry, Picture, open_image

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from captioner.results.answers import Answer
    from captioner.results.captions import Caption


class Shown:
    """A result over a picture. A child has ``_draw`` and ``_small``, its figure whole and as notebooks keep it."""

    geometry: Geometry
    image: str
    source: Picture

    @property
    def picture(self) -> Image.Image:
        """The upright picture, RGB; the smaller copy if one was kept (``keep`` of `Captioner.prepare`).

        Raises:
            ImageError: its file is no longer there.
        """
        width, height = self.geometry.size
        return open_image(self.source, max_pixels=width * height)

    def figure(self, path: str | Path | None = None, *, smooth: bool = True) -> "Figure":
        """The picture with its maps laid over it, once per word of a caption; see `captioner.show.figure`.

        Args:
            path: where to save it as well: .png, .pdf, .svg or another format of matplotlib.
            smooth: interpolate between cells; False shows the cells as they are.

        Raises:
            ImageError: the picture's file is no longer there.
            OptionError: the path is the picture's own file, has another ending or cannot be written.
        """
        from captioner.show.figure import save_figure

        self._refuse_own_picture(path)
        figure = self._draw(smooth=smooth)
        if path is not None:
            save_figure(figure, path)
        return figure

    def page(self, path: str | Path | None = None) -> str:
        """A self-contained HTML document: hover a word and its map glows on the picture; see `captioner.show.page`.

        Args:
            path: where to save it as well, .html.

        Raises:
            ImageError: the picture's file is no longer there.
            OptionError: the path is the picture's own file, has another ending or cannot be written.
        """
        from captioner.show.page import page, save_page

        self._refuse_own_picture(path)
        document = page([cast("Caption | Answer", self)])
        if path is not None:
            save_page(document, path)
        return document

    def _refuse_own_picture(self, path: str | Path | None) -> None:
        """The picture is not overwritten, also through a link. Raises OptionError."""
        if path is None:
            return
        own = [one for one in (self.source, self.image) if isinstance(one, (str, os.PathLike))]
        for one in own:
            try:
                is_same = Path(one).samefile(path)
            except (OSError, ValueError):  # one of them is not there
                continue
            if is_same:
                raise OptionError(f"{path} is the picture itself", remedy="save to another file")

    def _draw(self, *, smooth: bool) -> "Figure":
        raise NotImplementedError

    def _small(self) -> bytes:
        raise NotImplementedError

    def _repr_html_(self) -> str | None:
        """The page, for notebooks; None, which leaves them the text, where the picture is gone."""
        from captioner.show.page import notebook

        try:
            return notebook(cast("Caption | Answer", self))
        except ImageError:
            return None

    def _repr_jpeg_(self) -> bytes | None:
        """The figure, for what shows notebooks without their pages; small, as notebooks keep it."""
        try:
            return self._small()
        except ImageError:
            return None


def rounded(map_: "NDArray[np.float32]") -> list[list[float]]:
    """A map as plain numbers of 5 significant digits."""
    return [[float(f"{value:.5g}") for value in row] for row in map_.tolist()]


def map_key(map_: "NDArray[np.float32]") -> tuple[tuple[int, ...], bytes]:
    """What equal maps share, and different ones do not."""
    values = np.asarray(map_, dtype=np.float32) + np.float32(0)  # -0.0 equals 0.0, and so must its bytes
    return values.shape, values.tobytes()
