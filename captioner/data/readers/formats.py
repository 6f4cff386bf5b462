"""What a format of captions is, which formats there are, and which of them a file has.

A new format is a module with one class:

>>> @READERS.register("lines")                                        # doctest: +SKIP
... class Lines(Format):
...     patterns = ("captions.lines",)
...     def recognises(self, source): return source.name.endswith(".lines")
...     def entries(self, source): return [Entry(place=..., id=..., image=..., captions=(...,)) for ...]

`read` and `read_annotations` do the rest: ids and duplicates, splits, blank captions, the folder of the pictures.
"""

import re
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from captioner.data.readers.fields import Id, caption_text, image_name, one_type, picture_id, split_name, word_boxes
from captioner.data.readers.rows import Row, is_json, parse_json
from captioner.data.readers.text import read_text
from captioner.data.records import AnsweredQuestion, Boxes, ShardPicture
from captioner.errors import DataError, Notice
from captioner.registry import Registry
from captioner.tokenizer.ptb import tokenize


class LeftOutWarning(Notice):
    """Captions or pictures of a file are left out; the message counts them and names the first."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One picture of a file of captions, as the file has it.

    Attributes:
        place: where in the file, for messages.
        id: names the picture in annotations and results.
        image: the picture's path as the file writes it, or the picture in a shard; None where the file has neither.
        captions: as they were written; they may be blank.
        split: "train", "restval", "dev" or "test"; "" where the field is blank, None where there is no field.
        boxes: one mapping for each caption, or none at all; see `captioner.data.records.Record.boxes`.
        questions: about the picture, in sets of questions.
    """

    place: str
    id: Id
    image: str | ShardPicture | None
    captions: tuple[str, ...]
    split: str | None = None
    boxes: tuple[Mapping[int, Boxes], ...] = ()
    questions: tuple[AnsweredQuestion, ...] = ()

    @property
    def name(self) -> str:
        """The picture's name in lists of splits, and in the checksum that distributes pictures without a split."""
        if isinstance(self.image, ShardPicture):
            return self.image.key
        return self.image if self.image is not None else str(self.id)


class Source:
    """A file of captions, or a folder of shards, read when it is first asked for its content.

    Args:
        path: where it is.
        repair: put the unquoted commas of a CSV file's last column back into its captions, as training does.
            Evaluation does not: a figure is never computed from a guess.
    """

    def __init__(self, path: Path, *, repair: bool = False) -> None:
        self.path, self.repair = path, repair

    @property
    def name(self) -> str:
        """The file's name in lower case, without ``.gz``."""
        return self.path.name.lower().removesuffix(".gz")

    @cached_property
    def text(self) -> str:
        """The file's text."""
        return read_text(self.path)

    @cached_property
    def is_json(self) -> bool:
        """Whether the file is one JSON value."""
        return is_json(self.name, self.text)

    @cached_property
    def json(self) -> Any:
        """The value that the file is; None where it is not JSON."""
        return parse_json(self.text, path=self.path) if self.is_json else None


class Format:
    """A format of captions.

    Attributes:
        patterns: names of its files, by which a folder is searched.
        split_lists: pictures without a split are looked up in lists of names, ``*trainImages.txt``, beside the file.
        distributed: pictures for which no split is known get one by a checksum of their name.
        needs_split: evaluation must choose one of the splits, if there are several.
        folders: a folder as a whole may be of this format.
    """

    patterns: ClassVar[tuple[str, ...]] = ()
    split_lists: ClassVar[bool] = False
    distributed: ClassVar[bool] = True
    needs_split: ClassVar[bool] = False
    folders: ClassVar[bool] = False

    def recognises(self, source: Source) -> bool:
        """Whether the source is of this format. Formats that were registered later are asked first."""
        raise NotImplementedError

    def entries(self, source: Source) -> list[Entry]:
        """The pictures of the source, in its order.

        Raises:
            DataError: the source is damaged, or not of this format after all; the message has the place.
        """
        raise NotImplementedError


READERS: Registry[type[Format]] = Registry("format of captions")


def format_of(source: Source) -> Format:
    """The format of a source.

    Raises:
        DataError: it has none that is registered.
    """
    folder = source.path.is_dir()
    for name in reversed(list(READERS)):
        found = READERS[name]()
        if (found.folders or not folder) and found.recognises(source):
            return found
    if isinstance(source.json, list):
        raise DataError(
            f"{source.path} is a list, as results are",
            remedy="annotations are an object with 'annotations' or 'images'",
        )
    raise DataError(
        f"{source.path} has neither 'annotations' (COCO) nor a list of 'images' with 'sentences' (Karpathy)"
    )


def entries_of(source: Source, form: Format) -> list[Entry]:
    """The pictures of a source, with ids that are of one type and name each picture once."""
    found = form.entries(source)
    places: dict[Id, str] = {}
    for entry in found:
        first = places.setdefault(entry.id, entry.place)
        if first is not entry.place:
            raise DataError(
                f"{entry.place}: a second picture with the id {entry.id!r}; the first is at {first}",
                remedy="give each its own id",
            )
    one_type(places, source.path)
    return found


