"""Each format of captions gives the same records; what is wrong with a file is reported with its place."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from captioner.data.readers import read
from captioner.data.records import Record
from captioner.errors import DataError

pytestmark = pytest.mark.filterwarnings("ignore::captioner.data.readers.LeftOutWarning")

NAMES = ("a.jpg", "b.jpg", "c.jpg")
SPLITS = {"a.jpg": "train", "b.jpg": "dev", "c.jpg": "test"}
CAPTIONS = {"a.jpg": ("A dog runs .", "A brown dog ."), "b.jpg": ("A cat, asleep .",), "c.jpg": ("A ball .",)}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A data set's folder with three pictures, which readers look for and do not open."""
    (tmp_path / "images").mkdir()
    for name in NAMES:
        (tmp_path / "images" / name).touch()
    return tmp_path


def write(path: Path, content: Any) -> Path:
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def flickr_splits(folder: Path) -> None:
    for name, split in SPLITS.items():
        write(folder / f"Flickr_8k.{split}Images.txt", name + "\n")


def flickr8k(folder: Path) -> Path:
    flickr_splits(folder)
    lines = [f"{name}#{k}\t{caption}\n" for name in NAMES for k, caption in enumerate(CAPTIONS[name])]
    return write(folder / "Flickr8k.token.txt", "".join(lines))


def captions_txt(folder: Path) -> Path:
    flickr_splits(folder)
    # As it is passed around: captions with commas stand in quotes, or do not.
    lines = [f"{name},{caption}\n" for name in NAMES for caption in CAPTIONS[name]]
    return write(folder / "captions.txt", "image,caption\n" + "".join(lines))


def csv_with_splits(folder: Path) -> Path:
    lines = [f'{name},"{caption}",{SPLITS[name]}\n' for name in NAMES for caption in CAPTIONS[name]]
    return write(folder / "captions.csv", "\ufeffimage,caption,split\n" + "".join(lines))


def json_lines(folder: Path) -> Path:
    rows = [{"image": n, "caption": c, "split": SPLITS[n]} for n in NAMES for c in CAPTIONS[n]]
    return write(folder / "captions.jsonl", "\n".join(map(json.dumps, rows)))


def karpathy(folder: Path) -> Path:
    names = {"train": "restval", "dev": "val", "test": "test"}
    images = [
        {"filename": n, "split": names[SPLITS[n]], "sentences": [{"raw": c, "tokens": c.split()} for c in CAPTIONS[n]]}
        for n in NAMES
    ]
    return write(folder / "dataset_flickr8k.json", {"images": images, "dataset": "flickr8k"})


def coco(folder: Path) -> Path:
    images = [{"id": i, "file_name": n, "split": SPLITS[n]} for i, n in enumerate(NAMES)]
    captions = [(i, caption) for i, name in enumerate(NAMES) for caption in CAPTIONS[name]]
    annotations = [{"id": k, "image_id": i, "caption": caption} for k, (i, caption) in enumerate(captions)]
    return write(folder / "captions.json", {"images": images, "annotations": annotations})


FORMATS = [flickr8k, captions_txt, csv_with_splits, json_lines, karpathy, coco]


