"""Questions made by rule from captions."""

from pathlib import Path

import pytest

from captioner.data.records import AnsweredQuestion, Record
from captioner.tokenizer.ptb import tokenize
from captioner.training.made_questions import KINDS, QuestionMaker, asked_words

OBJECTS = {"man", "wave", "dog", "dogs", "sofa", "cat", "beach", "ball"}


def made(caption: str, *, others: tuple[str, ...] = ()) -> set[tuple[str, str, str]]:
    maker = QuestionMaker(objects=OBJECTS, places={"beach", "sofa"}, captions=[tokenize(one) for one in others])
    return {(" ".join(one.words), one.answer, one.kind) for one in maker.make(tokenize(caption))}


@pytest.mark.parametrize(
    ("caption", "questions"),
    [
        (
            "A man riding a wave.",
            {
                ("what is riding a wave", "man", "object"),
                ("what is the man riding", "wave", "object"),
                ("man riding what", "wave", "object"),
            },
        ),
        (
            "Two dogs play.",
            {("how many dogs play", "two", "number"), ("what play", "dogs", "object")},
        ),
        (
            "Dogs running on the beach",
            {
                ("what are running on the beach", "dogs", "object"),
                ("dogs running on what", "beach", "object"),
                ("what are dogs running on", "beach", "object"),
                ("where are dogs running", "beach", "location"),
            },
        ),
        (
            "There is a cat on the sofa.",
            {("what is on the sofa", "cat", "object")},
        ),
        (
            "a red ball",
            {("what is the color of the ball", "red", "color"), ("what color is the ball", "red", "color")},
        ),
        ("it is black and white", set()),
        ("a dog", set()),
        ("", set()),
    ],
)
def test_forms(caption: str, questions: set[tuple[str, str, str]]) -> None:
    found = made(caption)
    assert found == questions
    assert {kind for *_, kind in found} <= KINDS.keys()


def test_words_that_often_stand_before_nouns_belong_to_their_phrase() -> None:
    caption = "a man holding a fluffy cat"
    assert ("man holding a fluffy what", "cat", "object") in made(caption)
    assert ("man holding what", "cat", "object") in made(caption, others=("the fluffy dog",) * 5)


def test_a_question_is_not_longer_than_twenty_words() -> None:
    assert not made("dogs " + "very " * 30 + "tired")


def test_the_class_of_what_is_asked_for() -> None:
    maker = QuestionMaker(objects={"puppy", "lawn"}, places=(), captions=())
    found = maker.make(tokenize("a brown puppy on the lawn"))
    assert {(one.answer, one.category) for one in found} == {("brown", "dog"), ("puppy", "dog"), ("lawn", "")}


def test_objects_and_places_are_those_of_typed_questions() -> None:
    asked = (
        AnsweredQuestion("what is riding?", ("man",), "object"),
        AnsweredQuestion("where is it?", ("beach",), "location"),
        AnsweredQuestion("where is she?", ("beach",), "location"),
        AnsweredQuestion("where is he?", ("park",), "location"),
        AnsweredQuestion("what?", ("fire hydrant",), "object"),
        AnsweredQuestion("is it?", ("yes",), ""),
    )
    record = Record(Path("a.png"), (), "train", "a", questions=asked)
    assert asked_words([record]) == ({"man", "beach", "park"}, {"beach"})
    objects, places = asked_words([])
    assert {"dog", "woman"} <= objects and "fire hydrant" not in objects and not places
