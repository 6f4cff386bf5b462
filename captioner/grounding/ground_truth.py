"""Ground truth of a data set: where the objects are that any caption of a picture names."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from captioner.data.readers import caption_file
from captioner.data.records import Box, Record
from captioner.errors import DataError
from captioner.grounding.instances import Instances, find_instances, refuse_ambiguous
from captioner.grounding.objects import name_objects
from captioner.grounding.region import Region
from captioner.tokenizer.ptb import tokenize


@dataclass(frozen=True, eq=False)
class NounAnnotation:
    """A noun of a caption and the region of the objects that it names.

    Attributes:
        position: of the noun in the tokenised caption.
        category: the class of the object.
        region: of all objects of that class; None where the picture has none, although the class was annotated.
    """

    position: int
    category: str
    region: Region | None


class GroundTruth(Protocol):
    """What is known of the pictures of a data set."""

    def knows(self, record: Record) -> bool:
        """Whether the picture is annotated."""

    def size_of(self, record: Record) -> tuple[int, int] | None:
        """(width, height) in pixels of the picture that was annotated; None where the annotations do not say."""

    def annotate(self, record: Record, words: Sequence[str]) -> list[NounAnnotation]:
        """The nouns of a tokenised caption of the picture whose classes were annotated, in the order of the words."""


class InstanceGroundTruth:
    """Annotated objects of COCO's classes, found by their everyday names; see `captioner.grounding.objects`.

    Args:
        instances: the annotations.
        masks: whether regions are the objects' outlines rather than their boxes.
    """

    def __init__(self, instances: Instances, *, masks: bool = False) -> None:
        self.instances, self.masks = instances, masks

    def knows(self, record: Record) -> bool:
        """Whether the picture has an entry among the instances."""
        return self.instances.entry_of(record.image) is not None

    def size_of(self, record: Record) -> tuple[int, int] | None:
        """See `GroundTruth.size_of`."""
        objects = self.instances.of(record.image)
        return None if objects is None else objects.size

    def annotate(self, record: Record, words: Sequence[str]) -> list[NounAnnotation]:
        """See `GroundTruth.annotate`."""
        objects = self.instances.of(record.image)
        if objects is None:
            return []
        found = []
        for named in name_objects([word.lower() for word in words]):
            if named.category not in objects.annotated:
                continue
            region = None
            if named.category in objects.boxes:
                mask = objects.mask(named.category) if self.masks else None
                region = Region.of_boxes(objects.boxes[named.category]) if mask is None else Region.of_mask(mask)
            found.append(NounAnnotation(named.position, named.category, region))
        return found


class BoxGroundTruth:
    """Boxes of the captions' words (`Record.boxes`), as drawn scenes have them; the class of an object is its word.

    A caption that equals a reference has the boxes of that reference. In another caption, a word has the boxes that
    any reference has for that word.

    Args:
        classes: words that have a box on some picture of the data set. On a picture whose references have no box for
            one of these, the object is absent.
    """

    def __init__(self, classes: Collection[str] = ()) -> None:
        self.classes = frozenset(classes)

    @classmethod
    def of_records(cls, records: Iterable[Record]) -> "BoxGroundTruth":
        """The boxes of a data set.

        Raises:
            DataError: a box is of a word beyond its caption.
        """
        classes: set[str] = set()
        for record in records:
            for caption, boxes in zip(record.captions, record.boxes, strict=False):
                words = tokenize(caption) if boxes else []
                for position in boxes:
                    if not 0 <= position < len(words):
                        raise DataError(
                            f"{record.image}: 'boxes' has the word {position}, and '{caption[:60]}' has {len(words)}",
                            remedy="count the words of the tokenised caption from 0",
                        )
                    classes.add(words[position])
        return cls(classes)

    def knows(self, record: Record) -> bool:
        """Whether any word of any caption of the picture has boxes."""
        return any(record.boxes)

    def size_of(self, record: Record) -> None:
        """None: boxes of words are fractions of the picture."""

    def annotate(self, record: Record, words: Sequence[str]) -> list[NounAnnotation]:
        """See `GroundTruth.annotate`."""
        words = [word.lower() for word in words]
        # The words of some models keep case and punctuation, which the tokenised references do not.
        places = _with_letters(words)
        by_word: dict[str, list[Box]] = {}
        for caption, boxes in zip(record.captions, record.boxes, strict=False):
            reference = tokenize(caption)
            kept = _with_letters(reference)
            if [words[i] for i in places] == [reference[i] for i in kept]:
                place_of = dict(zip(kept, places, strict=True))
                its = {place_of[at]: Region.of_boxes(some) for at, some in boxes.items() if at in place_of}
                absent = self.classes - _words_with_boxes(record)
                return [NounAnnotation(i, words[i], its.get(i)) for i in places if i in its or words[i] in absent]
            for position, some in boxes.items():
                if position < len(reference):
                    by_word.setdefault(reference[position], []).extend(some)
        return [
            NounAnnotation(i, word, Region.of_boxes(by_word[word]) if word in by_word else None)
            for i, word in enumerate(words)
            if word in by_word or word in self.classes
        ]


def _words_with_boxes(record: Record) -> set[str]:
    """The words that have a box in any reference."""
    pairs = zip(record.captions, record.boxes, strict=False)
    return {word for caption, boxes in pairs for i, word in enumerate(tokenize(caption)) if i in boxes}


def _with_letters(words: Sequence[str]) -> list[int]:
    """The places of the words that are no signs."""
    return [i for i, word in enumerate(words) if any(character.isalnum() for character in word)]


def instances_of(data: str | Path) -> Path | None:
    """The instances file of a data set, as `captioner.data.readers.read` takes it; None where it has none.

    Raises:
        DataError: the data set has no file of captions, or several.
    """
    data = Path(data)
    if data.suffix == ".tar" or (data.is_dir() and any(data.glob("*.tar"))):
        return None  # shards hold the boxes of words themselves
    return find_instances(caption_file(data))


def find_ground_truth(data: str | Path, records: Sequence[Record], *, masks: bool = False) -> GroundTruth:
    """The ground truth of a data set: the instances beside its captions, or else the boxes of its captions' words.

    Args:
        data: the file or folder that the records were read from.
        records: all records of the data set.
        masks: see `InstanceGroundTruth`.

    Raises:
        DataError: masks of a data set without instances; instances that cannot be read; two pictures that fit one
            entry of the instances; an outline, where masks are asked for, that is damaged.
    """
    beside = instances_of(data)
    if beside is None:
        if masks:
            raise DataError(
                f"{data}: no instances*.json beside the captions, and masks come from there",
                remedy="put the file there, or measure with boxes",
            )
        return BoxGroundTruth.of_records(records)
    instances = Instances(beside)
    refuse_ambiguous(records, instances)
    if masks:
        for record in records:
            if objects := instances.of(record.image):
                objects.check_masks()
    return InstanceGroundTruth(instances, masks=masks)
