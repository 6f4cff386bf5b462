"""What attributes are trained with: the words that a picture's captions, boxes and answers say it shows."""

from collections import Counter
from collections.abc import Collection, Sequence

import numpy as np
from numpy.typing import NDArray

from captioner.data.records import Record
from captioner.errors import DataError
from captioner.grounding.objects import name_objects
from captioner.tokenizer.function_words import is_function_word
from captioner.tokenizer.ptb import tokenize
from captioner.training.presence import CLASSES, PresenceQuestions

_FEWEST_CAPTIONS = 2  # one caption says little of what is not there
_Tokens = list[list[list[str]]]


def frequent_attributes(records: Sequence[Record], known: Collection[str], count: int) -> tuple[str, ...]:
    """Words of captions to look for in pictures: COCO's classes, then the most frequent, without function words.

    Args:
        records: training pictures, with captions.
        known: the words that questions have; others are left out.
        count: of words, at most.

    Raises:
        DataError: no caption has a word that questions have.
    """
    tokens = _tokens(records)
    pictures = Counter(word for some in tokens for word in {word for words in some for word in words})
    by_class = _by_class(tokens, known)
    others = [
        word
        for word, _ in sorted(pictures.items(), key=lambda one: (-one[1], one[0]))
        if word in known and word not in by_class and not is_function_word(word)
    ]
    if not by_class and not others:
        raise DataError("no caption has a word that questions have", remedy="attributes need --captions")
    return tuple([*by_class, *others][:count])


class AttributeLabels:
    """Which attributes each picture shows.

    One of COCO's classes is represented by the word of its name that means it most often ("hydrant" for "fire
    hydrant"), and is in a picture by its synonyms and boxes too. Any other word is in a picture whose captions have it
    or of which it is an answer; it is not in one that has two captions or more without it.

    Args:
        records: training pictures, with captions.
        words: the attributes.

    Attributes:
        shows, lacks: (N, A), whether each picture is known to show them, and not to.
    """

    def __init__(self, records: Sequence[Record], words: Sequence[str]) -> None:
        tokens = _tokens(records)
        self.shows = np.zeros((len(records), len(words)), np.bool_)
        self.lacks = np.zeros_like(self.shows)
        places = {word: i for i, word in enumerate(words)}
        for i, (record, some) in enumerate(zip(records, tokens, strict=True)):
            said = {word for caption in some for word in caption}
            said |= {asked.answer or Counter(asked.answers).most_common(1)[0][0] for asked in record.questions}
            self.shows[i, [places[word] for word in said if word in places]] = True
            self.lacks[i] = len(some) >= _FEWEST_CAPTIONS
        presence = PresenceQuestions(records)
        for word, number in _by_class(tokens, places).items():
            self.shows[:, places[word]] |= presence.shows[:, number]
            self.lacks[:, places[word]] = presence.lacks[:, number]
        self.lacks &= ~self.shows

    def of(self, pictures: Sequence[int]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Labels of pictures, (B, A): 1 for what they show; and 1 where that is known."""
        shows, lacks = self.shows[list(pictures)], self.lacks[list(pictures)]
        return shows.astype(np.float32), (shows | lacks).astype(np.float32)


def _tokens(records: Sequence[Record]) -> _Tokens:
    return [[tokenize(caption) for caption in record.captions] for record in records]


def _by_class(tokens: _Tokens, known: Collection[str]) -> dict[str, int]:
    """The word of each of COCO's classes, and the class's number; classes that no caption names have none."""
    pictures: Counter[str] = Counter()
    named: Counter[tuple[str, str]] = Counter()
    for some in tokens:
        seen = {word for words in some for word in words}
        pictures.update(seen)
        classes = {one.category for words in some for one in name_objects(words)}
        named.update((word, name) for name in classes for word in name.split() if word in seen)
    chosen: dict[str, int] = {}
    for number, name in enumerate(CLASSES):
        share = {word: named[word, name] / pictures[word] for word in name.split() if word in known and pictures[word]}
        free = [word for word in share if word not in chosen]
        if free:
            chosen[max(free, key=share.__getitem__)] = number
    return chosen
