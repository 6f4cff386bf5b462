"""The size and the identity of picture files, from their headers and the file system: no pixel is decoded."""

import hashlib
import io
from collections.abc import Iterable
from pathlib import Path

from PIL import Image

from captioner.data.records import Record
from captioner.image import Picture, open_image

_ORIENTATION, _TURNED = 0x0112, (5, 6, 7, 8)  # the EXIF tag, and its values that swap width and height


def upright_size(picture: Picture) -> tuple[int, int]:
    """The (width, height) of a picture after its EXIF orientation is applied.

    The header is read. The picture is decoded only where the header does not suffice: a turned TIFF, of which Pillow's
    versions report different sizes, and what is not a file.

    Raises:
        ImageError: the picture does not open.
    """
    try:
        source = picture if isinstance(picture, Path) else io.BytesIO(picture.read_bytes())  # type: ignore[union-attr]
        with Image.open(source) as opened:
            turned = opened.getexif().get(_ORIENTATION, 1) in _TURNED
            if not (turned and opened.format == "TIFF"):
                width, height = opened.size
                return (height, width) if turned else (width, height)
    except Exception:  # whatever it is, opening it whole names it, or gets by without it
        pass
    return open_image(picture).size


def file_stamp(picture: object) -> str:
    """A picture's name with the size and the time of its file; of one in a tar file also its place there."""
    path = getattr(picture, "shard", picture)
    place = f"{getattr(picture, 'offset', 0)}+{getattr(picture, 'size', 0)}" if path is not picture else ""
    try:
        found = Path(str(path)).stat()
    except (OSError, ValueError):
        return f"{picture} missing"
    return f"{picture} {found.st_size} {found.st_mtime_ns} {place}"


def digest(parts: Iterable[str | bytes]) -> str:
    """SHA-256 of a sequence; two sequences that differ in where a part ends differ."""
    found = hashlib.sha256()
    for part in parts:
        raw = part.encode("utf-8", "surrogateescape") if isinstance(part, str) else part
        found.update(len(raw).to_bytes(8, "big"))
        found.update(raw)
    return found.hexdigest()


def contents(records: Iterable[Record]) -> Iterable[bytes]:
    """The checksum of each picture's file; of one that cannot be read, nothing."""
    for record in records:
        try:
            yield hashlib.sha256(record.image.read_bytes()).digest()
        except OSError:
            yield b""
