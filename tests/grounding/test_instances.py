"""Boxes and masks from COCO's instances format, and the boxes that captions' words get."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis.strategies
import numpy as np
import pytest
from hypothesis import given
from PIL import Image
from pycocotools import mask as masks

from captioner.data.readers import read
from captioner.data.records import Record
from captioner.errors import DataError
from captioner.grounding.instances import Instances, attach_boxes, find_instances
from captioner.grounding.segmentation import check_segmentation, decode_segmentation

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
    boxed = attach_boxes(read(file), Instances(beside))
    assert [record.boxes for record in boxed] == [({1: ((0.25, 0.5, 0.5, 1.0),)},), ()]
    assert find_instances(tmp_path / "mine.json") is None


NAN = float("nan")
IMAGE = CONTENT["images"][0]


def changed(part: str, entry: int, **values: Any) -> dict[str, Any]:
    """The content with some values of one entry changed; None removes a key."""
    entries = [dict(each) for each in CONTENT[part]]
    entries[entry] = {key: value for key, value in (entries[entry] | values).items() if value is not None}
    return {**CONTENT, part: entries}


DAMAGED: dict[str, tuple[Any, str]] = {
    "not JSON": ("{", "instances.json"),
    "empty": (" ", "empty"),
    "nested too deeply": ("[" * 100_000, "nested"),
    "a long number": ('{"images": ' + "9" * 5000 + "}", "instances.json"),
    "a list": ([], "'images', 'categories' and 'annotations'"),
    "no annotations": ({"images": [], "categories": CATEGORIES}, "'annotations'"),
    "images an object": ({**CONTENT, "images": {}}, "'images'"),
    "an image that is a text": ({**CONTENT, "images": ["a.png"]}, "entry 0 of 'images'"),
    "an image without id": (changed("images", 0, id=None), "entry 0 of 'images'"),
    "an id that is a list": (changed("images", 0, id=[1]), "entry 0 of 'images'"),
    "an image id twice": (changed("images", 1, id=1), "two images have the id 1"),
    "a file name twice": (changed("images", 1, file_name="a.png"), "a.png"),
    "an image without name": (changed("images", 0, file_name=None), "image 1 has no 'file_name'"),
    "an image without width": (changed("images", 0, width=None), "width None"),
    "an image of width 0": (changed("images", 0, width=0), "width 0"),
    "an image of negative height": (changed("images", 0, height=-20), "height -20"),
    "an image that would fill the memory": (changed("images", 0, width=10**6, height=10**6), "beyond 100,000,000"),
    "an image beyond all numbers": (changed("images", 0, width=1e300, height=1e300), "beyond 100,000,000"),
    "an image of width NaN": (changed("images", 0, width=NAN), "NaN"),
    "an image of width text": (changed("images", 0, width="40"), "width 40"),
    "an image of width true": (changed("images", 0, width=True), "width True"),
    "instances of no class": (changed("images", 0, instances="peple"), "peple"),
    "instances that are a list": (changed("images", 0, instances=["person"]), "'instances'"),
    "a category without name": (changed("categories", 0, name=None), "category 1"),
    "a category id twice": (changed("categories", 1, id=1), "two categories have the id 1"),
    "no class of COCO": ({**CONTENT, "categories": [{"id": 1, "name": "thing"}], "annotations": []}, "thing"),
    "an annotation without image": (changed("annotations", 0, image_id=None), "annotation 1"),
    "an annotation of an unknown image": (changed("annotations", 0, image_id=99), "99"),
    "an annotation of an unknown category": (changed("annotations", 0, category_id=99), "99"),
    "a category id that is a list": (changed("annotations", 0, category_id=[1]), "annotation 1"),
    "an annotation id twice": (changed("annotations", 1, id=1), "two annotations have the id 1"),
    "an annotation without box": (changed("annotations", 0, bbox=None), "annotation 1"),
    "a box of three": (changed("annotations", 0, bbox=[0, 0, 4]), "annotation 1"),
    "a box of text": (changed("annotations", 0, bbox=["0", 0, 4, 4]), "annotation 1"),
    "a box with NaN": (changed("annotations", 0, bbox=[0, NAN, 4, 4]), "NaN"),
    "a box with infinity": (changed("annotations", 0, bbox=[0, 0, float("inf"), 4]), "Infinity"),
    "a box of negative width": (changed("annotations", 0, bbox=[9, 0, -4, 4]), "negative size"),
    "a box outside": (changed("annotations", 0, bbox=[100, 0, 4, 4]), "outside the picture of 40 x 20"),
    "a box larger than the picture": (changed("annotations", 0, bbox=[0, 0, 80, 20]), "outside the picture of 40 x 20"),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_damaged_files_are_refused_with_the_file_the_entry_and_a_remedy(write: Callable[..., Path], case: str) -> None:
    content, named = DAMAGED[case]
    with pytest.raises(DataError) as caught:
        Instances(write(content))
    assert "instances.json" in str(caught.value) and named in str(caught.value)
    assert "\n" not in str(caught.value)


SEGMENTATIONS: dict[str, Any] = {
    "text": "x",
    "a number": 5,
    "a box": [[0, 0, 4, 4]],  # pycocotools takes four numbers for a box
    "an odd count": [[0, 0, 4, 4, 2, 2, 1]],
    "text in a polygon": [[0, 0, 4, "4", 2, 2]],
    "a polygon outside": [[0, 0, 4000, 4, 2, 2]],
    "a polygon below": [[0, 0, 4, 30, 2, 2]],  # of 20 pixels
    "a polygon to the left": [[-5, 0, 4, 3, 2, 2]],
    "a flat list": [0, 0, 4, 4, 2, 2],
    "no counts": {"size": [20, 40]},
    "no size": {"counts": [800]},
    "another size": {"size": [40, 20], "counts": [800]},
    "runs too short": {"size": [20, 40], "counts": [20, 40]},
    "runs too long": {"size": [20, 40], "counts": [20, 4000]},
    "negative runs": {"size": [20, 40], "counts": [-20, 820]},
    "runs of text": {"size": [20, 40], "counts": ["800"]},
    "damaged text": {"size": [20, 40], "counts": "\u00e9"},
    "text cut short": {"size": [20, 40], "counts": "P"},
}


@pytest.mark.parametrize("case", SEGMENTATIONS)
def test_damaged_outlines_are_refused_with_the_file_and_the_annotation(write: Callable[..., Path], case: str) -> None:
    broken = {**CONTENT, "annotations": [annotation(7, 1, 1, [0, 0, 4, 4], segmentation=SEGMENTATIONS[case])]}
    objects = Instances(write(broken)).of("a.png")  # boxes do not need the outline
    assert objects is not None and objects.boxes.keys() == {"person"}
    for use in (lambda: objects.mask("person"), objects.check_masks):
        with pytest.raises(DataError, match=r"instances\.json: annotation 7: .*segmentation"):
            use()


@given(hypothesis.strategies.lists(hypothesis.strategies.booleans(), min_size=24, max_size=24))
def test_compressed_run_lengths_are_those_of_pycocotools(pixels: list[bool]) -> None:
    mask = np.array(pixels).reshape(4, 6)
    encoded = masks.encode(np.asfortranarray(mask.astype(np.uint8)))
    segmentation = {"size": [4, 6], "counts": encoded["counts"].decode()}
    assert check_segmentation(segmentation, 6, 4) == ""
    np.testing.assert_array_equal(decode_segmentation(segmentation, 6, 4), mask)


json_values = hypothesis.strategies.recursive(
    hypothesis.strategies.none()
    | hypothesis.strategies.booleans()
    | hypothesis.strategies.integers()
    | hypothesis.strategies.floats()
    | hypothesis.strategies.text(max_size=3),
    lambda inner: (
        hypothesis.strategies.lists(inner, max_size=3)
        | hypothesis.strategies.dictionaries(hypothesis.strategies.sampled_from(["id", "counts", "size"]), inner)
    ),
    max_leaves=6,
)


@given(hypothesis.strategies.data())
def test_any_value_anywhere_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, data: hypothesis.strategies.DataObject
) -> None:
    content = json.loads(json.dumps(CONTENT))
    large = hypothesis.strategies.sampled_from([10**k for k in (4, 6, 8, 10, 12, 400)])
    part = data.draw(hypothesis.strategies.sampled_from(sorted(CONTENT)))
    entry = data.draw(hypothesis.strategies.sampled_from(content[part]))
    entry[data.draw(hypothesis.strategies.sampled_from(sorted(entry)))] = data.draw(json_values | large)
    path = tmp_path_factory.mktemp("fuzz") / "instances.json"
    path.write_text(json.dumps(content))
    try:
        objects = Instances(path).of("a.png")
        if objects is not None:
            for category in objects.boxes:
                objects.mask(category)
    except DataError as error:
        assert "instances.json" in str(error)


def test_reading_prints_nothing_and_may_be_gzipped(
    write: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    packed = tmp_path / "instances_x.json.gz"
    packed.write_bytes(gzip.compress(json.dumps(CONTENT).encode()))
    assert len(Instances(packed)) == len(Instances(write())) == 3
    assert capsys.readouterr().out == ""
    assert find_instances(tmp_path / "captions_x.json") == packed


def test_boxes_without_area_are_counted(write: Callable[..., Path]) -> None:
    assert Instances(write()).without_area == 1


def test_file_names_with_folders_fit_the_pictures_in_them(write: Callable[..., Path]) -> None:
    images = [{**IMAGE, "file_name": "train/a.png"}, {**CONTENT["images"][1], "file_name": "val/a.png"}]
    instances = Instances(write({**CONTENT, "images": images, "annotations": CONTENT["annotations"][:5]}))
    train, val = instances.of(Path("coco/train/a.png")), instances.of(Path("coco/val/a.png"))
    assert train is not None and val is not None and "dog" in train.boxes and "dog" not in val.boxes
    assert instances.of(Path("a.png")) is None


def test_two_pictures_that_fit_one_entry_are_refused(write: Callable[..., Path]) -> None:
    records = [Record(Path(f"{split}/a.png"), ("a dog",), "dev", split) for split in ("train", "val")]
    with pytest.raises(DataError, match=r"train/a\.png and val/a\.png"):
        attach_boxes(records, Instances(write()))


def test_the_photographs_beside_the_checkout(shared: Path) -> None:
    folder = shared / "data" / "coco"
    records = [record for record in read(folder) if record.split == "dev"]
    records = attach_boxes(records, Instances(folder / "instances.json"))
    boxed = [record for record in records if record.boxes]
    assert len(boxed) > 250
    for record in boxed:
        for several in (boxes for of_caption in record.boxes for boxes in of_caption.values()):
            for left, top, right, bottom in several:
                assert 0 <= left < right <= 1 and 0 <= top < bottom <= 1


def test_outlines_may_exceed_the_picture_by_two_pixels(write: Callable[..., Path]) -> None:
    outline = [[-2, -2, 42, -2, 42, 22, -2, 22]]
    content = {**CONTENT, "annotations": [annotation(7, 1, 1, [-2, -2, 44, 24], segmentation=outline)]}
    objects = Instances(write(content)).of("a.png")
    assert objects is not None
    assert objects.mask("person").all()
