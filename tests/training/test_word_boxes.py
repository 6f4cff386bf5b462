"""Where the things are that captions name."""

from pathlib import Path

import numpy as np

from captioner.data.records import Boxes, Record
from captioner.tokenizer.vocabulary import SPECIAL, Vocabulary
from captioner.training.attributes import AttributeLabels
from captioner.training.made_questions import QuestionMaker
from captioner.training.presence import PresenceQuestions
from captioner.training.questions import QuestionBatches
from captioner.training.word_boxes import NamedBoxes

LEFT: Boxes = ((0.0, 0.0, 0.5, 1.0),)
RIGHT: Boxes = ((0.5, 0.0, 1.0, 1.0),)
CAPTIONS = ("a red puppy licks a man", "a man and his dog on a sled")
BOXES = ({1: LEFT, 2: LEFT, 5: RIGHT}, {1: RIGHT, 4: LEFT, 7: RIGHT})


def record(objects: dict[str, Boxes] | None = None) -> Record:
    return Record(Path("a.png"), CAPTIONS, "train", "a", boxes=BOXES, objects=objects)


def test_words_of_all_captions_and_classes_that_they_name() -> None:
    found = NamedBoxes.of(record())
    assert found.words == {"red": LEFT, "puppy": LEFT, "man": RIGHT, "dog": LEFT, "sled": RIGHT}
    assert found.classes == {"dog": LEFT, "person": RIGHT}
    both = NamedBoxes.of(Record(Path("a.png"), ("a man", "a man"), "train", "a", boxes=({1: LEFT}, {1: RIGHT})))
    assert both.words == {"man": LEFT + RIGHT} and both.classes == {"person": LEFT + RIGHT}
    assert NamedBoxes.of(Record(Path("a.png"), CAPTIONS, "train", "a")) == NamedBoxes({}, {})
    beyond = Record(Path("a.png"), ("a man",), "train", "a", boxes=({1: LEFT, 2: RIGHT},))
    assert NamedBoxes.of(beyond) == NamedBoxes({"man": LEFT}, {"person": LEFT}), "a place that the caption lacks"


def test_annotated_objects_go_before_words() -> None:
    small: Boxes = ((0.1, 0.1, 0.2, 0.2),)
    found = NamedBoxes.of(record({"dog": small, "person": (), "cat": small}))
    assert found.classes == {"dog": small, "cat": small}
    assert found.words["dog"] == LEFT
    assert found.find("dog", "dog") == LEFT and found.find("hound", "dog") == small
    assert found.find("hound", "person") == found.find("hound") == ()


def test_attributes_and_questions_have_them() -> None:
    words = ("dog", "person", "red", "man", "sled", "grass")
    labels = AttributeLabels([record(), record({"dog": RIGHT})], words)
    assert labels.boxes(0) == {0: LEFT, 1: RIGHT, 2: LEFT, 3: RIGHT, 4: RIGHT}
    assert labels.boxes(1)[0] == RIGHT
    absent = Record(Path("b.png"), ("a bus", "a bus"), "train", "b")
    presence = PresenceQuestions([record(), absent])
    asked = presence.epoch(np.random.default_rng(1), per_picture=9.0)
    assert {one.words[3]: one.boxes for one in asked[0] if one.present} == {"dog": LEFT}, "people need annotation"
    maker = QuestionMaker(
        objects={"puppy", "man", "dog", "sled"}, places={"sled"}, captions=[caption.split() for caption in CAPTIONS]
    )
    made = [one for caption in CAPTIONS for one in maker.make([*caption.split()])]
    answers = ("puppy", "man", "dog", "sled", "red")
    batches = QuestionBatches(
        [record()], Vocabulary((*SPECIAL, "what", "is")), answers, batch_pictures=1, questions_per_picture=2,
        max_length=9, horizontal_flip=False, seed=1, made=[made], made_per_picture=9,
    )  # fmt: skip
    where = {answers[one.target[0][0]]: one.boxes for _, one in batches.made[0]}
    assert where == {"puppy": LEFT, "man": RIGHT, "dog": LEFT, "sled": RIGHT, "red": LEFT}, "red is said of the puppy"
