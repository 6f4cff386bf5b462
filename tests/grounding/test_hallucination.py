"""CHAIR: objects that captions name and that are not in the picture."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from captioner.cli import main
from captioner.grounding.hallucination import hallucination

CLASSES = frozenset({"dog", "cat", "person", "car"})


def test_chair_counts_objects_and_captions() -> None:
    captions = {
        1: "a dog and a puppy chase a cat",  # the dogs are there, the cat is not
        2: "a man beside a car and a bus",  # buses are not annotated; people's captions name the car
        3: "a red sky",
        4: "a cat",  # not annotated as a whole
    }
    references = {1: ["a dog"], 2: ["an automobile", "a man"], 3: ["the sky"]}
    present = {1: frozenset({"dog"}), 2: frozenset({"person"}), 3: frozenset[str]()}
    found = hallucination(captions, references, present, classes=CLASSES, resamples=50)
    assert (found.captions, found.mentions) == (3, 5)
    assert (found.chair_i.value, found.chair_s.value) == (pytest.approx(1 / 5), pytest.approx(1 / 3))
    assert found.wrong == {"cat": 1}
    assert "33.3% of 3 captions" in found.lines()[0] and "20.0% of 5 objects" in found.lines()[0]
    assert found.as_dict()["chair_s"]["interval"] is None, "three pictures have no interval"
    many = {i: captions[i % 3 + 1] for i in range(12)}
    again = hallucination(
        many,
        {i: references[i % 3 + 1] for i in many},
        {i: present[i % 3 + 1] for i in many},
        classes=CLASSES,
        resamples=50,
    )
    assert again.chair_s.interval.low < 1 / 3 < again.chair_s.interval.high
    assert f"33.3% ({again.chair_s.interval_text}) of 12" in again.lines()[0]
    nothing = hallucination({3: "a red sky"}, references, present, classes=CLASSES, resamples=9)
    assert math.isnan(nothing.chair_i.value) and nothing.chair_s.value == 0
    assert nothing.as_dict()["chair_i"] == {"value": None, "interval": None}
    assert len(nothing.lines()) == 1


def test_what_describes_another_object_in_a_reference_is_there() -> None:
    captions = {1: "a car on a road", 2: "a driver on a road"}
    references = {1: ["a car driver looks up"], 2: ["a car driver looks up"]}
    nothing = dict.fromkeys(captions, frozenset[str]())
    assert hallucination(captions, references, nothing, classes=CLASSES, resamples=9).wrong == {}
    others = {1: ["a hot dog"], 2: ["a hot dog"]}
    assert hallucination({1: "a dog"}, others, nothing, classes=CLASSES, resamples=9).wrong == {"dog": 1}


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """References of three pictures, results, and instances: of the third picture only people are annotated."""
    images: list[dict[str, Any]] = [
        {
            "id": i,
            "file_name": f"{i:012d}.jpg",
            "width": 10,
            "height": 10,
            **({"instances": "person"} if i == 3 else {}),
        }
        for i in (1, 2, 3)
    ]
    categories = [{"id": 1, "name": "person"}, {"id": 2, "name": "dog"}, {"id": 3, "name": "cat"}]
    boxes = [{"id": i, "image_id": i, "category_id": 2 if i == 1 else 1, "bbox": [1, 1, 5, 5]} for i in (1, 2, 3)]
    contents: dict[str, Any] = {
        "captions": {
            "images": images,
            "annotations": [{"id": i, "image_id": i, "caption": f"a picture number {i}"} for i in (1, 2, 3)],
        },
        "instances": {"images": images, "categories": categories, "annotations": boxes},
        "results": [{"image_id": i, "caption": "a dog and a man"} for i in (1, 2, 3)],
    }
    for name, content in contents.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    return {name: tmp_path / f"{name}.json" for name in contents}


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_evaluate_reports_it_on_fully_annotated_pictures(
    files: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["evaluate", "--annotations", str(files["captions"]), "--results", str(files["results"])]
    arguments += ["--hallucination", str(files["instances"]), "--no-baselines"]
    assert main([*arguments, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["hallucination"]
    assert (found["captions"], found["mentions"], found["wrong"]) == (2, 4, {"person": 1, "dog": 1})
    assert (found["chair_i"]["value"], found["chair_s"]["value"]) == (0.5, 1.0)
    assert main(arguments) == 0
    assert "CHAIR_i" in capsys.readouterr().out


def test_instances_of_other_pictures_are_refused(files: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    content = json.loads(files["instances"].read_text())
    for image in content["images"]:
        image["instances"] = "person"
    files["instances"].write_text(json.dumps(content))
    arguments = ["evaluate", "--annotations", str(files["captions"]), "--results", str(files["results"])]
    assert main([*arguments, "--hallucination", str(files["instances"])]) == 2
    assert "instances.json" in capsys.readouterr().err


def test_intervals_are_of_pictures_and_the_most_frequent_object_is_first() -> None:
    captions = dict.fromkeys(range(3), "a dog near a cat near a car near a man")
    nothing = dict.fromkeys(captions, frozenset[str]())
    found = hallucination(captions, {}, nothing, classes=CLASSES, resamples=20)
    assert found.mentions == 12
    assert found.as_dict()["chair_i"]["interval"] is None, "twelve objects of three pictures have no interval"
    found = hallucination({1: "a dog and a cat", 2: "a cat"}, {}, nothing, classes=CLASSES, resamples=20)
    assert list(found.wrong.items()) == [("cat", 2), ("dog", 1)]
