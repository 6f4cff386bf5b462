"""Boxes of the phrases of captions: Flickr30k Entities (Plummer et al. 2015).

Two forms are read: the published folder, ``Sentences/*.txt`` beside ``Annotations/*.xml``, and one JSON file that holds
for each picture ``width``, ``height``, ``boxes`` by entity and ``sentences`` with their ``phrases``. Boxes are those of
the annotators, [x1, y1, x2, y2] in pixels counted from 1, both ends inside; they are returned as fractions.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from xml.dom.minidom import Document, Element, parseString
from xml.parsers.expat import ExpatError

from captioner.data.readers.rows import parse_json
from captioner.data.readers.text import read_text
from captioner.data.records import Box, Boxes, ShardPicture
from captioner.errors import DataError

PHRASE_TYPES = ("people", "clothing", "bodyparts", "animals", "vehicles", "instruments", "scene", "other")
"""The kinds of phrases that may have boxes; "notvisual" is the kind of the others."""

_FORM = "give Flickr30k Entities: the folder with Sentences/ and Annotations/, or its JSON file"
_PHRASE = re.compile(r"\[/EN#(\d+)((?:/\w+)+) ([^\]]*)\]")


@dataclass(frozen=True)
class Phrase:
    """A phrase of a sentence, and where what it names is.

    Attributes:
        start, end: its words in the sentence; ``end`` is the first word behind it.
        entity: names what it is about; phrases of the picture's other sentences share it.
        types: its kinds, of `PHRASE_TYPES` or "notvisual".
        boxes: in fractions of the picture; empty where the phrase has none.
    """

    start: int
    end: int
    entity: str
    types: tuple[str, ...]
    boxes: Boxes


@dataclass(frozen=True)
class PhraseSentence:
    """A sentence about a picture.

    Attributes:
        words: as the annotators split them, with signs.
        phrases: in the order of the words.
        caption: which caption of the picture it is, counted from 0; None where that is not known.
    """

    words: tuple[str, ...]
    phrases: tuple[Phrase, ...]
    caption: int | None = None


@dataclass(frozen=True)
class _Picture:
    size: tuple[int, int]
    sentences: tuple[PhraseSentence, ...]


class PhraseBoxes:
    """The annotated sentences of many pictures.

    Args:
        path: the JSON file, gzipped or not, or the folder.

    Raises:
        DataError: it cannot be read, or has another form; the message names picture, place and value.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._pictures = _read_folder(self.path) if self.path.is_dir() else _read_file(self.path)

    def __len__(self) -> int:
        """The number of annotated pictures."""
        return len(self._pictures)

    def of(self, image: Path | ShardPicture) -> tuple[PhraseSentence, ...] | None:
        """The sentences of a picture, which is known by its file's name; None for one that is not annotated.

        Flickr's pictures have names that begin with their number: the folder's "1000268201" is also that of Flickr8k's
        "1000268201_693b08cb0e.jpg".
        """
        found = self._find(image)
        return None if found is None else found.sentences

    def size_of(self, image: Path | ShardPicture) -> tuple[int, int] | None:
        """(width, height) in pixels of the picture that was annotated; None for one that is not."""
        found = self._find(image)
        return None if found is None else found.size

    def _find(self, image: Path | ShardPicture) -> _Picture | None:
        name = PurePosixPath(image.name).name
        stem = name.rpartition(".")[0] or name
        for key in (name, stem, stem.partition("_")[0]):
            if key in self._pictures:
                return self._pictures[key]
        return None


def _read_file(path: Path) -> dict[str, _Picture]:
    content = parse_json(read_text(path), path=path)
    if not isinstance(content, dict) or not content:
        raise DataError(f"{path}: not an object with an entry for each picture", remedy=_FORM)
    found = {}
    for name, entry in content.items():
        place = f"{path}, picture {name:.60}"
        if not isinstance(entry, dict) or not isinstance(entry.get("sentences"), list):
            raise DataError(f"{place}: no list of 'sentences'", remedy=_FORM)
        size = _size(entry.get("width"), entry.get("height"), place)
        given = entry.get("boxes", {})
        if not isinstance(given, dict) or not all(isinstance(some, list) for some in given.values()):
            raise DataError(f"{place}: 'boxes' must map entities to lists of boxes, not {given!s:.60}", remedy=_FORM)
        boxes = {key: tuple(_fractions(box, size, place) for box in some) for key, some in given.items()}
        found[name] = _Picture(size, tuple(_sentence(one, boxes, place) for one in entry["sentences"]))
    return found


