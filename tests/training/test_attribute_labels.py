"""What attributes are trained with."""

from pathlib import Path

import pytest

from captioner.data.records import AnsweredQuestion, Record
from captioner.errors import DataError
from captioner.training.attribute_labels import AttributeLabels, frequent_attributes

BOX = ((0.1, 0.2, 0.3, 0.4),)
RECORDS = [
    Record(Path("a.png"), ("a puppy by a red fire hydrant", "the red hydrant"), "train", "a"),
    Record(Path("b.png"), ("a man at a red fire",), "train", "b", objects={"dog": BOX, "person": ()}),
    Record(Path("c.png"), ("a cold drink", "a drink on a red cloth"), "train", "c"),
    Record(Path("d.png"), (), "train", "d", questions=(AnsweredQuestion("what is it?", ("cloth", "dog", "dog")),)),
]
KNOWN = frozenset(["fire", "hydrant", "dog", "person", "red", "drink", "cloth", "a"])


def test_classes_come_first_each_by_the_word_that_means_it() -> None:
    words = frequent_attributes(RECORDS, KNOWN, 9)
    assert words == ("hydrant", "red", "fire", "cloth", "drink"), "'dog' and 'person' are in no caption"
    assert frequent_attributes(RECORDS, KNOWN, 2) == ("hydrant", "red")
    with pytest.raises(DataError, match="captions"):
        frequent_attributes(RECORDS, {"zebra"}, 5)


def test_labels() -> None:
    named = [*RECORDS, Record(Path("e.png"), ("a dog", "a dog"), "train", "e")]
    labels = AttributeLabels(named, ("hydrant", "dog", "red", "cloth"))
    hydrant, dog, red, cloth = labels.shows.T.tolist()
    assert hydrant == [True, False, False, False, False]
    assert dog == [True, True, False, True, True], "by a synonym, a box, the most frequent answer, its name"
    assert red == [True, True, True, False, False]
    assert cloth == [False, False, True, False, False]
    lacks = labels.lacks.T.tolist()
    assert lacks[1] == [False, False, True, False, False]
    assert lacks[2] == [False, False, False, False, True], "one caption, or none, says little of what is not there"
    shows, known = labels.of([2, 0])
    assert shows.tolist() == [[0, 0, 1, 1], [1, 1, 1, 0]]
    assert known.tolist() == [[1, 1, 1, 1], [1, 1, 1, 1]]
