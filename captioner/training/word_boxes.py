"""Where the things are that the captions of a picture name, by word and by class of COCO."""

from collections.abc import Mapping
from dataclasses import dataclass

from captioner.data.records import Box, Boxes, Record
from captioner.grounding.objects import name_objects
from captioner.tokenizer.ptb import tokenize


@dataclass(frozen=True)
class NamedBoxes:
    """The boxes of what a picture's captions name, and of its annotated objects.

    Attributes:
        words: of each word of the captions that has some (`Record.boxes`), those of all captions together.
        classes: of each class of COCO that has some. A class that was annotated has those of its objects, any other
            those of the words that name it.
    """

    words: Mapping[str, Boxes]
    classes: Mapping[str, Boxes]

    @classmethod
    def of(cls, record: Record) -> "NamedBoxes":
        """Those of a record."""
        objects = record.objects or {}
        words: dict[str, dict[Box, None]] = {}
        classes: dict[str, dict[Box, None]] = {name: dict.fromkeys(boxes) for name, boxes in objects.items() if boxes}
        for caption, by_place in zip(record.captions, record.boxes, strict=False):
            tokens = tokenize(caption) if by_place else []
            for place, boxes in by_place.items():
                if place < len(tokens):  # a file may name places that its caption does not have
                    words.setdefault(tokens[place], {}).update(dict.fromkeys(boxes))
            for one in name_objects(tokens):
                if one.category not in objects and one.position in by_place:
                    classes.setdefault(one.category, {}).update(dict.fromkeys(by_place[one.position]))
        return cls(*({name: tuple(boxes) for name, boxes in some.items()} for some in (words, classes)))

    def find(self, word: str, category: str = "") -> Boxes:
        """The boxes of a word, else of the class that it names; none where neither has some."""
        return self.words.get(word) or self.classes.get(category, ())
