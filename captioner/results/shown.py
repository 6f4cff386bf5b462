"""What results share: they show themselves, through what is registered to draw them."""

import json
import os
from collections.abc import Iterable
from functools import cache, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np
from PIL import Image

from captioner.errors import ImageError, OptionError
from captioner.image import Geometry, Picture, open_image
from captioner.registry import Registry

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from numpy.typing import NDArray


class Drawing(Protocol):
    """How results of one kind are drawn. Each raises ImageError where the picture's file is no longer there."""

    @classmethod
    def figure(cls, result: Any, path: str | Path | None, *, smooth: bool) -> "Figure":
        """The figure, also saved where a path is given."""

    @classmethod
    def page(cls, result: Any, path: str | Path | None) -> str:
        """A self-contained HTML document, also saved where a path is given."""

    @classmethod
    def notebook(cls, result: Any) -> str:
        """The page in a frame, as HTML."""

    @classmethod
    def small(cls, result: Any) -> bytes:
        """The figure as a small JPEG file, for what shows notebooks without their pages."""


DRAWINGS: Registry[type[Drawing]] = Registry("drawing")
"""By `Shown.kind`. Importing `captioner.show.drawings` registers those of the package; the pipeline does so."""


class Shown:
    """A result that shows itself.

    A child names its kind in `DRAWINGS`, and `_pictures`, onto which its figure and its page are not written.
    """

    kind: ClassVar[str]

    def figure(self, path: str | Path | None = None, *, smooth: bool = True) -> "Figure":
        """The picture with its maps laid over it, once per word of a caption; see `captioner.show.figure`.

        Args:
            path: where to save it as well: .png, .pdf, .svg or another format of matplotlib.
            smooth: interpolate between cells; False shows the cells as they are.

        Raises:
            ImageError: the picture's file is no longer there.
            OptionError: the path is the picture's own file, has another ending or cannot be written.
        """
        self._refuse_own_picture(path)
        return DRAWINGS[self.kind].figure(self, path, smooth=smooth)

    def page(self, path: str | Path | None = None) -> str:
        """A self-contained HTML document: hover a word and its map glows on the picture; see `captioner.show.page`.

        Args:
            path: where to save it as well, .html.

        Raises:
            ImageError: the picture's file is no longer there.
            OptionError: the path is the picture's own file, has another ending or cannot be written.
        """
        self._refuse_own_picture(path)
        return DRAWINGS[self.kind].page(self, path)

    def _pictures(self) -> Iterable[Picture]:
        raise NotImplementedError

    def _refuse_own_picture(self, path: str | Path | None) -> None:
        """The picture is not overwritten, also through a link. Raises OptionError."""
        if path is None:
            return
        for one in self._pictures():
            if not isinstance(one, (str, os.PathLike)):
                continue
            try:
                is_same = Path(one).samefile(path)
            except (OSError, ValueError):  # one of them is not there
                continue
            if is_same:
                raise OptionError(f"{path} is the picture itself", remedy="save to another file")

    def _repr_html_(self) -> str | None:
        """The page, for notebooks; None, which leaves them the text, where the picture is gone."""
        try:
            return DRAWINGS[self.kind].notebook(self)
        except ImageError:
            return None

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        """A pickle names what draws the result, so that the process that reads the pickle imports it."""
        return _restored, (type(self), DRAWINGS[self.kind], self.__dict__)


def _restored(kind: type[Shown], drawing: type[Drawing], values: dict[str, Any]) -> Shown:
    result = kind.__new__(kind)
    result.__dict__.update(values)
    return result


class OverPicture(Shown):
    """A result over a picture."""

    geometry: Geometry
    image: str
    source: Picture

    def as_dict(self) -> dict[str, Any]:
        """Plain values, the format of the command line's JSON; maps with 5 significant digits."""
        found: dict[str, Any] = _plain(self._values())
        return found

    def as_json(self, *, compact: bool = False, **more: Any) -> str:
        """What `as_dict` gives, as a line of JSON; several times faster than `json.dumps`, since maps are many numbers.

        Whole numbers of a map have no decimal point: 0 and 1.

        Args:
            compact: without spaces, and with other characters than ASCII as they are.
            more: values to add, or to have in place of those of the same name.

        Raises:
            ValueError: ``compact``, and a number is not finite.
        """
        return _json_of({**self._values(), **more}, compact=compact)

    def _values(self) -> dict[str, Any]:
        """What `as_dict` gives, with arrays for maps."""
        raise NotImplementedError

    @property
    def picture(self) -> Image.Image:
        """The upright picture, RGB; the smaller copy if one was kept (``keep`` of `Captioner.prepare`).

        Raises:
            ImageError: its file is no longer there.
        """
        width, height = self.geometry.size
        return open_image(self.source, max_pixels=width * height)

    def _pictures(self) -> Iterable[Picture]:
        return self.source, self.image

    def _repr_jpeg_(self) -> bytes | None:
        """The figure, for what shows notebooks without their pages; small, as notebooks keep it."""
        try:
            return DRAWINGS[self.kind].small(self)
        except ImageError:
            return None


def _plain(value: Any) -> Any:
    """A value with lists in place of the maps that it holds."""
    if isinstance(value, np.ndarray):
        text = _map_as_json(value, ", ")
        return value.tolist() if text is None else json.loads(text, parse_int=float)
    if isinstance(value, dict):
        return {name: _plain(each) for name, each in value.items()}
    return [_plain(each) for each in value] if isinstance(value, (list, tuple)) else value


@cache
def _encoder(*, compact: bool) -> json.JSONEncoder:
    separators = (",", ":") if compact else (", ", ": ")
    return json.JSONEncoder(ensure_ascii=not compact, allow_nan=not compact, separators=separators)


def _json_of(value: Any, *, compact: bool) -> str:
    encoder = _encoder(compact=compact)
    comma, colon = encoder.item_separator, encoder.key_separator

    def text(value: Any) -> str:
        if isinstance(value, np.ndarray):
            return _map_as_json(value, comma) or encoder.encode(value.tolist())
        if isinstance(value, dict):
            return "{" + comma.join(f"{encoder.encode(name)}{colon}{text(each)}" for name, each in value.items()) + "}"
        if isinstance(value, (list, tuple)):
            return "[" + comma.join(map(text, value)) + "]"
        return encoder.encode(value)

    return text(value)


def _map_as_json(map_: "NDArray[np.float32]", comma: str) -> str | None:
    """Rows of numbers of 5 significant digits; None where one is not finite, which this would not write as JSON."""
    text = _format(*map_.shape, comma) % tuple(map_.ravel().tolist())
    return None if "n" in text else text


@lru_cache(64)
def _format(rows: int, columns: int, comma: str) -> str:
    row = "[" + comma.join(["%.5g"] * columns) + "]"
    return "[" + comma.join([row] * rows) + "]"


def map_key(map_: "NDArray[np.float32]") -> tuple[tuple[int, ...], bytes]:
    """What equal maps share, and different ones do not."""
    values = np.asarray(map_, dtype=np.float32) + np.float32(0)  # -0.0 equals 0.0, and so must its bytes
    return values.shape, values.tobytes()
