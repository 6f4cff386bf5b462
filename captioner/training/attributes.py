"""Attributes in training: which words they are, which of them each picture shows, and the answerer's options."""

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from captioner.data.records import Boxes, Record
from captioner.errors import OptionError
from captioner.grounding.objects import name_objects
from captioner.model.answering import ANSWERERS
from captioner.tokenizer.function_words import is_function_word
from captioner.tokenizer.ptb import tokenize
from captioner.tokenizer.vocabulary import Vocabulary
from captioner.training.presence import CLASSES, FEWEST_CAPTIONS, PresenceQuestions
from captioner.training.recipe import Recipe
from captioner.training.word_boxes import NamedBoxes


def class_of_word(word: str) -> str | None:
    """The class of COCO that a word of the class's name names by itself: "hydrant" names "fire hydrant", and neither
    "fire" nor "hot" nor "orange", which is a colour too, names any."""
    for one in name_objects([word]):
        if word in one.category.split():
            return one.category
    return None


def frequent_attributes(records: Sequence[Record], known: Collection[str], count: int) -> tuple[str, ...]:
    """Words to look for in pictures: those that name COCO's classes, then the most frequent of the captions.

    Args:
        records: training pictures. Without captions there are no attributes.
        known: the words that questions have; others are left out, and so are function words.
        count: of words, at most.
    """
    pictures = Counter(word for record in records for word in _said(record))
    if not pictures:
        return ()
    by_frequency = sorted(pictures, key=lambda word: (-pictures[word], word))
    frequent = [word for word in by_frequency if word in known and not is_function_word(word)]
    names = [word for name in CLASSES for word in name.split() if word in known and class_of_word(word) == name]
    return tuple(dict.fromkeys([*names, *frequent]))[:count]


def attribute_options(
    recipe: Recipe, records: Sequence[Record], vocabulary: Vocabulary, answers: Sequence[str]
) -> dict[str, Any]:
    """The options of the answerer that are about its attributes; where there are none, the map has nothing of them.

    Raises:
        OptionError: the answerer has none, or its options name them and the recipe asks for some.
    """
    given = recipe.answerer_options
    found: dict[str, Any] = {}
    if recipe.attributes and not recipe.blind:
        config: Any = ANSWERERS[recipe.answerer].config
        names = {option.name for option in fields(config)}
        if "attributes" not in names or "attributes" in given:
            why = (
                "answerer_options name them" if "attributes" in names else f"the answerer '{recipe.answerer}' has none"
            )
            raise OptionError(f"attributes is {recipe.attributes}, and {why}", remedy="leave it out")
        chosen = frequent_attributes(records, frozenset(vocabulary.words), recipe.attributes)
        found["attributes"] = tuple(vocabulary.ids[word] for word in chosen)
    return found | map_options(recipe, (given | found).get("attributes", ()), vocabulary, answers)


def map_options(
    recipe: Recipe, attributes: Sequence[int], vocabulary: Vocabulary, answers: Sequence[str]
) -> dict[str, Any]:
    """The options of an answerer with these attributes that are about its map, where the recipe sets them.

    Raises:
        OptionError: the recipe says which answers the attributes are.
    """
    given = recipe.answerer_options
    if "attribute_answers" in given:
        raise OptionError("attribute_answers follow from attributes and answers", remedy="leave them out")
    if "attribute_map" not in given:
        return {}
    if not attributes or not given["attribute_map"]:
        return {"attribute_map": 0.0}
    numbers, words = {answer: number for number, answer in enumerate(answers)}, dict(enumerate(vocabulary.words))
    return {"attribute_answers": tuple(numbers.get(words.get(word, ""), -1) for word in attributes)}


class AttributeLabels:
    """Which attributes each picture shows.

    A class of COCO is in a picture as `captioner.training.presence` says, by synonyms and boxes, or if an answer names
    it. Any other word is in a picture whose captions have it or of which it is an answer; it is not in one that has two
    captions or more without it.

    Args:
        records: training pictures, with captions.
        words: the attributes.

    Attributes:
        shows, lacks: (N, A), whether each picture is known to show them, and not to.
    """

    def __init__(self, records: Sequence[Record], words: Sequence[str]) -> None:
        self.shows = np.zeros((len(records), len(words)), np.bool_)
        self.lacks = np.zeros_like(self.shows)
        classes = {word: name for word in words if (name := class_of_word(word)) is not None}
        presence = PresenceQuestions(records)
        for place, word in enumerate(words):
            if word in classes:
                number = CLASSES.index(classes[word])
                self.shows[:, place], self.lacks[:, place] = presence.shows[:, number], presence.lacks[:, number]
        places = {word: place for place, word in enumerate(words)}
        by_class = {name: places[word] for word, name in classes.items()}
        by_word = {word: place for word, place in places.items() if word not in classes}
        for i, record in enumerate(records):
            answers = {asked.right for asked in record.questions}
            named = {one.category for answer in answers for one in name_objects(tokenize(answer))}
            self.shows[i, [by_class[name] for name in named if name in by_class]] = True
            said = _said(record) | answers
            self.shows[i, [by_word[word] for word in said if word in by_word]] = True
            self.lacks[i, list(by_word.values())] = len(record.captions) >= FEWEST_CAPTIONS
        self.lacks &= ~self.shows
        self._boxes = [
            {by_class[name]: boxes for name, boxes in named_boxes.classes.items() if name in by_class}
            | {by_word[word]: boxes for word, boxes in named_boxes.words.items() if word in by_word}
            for named_boxes in map(NamedBoxes.of, records)
        ]

    def of(self, pictures: Sequence[int]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Labels of pictures, (B, A): 1 for what they show; and 1 where that is known."""
        shows, lacks = self.shows[list(pictures)], self.lacks[list(pictures)]
        return shows.astype(np.float32), (shows | lacks).astype(np.float32)

    def boxes(self, picture: int) -> dict[int, Boxes]:
        """Where the attributes of a picture are, by their places; those whose boxes are known."""
        return self._boxes[picture]


def _said(record: Record) -> set[str]:
    return {word for caption in record.captions for word in tokenize(caption)}
