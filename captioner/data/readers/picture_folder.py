"""A folder of pictures with sidecars: ``a.jpg`` beside ``a.txt``, as ``captioner caption --sidecar`` writes them."""

import os
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from captioner.data import xmp  # noqa: F401  register
from captioner.data.readers.fields import SPLIT_NAMES, caption_text, split_name
from captioner.data.readers.formats import READERS, Entry, Format, Source
from captioner.data.sidecars import SIDECARS, JsonSidecar
from captioner.errors import DataError
from captioner.image import SUFFIXES


@READERS.register("folder of pictures")
class PictureFolder(Format):
    """Pictures and sidecars of a folder and its subfolders.

    A line of a ``.txt`` or ``.caption`` is a caption; a ``.json`` has ``caption`` or ``captions``, and perhaps
    ``split``; a ``.xmp`` has a description.

    A subfolder that is called like a split holds that split. Without such folders and fields, one picture in twenty is
    of dev, by a checksum of its path; of few pictures a fifth, up to ten.
    """

    folders = True

    def recognises(self, source: Source) -> bool:
        return source.path.is_dir() and has_sidecars(source.path)

    def entries(self, source: Source) -> list[Entry]:
        found = []
        for path in _pictures(source.path):
            below = path.relative_to(source.path).as_posix()
            captions, split = _captions(path)
            folders = (SPLIT_NAMES.get(part.casefold()) for part in below.split("/")[:-1])
            split = split or next(filter(None, folders), None)
            found.append(Entry(place=str(path), id=below, image=below, captions=tuple(captions), split=split))
        if any(entry.split for entry in found):
            return [replace(entry, split=entry.split or "") for entry in found]
        return _split(found)


def has_sidecars(folder: Path) -> bool:
    """Whether a folder holds pictures with sidecars."""
    return any(_sidecars(path) for path in _pictures(folder))


def _pictures(folder: Path) -> Iterator[Path]:
    for place, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if Path(name).suffix.lower() in SUFFIXES and not name.startswith("."):
                yield Path(place, name)


def _sidecars(picture: Path) -> list[Path]:
    names = [f"{name}{ending}" for ending in SIDECARS for name in (picture.stem, picture.name)]
    return [path for name in names if os.path.isfile(path := picture.with_name(name))]  # noqa: PTH113 - it takes names that are too long


def _captions(picture: Path) -> tuple[list[str], str | None]:
    """The captions of a picture's sidecars, and the split that they name. Raises DataError where two differ."""
    found: dict[Path, list[str]] = {}
    split = None
    for path in _sidecars(picture):
        form = SIDECARS[path.suffix.lower()]()
        captions = [caption_text({"caption": text}, str(path), picture.name) for text in form.captions(path)]
        if isinstance(form, JsonSidecar):
            values = form.values(path)
            split = split_name(values["split"], str(path)) if "split" in values else None
        if captions:
            found[path] = captions
    if len({tuple(captions) for captions in found.values()}) > 1:
        first, second = list(found)[:2]
        raise DataError(f"{first} and {second} hold different captions of {picture}", remedy="keep one of them")
    return next(iter(found.values()), []), split


def _split(entries: list[Entry]) -> list[Entry]:
    """Entries of no split, distributed by a checksum; of few entries, a fifth is of dev, up to ten."""
    sums = {i: zlib.crc32(entry.name.encode("utf-8", "surrogateescape")) for i, entry in enumerate(entries)}
    ranked = sorted((i for i, entry in enumerate(entries) if entry.captions), key=lambda i: (sums[i] % 20 > 0, sums[i]))
    least = min(10, max(len(ranked) // 5, int(len(ranked) > 1)))
    dev = set(ranked[: max(least, sum(sums[i] % 20 == 0 for i in ranked))])
    return [replace(entry, split="dev" if i in dev else "train") for i, entry in enumerate(entries)]
