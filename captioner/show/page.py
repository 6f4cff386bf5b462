"""Captions as web pages: hover a word and its map appears on the picture.

One viewer, in ``viewer/`` beside this module, serves the page in a file, the notebook and the web server. It takes
plain data, see `payload`. It needs no network and no framework, and works under a content-security policy that
allows no other script.
"""

import base64
import hashlib
import html
import importlib.resources
import io
import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from captioner.errors import OptionError
from captioner.partial import written_output
from captioner.results import Answer, Failure
from captioner.show.scale import FAINTEST_TOP, times_even
from captioner.tokenizer.detokenize import detokenize

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from captioner.image import Geometry
    from captioner.results import Alternative, Caption, Word

_PARTS = ("maps", "elements", "viewer", "gallery")
EVEN = 64
"""The byte of a cell that gets exactly its even share of the attention."""

PAGE_PIXELS = 1024
"""Longer side of the picture on a page of its own; no picture in a page is larger, whatever its shape."""
GALLERY_PIXELS = 768  # where the page shows several
NOTEBOOK_PIXELS = 640  # in a notebook, which keeps every output
_NOTEBOOK_HEIGHT = 560


def payload(caption: "Caption | Answer", *, image_url: str | None = None, longest: int = PAGE_PIXELS) -> dict[str, Any]:
    """What the viewer shows, as plain values for JSON.

    ``{"image", "name", "size": [width, height], "extent": [left, top, right, bottom], "grid": [h, w], "model",
    "explain", "captions": [{"text", "score", "finished", "words": [{"word", "probability"}], "maps",
    "scale": [top]}]}``, the best caption first. ``maps`` are the bytes of `quantise` for all words of a caption, in
    base64, and ``top`` is the end of the caption's scale. A word has ``"off_grid"`` where it is above 0, ``"gain"``
    where it was computed, and ``"given"`` or ``"unknown"`` where it is. A caption that was compared with a minimum has
    ``"confidence"`` and ``"needs_review"``.

    Of an answer there is "question" too, ``{"text", "words": [{"word", "weight"}], "others": [{"answer",
    "probability"}]}``, and the one caption is the answer: its only word is the answer whole, with the answer's map.

    The picture is opened once, and only where it goes into the data.

    Args:
        caption: with its picture.
        image_url: the address of the picture; None puts the picture into the data.
        longest: pixels of the longer side to which the picture is reduced where it goes into the data.

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
        **({} if isinstance(caption, Answer) else _reviewed(caption)),
        **(_answer_data(caption) if isinstance(caption, Answer) else _captions_data(caption)),
    }


def _captions_data(caption: "Caption") -> dict[str, Any]:
    geometry = caption.geometry
    others = [_caption_data(one, geometry) for one in caption.alternatives]
    return {"captions": [_caption_data(caption, geometry), *others]}


def _answer_data(answer: "Answer") -> dict[str, Any]:
    maps, top = quantise([answer.map], answer.geometry)
    return {
        "question": {
            "text": answer.question,
            "words": [
                {"word": word.text, "weight": round(word.weight, 4), **({} if word.known else {"known": False})}
                for word in answer.words
            ],
            "others": [{"answer": one.text, "probability": round(one.probability, 4)} for one in answer.alternatives],
        },
        "captions": [
            {
                "text": answer.text,
                "score": round(answer.probability, 4),
                "finished": True,
                "words": [{"word": answer.text, "probability": round(answer.probability, 4)}],
                "maps": base64.b64encode(maps.tobytes()).decode("ascii"),
                "scale": [round(top, 6)],
            }
        ],
    }


def _caption_data(caption: "Caption | Alternative", geometry: "Geometry") -> dict[str, Any]:
    maps, top = quantise([word.map for word in caption.words], geometry)
    return {
        "text": caption.text,
        "score": round(caption.score, 4),
        "finished": caption.finished,
        "words": [_word_data(word) for word in caption.words],
        "maps": base64.b64encode(maps.tobytes()).decode("ascii"),
        "scale": [round(top, 6)],
    }


def _reviewed(caption: "Caption") -> dict[str, Any]:
    if caption.needs_review is None:
        return {}
    return {"confidence": round(caption.confidence, 4), "needs_review": caption.needs_review}


def _word_data(word: "Word") -> dict[str, Any]:
    off_grid = round(float(getattr(word, "off_grid", 0.0)), 4)
    data: dict[str, Any] = {"word": detokenize([word.text]), "probability": round(word.probability, 4)}
    if off_grid > 0:
        data["off_grid"] = off_grid
    if word.gain is not None:
        data["gain"] = round(word.gain, 3)
    return data | {name: True for name in ("given", "unknown") if getattr(word, name)}


def quantise(maps: "Sequence[NDArray[np.float32]]", geometry: "Geometry") -> "tuple[NDArray[np.uint8], float]":
    """The maps of a caption as one byte per cell, on the scale that figures use too.

    The byte `EVEN` is exactly the even share, so that an even map stays invisible. Bytes below it are linear down to
    no attention. Bytes above it are logarithmic up to ``top``, which is the strongest cell of the caption, or 3 where
    all cells are weaker (`captioner.show.scale`). In multiples of the even share, the error is at most ``1 / 128``
    below 1, and above it at most a factor ``top ** (1 / 382)``: 1/382 of the visible scale, whatever the grid.

    Args:
        maps: one (h, w) for each word.
        geometry: where the cells lie.

    Returns:
        (words, h, w) bytes, and ``top`` in multiples of the even share; `restore` is the inverse.
    """
    if not maps:
        return np.zeros((0, *geometry.grid), dtype=np.uint8), FAINTEST_TOP
    values = np.stack([times_even(map_, geometry) for map_ in maps])
    top = max(float(values.max()), FAINTEST_TOP)
    above = EVEN + np.log(values.clip(1)) / np.log(top) * (255 - EVEN)
    return np.where(values < 1, values * EVEN, above).round().clip(0, 255).astype(np.uint8), top


def restore(maps: "NDArray[np.uint8]", top: float) -> "NDArray[np.float32]":
    """The inverse of `quantise`, in multiples of the even share; the viewer computes the same."""
    steps = maps.astype(np.float32)
    return np.where(steps < EVEN, steps / EVEN, top ** ((steps - EVEN) / (255 - EVEN))).astype(np.float32)


def _data_uri(picture: Image.Image, longest: int) -> str:
    scale = longest / max(picture.size)
    if scale < 1:
        width, height = (max(1, round(side * scale)) for side in picture.size)
        picture = picture.resize((width, height), Image.Resampling.LANCZOS, reducing_gap=3.0)
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=82, optimize=True, progressive=True)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"


def shown(name: str) -> str:
    """A name as text that can be encoded: a page is text, and a file's name may not be."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


