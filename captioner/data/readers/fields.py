"""The fields of captions' files, checked: ids, captions, names of splits, boxes. One rule for every format."""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from captioner.data.readers.rows import CAPTION_NAMES, PICTURE_NAMES
from captioner.data.records import Box, Boxes
from captioner.errors import DataError

Id = int | str

SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "restval": "restval",
    "dev": "dev",
    "val": "dev",
    "valid": "dev",
    "validation": "dev",
    "test": "test",
    "testing": "test",
}
"""The split that each name means. ``restval`` is Karpathy's: training uses it, and evaluation can score it alone."""

_IMAGE_NAMES = ("image", "filename", "file_name")
_LARGEST_ID = 1 << 63
_ROUNDING = 1e-6  # a box may leave the picture by so much of its side
_UNUSABLE = re.compile("[\0\ud800-\udfff]")


def picture_id(row: Any, place: str, names: Sequence[str] = PICTURE_NAMES) -> Id:
    """The picture that a row is about: a whole number of at most 63 bits, or a string that is not blank."""
    name = _named(row, place, names)
    if name is None:
        raise DataError(f"{place}: no {' or '.join(map(repr, names))}")
    value = row[name]
    if type(value) is int and abs(value) < _LARGEST_ID:
        return value
    if isinstance(value, str) and value.strip() and not _UNUSABLE.search(value):
        return value
    shown = f"{str(value)[:40]}..." if type(value) is int else f"{value!r:.60}"
    raise DataError(f"{place}: {name!r} is {shown}; an id is a whole number below 2**63, or a string of text")


def image_name(row: Mapping[str, Any]) -> str | None:
    """The picture's path in a row that has passed `picture_id`; None where no field has it."""
    for name in _IMAGE_NAMES:
        value = row.get(name)
        if isinstance(value, str) and value.strip() and not _UNUSABLE.search(value):
            return value
    return None


def caption_text(row: Any, place: str, key: Id, names: Sequence[str] = CAPTION_NAMES) -> str:
    """The caption in a row, as it was written; it may be blank."""
    name = _named(row, place, names)
    if name is None:
        raise DataError(f"{place}: picture {key!r} has no {names[0]!r}")
    value = row[name]
    if not isinstance(value, str):
        kind = "null" if value is None else f"{value!r:.40} ({type(value).__name__})"
        raise DataError(f"{place}: the caption of picture {key!r} is {kind}, not text")
    return value


def _named(row: Any, place: str, names: Sequence[str]) -> str | None:
    if not isinstance(row, dict):
        raise DataError(f"{place}: {row!r:.60} is not an object")
    for name in names:  # a loop, since this runs for each field of millions of rows
        if name in row:
            return name
    return None


def one_type(keys: Iterable[Id], path: Path) -> None:
    """Raise DataError where a file names pictures both by numbers and by strings."""
    first: dict[type, Id] = {}
    for key in keys:
        first.setdefault(type(key), key)
    if len(first) > 1:
        number, string = first[int], first[str]
        raise DataError(
            f"{path} has ids of two types, {number!r} and {string!r}", remedy="write all of them in one way"
        )


def split_name(value: Any, place: str) -> str:
    """The split that a field names: "train", "restval", "dev", "test", or "" where it is blank.

    Raises:
        DataError: it names no split that is known.
    """
    if value is None:
        return ""
    text = value.strip().casefold() if isinstance(value, str) else None
    if text == "":
        return ""
    found = None if text is None else SPLIT_NAMES.get(text)
    if found is None:
        raise DataError(
            f"{place}: the split {value!r:.40} is none of {', '.join(SPLIT_NAMES)}",
            remedy="write one of these, or leave it blank for a picture of no split",
        )
    return found


def split_in_name(name: str) -> str | None:
    """The split in a file's name: a whole word of it, between other signs and digits; None where there is none.

    ``captions_train2017.json`` is "train", ``captions_latest.json`` and names with two splits give None.
    """
    words = re.split(r"[\W\d_]+", name.casefold())
    found = {SPLIT_NAMES[word] for word in words if word in SPLIT_NAMES}
    return found.pop() if len(found) == 1 else None


def word_boxes(value: Any, place: str) -> dict[int, Boxes]:
    """Boxes by place of a word, from JSON: one box, or a list of them, by the place as a string.

    Values that leave the picture by less than 1e-6 of its side, as rounding does, are clipped.

    Raises:
        DataError: of another form.
    """
    if value is None or value == "":
        return {}
    try:
        boxes = {_word_place(word): _some_boxes(given) for word, given in value.items()}
    except (AttributeError, IndexError, KeyError, TypeError, ValueError, OverflowError):
        raise DataError(
            f"{place}: 'boxes' maps places of words to [left, top, right, bottom], or to a list of these, "
            f"not {value!r:.80}"
        ) from None
    for left, top, right, bottom in (box for some in boxes.values() for box in some):
        if not (0 <= left < right <= 1 and 0 <= top < bottom <= 1):
            box = [left, top, right, bottom]
            raise DataError(f"{place}: a box is left, top, right, bottom in fractions of the picture, not {box}")
    return boxes


def _word_place(word: str) -> int:
    if not re.fullmatch("0|[1-9][0-9]{0,6}", word):
        raise ValueError(word)
    return int(word)


def _some_boxes(given: Any) -> Boxes:
    return tuple(_box(*box) for box in (given if isinstance(given[0], list) else [given]))


def _box(left: float, top: float, right: float, bottom: float) -> Box:
    if any(type(value) not in (int, float) for value in (left, top, right, bottom)):
        raise TypeError("a side of a box is no number")
    return _clipped(left), _clipped(top), _clipped(right), _clipped(bottom)


def _clipped(value: float) -> float:
    value = float(value)
    if -_ROUNDING <= value <= 1 + _ROUNDING:
        return min(max(value, 0.0), 1.0)
    return value
