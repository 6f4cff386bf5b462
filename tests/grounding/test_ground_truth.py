"""The ground truth of the nouns of any caption."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from captioner.data.readers import read
from captioner.data.records import Record
from captioner.data.scenes import write_scenes
from captioner.errors import DataError
from captioner.grounding.ground_truth import BoxGroundTruth, InstanceGroundTruth, find_ground_truth
from captioner.grounding.instances import Instances

LEFT, RIGHT = (0.0, 0.0, 0.25, 0.5), (0.5, 0.5, 1.0, 1.0)
SCENE = Record(
    Path("s.png"),
    ("a red ball left of a blue ball",),
    "dev",
    "s.png",
    ({2: (LEFT,), 7: (RIGHT,)},),
)


def coco(folder: Path, **image: Any) -> Path:
    """A data set of one picture with a triangle of a dog and a person's box."""
    Image.new("RGB", (40, 20)).save(folder / "a.png")
    entry = {"id": 1, "file_name": "a.png", "width": 40, "height": 20, "split": "dev"}
    captions = {"images": [entry], "annotations": [{"id": 1, "image_id": 1, "caption": "a man and a dog"}]}
    triangle = [0, 0, 20, 0, 0, 20]
    instances = {
        "images": [{**entry, **image}],
        "categories": [{"id": 1, "name": "person"}, {"id": 18, "name": "dog"}, {"id": 17, "name": "cat"}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 18, "bbox": [0, 0, 20, 20], "segmentation": [triangle]},
            {"id": 2, "image_id": 1, "category_id": 1, "bbox": [30, 0, 10, 20], "iscrowd": 1, "segmentation": []},
        ],
    }
    (folder / "captions.json").write_text(json.dumps(captions))
    (folder / "instances.json").write_text(json.dumps(instances))
    return folder


def words(caption: str) -> list[str]:
    return caption.split()


def inside(region: Any, *points: tuple[float, float]) -> list[bool]:
    return [bool(region.contains(np.array([x]), np.array([y]))[0, 0]) for x, y in points]


def test_a_caption_that_is_the_reference_has_its_boxes() -> None:
    first, second = BoxGroundTruth().annotate(SCENE, words("a red ball left of a blue ball"))
    assert (first.position, first.category, second.position) == (2, "ball", 7)
    assert inside(first.region, (0.1, 0.1), (0.7, 0.7)) == [True, False]
    assert inside(second.region, (0.1, 0.1), (0.7, 0.7)) == [False, True]


def test_another_caption_has_the_boxes_of_its_words() -> None:
    (place,) = BoxGroundTruth().annotate(SCENE, words("a green ball above a cup"))
    assert (place.position, place.category) == (2, "ball")
    assert inside(place.region, (0.1, 0.1), (0.7, 0.7), (0.7, 0.1)) == [True, True, False]
    assert BoxGroundTruth().annotate(SCENE, ["nothing"]) == []


def test_a_thing_of_the_data_set_that_is_not_in_the_picture_is_told() -> None:
    other = replace(SCENE, captions=("a cup",), boxes=({1: (LEFT,)},), id="t")
    plain = replace(SCENE, captions=("a lamp",), boxes=(), id="u")
    truth = BoxGroundTruth.of_records([SCENE, other, plain])
    assert truth.classes == {"ball", "cup"}
    ball, cup = truth.annotate(SCENE, words("a green ball above a cup near a lamp"))
    assert ball.region is not None
    assert (cup.position, cup.category, cup.region) == (5, "cup", None)
    lamp = replace(SCENE, captions=("a ball and a cup",), boxes=({1: (LEFT,)},), id="v")  # the reference itself
    assert [(noun.position, noun.region is None) for noun in truth.annotate(lamp, words(lamp.captions[0]))] == [
        (1, False),
        (4, True),
    ]


