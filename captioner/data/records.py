"""A picture and its captions, wherever they were read from; and a check of pictures before they are used."""

import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from captioner.errors import DataError, ImageError
from captioner.image import open_image

if TYPE_CHECKING:
    from captioner.data.shards import ShardPicture

Box = tuple[float, float, float, float]
Boxes = tuple[Box, ...]
SPLITS = ("train", "dev", "test")


@dataclass(frozen=True)
class Record:
    """A picture on disk with its captions.

    Attributes:
        image: the picture's path, or where it lies in a tar file.
        captions: as their authors wrote them.
        split: "train", "dev", "test", or "" for none.
        id: names the picture in annotations and results.
        boxes: for each caption, where its words are: by a word's place in the tokenised caption, one box or
            more, (left, top, right, bottom) as fractions of the upright picture. Empty where nothing is known.
    """

    image: "Path | ShardPicture"
    captions: tuple[str, ...]
    split: str
    id: str
    boxes: tuple[Mapping[int, Boxes], ...] = ()


def of_split(records: Iterable[Record], split: str) -> list[Record]:
    """The records of one split."""
    return [record for record in records if record.split == split]


def usable(records: Sequence[Record], *, threads: int | None = None) -> tuple[list[Record], dict[str, str]]:
    """Open every picture once, before hours are spent on them.

    Returns:
        The records whose picture opens, in order, and for each other picture, by path, what is wrong with it.
    """

    def fault(record: Record) -> str:
        try:
            open_image(record.image)
        except ImageError as error:
            return str(error)
        return ""

    with ThreadPoolExecutor(threads or os.cpu_count()) as pool:
        faults = list(pool.map(fault, records))
    good = [record for record, what in zip(records, faults, strict=True) if not what]
    return good, {str(r.image): what for r, what in zip(records, faults, strict=True) if what}


def split_by_name(name: str) -> str:
    """A split for a picture that was given none: one in twenty to dev, by a checksum of its name."""
    import zlib

    return "dev" if zlib.crc32(name.encode()) % 20 == 0 else "train"


def refuse_leaks(records: Iterable[Record]) -> None:
    """Make sure that no picture is in two splits.

    Raises:
        DataError: one is.
    """
    seen: dict[Path | ShardPicture, str] = {}
    for record in records:
        before = seen.setdefault(record.image, record.split)
        if before != record.split:
            raise DataError(f"{record.image} is in the splits '{before}' and '{record.split}': keep it in one")
