"""Everyday words and the COCO classes that they name."""

import pytest

from captioner.grounding.objects import NAMES, NamedObject, name_objects

NAMED = {
    "a man riding a wave on top of a surfboard": {1: "person", 9: "surfboard"},
    "two women and their puppies": {1: "person", 4: "dog"},
    "people on bikes": {0: "person", 2: "bicycle"},
    "a girl talking on her cell phone": {1: "person", 6: "cell phone"},
    "a red fire hydrant": {3: "fire hydrant"},
    "a man with tennis rackets": {1: "person", 4: "tennis racket"},
    "wine glasses beside a bottle": {1: "wine glass", 4: "bottle"},
    "knives and sandwiches": {0: "knife", 2: "sandwich"},
    "policemen on horses": {0: "person", 2: "horse"},
    "catcher 's mitt": {0: "person", 2: "baseball glove"},
    # The longest name wins.
    "a hot dog on a plate": {2: "hot dog"},
    "a teddy bear in a bed": {2: "teddy bear", 5: "bed"},
    "a couple of dirt bikes": {4: "motorcycle"},
    "a train car": {2: "train"},
    # A name before a name describes it.
    "a baby elephant": {2: "elephant"},
    "a bus driver": {2: "person"},
    "a dining table": {2: "dining table"},
    # What only sounds like it.
    "a train station": {},
    "waiting at a bus stop": {},
    "a roll of toilet paper": {},
    "a bike rack": {},
    "a man up to bat": {1: "person"},
    "a batter at bat in a game": {1: "person"},
    "two boys play ball": {1: "person"},
    "a man playing ball with a dog": {1: "person", 6: "dog"},
    "a baby panda bear": {},
    "their wives and computer mice": {1: "person", 4: "mouse"},
    "an orange ball": {2: "sports ball"},
    "a man rides a horse": {1: "person", 4: "horse"},
    "a bowl of oranges": {1: "bowl", 3: "orange"},
    "a mouse on the board with glasses": {},
    "": {},
}


@pytest.mark.parametrize("caption", NAMED)
def test_captions_name_what_a_reader_would_say(caption: str) -> None:
    assert {named.position: named.category for named in name_objects(caption.split())} == NAMED[caption]


def test_every_class_of_coco_is_in_the_table_and_found_by_its_own_name() -> None:
    assert len(NAMES) == 80
    alone = {"mouse": "computer mouse", "orange": "oranges"}  # left out by themselves
    for category in NAMES:
        words = alone.get(category, category).split()
        assert name_objects(words) == [NamedObject(len(words) - 1, category)]


def test_names_are_known_in_the_plural() -> None:
    for words, category in {
        "buses": "bus",
        "benches": "bench",
        "puppies": "dog",
        "couches": "couch",
        "boys": "person",
        "geese": "bird",
        "traffic lights": "traffic light",
        "skis": "skis",
        "scissors": "scissors",
        "humans": "person",
    }.items():
        assert [named.category for named in name_objects(words.split())] == [category]
    assert not name_objects(["mens", "room"])
