"""What attributes are trained with."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from captioner.data.records import AnsweredQuestion, Boxes, Record
from captioner.errors import OptionError
from captioner.tokenizer.vocabulary import SPECIAL, Vocabulary
from captioner.training.attributes import (
    AttributeLabels,
    attribute_options,
    class_of_word,
    frequent_attributes,
)
from captioner.training.recipe import Recipe

BOX = ((0.1, 0.2, 0.3, 0.4),)


def record(*captions: str, objects: dict[str, Boxes] | None = None, answers: tuple[str, ...] = ()) -> Record:
    questions = (AnsweredQuestion("what is it?", answers),) if answers else ()
    return Record(Path("a.png"), captions, "train", "a", objects=objects, questions=questions)


def test_words_that_name_a_class_by_themselves() -> None:
    named = {word: class_of_word(word) for word in ("dog", "hydrant", "phone", "teddy", "person", "table")}
    assert named == {
        "dog": "dog", "hydrant": "fire hydrant", "phone": "cell phone", "teddy": "teddy bear", "person": "person",
        "table": "dining table",
    }  # fmt: skip
    for word in ("fire", "hot", "orange", "man", "puppy", "wine", "red"):
        assert class_of_word(word) is None, word


def test_classes_come_first_then_frequent_words() -> None:
    records = [
        record("a puppy by a red fire hydrant", "the red hydrant"),
        record("a man at a red fire"),
        record("a cold drink", "a drink on a red cloth"),
    ]
    known = {"fire", "hydrant", "dog", "person", "red", "drink", "cloth", "a"}
    words = frequent_attributes(records, known, 9)
    assert words == ("person", "hydrant", "dog", "red", "fire", "cloth", "drink")
    assert frequent_attributes(records, known, 4) == words[:4]
    assert frequent_attributes([record(answers=("dog",))], known, 5) == ()


def test_labels_of_classes_and_of_other_words() -> None:
    words = ("hydrant", "dog", "bear", "red", "orange", "fire")
    cases = [
        (record("a puppy by a red fire hydrant", "the hydrant"), "hydrant dog red fire", "bear orange"),
        (record("a man at a red fire", objects={"dog": BOX, "bear": ()}), "dog red fire", "bear"),
        (record("a hot dog", "a hot dog on a plate"), "", "hydrant dog bear red orange fire"),
        (record("a teddy bear", "a teddy bear"), "", "hydrant dog bear red orange fire"),
        (record("a bus", "the bus", answers=("orange", "orange", "red")), "orange", "hydrant dog bear red fire"),
        (record(answers=("dogs",)), "dog", ""),
        (record("a bear"), "bear", ""),
    ]
    labels = AttributeLabels([given for given, _, _ in cases], words)
    for i, (given, shows, lacks) in enumerate(cases):
        assert [word for word, one in zip(words, labels.shows[i], strict=True) if one] == shows.split(), given
        assert [word for word, one in zip(words, labels.lacks[i], strict=True) if one] == lacks.split(), given
    assert [labels.boxes(i) for i in range(3)] == [{}, {1: BOX}, {}]
    positive, known = labels.of([5, 1])
    assert positive.tolist() == [[0, 1, 0, 0, 0, 0], [0, 1, 0, 1, 0, 1]]
    assert known.tolist() == [[0, 1, 0, 0, 0, 0], [0, 1, 1, 1, 0, 1]]


def test_what_a_recipe_makes_of_them() -> None:
    records = [record("a red dog runs", "a dog"), record("a cat on red grass", "the cat")]
    vocabulary, answers = Vocabulary((*SPECIAL, "dog", "cat", "red", "is")), ("cat", "red", "yes")

    def made(given: Sequence[Record] = records, **changes: Any) -> dict[str, Any]:
        recipe = Recipe(objective="answers", **{"attributes": 3, "answerer_options": {"attribute_map": 0.5}, **changes})
        return attribute_options(recipe, given, vocabulary, answers)

    place = len(SPECIAL)
    assert made() == {"attributes": (place + 1, place, place + 2), "attribute_answers": (0, -1, 1)}, "a cat, a dog, red"
    assert made(answerer_options={}) == {"attributes": (place + 1, place, place + 2)}
    for none in (made([record(answers=("dog",))]), made(attributes=0), made(blind=True)):
        assert none["attribute_map"] == 0.0 and not none.get("attributes")
    assert made(attributes=0, answerer_options={}) == {}
    named = {"attributes": [place, 99, place + 2], "attribute_map": 0.5}
    assert made(attributes=0, answerer_options=named) == {"attribute_answers": (-1, -1, 1)}
    with pytest.raises(OptionError, match="follow from attributes and answers"):
        made(answerer_options={"attribute_answers": [0]})
    with pytest.raises(OptionError, match="answerer_options name them"):
        made(answerer_options=named)
    with pytest.raises(OptionError, match="'pooled' has none"):
        made(answerer="pooled", answerer_options={})
