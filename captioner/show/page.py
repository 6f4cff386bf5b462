"""Captions as web pages: hover a word and its map glows on the picture.

One viewer, in ``viewer/`` beside this module, serves the page in a file, the notebook and the web server. It is
given plain data, see `payload`; it needs no network and no framework, and it works under a content-security policy
that lets nothing run but itself.
"""

import base64
import hashlib
import html
import importlib.resources
import io
import json
from collections.abc import Sequence
from functools import cache
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from captioner.show.figure import FAINTEST_TOP, times_even

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from captioner.image import Geometry
    from captioner.results import Alternative, Caption, Word

_PARTS = ("maps", "elements", "viewer", "gallery")
EVEN = 64
"""The byte of a cell that gets exactly its even share of the attention."""

PAGE_PIXELS = 1024  # longest side of the picture on a page of its own
GALLERY_PIXELS = 768  # where it is one of several
NOTEBOOK_PIXELS = 640  # and in a notebook, which keeps every output
_NOTEBOOK_HEIGHT = 560


def payload(caption: "Caption", *, image_url: str | None = None, longest: int = PAGE_PIXELS) -> dict[str, Any]:
    """What the viewer shows, as plain values for JSON.

    ``{"image", "name", "size": [width, height], "extent": [left, top, right, bottom], "grid": [h, w], "model",
    "explain", "captions": [{"text", "score", "finished", "words": [{"word", "probability"}], "maps",
    "scale": [top]}]}``; the best caption first. ``maps`` are the bytes of `quantise` for all words of a caption, in
    base64, and ``top`` the end of the caption's scale.

    Args:
        caption: with its picture.
        image_url: where the picture is to be had; None puts it into the data.
        longest: the longer side in pixels that the picture is shrunk to where it goes into the data.

    Raises:
        ImageError: the picture's file is no longer there.
    """
    geometry = caption.geometry
    return {
        "image": _data_uri(caption.picture, longest) if image_url is None else image_url,
        "name": shown(PurePath(caption.image).name),
        "size": list(geometry.size),
        "extent": list(geometry.extent),
        "grid": list(geometry.grid),
        "model": caption.model,
        "explain": caption.explain,
        "captions": [_caption_data(caption, geometry), *(_caption_data(a, geometry) for a in caption.alternatives)],
    }


def _caption_data(said: "Caption | Alternative", geometry: "Geometry") -> dict[str, Any]:
    maps, top = quantise([word.map for word in said.words], geometry)
    return {
        "text": said.text,
        "score": round(said.score, 4),
        "finished": said.finished,
        "words": [_word_data(word) for word in said.words],
        "maps": base64.b64encode(maps.tobytes()).decode("ascii"),
        "scale": [round(top, 6)],
    }


def _word_data(word: "Word") -> dict[str, Any]:
    return {"word": word.text, "probability": round(word.probability, 4)}


def quantise(maps: "Sequence[NDArray[np.float32]]", geometry: "Geometry") -> "tuple[NDArray[np.uint8], float]":
    """The maps of a caption in a byte a cell, on the one scale that figures use too.

    The byte `EVEN` is exactly the even share, so that an even map stays invisible. Below it, bytes are linear down to
    no attention; above it, logarithmic up to ``top``: as in `captioner.show.figure`, the strongest cell of the
    caption, or 3 where all are weaker. In multiples of the even share, a value is therefore off by at most ``1 / 128``
    below 1, and above by at most a factor ``top ** (1 / 382)``: a 382nd of the visible scale, whatever the grid.

    Args:
        maps: one (h, w) for each word.
        geometry: where the cells lie.

    Returns:
        (words, h, w) bytes, and ``top`` in multiples of the even share; `restore` undoes it.
    """
    if not maps:
        return np.zeros((0, *geometry.grid), dtype=np.uint8), FAINTEST_TOP
    values = np.stack([times_even(map_, geometry) for map_ in maps])
    top = max(float(values.max()), FAINTEST_TOP)
    above = EVEN + np.log(values.clip(1)) / np.log(top) * (255 - EVEN)
    return np.where(values < 1, values * EVEN, above).round().clip(0, 255).astype(np.uint8), top


def restore(maps: "NDArray[np.uint8]", top: float) -> "NDArray[np.float32]":
    """What `quantise` made bytes of, in multiples of the even share; the viewer does the same."""
    steps = maps.astype(np.float32)
    return np.where(steps < EVEN, steps / EVEN, top ** ((steps - EVEN) / (255 - EVEN))).astype(np.float32)


