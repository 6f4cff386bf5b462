"""A picture and its captions, and checks of pictures and splits before training."""

import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from captioner.errors import DataError, ImageError
from captioner.image import open_image

Box = tuple[float, float, float, float]
Boxes = tuple[Box, ...]
SPLITS = ("train", "dev", "test")


@dataclass(frozen=True)
class ShardPicture:
    """A picture inside a tar file. `captioner.image.open_image` takes it as it takes a path.

    Attributes:
        shard: the tar file.
        name: the picture's name in it.
        offset, size: where its bytes are.
    """

    shard: Path
    name: str
    offset: int
    size: int

    @property
    def key(self) -> str:
        """The name of the sample: the folder and the file's name up to the first dot."""
        folder, _, file = self.name.rpartition("/")
        stem = file.partition(".")[0]
        return f"{folder}/{stem}" if folder else stem

    @property
    def place(self) -> str:
        """Names it in its shard."""
        return self.name

    def read_bytes(self) -> bytes:
        """The file's bytes. Raises OSError as reading any file does."""
        with self.shard.open("rb") as file:
            file.seek(self.offset)
            return file.read(self.size)

    def __str__(self) -> str:
        return f"{self.shard}/{self.name}"


@dataclass(frozen=True)
class AnsweredQuestion:
    """A question about a picture, and what people answered.

    Attributes:
        text: the question.
        answers: one for each person who was asked; at least one.
        type: of the question, as the data name it; "" where they do not.
        source: the set that it comes from, where the data join several; "" where they do not say.
        answer: the right one, where the data say so beside ``answers``; "" for the most frequent.
    """

    text: str
    answers: tuple[str, ...]
    type: str = ""
    source: str = ""
    answer: str = ""

    @property
    def right(self) -> str:
        """The right answer: ``answer``, or the most frequent of ``answers``."""
        return self.answer or Counter(self.answers).most_common(1)[0][0]


@dataclass(frozen=True)
class Record:
    """A picture on disk with its captions, or with questions about it.

    Attributes:
        image: the picture's path, or its place in a tar file.
        captions: as their authors wrote them.
        split: "train", "dev", "test", or "" for none.
        id: names the picture in annotations and results.
        boxes: for each caption, where its words are: by a word's place in the tokenised caption, one box or
            more, (left, top, right, bottom) as fractions of the upright picture. Empty where nothing is known.
        questions: about the picture; empty in sets of captions.
        objects: for each class that was annotated, the boxes of its objects, in fractions as those of ``boxes``; none
            where the class is not in the picture. None for a picture that was not annotated.
    """

    image: Path | ShardPicture
    captions: tuple[str, ...]
    split: str
    id: str
    boxes: tuple[Mapping[int, Boxes], ...] = ()
    questions: tuple[AnsweredQuestion, ...] = ()
    objects: Mapping[str, Boxes] | None = None


def of_split(records: Iterable[Record], split: str) -> list[Record]:
    """The records of one split."""
    return [record for record in records if record.split == split]


def require_split(records: Sequence[Record], split: str, *, source: Path) -> list[Record]:
    """As `of_split`. Raises DataError where there are none, which names the splits that the source has."""
    found = of_split(records, split)
    if not found:
        splits = ", ".join(sorted({record.split or "none" for record in records}))
        raise DataError(f"{source}: no pictures of the split '{split}'", remedy=f"its splits are {splits}")
    return found


def evenly_spread(records: Sequence[Record], count: int) -> list[Record]:
    """``count`` of the records, evenly spread over them in order; all where there are no more."""
    if count >= len(records):
        return list(records)
    return [records[len(records) * i // count] for i in range(count)]


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

    return "dev" if zlib.crc32(name.encode("utf-8", "surrogateescape")) % 20 == 0 else "train"


# The names of COCO's and Flickr's pictures, which are the same wherever these are copied to.
_COCO_NAME = re.compile(r"(?:COCO_\w+_)?(\d{12})\.\w+")
_FLICKR_NAME = re.compile(r"(\d+_[0-9a-f]{8,10})(?:_\w)?\.\w+")


def refuse_leaks(*sets: Iterable[Record]) -> None:
    """Make sure that no picture is in two splits.

    A picture is known by its path; from one data set to another also by the name that COCO or Flickr gave it.

    Args:
        sets: the records of each data set.

    Raises:
        DataError: one is.
    """
    seen: dict[object, tuple[str, object, int]] = {}
    for number, records in enumerate(sets):
        for record in records:
            path = str(record.image)  # far quicker to hash than a Path
            for key in (path, _known_as(record)):
                if key is None:
                    continue
                split, other, owner = seen.setdefault(key, (record.split, record.image, number))
                if split != record.split and (key == path or owner != number):
                    also = "" if other == record.image else f" (there as {other})"
                    raise DataError(
                        f"{record.image} is in the splits '{split}'{also} and '{record.split}': keep it in one"
                    )


def _known_as(record: Record) -> tuple[str] | None:
    """The number of COCO's picture, or the name of Flickr's; None for others, since their names mean nothing."""
    for name in (record.image.name.rpartition("/")[2], record.id):
        for pattern in (_COCO_NAME, _FLICKR_NAME):
            found = pattern.fullmatch(name)
            if found:
                return (found[1],)
    return None