@cache
def assets() -> tuple[str, str]:
    """The viewer: its script and its style sheet.

    It is one script, because the content-security policy names its hash; its parts share one private scope.
    """
    folder = importlib.resources.files("captioner.show") / "viewer"
    parts = [(folder / f"{name}.js").read_text(encoding="utf-8") for name in _PARTS]
    style = (folder / "viewer.css").read_text(encoding="utf-8")
    return '(function () {\n"use strict";\n\n' + "\n".join(parts) + "})();\n", style


@cache
def picture_files() -> dict[str, str]:
    """The files by name of a page that takes pictures in: script and style of the cards around the viewer, and icon."""
    folder = importlib.resources.files("captioner.show") / "viewer"
    names = ("pictures.js", "pictures.css", "icon.svg")
    return {name: (folder / name).read_text(encoding="utf-8") for name in names}


def with_cards(document: str) -> str:
    """A page that takes pictures in, with what all such pages have in the place of ``{drop}`` and ``{card}``: the words
    where pictures are dropped, and the parts of a picture's card."""
    folder = importlib.resources.files("captioner.show") / "viewer"
    for name in ("drop", "card"):
        document = document.replace(f"{{{name}}}\n", (folder / f"{name}.html").read_text(encoding="utf-8"))
    return document


def page(captions: "Sequence[Caption | Answer]", *, title: str | None = None, smooth: bool = True) -> str:
    """A self-contained document: one caption with all its details, or a gallery of several.

    Args:
        captions: with their pictures.
        title: of the document; None for the picture's name, or the number of captions.
        smooth: show interpolated maps first; False shows the cells first.

    Raises:
        ImageError: the file of a picture is no longer there.
        OptionError: one of them is a `Failure`.
    """
    for caption in captions:
        if isinstance(caption, Failure):
            raise OptionError(f"a page shows captions, and this is none: {caption}", remedy="leave failures out")
    several = len(captions) != 1
    if title is None:
        answers = any(isinstance(caption, Answer) for caption in captions)
        title = f"{len(captions)} {'answers' if answers else 'captions'}" if several else name_of(captions[0])
    entries = (entry(caption, several=several, smooth=smooth) for caption in captions)
    return "".join((opening(title), *entries, closing()))


