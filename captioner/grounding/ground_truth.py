"""Where the things are that a caption names, be it a reference or one that a model wrote."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from captioner.data.readers import caption_file, read
from captioner.data.records import Box, Record
from captioner.errors import DataError
from captioner.grounding.instances import Instances, find_instances
from captioner.grounding.objects import name_objects
from captioner.grounding.pointing import Region
from captioner.tokenizer.ptb import tokenize


@dataclass(frozen=True, eq=False)
class Place:
    """A word of a caption and where its thing is.

    Attributes:
        word: its place in the tokenised caption.
        category: the class of the thing.
        region: where things of that class are; None where there is none in the picture, though they were looked for.
    """

    word: int
    category: str
    region: Region | None


class Truth(Protocol):
    """What is known of the pictures of a data set."""

    def knows(self, record: Record) -> bool:
        """Whether anything is known of the picture."""

    def places(self, record: Record, words: Sequence[str]) -> list[Place]:
        """The words of a tokenised caption of the picture whose things are known to be there, or not to be."""


class FromInstances:
    """Annotated things of COCO's classes, by their everyday names; see `captioner.grounding.objects`.

    Args:
        instances: the annotations.
        masks: take the things' outlines rather than their boxes.
    """

    def __init__(self, instances: Instances, *, masks: bool = False) -> None:
        self.instances, self.masks = instances, masks

    def knows(self, record: Record) -> bool:
        return record.image.name in self.instances.images

    def places(self, record: Record, words: Sequence[str]) -> list[Place]:
        objects = self.instances.of(record.image.name)
        if objects is None:
            return []
        found = []
        for named in name_objects(words):
            if named.category not in objects.annotated:
                continue
            region = None
            if named.category in objects.boxes:
                mask = objects.mask(named.category) if self.masks else None
                region = Region.of_boxes(objects.boxes[named.category]) if mask is None else Region.of_mask(mask)
            found.append(Place(named.place, named.category, region))
        return found


class FromBoxes:
    """Boxes that came with the captions, as those of drawn scenes do: a thing's class is its word.

    A caption that is one of the references has their boxes; in another, a word has the boxes that any reference
    has for that word.

    Args:
        things: words that have a box on some picture of the data set: where one is said of a picture whose references
            have none for it, the thing is not there.
    """

    def __init__(self, things: Collection[str] = ()) -> None:
        self.things = frozenset(things)

    @classmethod
    def of(cls, records: Iterable[Record]) -> "FromBoxes":
        """What the boxes of a data set say."""
        things = set()
        for record in records:
            for caption, boxes in zip(record.captions, record.boxes, strict=bool(record.boxes)):
                words = tokenize(caption)
                things |= {words[place] for place in boxes if place < len(words)}
        return cls(things)

    def knows(self, record: Record) -> bool:
        return any(record.boxes)

    def places(self, record: Record, words: Sequence[str]) -> list[Place]:
        by_word: dict[str, list[Box]] = {}
        for caption, boxes in zip(record.captions, record.boxes, strict=True):
            reference = tokenize(caption)
            if list(words) == reference:
                return [
                    Place(place, words[place], Region.of_boxes(some))
                    for place, some in sorted(boxes.items())
                    if place < len(words)
                ]
            for place, some in boxes.items():
                if place < len(reference):
                    by_word.setdefault(reference[place], []).extend(some)
        return [
            Place(i, word, Region.of_boxes(by_word[word]) if word in by_word else None)
            for i, word in enumerate(words)
            if word in by_word or word in self.things
        ]


def find_truth(data: str | Path, *, images: str | Path | None = None, masks: bool = False) -> Truth:
    """What is known of a data set: the instances beside its captions, or else its captions' own boxes.

    Args:
        data: a file of captions or a folder that holds one, as of `captioner.data.readers.read`.
        images: the folder of the pictures, as of `read`.
        masks: see `FromInstances`.

    Raises:
        DataError: masks are asked of a data set that has none, or the instances cannot be read.
    """
    beside = find_instances(caption_file(data))
    if beside is not None:
        return FromInstances(Instances(beside), masks=masks)
    if masks:
        raise DataError(f"{data}: no instances*.json beside the captions, and masks come from there")
    return FromBoxes.of(read(data, images=images))
