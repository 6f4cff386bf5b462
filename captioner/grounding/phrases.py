"""The phrases of a record's captions: annotated sentences put beside the captions as they were tokenised."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from difflib import SequenceMatcher

from captioner.data.readers.entities import PhraseBoxes, PhraseSentence
from captioner.data.records import Boxes, Record
from captioner.errors import DataError
from captioner.tokenizer.function_words import is_function_word
from captioner.tokenizer.ptb import tokenize

_ALIKE_NUMBERED, _ALIKE = 0.6, 0.8
"""How much of a sentence's and a caption's words must agree, where the caption's number is known and where it is not.
Spellings differ ("grey", "gray"), and some captions were mended."""


@dataclass(frozen=True)
class CaptionPhrase:
    """A phrase of a tokenised caption.

    Attributes:
        positions: its content words, by their places in the tokenised caption; at least one.
        words: all its words, function words too.
        entity, types, boxes: as of `captioner.data.readers.entities.Phrase`.
    """

    positions: tuple[int, ...]
    words: tuple[int, ...]
    entity: str
    types: tuple[str, ...]
    boxes: Boxes

    @property
    def head(self) -> int:
        """The place of its last content word: "dog" of "a small brown dog"."""
        return self.positions[-1]


def caption_phrases(
    captions: Sequence[Sequence[str]], sentences: Sequence[PhraseSentence]
) -> list[list[CaptionPhrase]]:
    """The phrases of each tokenised caption, in the order of its words; none where no sentence belongs to it.

    A sentence belongs to the caption of the same words, else to the one of its number where their words are much
    alike, else to the one that is most alike. Words that the caption lacks are left out of their phrase. Function words
    ("a", "of") are no part of a phrase here.

    Args:
        captions: the words of each caption of a picture, in any case.
        sentences: annotated ones of the same picture.
    """
    captions = [[word.lower() for word in caption] for caption in captions]
    found: list[list[CaptionPhrase]] = [[] for _ in captions]
    split = [_split(sentence) for sentence in sentences]
    free = set(range(len(captions)))
    left: list[int] = []
    for i, (tokens, _) in enumerate(split):
        same = [k for k in sorted(free) if list(captions[k]) == tokens]
        if same:
            number = sentences[i].caption
            k = number if number is not None and number in same else same[0]
            free.remove(k)
            found[k] = _placed(sentences[i], split[i], captions[k])
        else:
            left.append(i)
    for i in left:
        alike = _most_alike(split[i][0], captions, free, number=sentences[i].caption)
        if alike is not None:
            free.remove(alike)
            found[alike] = _placed(sentences[i], split[i], captions[alike])
    return found


def attach_phrases(records: Iterable[Record], phrases: PhraseBoxes) -> list[Record]:
    """The records with `Record.boxes` for the content words of phrases that have boxes, each those of its entity.

    Words of no such phrase keep the boxes that they have. Records that are not annotated stay as they are.

    Raises:
        DataError: no record is annotated.
    """
    found = [_with_phrases(record, phrases) for record in records]
    if not any(changed for _, changed in found):
        raise DataError(
            f"{phrases.path} has no phrase of these pictures' captions",
            remedy="give the boxes of the pictures of --data: they are known by the names of their files",
        )
    return [record for record, _ in found]


def _with_phrases(record: Record, phrases: PhraseBoxes) -> tuple[Record, bool]:
    sentences = phrases.of(record.image)
    if not sentences:
        return record, False
    by_caption = caption_phrases([tokenize(caption) for caption in record.captions], sentences)
    boxes = tuple({p: phrase.boxes for phrase in some if phrase.boxes for p in phrase.positions} for some in by_caption)
    if not any(boxes):
        return record, False
    known = record.boxes or tuple({} for _ in boxes)
    return replace(record, boxes=tuple({**old, **new} for old, new in zip(known, boxes, strict=True))), True


def _split(sentence: PhraseSentence) -> tuple[list[str], list[int]]:
    """A sentence's tokens, and the word of the sentence that each is of."""
    # Each word by itself: the tokeniser may drop it (signs) or split it.
    pieces = [tokenize(word) for word in sentence.words]
    return [token for piece in pieces for token in piece], [i for i, piece in enumerate(pieces) for _ in piece]


def _most_alike(
    tokens: list[str], captions: Sequence[Sequence[str]], free: set[int], *, number: int | None
) -> int | None:
    alike = {k: SequenceMatcher(None, tokens, captions[k], autojunk=False).ratio() for k in free}
    if number in alike and alike[number] >= _ALIKE_NUMBERED:
        return number
    best = max(alike, key=lambda k: (alike[k], -k), default=None)
    return best if best is not None and alike[best] >= _ALIKE else None


def _placed(
    sentence: PhraseSentence, split: tuple[list[str], list[int]], caption: Sequence[str]
) -> list[CaptionPhrase]:
    tokens, words = split
    places: dict[int, list[int]] = {}  # of the caption's tokens, by the word of the sentence
    same = tokens == list(caption)
    blocks = SequenceMatcher(None, tokens, caption, autojunk=False).get_matching_blocks() if not same else ()
    for a, b, size in blocks or ((0, 0, len(tokens)),):
        for i in range(size):
            places.setdefault(words[a + i], []).append(b + i)
    found = []
    for phrase in sentence.phrases:
        inside = [place for word in range(phrase.start, phrase.end) for place in places.get(word, ())]
        positions = tuple(place for place in inside if not is_function_word(caption[place]))
        if positions:
            found.append(CaptionPhrase(positions, tuple(inside), phrase.entity, phrase.types, phrase.boxes))
    return found