def _sentence(given: Any, boxes: Mapping[str, Boxes], place: str) -> PhraseSentence:
    words = given.get("words") if isinstance(given, dict) else None
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise DataError(f"{place}: a sentence has no list of 'words': {given!s:.60}", remedy=_FORM)
    caption = given.get("flickr8k_caption")
    if caption is not None and (not _is_whole(caption) or caption < 0):
        raise DataError(
            f"{place}: 'flickr8k_caption' must be the number of a caption or null, not {caption!r:.40}", remedy=_FORM
        )
    marked = given.get("phrases", [])
    if not isinstance(marked, list):
        raise DataError(f"{place}: 'phrases' must be a list, not {marked!r:.40}", remedy=_FORM)
    phrases = []
    for one in marked:
        values = [one.get(key) for key in ("start", "end", "entity", "types")] if isinstance(one, dict) else [None] * 4
        start, end, entity, types = values
        if not (isinstance(start, int) and isinstance(end, int) and 0 <= start < end <= len(words)):
            raise DataError(
                f"{place}: a phrase from word {start!r:.20} to {end!r:.20} in a sentence of {len(words)} words",
                remedy="'start' is its first word from 0, 'end' the word behind its last",
            )
        if not isinstance(types, list) or not all(isinstance(type_, str) for type_ in types):
            raise DataError(
                f"{place}: the 'types' of a phrase must be a list of names, not {types!r:.40}", remedy=_FORM
            )
        phrases.append(Phrase(start, end, str(entity), tuple(types), boxes.get(str(entity), ())))
    return PhraseSentence(tuple(words), tuple(sorted(phrases, key=lambda phrase: phrase.start)), caption)


def _read_folder(folder: Path) -> dict[str, _Picture]:
    sentences, annotations = folder / "Sentences", folder / "Annotations"
    files = sorted(sentences.glob("*.txt"))
    if not files or not annotations.is_dir():
        raise DataError(f"{folder}: no Sentences/*.txt beside Annotations/*.xml", remedy=_FORM)
    found = {}
    for file in files:
        beside = annotations / f"{file.stem}.xml"
        if not beside.is_file():
            raise DataError(f"{file} has no {beside}", remedy="put the annotations of each picture there")
        size, boxes = _annotated_boxes(beside)
        lines = [line for line in read_text(file).split("\n") if line.strip()]
        marked = tuple(_marked_sentence(line, boxes, number) for number, line in enumerate(lines))
        found[file.stem] = _Picture(size, marked)
    return found


def _marked_sentence(line: str, boxes: Mapping[str, Boxes], number: int) -> PhraseSentence:
    """A line with its phrases in brackets: ``[/EN#12/people Two men] look at [/EN#13/other a boat] .``"""
    words: list[str] = []
    phrases = []
    rest = 0
    for marked in _PHRASE.finditer(line):
        words += line[rest : marked.start()].split()
        rest = marked.end()
        entity, types, text = marked.groups()
        inside = text.split()
        if inside:
            names = tuple(types.strip("/").split("/"))
            phrases.append(Phrase(len(words), len(words) + len(inside), entity, names, boxes.get(entity, ())))
        words += inside
    words += line[rest:].split()
    return PhraseSentence(tuple(words), tuple(phrases), number)


def _annotated_boxes(file: Path) -> tuple[tuple[int, int], dict[str, Boxes]]:
    """A picture's size, and the boxes of its entities: an object has one box or none, and may be of several."""
    try:
        content = file.read_bytes()
        if b"<!ENTITY" in content:
            raise DataError(f"{file} declares entities of XML", remedy="remove them")
        document = parseString(content)
    except (OSError, ExpatError, ValueError) as error:
        raise DataError(f"{file}: cannot be read ({error})", remedy="put a whole file there") from None
    size = _size(_number(document, "width"), _number(document, "height"), str(file))
    found: dict[str, list[Box]] = {}
    for one in document.getElementsByTagName("object"):
        for bounds in one.getElementsByTagName("bndbox"):
            corners = [_number(bounds, name) for name in ("xmin", "ymin", "xmax", "ymax")]
            for name in one.getElementsByTagName("name"):
                found.setdefault(_text(name), []).append(_fractions(corners, size, str(file)))
    return size, {entity: tuple(boxes) for entity, boxes in found.items()}


def _number(parent: Document | Element, name: str) -> int | None:
    text = next((_text(child) for child in parent.getElementsByTagName(name)), "")
    return int(text) if text.isascii() and text.isdecimal() else None


def _text(element: Element) -> str:
    return "".join(child.data for child in element.childNodes if child.nodeType == child.TEXT_NODE).strip()


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _size(width: Any, height: Any, place: str) -> tuple[int, int]:
    if not (_is_whole(width) and _is_whole(height) and width > 0 and height > 0):
        raise DataError(
            f"{place}: width and height are {width!s:.20} and {height!s:.20}",
            remedy="give the size of the annotated picture in pixels",
        )
    return width, height


def _fractions(box: Any, size: tuple[int, int], place: str) -> Box:
    """A box of pixels counted from 1, both ends inside, in fractions of the picture."""
    width, height = size
    numbers = isinstance(box, list) and len(box) == 4 and all(isinstance(x, int | float) for x in box)
    if not numbers or not (0 <= box[0] <= box[2] <= width and 0 <= box[1] <= box[3] <= height):
        raise DataError(
            f"{place}: the box {box!s:.60} in a picture of {width} x {height} pixels",
            remedy="a box is [x1, y1, x2, y2] in pixels from 1 on, inside the picture",
        )
    left, top, right, bottom = box
    return max(left - 1, 0) / width, max(top - 1, 0) / height, right / width, bottom / height