def page_with_views(
    captions: "Sequence[Caption | Answer]", path: str | Path | None = None, *, smooth: bool = True
) -> str:
    """One page on which views follow their caption.

    Args:
        captions: and views as captions (`captioner.results.WordView.as_caption`).
        path: where to save it as well, .html.
        smooth: see `page`.
    """
    several = len(captions) > 1
    entries = (
        entry(caption, several=several, smooth=smooth, title=caption.text if i else "")
        for i, caption in enumerate(captions)
    )
    document = "".join((opening(name_of(captions[0])), *entries, closing()))
    if path is not None:
        save_page(document, path)
    return document


def notebook(caption: "Caption | Answer") -> str:
    """A caption's page in its own frame, which isolates the page and the notebook from each other.

    A program that shows neither scripts nor frames and removes the attribute ``hidden`` shows the sentence.
    """
    inside = "".join((opening(name_of(caption), embedded=True), entry(caption, longest=NOTEBOOK_PIXELS), closing()))
    return (
        f'<iframe sandbox="allow-scripts" srcdoc="{html.escape(inside)}" title="{html.escape(shown(caption.text))}" '
        f'width="100%" height="{_NOTEBOOK_HEIGHT}" frameborder="0" loading="lazy"></iframe>'
        f"<p hidden>{html.escape(shown(caption.text))}</p>"
    )


def name_of(caption: "Caption | Answer") -> str:
    """The title of a page with this caption alone."""
    return PurePath(caption.image).name or caption.text or "no words"


def opening(title: str, *, embedded: bool = False) -> str:
    """The beginning of a document, up to its first `entry`.

    Args:
        title: any text.
        embedded: the document fills a frame, not a window.
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


def entry(
    caption: "Caption | Answer", *, several: bool = False, longest: int = 0, smooth: bool = True, title: str = ""
) -> str:
    """A caption in a document, between `opening` and `closing`; without scripts it shows the sentence.

    Args:
        caption: with its picture.
        several: the document is a gallery, whose pictures are smaller.
        longest: pixels of the longer side to which the picture is reduced; 0 for the default of ``several``.
        smooth: see `page`.
        title: what stands above its picture in a gallery.
    """
    data = payload(caption, longest=longest or (GALLERY_PIXELS if several else PAGE_PIXELS))
    if not smooth:
        data["smooth"] = False
    if title:
        data["title"] = shown(title)
    return (
        f"<section><p>{html.escape(shown(_sentence(caption)))}</p>"
        f'<script type="application/json">{script_json(data)}</script></section>\n'
    )


def _sentence(caption: "Caption | Answer") -> str:
    """What a page without scripts shows."""
    return f"{caption.question} {caption.text}" if isinstance(caption, Answer) else caption.text


def closing() -> str:
    """The end of a document: the viewer's script, which builds the page from the entries."""
    return f"</main>\n<script>{assets()[0]}</script>\n</body>\n</html>\n"


def save_page(document: str, path: str | Path) -> None:
    """Write a document; a kill while writing leaves the old file whole.

    Raises:
        OptionError: the path does not end in .html, or it cannot be written.
    """
    path = Path(path)
    if path.suffix.lower() not in (".html", ".htm"):
        raise OptionError(f"{path}: a page ends in .html, not '{path.suffix}'")
    with written_output(path) as partial:
        partial.write_text(document, encoding="utf-8", newline="")


def script_json(data: Any) -> str:
    """JSON that is safe inside a script element: it cannot end the element or open a comment."""
    text = json.dumps(data, ensure_ascii=True, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode('ascii')}'"
