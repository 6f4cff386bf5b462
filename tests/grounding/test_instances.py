"""Boxes and masks from COCO's instances format, and the boxes that captions' words get."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from captioner.data.readers import read
from captioner.data.records import Record
from captioner.errors import DataError
from captioner.grounding.instances import Instances, attach_boxes, find_instances

CATEGORIES = [{"id": 1, "name": "person"}, {"id": 18, "name": "dog"}, {"id": 3, "name": "car"}]


def annotation(number: int, image: int, category: int, box: list[float], **more: Any) -> dict[str, Any]:
    left, top, wide, high = box
    outline = [[left, top, left + wide, top, left + wide, top + high, left, top + high]]
    own = {"id": number, "image_id": image, "category_id": category, "bbox": box, "iscrowd": 0, "segmentation": outline}
    return own | more


CONTENT: dict[str, Any] = {
    "images": [
        {"id": 1, "file_name": "a.png", "width": 40, "height": 20},
        {"id": 2, "file_name": "b.png", "width": 40, "height": 20, "instances": "person"},
        {"id": 3, "file_name": "c.png", "width": 40, "height": 20, "instances": "all"},
    ],
    "categories": CATEGORIES,
    "annotations": [
        annotation(1, 1, 1, [0, 0, 10, 20]),
        annotation(2, 1, 1, [20, 5, 10, 10]),
        annotation(3, 1, 18, [10, 10, 10, 10]),
        annotation(4, 2, 1, [5, 0, 10, 20], iscrowd=1, segmentation=[]),
        annotation(5, 2, 18, [0, 0, 10, 10]),
        annotation(6, 3, 3, [0, 0, 0, 10]),
    ],
}


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    def write(content: Any = CONTENT, name: str = "instances.json") -> Path:
        path = tmp_path / name
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return path

    return write


def test_boxes_are_fractions_by_class(write: Callable[..., Path]) -> None:
    objects = Instances(write()).of("a.png")
    assert objects is not None
    assert objects.boxes == {"person": ((0, 0, 0.25, 1), (0.5, 0.25, 0.75, 0.75)), "dog": ((0.25, 0.5, 0.5, 1),)}
    assert objects.annotated == {"person", "dog", "car"}


def test_a_picture_annotated_for_people_says_nothing_of_dogs(write: Callable[..., Path]) -> None:
    objects = Instances(write()).of("b.png")
    assert objects is not None
    assert objects.annotated == {"person"}
    assert objects.boxes.keys() == {"person"}


def test_boxes_without_area_and_other_pictures_are_nothing(write: Callable[..., Path]) -> None:
    instances = Instances(write())
    objects = instances.of("c.png")
    assert objects is not None and objects.boxes == {}
    assert instances.of("z.png") is None
    assert len(instances) == 3


def test_masks_are_the_union_of_outlines_and_a_crowd_without_one_is_its_box(write: Callable[..., Path]) -> None:
    instances = Instances(write())
    a, b = instances.of("a.png"), instances.of("b.png")
    assert a is not None and b is not None
    people = np.zeros((20, 40), dtype=bool)
    people[:, :10] = people[5:15, 20:30] = True
    np.testing.assert_array_equal(a.mask("person"), people)
    crowd = np.zeros((20, 40), dtype=bool)
    crowd[:, 5:15] = True
    np.testing.assert_array_equal(b.mask("person"), crowd)
    assert not a.mask("car").any()


def test_masks_in_run_lengths(write: Callable[..., Path]) -> None:
    runs = {"size": [20, 40], "counts": [20, 40, 740]}  # down the columns: the second and third
    content = {**CONTENT, "annotations": [annotation(1, 1, 1, [1, 0, 2, 20], iscrowd=1, segmentation=runs)]}
    objects = Instances(write(content)).of("a.png")
    assert objects is not None
    assert objects.mask("person").nonzero()[1].tolist() == [1, 2] * 20


def test_a_word_gets_all_boxes_of_its_class_and_only_what_is_annotated(write: Callable[..., Path]) -> None:
    records = [
        Record(Path("a.png"), ("A man, a puppy and a car.", "Nothing here"), "dev", "1"),
        Record(Path("b.png"), ("a boy with a dog",), "dev", "2"),
        Record(Path("z.png"), ("a boy",), "dev", "9"),
        Record(Path("a.png"), ("a boy",), "dev", "4", ({1: ((0.0, 0.0, 1.0, 1.0),)},)),
    ]
    first, second, third, fourth = attach_boxes(records, Instances(write()))
    people = ((0.0, 0.0, 0.25, 1.0), (0.5, 0.25, 0.75, 0.75))
    assert first.boxes == ({1: people, 3: ((0.25, 0.5, 0.5, 1.0),)}, {})
    assert second.boxes == ({1: ((0.125, 0.0, 0.375, 1.0),)},)
    assert third == records[2]
    assert fourth == records[3]


def test_instances_beside_the_captions_give_their_words_boxes(write: Callable[..., Path], tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        Image.new("RGB", (40, 20)).save(tmp_path / name)
    captions = {
        "images": [{"id": 1, "file_name": "a.png", "split": "dev"}, {"id": 2, "file_name": "b.png", "split": "dev"}],
        "annotations": [
            {"id": 1, "image_id": 1, "caption": "a dog"},
            {"id": 2, "image_id": 2, "caption": "a dog"},
        ],
    }
    file = write(captions, "captions_mine.json")
    assert find_instances(file) is None
    assert [record.boxes for record in read(file)] == [(), ()]
    beside = write(CONTENT, "instances_mine.json")
    assert find_instances(file) == beside
    assert [record.boxes for record in read(file)] == [({1: ((0.25, 0.5, 0.5, 1.0),)},), ()]
    assert find_instances(tmp_path / "mine.json") is None


@pytest.mark.parametrize(
    "content",
    [
        "{",
        [],
        {"images": []},
        {**CONTENT, "annotations": [{"id": 1}]},
        {**CONTENT, "annotations": [annotation(1, 1, 99, [0, 0, 1, 1])]},
        {**CONTENT, "categories": [{"id": 1, "name": "thing"}], "annotations": []},
    ],
)
def test_other_files_are_refused_by_name(write: Callable[..., Path], content: Any) -> None:
    with pytest.raises(DataError, match=r"instances\.json: "):
        Instances(write(content))


def test_odd_fields_are_refused(write: Callable[..., Path], tmp_path: Path) -> None:
    images = [{**CONTENT["images"][0], "instances": "peple"}]
    with pytest.raises(DataError, match="'instances': 'peple', neither"):
        Instances(write({**CONTENT, "images": images})).of("a.png")
    with pytest.raises(DataError, match="nowhere"):
        Instances(tmp_path / "nowhere.json")
    broken = {**CONTENT, "annotations": [annotation(7, 1, 1, [0, 0, 4, 4], segmentation={"counts": "x"})]}
    objects = Instances(write(broken)).of("a.png")
    assert objects is not None
    with pytest.raises(DataError, match="annotation 7: its outline"):
        objects.mask("person")


def test_the_photographs_beside_the_checkout(shared: Path) -> None:
    records = [record for record in read(shared / "data" / "coco") if record.split == "dev"]
    boxed = [record for record in records if record.boxes]
    assert len(boxed) > 250
    for record in boxed:
        for several in (boxes for of_caption in record.boxes for boxes in of_caption.values()):
            for left, top, right, bottom in several:
                assert 0 <= left < right <= 1 and 0 <= top < bottom <= 1