def caption_file(path: str | Path) -> Path:
    """The file of captions that a path means: itself, or the only one in the folder; a folder of shards is itself.

    Files that are gzipped are looked for where no others are found.

    Raises:
        DataError: none, or several.
    """
    path = Path(path)
    if not path.is_dir():
        if not path.exists():
            raise DataError(f"{path}: no such file or folder")
        return path
    patterns = [pattern for _, form in READERS.items() for pattern in form.patterns]
    for ending in ("", ".gz"):
        matches = {file for pattern in patterns for file in path.glob(pattern + ending) if file.is_file()}
        found = sorted(file for file in matches if ".lemma." not in file.name)  # Flickr8k's second copy
        shards = [file for file in found if file.suffix == ".tar"]
        if shards and len(shards) == len(found):
            return path
        if len(found) > 1:
            raise DataError(
                f"{path}: several files of captions ({_shown([file.name for file in found])})",
                remedy="name one of them",
            )
        if found:
            return found[0]
    for _, form in READERS.items():
        if form.folders and form().recognises(Source(path)):
            return path
    raise DataError(
        f"{path}: no captions found; looked for {', '.join(patterns)}, gzipped too, and for sidecars of pictures"
    )


def grouped(rows: Iterable[Row]) -> list[Entry]:
    """The rows of a table, those of the same picture put together.

    Raises:
        DataError: a row without picture or caption, of an unknown split, or that differs about its picture from
            a row before.
    """
    groups: dict[Id, _Group] = {}
    for place, row in rows:
        key = picture_id(row, place)
        name = image_name(row)
        group = groups.get(key)
        if group is None:
            group = groups[key] = _Group(place, name, [], [])
        if "captions" in row and group.captions:
            raise DataError(f"{place}: a second list of captions of picture {key!r}", remedy="put them in one list")
        if group.image != name:
            raise DataError(f"{place}: picture {key!r} is {name!r}, and {group.image!r} in a row before")
        if isinstance(row.get("captions"), list):
            for caption, boxes in _row_captions(row, place, key):
                group.captions.append(caption)
                group.boxes.append(boxes)
        else:
            group.captions.append(caption_text(row, place, key))
            group.boxes.append(word_boxes(row.get("boxes"), place))
        if "split" in row:
            split = split_name(row["split"], place)
            if split and group.split and split != group.split:
                raise DataError(f"{place}: {key} is in the splits '{group.split}' and '{split}': keep it in one")
            group.split = split or group.split or ""
    return [
        Entry(
            place=group.place,
            id=key,
            image=group.image,
            captions=tuple(group.captions),
            split=group.split,
            boxes=tuple(group.boxes) if any(group.boxes) else (),
        )
        for key, group in groups.items()
    ]


@dataclass
class _Group:
    place: str
    image: str | None
    captions: list[str]
    boxes: list[dict[int, Boxes]]
    split: str | None = None


def _row_captions(row: Mapping[str, Any], place: str, key: Id) -> Iterator[tuple[str, dict[int, Boxes]]]:
    """The captions of a row's list ``captions``, each with its boxes of the list ``boxes`` beside it."""
    texts = row["captions"]
    return zip(
        [caption_text({"caption": text}, place, key) for text in texts],
        caption_boxes(row.get("boxes"), len(texts), place) or [{}] * len(texts),
        strict=True,
    )


def caption_boxes(value: Any, captions: int, place: str) -> tuple[dict[int, Boxes], ...]:
    """Boxes as a list with an entry for each of so many captions, from JSON; nothing where there are none."""
    if value is None or value == []:
        return ()
    if not isinstance(value, list):
        raise DataError(f"{place}: 'boxes' must be a list with an entry for each caption, not {value!r:.80}")
    if len(value) != captions:
        raise DataError(f"{place}: {len(value)} sets of boxes for {captions} captions")
    return tuple(word_boxes(words, place) for words in value)


_SURELY_A_WORD = re.compile(r"(?:\A|\s)[A-Za-z]{2,}(?:\Z|\s)")


_NO_WORD = re.compile(r"-[lr][rsc]b-|<.*>")  # brackets and tags have letters and are no words


def has_words(caption: str) -> bool:
    """Whether the tokeniser finds a word in a caption: a token with a letter or a digit, and not signs alone."""
    if _SURELY_A_WORD.search(caption):
        return True
    return any(any(map(str.isalnum, word)) for word in tokenize(caption) if not _NO_WORD.fullmatch(word))


def without_blank(entries: list[Entry], path: Path) -> tuple[list[Entry], list[Entry]]:
    """Leave out captions that have no words. Returns the entries with captions, and the entries that have none left.

    Warns with `LeftOutWarning`: how many captions, and which pictures.
    """
    kept: list[Entry] = []
    emptied: list[Entry] = []
    blank = 0
    for entry in entries:
        good = [i for i, caption in enumerate(entry.captions) if has_words(caption)]
        blank += len(entry.captions) - len(good)
        if len(good) == len(entry.captions):
            kept.append(entry)
        elif good:
            boxes = tuple(entry.boxes[i] for i in good) if entry.boxes else ()
            kept.append(replace(entry, captions=tuple(entry.captions[i] for i in good), boxes=boxes))
        else:
            emptied.append(entry)
    if blank:
        message = f"{path}: {blank:,} caption{'s have' if blank > 1 else ' has'} no words and {_left_out(blank)}"
        if emptied:
            names = _shown([_name(entry) for entry in emptied])
            message += f"; no other caption is there of {names}, which {_left_out(len(emptied))} too"
        warnings.warn(message, LeftOutWarning, stacklevel=2)
    return kept, emptied


def _left_out(count: int) -> str:
    return "are left out" if count > 1 else "is left out"


def _name(entry: Entry) -> str:
    image = "" if entry.image is None or str(entry.image) == entry.id else f" ({entry.image})"
    return f"picture {entry.id!r}{image}"


def _shown(names: list[str], *, most: int = 5) -> str:
    rest = len(names) - most
    return ", ".join(names[:most]) + (f" and {rest:,} more" if rest > 0 else "")