def test_drawn_scenes_are_their_own_ground_truth(tmp_path: Path) -> None:
    file = write_scenes(tmp_path, count=0, dev=6, size=(96, 72))
    truth = find_ground_truth(tmp_path, read(tmp_path))
    for record in read(file):
        assert truth.knows(record)
        assert {noun.position for noun in truth.annotate(record, record.captions[0].split())} == set(record.boxes[0])
    assert not truth.knows(Record(Path("x.png"), ("a dog",), "dev", "x"))
    with pytest.raises(DataError, match=r"no instances\*\.json"):
        find_ground_truth(tmp_path, read(tmp_path), masks=True)


def test_synonyms_and_plurals_find_the_annotated_thing(tmp_path: Path) -> None:
    folder = coco(tmp_path)
    truth = find_ground_truth(folder, read(folder))
    (record,) = read(tmp_path)
    assert truth.knows(record)
    puppy, kids, cat = truth.annotate(record, words("a puppy with kids and a cat"))
    assert (puppy.position, puppy.category, kids.category) == (1, "dog", "person")
    assert inside(puppy.region, (0.4, 0.9), (0.8, 0.5)) == [True, False]
    assert inside(kids.region, (0.4, 0.9), (0.8, 0.5)) == [False, True]
    assert cat.region is None, "cats were looked for, and there is none"


def test_where_people_alone_were_annotated_other_nouns_do_not_count(tmp_path: Path) -> None:
    folder = coco(tmp_path, instances="person")
    truth = find_ground_truth(folder, read(folder))
    (record,) = read(tmp_path)
    assert [place.category for place in truth.annotate(record, words("a man with a dog and a cat"))] == ["person"]


def test_masks_are_tighter_than_boxes(tmp_path: Path) -> None:
    boxes, masks = (find_ground_truth(coco(tmp_path), read(tmp_path), masks=masks) for masks in (False, True))
    (record,) = read(tmp_path)
    ((box,), (mask,)) = (truth.annotate(record, ["dog"]) for truth in (boxes, masks))
    assert box.region is not None and mask.region is not None
    assert inside(box.region, (0.45, 0.95)) == [True]
    assert inside(mask.region, (0.45, 0.95), (0.05, 0.1)) == [False, True]
    assert mask.region.area == pytest.approx(box.region.area / 2, rel=0.1)
    (person,) = masks.annotate(record, ["man"])
    assert inside(person.region, (0.8, 0.5), (0.7, 0.5)) == [True, False]


def test_pictures_that_were_not_annotated_are_unknown(tmp_path: Path) -> None:
    instances = Instances(coco(tmp_path) / "instances.json")
    other = Record(tmp_path / "b.png", ("a dog",), "dev", "2")
    assert not InstanceGroundTruth(instances).knows(other)
    assert InstanceGroundTruth(instances).annotate(other, ["dog"]) == []


def test_words_with_capitals_and_signs_are_those_of_the_reference() -> None:
    first, second = BoxGroundTruth().annotate(SCENE, words("A red Ball , left of a blue ball ."))
    assert (first.position, first.category, second.position) == (2, "ball", 8)
    assert inside(second.region, (0.1, 0.1), (0.7, 0.7)) == [False, True]


def test_signs_of_a_reference_shift_no_box() -> None:
    record = replace(SCENE, captions=("a cat & a cat",), boxes=({1: (LEFT,), 4: (RIGHT,)},))
    for caption in ("a cat & a cat", "A cat , a cat ."):
        first, second = BoxGroundTruth().annotate(record, words(caption))
        assert (first.position, second.position) == (1, 4)
        assert inside(first.region, (0.1, 0.1), (0.7, 0.7)) == [True, False]


def test_classes_are_named_in_any_case(tmp_path: Path) -> None:
    record = Record(coco(tmp_path) / "a.png", ("a man",), "dev", "a.png")
    truth = InstanceGroundTruth(Instances(tmp_path / "instances.json"))
    assert [noun.category for noun in truth.annotate(record, ["Dogs", "and", "Men"])] == ["dog", "person"]
    assert truth.size_of(record) == (40, 20)
