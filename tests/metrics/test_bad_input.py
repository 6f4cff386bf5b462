"""The table of bad input: each gets a line that names the id or the place, or the right figure."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from captioner.cli import main
from captioner.data.readers import name_as, read_annotations, read_results
from captioner.errors import DataError
from captioner.metrics import evaluate

pytestmark = pytest.mark.filterwarnings("ignore::captioner.metrics.FewPicturesWarning")

Write = Callable[[str, Any], Path]

REFERENCES = {1: ["a dog runs", "the dog is running"], 2: ["a cat sits", "the cat is sitting"]}


def coco(references: dict[Any, list[Any]], images: list[Any] | None = None) -> dict[str, Any]:
    annotations = [{"image_id": key, "caption": caption} for key, group in references.items() for caption in group]
    listed = [{"id": key, "file_name": f"{key:012d}.jpg"} for key in references] if images is None else images
    return {"images": listed, "annotations": annotations}


# Captions by Python: what, hypotheses, references, words of the message.
IN_PYTHON: dict[str, tuple[Any, Any, str]] = {
    "a missing id": ({1: "a dog"}, REFERENCES, "1 of 2 pictures have no caption, the first is 2;"),
    "an extra id": ({1: "a", 2: "b", 7: "c"}, REFERENCES, "without references, the first is 7;"),
    "None": ({1: "a dog", 2: None}, REFERENCES, "the caption of picture 2 is None"),
    "a number": ({1: "a dog", 2: 3.5}, REFERENCES, "the caption of picture 2 is 3.5 (float)"),
    "a list": ({1: "a dog", 2: ["a cat"]}, REFERENCES, "the caption of picture 2 is ['a cat'] (list)"),
    "ids as strings": ({"1": "a dog", "2": "a cat"}, REFERENCES, "captions have '1', references 1;"),
    "mixed ids": ({1: "a dog", "2": "a cat"}, REFERENCES, "the hypotheses mix ids of two types, 1 and '2';"),
    "mixed ids of references": ({1: "a"}, {1: ["a"], "2": ["b"]}, "the references mix ids of two types, 1 and '2';"),
    "a picture without references": ({1: "a", 2: "b"}, {1: ["a"], 2: []}, "picture 2 has no reference caption;"),
    "a reference that is None": ({1: "a", 2: "b"}, {1: ["a"], 2: [None]}, "the reference caption of picture 2 is None"),
    "references as a number": ({1: "a", 2: "b"}, {1: ["a"], 2: 5}, "the references of picture 2 are 5 (int);"),
    "references as one string": ({1: "a", 2: "b"}, {1: ["a"], 2: "b"}, "the references of picture 2 are one string;"),
    "no captions": ({}, REFERENCES, "there are no captions to score"),
    "no references": ({1: "a dog"}, {}, "there are no references to score"),
    "a caption of millions of characters": (
        {1: "a " * 600_000, 2: "a"},
        REFERENCES,
        "picture 1 has 1,200,000 characters;",
    ),
}


@pytest.mark.parametrize("what", IN_PYTHON)
def test_captions_in_python(what: str) -> None:
    hypotheses, references, message = IN_PYTHON[what]
    with pytest.raises(DataError) as raised:
        evaluate(hypotheses, references)
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


# Results files: what, content, words of the message.
RESULTS: dict[str, tuple[Any, str]] = {
    "a second caption of a picture": (
        [{"image_id": 1, "caption": "a"}, {"image_id": 1, "caption": "b"}],
        "entry 1: a second caption of picture 1;",
    ),
    "null": ([{"image_id": 1, "caption": None}], "entry 0: the caption of picture 1 is null, not text"),
    "a number": ([{"image_id": 1, "caption": 5}], "the caption of picture 1 is 5 (int), not text"),
    "no caption": ([{"image_id": 1, "text_": "a"}], "entry 0: picture 1 has no 'caption'"),
    "no id": ([{"caption": "a"}], "entry 0: no 'image_id' or "),
    "an id that is null": ([{"image_id": None, "caption": "a"}], "'image_id' is None;"),
    "an id that is a fraction": ([{"image_id": 1.0, "caption": "a"}], "'image_id' is 1.0;"),
    "an id that is true": ([{"image_id": True, "caption": "a"}], "'image_id' is True;"),
    "an entry that is no object": ([["a"]], "entry 0: ['a'] is not an object"),
    "numbers and strings as ids": (
        [{"image_id": 1, "caption": "a"}, {"image_id": "2", "caption": "b"}],
        "ids of two types, 1 and '2';",
    ),
    "an object": ({"image_id": 1, "caption": "a"}, "is not a list of"),
    "truncated JSON": ('[{"image_id": 1, "caption": "a dog"}, {"image_id"', "line 1 column "),
    "truncated JSON says so": ('[{"image_id": 1, "caption": "a dog"},', "the file is cut short"),
    "an empty file": ("", "is empty"),
    "another encoding": (b'[{"image_id": 1, "caption": "caf\xe9"}]', "line 1: byte 32 is not UTF-8;"),
    "truncated gzip": (gzip.compress(b'[{"image_id": 1, "caption": "a"}]')[:-9], "is damaged or cut short"),
    "deep nesting": ("[" * 100_000, "nested too deeply"),
    "JSON lines with a broken line": ('{"image": "1", "caption": "a"}\n{"image": ', "line 2: not JSON"),
    "CSV with a field too many": ("image,caption\n1,a dog, running\n", "line 2: 3 fields, the header has 2;"),
    "CSV with an open quote": ('image,caption\n1,"a dog\n', "line 2: not CSV: unexpected end of data"),
    "CSV without the columns": ("a,b\n1,2\n", "line 1: the header must name a column with the picture"),
}


@pytest.mark.parametrize("what", RESULTS)
def test_results_files(write: Write, what: str) -> None:
    content, message = RESULTS[what]
    name = "mine.csv" if what.startswith("CSV") else "mine.jsonl" if what.startswith("JSON lines") else "mine.json"
    with pytest.raises(DataError) as raised:
        read_results(write(name, content))
    assert message in str(raised.value)
    assert "mine." in str(raised.value)
    assert "\n" not in str(raised.value)


# Annotations files: what, content, words of the message.
ANNOTATIONS: dict[str, tuple[Any, str]] = {
    "a caption that is null": (coco({1: ["a", None]}), "annotation 1: the caption of picture 1 is null"),
    "a picture twice": (coco({1: ["a"]}, images=[{"id": 1}, {"id": 1}]), "image 1: a second picture with the id 1"),
    "an unknown picture": (coco({1: ["a"]}, images=[{"id": 2}]), "annotation 0: picture 1 is not among"),
    "an annotation twice": (
        {"annotations": [{"id": 9, "image_id": 1, "caption": "a"}] * 2},
        "annotation 1: a second annotation with the id 9",
    ),
    "results instead": ([{"image_id": 1, "caption": "a"}], "is a list, as results are"),
    "something else": ({"captions": []}, "has neither 'annotations'"),
    "Karpathy's splits, none chosen": (
        {"images": [{"split": s, "filename": s, "sentences": []} for s in ("train", "test")]},
        "has the splits train, test; choose one with --split",
    ),
    "Karpathy without sentences": ({"images": [{"filename": "x.jpg"}]}, "picture 'x.jpg' has no list of 'sentences'"),
    "tokens without a tab": ("x.jpg#0\ta dog\nx.jpg#1 a dog\n", "line 2: 'x.jpg#1 a dog' is not of the form"),
}


@pytest.mark.parametrize("what", ANNOTATIONS)
def test_annotations_files(write: Write, what: str) -> None:
    content, message = ANNOTATIONS[what]
    with pytest.raises(DataError) as raised:
        read_annotations(write("refs.json" if not isinstance(content, str) else "refs.txt", content))
    assert message in str(raised.value)


def test_a_missing_file_and_a_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere.json: cannot read .*No such file"):
        read_results(tmp_path / "nowhere.json")
    with pytest.raises(DataError, match="no captions found"):
        read_annotations(tmp_path)


@pytest.mark.parametrize("separator", ["\r", "\x0b", "\x0c", "\x1c", "\x85", "\u2028", "\u2029", "\r\n", "\n"])
def test_separators_of_lines_inside_a_caption_shift_nothing(separator: str) -> None:
    captions = {1: f"a dog{separator}runs", 2: "a cat sits"}
    assert (
        evaluate(captions, REFERENCES).as_dict() == evaluate({1: "a dog runs", 2: "a cat sits"}, REFERENCES).as_dict()
    )


@pytest.mark.parametrize("separator", ["\r", "\x0b", "\x0c", "\x85", "\u2028", "\u2029"])
@pytest.mark.parametrize("name", ["mine.json", "mine.jsonl", "mine.csv"])
def test_separators_of_lines_inside_files(write: Write, name: str, separator: str) -> None:
    caption = f"a dog{separator}runs"
    rows = [{"image_id": 1, "caption": caption}, {"image_id": 2, "caption": "a cat"}]
    text = {
        "mine.json": json.dumps(rows, ensure_ascii=False),
        "mine.jsonl": "\n".join(json.dumps(row, ensure_ascii=False) for row in rows),
        "mine.csv": f'image_id,caption\n1,"{caption}"\n2,a cat\n',
    }[name]
    found = read_results(write(name, text))
    assert {int(key): text for key, text in found.items()} == {1: caption, 2: "a cat"}


def test_an_empty_caption_scores_0() -> None:
    scores = evaluate({1: "", 2: "a cat sits"}, REFERENCES)
    assert scores.per_picture()[1]["ROUGE-L"] == 0.0
    assert scores.per_picture()[1]["BLEU-1"] == pytest.approx(0.0, abs=1e-12)


def test_lone_surrogates_are_no_words(write: Write) -> None:
    path = write("mine.json", '[{"image_id": 1, "caption": "a dog \\ud83d runs"}, {"image_id": 2, "caption": "a cat"}]')
    scores = evaluate(read_results(path), REFERENCES)
    assert scores.as_dict() == evaluate({1: "a dog runs", 2: "a cat"}, REFERENCES).as_dict()


def test_a_caption_of_40_000_words() -> None:
    scores = evaluate({1: "a dog runs " * 13_334, 2: "a cat"}, REFERENCES)
    assert scores.per_picture()[1]["BLEU-1"] == pytest.approx(3 / 40_002, rel=1e-6)


def test_partial_scores_what_both_have() -> None:
    scores = evaluate({1: "a dog", 9: "a bird"}, REFERENCES, partial=True)
    assert scores.ids == (1,)
    with pytest.raises(DataError, match="no id is in both"):
        evaluate({9: "a bird"}, REFERENCES, partial=True)


def test_numbers_as_strings_and_file_names_find_their_pictures(write: Write) -> None:
    annotations = read_annotations(write("refs.json", coco(REFERENCES)))
    expected = {1: "a dog", 2: "a cat"}
    assert name_as({"1": "a dog", "2": "a cat"}, annotations) == expected
    assert name_as({"val/000000000001.jpg": "a dog", "val/000000000002.jpg": "a cat"}, annotations) == expected
    more: dict[Any, str] = {"1": "a dog", "02": "a cat"}
    with pytest.raises(DataError, match=r"1 captions .*'02'"):
        name_as(more, annotations)
    assert name_as(more, annotations, partial=True) == {1: "a dog"}
    twice: dict[Any, str] = {"a/000000000001.jpg": "a dog", "b/000000000001.jpg": "a cat"}
    assert name_as(twice, annotations) == twice


def test_results_with_folders_find_pictures_that_go_by_their_file_names(write: Write) -> None:
    """What ``captioner caption photos/ --output mine.jsonl`` writes, against a token file."""
    annotations = read_annotations(write("tokens.txt", "x.jpg#0\ta dog\ny.jpg#0\ta cat\n"))
    results = read_results(write("mine.jsonl", '{"image": "photos/x.jpg", "caption": "a dog"}\n'))
    assert name_as(results, annotations) == {"x.jpg": "a dog"}
    same = read_annotations(write("rows.csv", "image,caption\na/x.jpg,a dog\nb/x.jpg,a cat\n"))
    assert name_as(results, same) == results


def test_json_lines_under_another_name(write: Write) -> None:
    lines = '{"image_id": 1, "caption": "a dog"}\n{"image_id": 2, "caption": "a cat"}\n'
    assert read_results(write("mine.json", lines)) == {1: "a dog", 2: "a cat"}


# What the command gets that the readers alone cannot know to be wrong.
TOGETHER: dict[tuple[str, str], tuple[Any, str]] = {
    ("results", "a missing id"): (
        [{"image_id": 1, "caption": "a"}],
        "bad.json: 1 of 2 pictures have no caption, the first is 2",
    ),
    ("results", "an extra id"): (
        [{"image_id": number, "caption": "a"} for number in (1, 2, 7)],
        "bad.json: 1 captions are of pictures without references, the first is 7",
    ),
    ("results", "no id in common"): (
        [{"image_id": "x.jpg", "caption": "a"}],
        "bad.json: no id is in both: captions have 'x.jpg', references 1",
    ),
    ("results", "no captions"): ([], "bad.json has no captions"),
    ("annotations", "a picture without captions"): (
        coco({1: ["a"], 2: []}),
        "bad.json: picture 2 has no reference caption",
    ),
    ("annotations", "mixed ids"): (
        {"annotations": [{"image_id": key, "caption": "a"} for key in (1, "2")]},
        "bad.json has ids of two types, 1 and '2'",
    ),
    ("annotations", "no captions"): ({"images": [], "annotations": []}, "bad.json has no captions"),
}
BAD_FILES = {
    **{("results", what): bad for what, bad in RESULTS.items()},
    **{("annotations", what): bad for what, bad in ANNOTATIONS.items()},
    **TOGETHER,
}


@pytest.mark.parametrize("which", BAD_FILES, ids=" ".join)
def test_as_a_user_sees_it(write: Write, capsys: pytest.CaptureFixture[str], which: tuple[str, str]) -> None:
    """Exit code 2, nothing on standard output, one line on standard error that names the file or the picture."""
    kind, what = which
    suffix = "csv" if what.startswith("CSV") else "jsonl" if what.startswith("JSON lines") else "json"
    files = {
        "annotations": write("refs.json", coco(REFERENCES)),
        "results": write("mine.json", [{"image_id": 1, "caption": "a"}, {"image_id": 2, "caption": "b"}]),
    }
    content, message = BAD_FILES[which]
    files[kind] = write(f"bad.{suffix}", content)
    code = main(["evaluate", "--annotations", str(files["annotations"]), "--results", str(files["results"])])
    captured = capsys.readouterr()
    assert (code, captured.out) == (2, "")
    assert captured.err.startswith("captioner: ")
    assert captured.err.count("\n") == 1
    assert message in captured.err