@pytest.mark.parametrize("make", FORMATS)
@pytest.mark.parametrize("whole_folder", [True, False])
def test_every_format_gives_the_same_records(
    folder: Path, make: Callable[[Path], Path], whole_folder: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    file = make(folder)
    records = read(folder if whole_folder else file)
    assert {record.image for record in records} == {folder / "images" / name for name in NAMES}
    for record in records:
        assert record.captions == CAPTIONS[record.image.name]
        assert record.split == SPLITS[record.image.name]
    assert capsys.readouterr().out == ""  # pycocotools chats


@pytest.mark.parametrize("make", FORMATS)
def test_pictures_may_be_elsewhere(folder: Path, tmp_path: Path, make: Callable[[Path], Path]) -> None:
    file = make(folder)
    elsewhere = tmp_path / "elsewhere"
    (folder / "images").rename(elsewhere)
    with pytest.raises(DataError, match="--images"):
        read(file)
    assert {record.image.parent for record in read(file, images=elsewhere)} == {elsewhere}
    with pytest.raises(DataError, match=r"nowhere: no such folder"):
        read(file, images=tmp_path / "nowhere")


def test_the_folder_of_flickr8k_as_it_is_downloaded(folder: Path) -> None:
    """It holds the captions a second time, lemmatised, and files of judgements."""
    flickr8k(folder)
    write(folder / "Flickr8k.lemma.token.txt", "a.jpg#0\tA dog run .\n")
    write(folder / "ExpertAnnotations.txt", "a.jpg\tb.jpg#2\t1\t1\t2\n")
    assert {r.image.name: r.captions for r in read(folder)} == CAPTIONS


def test_flickr8k_pictures_of_no_split_are_in_none(folder: Path) -> None:
    file = flickr8k(folder)
    (folder / "Flickr_8k.testImages.txt").unlink()
    assert {record.image.name: record.split for record in read(file)} == {**SPLITS, "c.jpg": ""}


@pytest.mark.parametrize(
    ("name", "split"),
    [("captions_train2017.json", "train"), ("captions_val2017.json", "dev"), ("captions_test.json", "test")],
)
def test_the_name_of_a_coco_file_is_its_split(folder: Path, name: str, split: str) -> None:
    images = [{"id": 5, "file_name": "a.jpg"}]
    write(folder / name, {"images": images, "annotations": [{"id": 1, "image_id": 5, "caption": " A dog . "}]})
    assert read(folder / name) == [Record(folder / "images" / "a.jpg", ("A dog .",), split, "5")]


def test_coco_pictures_lie_where_karpathy_says(folder: Path) -> None:
    (folder / "val2014").mkdir()
    (folder / "val2014" / "x.jpg").touch()
    image = {"filepath": "val2014", "filename": "x.jpg", "cocoid": 77, "split": "train"}
    write(folder / "dataset_coco.json", {"images": [{**image, "sentences": [{"tokens": ["a", "dog"]}]}]})
    assert read(folder) == [Record(folder / "val2014" / "x.jpg", ("a dog",), "train", "77")]


def test_without_splits_the_same_pictures_are_always_dev(folder: Path) -> None:
    file, names = folder / "captions.jsonl", [f"{i}.jpg" for i in range(400)]
    rows = [json.dumps({"image": name, "caption": "a dog"}) for name in names]
    first = {r.image.name: r.split for r in read(write(file, "\n".join(rows)), images=folder)}
    again = {r.image.name: r.split for r in read(write(file, "\n".join(rows[::-1][:200])), images=folder)}
    assert again.items() <= first.items()
    assert 8 <= sum(split == "dev" for split in first.values()) <= 40  # about one in twenty


def test_boxes_of_words_come_with_their_caption(folder: Path) -> None:
    one, two = [0, 0.25, 0.5, 1], [0.5, 0, 1, 0.5]
    rows = [
        {"image": "a.jpg", "caption": "a dog", "boxes": {"1": one}},
        {"image": "a.jpg", "caption": "an animal"},
        {"image": "a.jpg", "caption": "two dogs", "boxes": {"1": [one, two]}},
    ]
    (record,) = read(write(folder / "captions.jsonl", "\n".join(map(json.dumps, rows))))
    assert record.captions == ("a dog", "an animal", "two dogs")
    assert record.boxes == ({1: (tuple(one),)}, {}, {1: (tuple(one), tuple(two))})


ROW = {"image": "a.jpg", "caption": "a dog"}

# What is wrong, the file's name, its content, words of the message.
BAD_FILES: dict[str, tuple[str, Any, str]] = {
    "JSON that is cut off": ("captions.json", '{"images": [', "line 1 column 13"),
    "JSON of another kind": ("captions.json", {"a": 1}, "neither 'annotations'"),
    "a JSON list": ("captions.json", [1], "is a list, as results are"),
    "COCO without file names": (
        "captions.json",
        {"images": [{"id": 1}], "annotations": [{"image_id": 1, "caption": "a dog"}]},
        "image 0: picture 1 has no name of a file; add",
    ),
    "COCO with a caption that is null": (
        "captions.json",
        {"images": [{"id": 1, "file_name": "a.jpg"}], "annotations": [{"id": 1, "image_id": 1, "caption": None}]},
        "annotation 0: the caption of picture 1 is null",
    ),
    "COCO without captions": (
        "captions.json",
        {"images": [{"id": 1, "file_name": "a.jpg"}], "annotations": []},
        "no captions in it",
    ),
    "Karpathy without sentences": ("dataset.json", {"images": [{"filename": "a.jpg", "split": "val"}]}, "'sentences'"),
    "JSON lines with a broken line": (
        "captions.jsonl",
        json.dumps(ROW) + '\n{"image"',
        "jsonl, line 2: not JSON",
    ),
    "JSON lines with a list": ("captions.jsonl", "[1]", "captions.jsonl, line 1: '[1]' is not an object"),
    "a row without caption": (
        "captions.jsonl",
        '{"image": "a.jpg"}',
        "line 1: picture 'a.jpg' has no",
    ),
    "a caption of blanks": (
        "captions.jsonl",
        '{"image": "a.jpg", "caption": " "}',
        "no captions in it",
    ),
    "a caption that is a number": ("captions.jsonl", '{"image": "a.jpg", "caption": 3}', "is 3 (int), not text"),
    "an unknown split": ("captions.jsonl", json.dumps({**ROW, "split": "dve"}), "the split 'dve' is none of"),
    "boxes as a list": ("captions.jsonl", json.dumps({**ROW, "boxes": [1]}), "'boxes' maps places of words"),
    "a box of three": (
        "captions.jsonl",
        json.dumps({**ROW, "boxes": {"1": [0, 0, 1]}}),
        "or to a list of these, not {'1'",
    ),
    "no box": ("captions.jsonl", json.dumps({**ROW, "boxes": {"1": []}}), "'boxes' maps places of words"),
    "a box of strings": ("captions.jsonl", json.dumps({**ROW, "boxes": {"1": ["0", "0", "1", "1"]}}), "maps places"),
    "a box for a box": ("captions.jsonl", json.dumps({**ROW, "boxes": {"1": {"0": 1}}}), "'boxes' maps places"),
    "a box in pixels": ("captions.jsonl", json.dumps({**ROW, "boxes": {"1": [0, 0, 20, 20]}}), "in fractions"),
    "a box inside out": ("captions.jsonl", json.dumps({**ROW, "boxes": {"1": [0.5, 0, 0.2, 1]}}), "in fractions"),
    "CSV without a header": ("captions.csv", "a.jpg,a dog\n", "line 1: the header must name"),
    "an empty CSV": ("captions.csv", "", "is empty"),
    "CSV with the header alone": ("captions.csv", "image,caption\n", "no captions in it"),
    "CSV with a short row": (
        "captions.csv",
        "image,caption\na.jpg,a dog\nb.jpg\n",
        "csv, line 3: 1 fields",
    ),
    "CSV with a quote left open": (
        "captions.csv",
        'image,caption\na.jpg,"a dog\n' + "b.jpg,a cat\n" * 20_000,
        "captions.csv, line 2: ",
    ),
    "CSV with a short quote left open": ("captions.csv", 'image,caption\na.jpg,"a dog\nb.jpg,a cat\n', "csv, line 2: "),
    "Flickr8k without a tab": (
        "Flickr8k.token.txt",
        "a.jpg#0\tA dog .\na.jpg#1 A dog .\n",
        "txt, line 2: 'a.jpg#1 A dog",
    ),
    "Flickr8k without a caption": ("Flickr8k.token.txt", "a.jpg#0\t\n", "no captions in it"),
    "Flickr8k without splits": ("Flickr8k.token.txt", "a.jpg#0\tA dog .\n", "no *.trainImages.txt beside"),
}


@pytest.mark.parametrize("what", BAD_FILES)
def test_bad_files(folder: Path, what: str) -> None:
    name, content, words = BAD_FILES[what]
    with pytest.raises(DataError) as raised:
        read(write(folder / name, content))
    assert words in str(raised.value)
    assert str(folder) in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_file_in_another_encoding_is_refused(folder: Path) -> None:
    (folder / "captions.csv").write_bytes("image,caption\na.jpg,a café\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"captions.csv, line 2.*UTF-8"):
        read(folder)


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere: no such file or folder"):
        read(tmp_path / "nowhere")
    with pytest.raises(DataError, match="no captions found; looked for"):
        read(tmp_path)


def test_several_files_of_captions_are_not_chosen_from(folder: Path) -> None:
    coco(folder)
    write(folder / "captions_val.json", {})
    with pytest.raises(DataError, match=r"captions.json, captions_val.json"):
        read(folder)


def test_a_picture_in_two_splits_is_refused(folder: Path) -> None:
    """Training on what one is tested on is the mistake that a reader can still prevent."""
    rows = [{**ROW, "split": "train"}, {**ROW, "split": "test"}]
    with pytest.raises(DataError, match=r"captions.jsonl, line 2: a.jpg.*train.*test"):
        read(write(folder / "captions.jsonl", "\n".join(map(json.dumps, rows))))
    (folder / "captions.jsonl").unlink()

    file = flickr8k(folder)
    write(folder / "Flickr_8k.testImages.txt", "c.jpg\na.jpg\n")
    with pytest.raises(DataError, match=r"testImages.txt: a.jpg.*train"):
        read(file)

    images = [{"filename": "a.jpg", "split": split, "sentences": [{"raw": "a"}]} for split in ("train", "val")]
    with pytest.raises(DataError, match=r"image 1: .*a.jpg"):
        read(write(folder / "dataset.json", {"images": images}))


def test_thumbnails_of_some_pictures_do_not_stand_for_all(folder: Path) -> None:
    for name in NAMES:
        (folder / name).touch()
    for name in NAMES[1:]:
        (folder / "images" / name).unlink()
    assert [record.image for record in read(csv_with_splits(folder))] == [folder / name for name in NAMES]
