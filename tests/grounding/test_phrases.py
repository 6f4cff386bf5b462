"""Phrases of annotated sentences, put beside the captions of a data set."""

import json
from pathlib import Path

import pytest

from captioner.data.readers.entities import Phrase, PhraseBoxes, PhraseSentence
from captioner.data.records import Record
from captioner.errors import DataError
from captioner.grounding.phrases import attach_phrases, caption_phrases
from captioner.tokenizer.ptb import tokenize

LEFT, RIGHT = (0.0, 0.0, 0.5, 1.0), (0.5, 0.0, 1.0, 1.0)
DOG = PhraseSentence(
    ("A", "small", ",", "gray", "dog", "'s", "ball", "in", "the", "sun", "."),
    (
        Phrase(0, 5, "1", ("animals",), (LEFT,)),
        Phrase(5, 7, "2", ("other",), (RIGHT,)),
        Phrase(8, 10, "3", ("scene",), ()),
    ),
    1,
)


def words_of(captions: list[str], sentences: list[PhraseSentence]) -> list[list[str]]:
    tokens = [tokenize(caption) for caption in captions]
    found = caption_phrases(tokens, sentences)
    return [
        [" ".join(words[p] for p in phrase.positions) for phrase in some]
        for words, some in zip(tokens, found, strict=True)
    ]


def test_content_words_of_the_caption_are_found_and_signs_are_passed_over() -> None:
    dog = "A small, gray dog's ball in the sun."
    assert words_of(["A cat.", dog], [DOG]) == [[], ["small gray dog", "ball", "sun"]]
    tokens = tokenize(dog)
    animal, *_ = caption_phrases([tokens], [DOG])[0]
    assert (tokens[animal.head], animal.boxes, animal.types) == ("dog", (LEFT,), ("animals",))


@pytest.mark.parametrize(
    ("captions", "found"),
    [
        # the very words win over the number
        (["a small gray dog 's ball in the sun", "a dog"], [["small gray dog", "ball", "sun"], []]),
        # of other spellings, the number decides
        (["a small gray cat", "small grey dog 's ball in the sun"], [[], ["small dog", "ball", "sun"]]),
        # a number that is of another sentence is not believed
        (["a small grey dog 's ball in the sun", "men at work"], [["small dog", "ball", "sun"], []]),
        (["a boat", "men at work"], [[], []]),
    ],
)
def test_a_sentence_is_put_beside_its_caption(captions: list[str], found: list[list[str]]) -> None:
    assert words_of(captions, [DOG]) == found


def test_each_caption_belongs_to_one_sentence() -> None:
    assert words_of(["a small gray dog 's ball in the sun"] * 2, [DOG, DOG]) == [["small gray dog", "ball", "sun"]] * 2


def test_records_get_boxes_of_what_has_some(tmp_path: Path) -> None:
    sentence = {"words": ["a", "red", "ball"], "phrases": [{"start": 0, "end": 3, "entity": "1", "types": ["other"]}]}
    entry = {"width": 10, "height": 10, "boxes": {"1": [[1, 1, 5, 10]]}, "sentences": [sentence]}
    file = tmp_path / "phrases.json"
    file.write_text(json.dumps({"a.jpg": entry}))
    known = Record(Path("a.jpg"), ("A red ball .", "a dog"), "train", "a")
    other = Record(Path("b.jpg"), ("a red ball",), "train", "b")
    assert [record.boxes for record in attach_phrases([known, other], PhraseBoxes(file))] == [
        ({1: (LEFT,), 2: (LEFT,)}, {}),
        (),
    ]
    with pytest.raises(DataError, match="--data"):
        attach_phrases([other], PhraseBoxes(file))


def test_words_of_a_caption_may_have_capitals_and_signs() -> None:
    caption = ["A", "Small", ",", "gray", "Dog", "'s", "ball", "in", "the", "sun", "."]
    places = [phrase.positions for phrase in caption_phrases([caption], [DOG])[0]]
    assert [[caption[place] for place in some] for some in places] == [["Small", "gray", "Dog"], ["ball"], ["sun"]]


def test_words_of_no_phrase_keep_their_boxes(tmp_path: Path) -> None:
    box = [1, 1, 10, 10]
    sentence = {"words": ["a", "dog"], "phrases": [{"start": 1, "end": 2, "entity": "1", "types": ["animals"]}]}
    about = {"width": 10, "height": 10, "boxes": {"1": [box]}, "sentences": [sentence]}
    (tmp_path / "boxes.json").write_text(json.dumps({"a.jpg": about}))
    record = Record(tmp_path / "a.jpg", ("a dog", "a red car"), "train", "a", boxes=({0: (LEFT,)}, {2: (RIGHT,)}))
    (found,) = attach_phrases([record], PhraseBoxes(tmp_path / "boxes.json"))
    assert found.boxes == ({0: (LEFT,), 1: ((0.0, 0.0, 1.0, 1.0),)}, {2: (RIGHT,)})
