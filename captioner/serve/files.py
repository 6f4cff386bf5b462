"""The files of the page, held in memory: the server opens no path that a request names."""

import hashlib
import importlib.resources
import importlib.util
import io
from dataclasses import dataclass
from functools import cache

from captioner.data.scenes import dog_frisbee_park, draw_scene
from captioner.errors import OptionError
from captioner.show.page import assets, picture_files, with_cards

_KINDS = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
    ".png": "image/png",
}
_SWAGGER = ("swagger-ui-bundle.js", "swagger-ui.css")
_SEEDS = (4, 9, 12, 15, 23)  # scenes of different kinds
EXAMPLES = 1 + len(_SEEDS)


@dataclass(frozen=True)
class File:
    """A file as it is sent: its bytes, media type, and a tag that changes with them."""

    content: bytes
    kind: str
    tag: str


def static_files() -> dict[str, File]:
    """All files of the page and of /docs, by name.

    Raises:
        OptionError: the package that brings Swagger UI is not the one that was tested.
    """
    folder = importlib.resources.files("captioner.serve") / "static"
    contents = {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()}
    contents["index.html"] = with_cards(contents["index.html"].decode()).encode()
    script, style = assets()
    contents |= {"viewer.js": script.encode(), "viewer.css": style.encode()}
    if importlib.util.find_spec("matplotlib") is None:  # which draws figures
        page = contents["index.html"].splitlines(keepends=True)
        contents["index.html"] = b"".join(line for line in page if b'data-format="png"' not in line)
    contents |= {name: text.encode() for name, text in picture_files().items()}
    swagger = importlib.resources.files("fastapi_offline") / "static"
    try:
        contents |= {name: (swagger / name).read_bytes() for name in _SWAGGER}
    except OSError:
        raise OptionError("fastapi-offline has no Swagger UI where it used to be: install another version") from None
    return {name: _file(name, content) for name, content in contents.items()}


@cache
def example(number: int) -> File:
    """A drawn scene, PNG."""
    image = dog_frisbee_park().image if number == 0 else draw_scene(_SEEDS[number - 1], size=(480, 360)).image
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return _file("example.png", buffer.getvalue())


def _file(name: str, content: bytes) -> File:
    kind = _KINDS["." + name.rpartition(".")[2]]
    return File(content, kind, f'"{hashlib.sha256(content).hexdigest()[:20]}"')
