"""Presence questions: true, balanced and repeatable."""

from collections import Counter
from pathlib import Path

import numpy as np

from captioner.data.records import Record
from captioner.training.presence import CLASSES, PresenceQuestions, presence_words

BOX = ((0.1, 0.2, 0.3, 0.4),)


def record(*captions: str, objects: dict[str, tuple[tuple[float, float, float, float], ...]] | None = None) -> Record:
    return Record(Path("a.png"), captions, "train", "a", objects=objects)


def test_what_is_known() -> None:
    found = PresenceQuestions(
        [
            record("a dog", "two puppies play"),
            record("a dog"),
            record(objects={"person": (), "cat": BOX}),
        ]
    )
    dog, cat, person = map(CLASSES.index, ("dog", "cat", "person"))
    assert found.shows[:, dog].tolist() == [True, True, False]
    assert found.lacks[:, cat].tolist() == [True, False, False], "one caption says little of what is not there"
    assert found.lacks[:, person].tolist() == [False, False, True], "captions leave people out"
    assert found.shows[2].sum() == 1 and found.lacks[2].sum() == 1, "other classes were not annotated"


def test_each_class_has_as_many_yes_as_no() -> None:
    records = [record("a dog runs", "a dog") if i % 4 else record("a cat", "the cat sleeps") for i in range(40)]
    records.append(record("a horse", "a horse", objects={"dog": BOX}))
    presence = PresenceQuestions(records)
    drawn = presence.epoch(np.random.default_rng(1), per_picture=1.0)
    asked = [(picture, one) for picture, some in drawn.items() for one in some]
    counts = Counter((one.words[3], one.present) for _, one in asked)
    assert counts["dog", True] == counts["dog", False] > 0
    assert counts["cat", True] == counts["cat", False] > 0
    assert len(asked) <= 2 * 41
    for picture, one in asked:
        c = next(c for c, name in enumerate(CLASSES) if name == one.words[3])
        assert (presence.shows if one.present else presence.lacks)[picture, c]
        assert not one.boxes or picture == 40
    again = presence.epoch(np.random.default_rng(1), per_picture=1.0)
    assert drawn == again
    assert drawn != presence.epoch(np.random.default_rng(2), per_picture=1.0)
    assert not presence.epoch(np.random.default_rng(1), per_picture=0.0)


def test_pictures_that_show_what_stands_beside_a_class_are_asked_more_often() -> None:
    together, alone, other = record("a dog on a sofa", "a dog"), record("a sofa", "a sofa"), record("a bus", "a bus")
    presence = PresenceQuestions([together] * 5 + [alone] * 20 + [other] * 20)
    picked: Counter[bool] = Counter()
    for seed in range(20):
        for picture, some in presence.epoch(np.random.default_rng(seed), per_picture=5.0).items():
            picked.update(picture < 25 for one in some if one.words[3] == "dog" and not one.present)
    assert picked[True] > 1.5 * picked[False] > 0


def test_the_article() -> None:
    assert " ".join(presence_words("umbrella")) == "is there an umbrella in the image"
    assert " ".join(presence_words("cell phone", end=())) == "is there a cell phone"
