"""The formats that references and results come in, all with the same content."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from captioner.data.readers import LeftOutWarning, read, read_annotations, read_results
from captioner.errors import DataError

Write = Callable[[str, Any], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write a file into the test's folder: text as it is, bytes as they are, anything else as JSON."""

    def write(name: str, content: Any) -> Path:
        path = tmp_path / name
        content = content if isinstance(content, bytes | str) else json.dumps(content)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


EXPECTED = {"x.jpg": ["A dog runs.", "The dog"], "y.jpg": ["A cat, sitting"]}
FLAT = [(name, caption) for name, group in EXPECTED.items() for caption in group]

FORMS: dict[str, Any] = {
    "coco.json": {
        "images": [{"id": name} for name in EXPECTED],
        "annotations": [{"id": i, "image_id": name, "caption": text} for i, (name, text) in enumerate(FLAT)],
    },
    "karpathy.json": {
        "images": [
            {"filename": name, "split": "test", "sentences": [{"raw": text, "tokens": []} for text in group]}
            for name, group in EXPECTED.items()
        ]
    },
    "flickr.token.txt": "".join(
        f"{name}#{i}\t{text}\n" for name, group in EXPECTED.items() for i, text in enumerate(group)
    ),
    "rows.csv": "image,caption\n" + "".join(f'{name},"{text}"\n' for name, text in FLAT),
    "rows.tsv": "image\tcaption\r\n" + "".join(f"{name}\t{text}\r\n" for name, text in FLAT),
    "rows.jsonl": "\n".join(json.dumps({"image": name, "caption": text}) for name, text in FLAT),
    "lists.jsonl": "\n".join(json.dumps({"image": name, "captions": group}) for name, group in EXPECTED.items()),
}


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("name", FORMS)
def test_every_form_gives_the_same_references(write: Write, name: str, zipped: bool) -> None:
    path = write(name, FORMS[name])
    if zipped:
        path = write(f"{name}.gz", gzip.compress(path.read_bytes()))
    assert read_annotations(path).references == EXPECTED


def test_a_picture_without_annotations_is_kept_with_an_empty_list(write: Write) -> None:
    path = write("refs.json", {"images": [{"id": 1}, {"id": 2}], "annotations": [{"image_id": 2, "caption": "a"}]})
    assert read_annotations(path).references == {1: [], 2: ["a"]}


def test_karpathy_files_of_coco_go_by_their_coco_number(write: Write) -> None:
    images = [
        {"filename": "a.jpg", "cocoid": 5, "split": "val", "sentences": [{"raw": "a dog"}]},
        {"filename": "b.jpg", "cocoid": 6, "split": "test", "sentences": [{"raw": "a cat"}]},
    ]
    found = read_annotations(write("karpathy.json", {"images": images}), split="test")
    assert found.references == {6: ["a cat"]}
    assert found.file_names == {6: "b.jpg"}
    for name in ("val", "dev", "validation", "Valid"):
        assert read_annotations(write("karpathy.json", {"images": images}), split=name).references == {5: ["a dog"]}
    with pytest.raises(DataError, match="no split 'train', only dev, test"):
        read_annotations(write("karpathy.json", {"images": images}), split="train")


def test_one_split_of_coco_annotations_that_have_them(write: Write) -> None:
    content = {
        "images": [{"id": 1, "split": "dev"}, {"id": 2, "split": "test"}],
        "annotations": [{"image_id": 1, "caption": "a"}, {"image_id": 2, "caption": "b"}],
    }
    assert read_annotations(write("refs.json", content), split="dev").references == {1: ["a"]}
    del content["images"][0]["split"]
    with pytest.warns(LeftOutWarning, match="1 of 2 .*no split"):
        assert read_annotations(write("refs.json", content), split="test").references == {2: ["b"]}


def test_one_split_of_a_token_file_by_a_list_of_names(write: Write) -> None:
    path = write("flickr.token.txt", FORMS["flickr.token.txt"])
    write("test.txt", "y.jpg\n")
    assert read_annotations(path, split="test.txt").references == {"y.jpg": ["A cat, sitting"]}
    write("more.txt", "y.jpg\nz.jpg\n")
    with pytest.raises(DataError, match=r"more.txt.*z.jpg"):
        read_annotations(path, split="more.txt")
    with pytest.raises(DataError, match="names no such split"):
        read_annotations(path, split="dev")


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("r.json", [{"image_id": 1, "caption": "a dog"}], {1: "a dog"}),
        ("r.json", '\ufeff[{"image_id": 1, "caption": "a dog"}]', {1: "a dog"}),
        ("r.jsonl", '{"image": "p/x.jpg", "caption": "a dog", "words": []}\n', {"p/x.jpg": "a dog"}),
        ("r.csv", 'image_id;caption\n7;"a dog; a cat"\n', {"7": "a dog; a cat"}),
        ("r.csv", f"image_id,caption\n7,{'dog ' * 40_000}\n", {"7": "dog " * 40_000}),
    ],
)
def test_forms_of_results(write: Write, name: str, content: Any, expected: dict[Any, str]) -> None:
    assert read_results(write(name, content)) == expected


def test_without_splits_dev_is_that_of_training(write: Write, tmp_path: Path) -> None:
    names = [f"{i}.jpg" for i in range(60)]
    path = write("captions.csv", "image,caption\n" + "".join(f"{name},a dog\n" for name in names))
    for name in names:
        (tmp_path / name).touch()
    records = read(path)
    for split in ("train", "dev"):
        assert list(read_annotations(path, split=split).references) == [r.id for r in records if r.split == split]
    assert read_annotations(path, split="val").references == read_annotations(path, split="dev").references
    with pytest.raises(DataError, match="has no split 'test', only train, dev"):
        read_annotations(path, split="test")
    write("dev", "3.jpg\n")
    assert list(read_annotations(path, split="dev").references) == ["3.jpg"], "a list of names is one"


def test_open_edits_are_no_results(write: Write) -> None:
    def row(image: str, status: str, caption: str) -> str:
        return json.dumps({"image": image, "status": status, "original": "a cat", "caption": caption}) + "\n"

    lines = [row("a.jpg", "edited", "a dog"), row("b.jpg", "flagged", "a cow"), row("a.jpg", "edited", "two dogs")]
    path = write("edits.jsonl", "".join(lines))
    assert read_results(path) == {"a.jpg": "two dogs"}
    assert read_annotations(path).references == {"a.jpg": ["two dogs"]}