def _data_uri(picture: Image.Image, longest: int) -> str:
    small = picture.copy()
    small.thumbnail((longest, longest), Image.Resampling.LANCZOS, reducing_gap=3.0)
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=82, optimize=True, progressive=True)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"


def shown(name: str) -> str:
    """A name as text that can be encoded: file names need not be text, and a page has to be."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


@cache
def assets() -> tuple[str, str]:
    """The viewer: its script and its style sheet.

    The script is one, for the content-security policy to know it by its hash; its parts share a scope of their own.
    """
    folder = importlib.resources.files("captioner.show") / "viewer"
    parts = [(folder / f"{name}.js").read_text(encoding="utf-8") for name in _PARTS]
    style = (folder / "viewer.css").read_text(encoding="utf-8")
    return '(function () {\n"use strict";\n\n' + "\n".join(parts) + "})();\n", style


def page(captions: "Sequence[Caption]", *, title: str | None = None, smooth: bool = True) -> str:
    """A document that holds all it shows: one caption with everything about it, or a gallery of several.

    Args:
        captions: with their pictures.
        title: of the document; None for the picture's name, or the number of captions.
        smooth: begin with interpolated maps; False with the cells as they are.

    Raises:
        ImageError: the file of a picture is no longer there.
    """
    several = len(captions) != 1
    if title is None:
        title = f"{len(captions)} captions" if several else name_of(captions[0])
    entries = (entry(caption, several=several, smooth=smooth) for caption in captions)
    return "".join((opening(title), *entries, closing()))


def notebook(caption: "Caption") -> str:
    """A caption's page in a frame of its own: the notebook's styles do not reach it, nor it the notebook.

    What shows neither scripts nor frames, and strips the attribute ``hidden`` too, shows the sentence.
    """
    inside = "".join((opening(name_of(caption), embedded=True), entry(caption, longest=NOTEBOOK_PIXELS), closing()))
    return (
        f'<iframe sandbox="allow-scripts" srcdoc="{html.escape(inside)}" title="{html.escape(shown(caption.text))}" '
        f'width="100%" height="{_NOTEBOOK_HEIGHT}" frameborder="0" loading="lazy"></iframe>'
        f"<p hidden>{html.escape(shown(caption.text))}</p>"
    )


def name_of(caption: "Caption") -> str:
    """What a page with this caption alone is called."""
    return PurePath(caption.image).name or caption.text or "no words"


def opening(title: str, *, embedded: bool = False) -> str:
    """The beginning of a document, up to its first `entry`.

    Args:
        title: any text.
        embedded: the document fills a frame rather than a window.
    """
    script, style = assets()
    policy = f"default-src 'none'; img-src data:; style-src {_hash(style)}; script-src {_hash(script)}"
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n<meta name="referrer" content="no-referrer">\n'
        f"<title>{html.escape(shown(title))}</title>\n<style>{style}</style>\n</head>\n"
        f'<body class="cv-page{" cv-embedded" if embedded else ""}">\n<h1>{html.escape(shown(title))}</h1>\n'
        '<main class="cv-here">\n'
    )


def entry(caption: "Caption", *, several: bool = False, longest: int = 0, smooth: bool = True) -> str:
    """A caption in a document, between `opening` and `closing`; it reads as text where scripts are off.

    Args:
        caption: with its picture.
        several: the document is a gallery, whose pictures are smaller.
        longest: the longer side in pixels that the picture is shrunk to; 0 for what ``several`` asks for.
        smooth: see `page`.
    """
    data = payload(caption, longest=longest or (GALLERY_PIXELS if several else PAGE_PIXELS))
    if not smooth:
        data["smooth"] = False
    return (
        f"<section><p>{html.escape(shown(caption.text))}</p>"
        f'<script type="application/json">{script_json(data)}</script></section>\n'
    )


def closing() -> str:
    """The end of a document: the viewer's script, which builds the page from the entries."""
    return f"</main>\n<script>{assets()[0]}</script>\n</body>\n</html>\n"


def script_json(data: Any) -> str:
    """JSON that can stand inside a script element: nothing in it ends the element or opens a comment."""
    text = json.dumps(data, ensure_ascii=True, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode('ascii')}'"
