"""What readers refuse, what they leave out and count, and that training and evaluation agree on it."""

import gzip
import json
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from captioner.data import readers
from captioner.data.readers import READERS, Entry, LeftOutWarning, read, read_annotations, read_results
from captioner.data.readers.formats import Format, Source
from captioner.errors import CaptionerError, DataError

Write = Callable[[str, Any], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write a file beside the pictures a.png to d.png: bytes and text as they are, anything else as JSON."""
    for name in "abcd":
        (tmp_path / f"{name}.png").touch()

    def write(name: str, content: Any) -> Path:
        path = tmp_path / name
        content = content if isinstance(content, bytes | str) else json.dumps(content)
        path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass"))
        return path

    return write


def coco(splits: list[Any], captions: list[list[str]] | None = None, **more: Any) -> dict[str, Any]:
    captions = captions or [["a dog"] for _ in splits]
    images = [{"id": i, "file_name": f"{'abcd'[i]}.png", "split": split} for i, split in enumerate(splits)]
    rows = [(i, caption) for i, group in enumerate(captions) for caption in group]
    annotations = [{"id": k, "image_id": i, "caption": caption} for k, (i, caption) in enumerate(rows)]
    return {"images": images, "annotations": annotations} | more


# CSV with unquoted commas


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("caption,image\na dog, on grass,a.png\n", 2),
        ("image,caption,annotator\nb.png,a cat,7\na.png,a dog, on grass,7\n", 3),
        ("image,caption,split\na.png,a dog, train,train\n", 2),
        ("image;caption;split\na.png;a dog; train;train\n", 2),
        ("image\tcaption\tsplit\na.png\ta dog\ttrain\ttrain\n", 2),
    ],
)
def test_a_row_with_more_fields_than_the_header_is_refused(write: Write, text: str, line: int) -> None:
    path = write("captions.csv", text)
    for reader in (read, read_annotations, read_results):
        with pytest.raises(DataError, match=rf"captions.csv, line {line}: .*in double quotes"):
            reader(path)


def test_commas_of_the_last_column_are_put_back_for_training_alone(write: Write) -> None:
    path = write("captions.csv", "image,caption\na.png,a dog, on grass, runs\n")
    assert read(path)[0].captions == ("a dog, on grass, runs",)
    with pytest.raises(DataError, match="line 2: 4 fields"):
        read_annotations(path)


# Duplicate ids

DUPLICATES: dict[str, tuple[str, Any, str]] = {
    "images": ("captions.json", coco(["train", "dev"]) | {"images": [{"id": 0, "file_name": "a.png"}] * 2}, "image 1"),
    "annotations": (
        "captions.json",
        coco(["train"]) | {"annotations": [{"id": 5, "image_id": 0, "caption": text} for text in ("a dog", "a cat")]},
        "annotation 1",
    ),
    "Karpathy": (
        "dataset.json",
        {"images": [{"filename": "a.png", "cocoid": 3, "sentences": [{"raw": "a dog"}]}] * 2},
        "image 1: a second picture with the id 3",
    ),
    "token": ("x.token.txt", "a.png#0\ta dog\na.png#0\ta cat\n", "line 2: a second caption with the id 'a.png#0'"),
    "lists": ("captions.jsonl", '{"image": "a.png", "captions": ["a dog"]}\n' * 2, "line 2"),
    "digits": ("captions.jsonl", '{"image": "a.png", "id": ' + "1" * 5000 + "}\n", "write it as a string"),
    "keys": ("captions.jsonl", '{"image": "a.png", "caption": "a dog", "caption": "a cat"}\n', "'caption' twice"),
    "columns": ("captions.csv", "image,caption,caption\na.png,a dog,a cat\n", "'caption' twice"),
    "annotations of two types": (
        "captions.json",
        coco(["train"]) | {"annotations": [{"id": i, "image_id": 0, "caption": "a dog"} for i in (5, "5")]},
        "annotation 1",
    ),
    "two types": ("captions.json", {"annotations": [{"image_id": k, "caption": "a"} for k in (1, "2")]}, "two types"),
}


@pytest.mark.parametrize("what", DUPLICATES)
def test_duplicates_are_refused_by_all(write: Write, what: str) -> None:
    name, content, words = DUPLICATES[what]
    path = write(name, content)
    for reader in (read, read_annotations):
        with pytest.raises(DataError) as raised:
            reader(path)
        assert words in str(raised.value)
        assert name in str(raised.value)


# Splits


@pytest.mark.parametrize("name", ["captions_latest", "captions_device", "captions_retrieval", "captions_trainer"])
@pytest.mark.parametrize("suffix", [".json", ".csv"])
def test_a_piece_of_a_word_of_the_name_is_no_split(write: Write, name: str, suffix: str) -> None:
    content = {
        ".json": {"images": [{"id": 1, "file_name": "a.png"}], "annotations": [{"image_id": 1, "caption": "a dog"}]},
        ".csv": "image,caption\na.png,a dog\n",
    }[suffix]
    assert read(write(name + suffix, content))[0].split == "train"  # by the checksum of its name
    with pytest.raises(DataError, match="dev"):
        read_annotations(write(name + suffix, content), split="dev")


@pytest.mark.parametrize(
    ("name", "split"),
    [("captions_val2014", "dev"), ("captions.test", "test"), ("dev-captions", "dev"), ("Captions_TRAIN_3", "train"),
     ("captions_train_val", None)],
)  # fmt: skip
def test_whole_words_of_the_name_are_the_split(write: Write, name: str, split: str | None) -> None:
    path = write(f"{name}.csv", "image,caption\na.png,a dog\n")
    assert read(path)[0].split == (split or "train")
    if split:
        assert read_annotations(path, split=split).references == {"a.png": ["a dog"]}


WORDS = {"training": "train", "Train": "train", "val": "dev", "valid": "dev", "validation": "dev", " dev ": "dev",
         "restval": "train", "TEST": "test"}  # fmt: skip


@pytest.mark.parametrize("word", WORDS)
def test_names_of_splits_mean_the_same_everywhere(write: Write, word: str) -> None:
    sentences = [{"raw": "a dog"}]
    files = [
        write("coco.json", coco([word])),
        write("karpathy.json", {"images": [{"filename": "a.png", "split": word, "sentences": sentences}]}),
        write("rows.csv", f"image,caption,split\na.png,a dog,{word}\n"),
        write("rows.jsonl", {"image": "a.png", "caption": "a dog", "split": word}),
    ]
    for path in files:
        assert [record.split for record in read(path)] == [WORDS[word]]
        assert list(read_annotations(path, split=word).references.values()) == [["a dog"]]


@pytest.mark.parametrize("word", ["tranning", "testA", 3, True, ["train"]])
def test_an_unknown_split_is_refused_with_its_place_and_the_known_names(write: Write, word: Any) -> None:
    files = [
        write("coco.json", coco(["train", word])),
        write("rows.jsonl", "\n" + json.dumps({"image": "a.png", "caption": "a dog", "split": word})),
        write("karpathy.json", {"images": [{"filename": "a.png", "split": word, "sentences": []}]}),
    ]  # fmt: skip
    for path in files:
        for reader in (read, read_annotations):
            with pytest.raises(DataError, match=r"(image|line) \d: the split .* is none of train, .*dev, val"):
                reader(path)


def test_blank_splits_are_counted_and_in_no_split(write: Write) -> None:
    files = [
        write("coco.json", coco(["train", "training", "dev", ""])),
        write("null.json", coco(["train", "train", "dev", None])),
        write("rows.csv", "image,caption,split\na.png,a dog,train\nb.png,a,train\nc.png,a,dev\nd.png,a, \n"),
        write("rows.jsonl", "".join(json.dumps({"image": f"{n}.png", "caption": "a", "split": s}) + "\n"
                                    for n, s in zip("abcd", ("train", "train", "dev", ""), strict=True))),
    ]  # fmt: skip
    for path in files:
        with pytest.warns(LeftOutWarning, match="1 of 4 .*no split"):
            assert [record.split for record in read(path)] == ["train", "train", "dev", ""]
        with pytest.warns(LeftOutWarning, match="1 of 4 pictures have no split"):
            assert len(read_annotations(path, split="train").references) == 2


# Captions without words


def test_captions_without_words_are_left_out_and_counted(write: Write) -> None:
    texts = [["a dog", "   "], ["", " . "], ["a cat"]]
    karpathy = [
        {"filename": f"{'abc'[i]}.png", "split": "train", "sentences": [{"raw": text} for text in group]}
        for i, group in enumerate(texts)
    ]
    table = "".join(f'{"abc"[i]}.png,"{text}"\n' for i, group in enumerate(texts) for text in group)
    token = "".join(f"{'abc'[i]}.png#{k}\t{text}\n" for i, group in enumerate(texts) for k, text in enumerate(group))
    write("x.trainImages.txt", "a.png\nb.png\nc.png\n")
    files = [
        write("coco.json", coco(["train"] * 3, texts)),
        write("karpathy.json", {"images": karpathy}),
        write("rows.csv", "image,caption\n" + table),
        write("x.token.txt", token),
        write("rows.jsonl", "".join(json.dumps({"image": f"{'abc'[i]}.png", "captions": group}) + "\n"
                                    for i, group in enumerate(texts))),
    ]  # fmt: skip
    for path in files:
        with pytest.warns(LeftOutWarning, match=r"3 captions .*b\.png"):
            assert [record.captions for record in read(path)] == [("a dog",), ("a cat",)]
        with pytest.warns(LeftOutWarning, match=r"3 captions have no words .*b\.png"):
            found = read_annotations(path)
        assert list(found.references.values()) == [["a dog"], ["a cat"]]
        assert len(found.left_out) == 1
        (blank,) = found.left_out
        mine = dict.fromkeys([*found.references, blank], "a dog")
        assert readers.name_as(mine, found).keys() == found.references.keys()


SIGNS = [
    "\u200b",
    "\u00a0",
    "\u3000",
    "\u2060",
    "!!!",
    "?!",
    "•",
    "“”",
    "。",
    "()",
    "[ ]",
    "$",
    "%",
    "_",
    "#",
    "★",
    "🐶🐶",
]


@pytest.mark.parametrize("signs", [*SIGNS, "<unk>", "<br>", "&nbsp;", "-lrb- -rrb-", ". , ;"])
def test_a_caption_of_signs_alone_has_no_words(write: Write, signs: str) -> None:
    path = write("captions.json", coco(["train", "train"], [[signs, "12"], ["собака"]]))
    for get in (lambda: [list(r.captions) for r in read(path)], lambda: [*read_annotations(path).references.values()]):
        with pytest.warns(LeftOutWarning, match="1 caption "):
            assert get() == [["12"], ["собака"]]


def test_boxes_stay_with_their_captions_where_one_is_left_out(write: Write) -> None:
    boxes: list[Any] = [{}, {"1": [0, 0, 1, 1]}]
    path = write("rows.jsonl", {"image": "a.png", "captions": [".", "a dog"], "boxes": boxes})
    with pytest.warns(LeftOutWarning):
        (record,) = read(path)
    assert (record.captions, record.boxes) == (("a dog",), ({1: ((0, 0, 1, 1),)},))


def test_an_empty_result_is_kept(write: Write) -> None:
    assert read_results(write("r.csv", "image,caption\na.png,\n")) == {"a.png": ""}


def test_an_id_and_a_name_of_two_pictures_are_refused(write: Write) -> None:
    images = [{"id": 1, "file_name": "val/a.png"}, {"id": 2, "file_name": "val/b.png"}]
    notes = [{"id": i, "image_id": i, "caption": "a dog"} for i in (1, 2)]
    annotations = read_annotations(write("refs.json", json.dumps({"images": images, "annotations": notes})))
    rows = "image_id,image,caption\n1,photos/a.png,a dog\n2,{},a cat\n"
    for name in ("b.png", "elsewhere.png"):  # a name that is none of the references' says nothing
        assert len(read_results(write("r.csv", rows.format(name)), annotations)) == 2
    with pytest.raises(DataError, match=r"line 3.*b\.png.*a\.png"):
        read_results(write("r.csv", rows.format("a.png")), annotations)


# Boxes


@pytest.mark.parametrize("value", [1 + 2**-52, 1 + 5e-7, 1])
def test_boxes_that_leave_the_picture_by_rounding_are_clipped(write: Write, value: float) -> None:
    row = {"image": "a.png", "caption": "a dog", "boxes": {"1": [1 - value, 0.1, value, 0.5]}}
    assert read(write("rows.jsonl", row))[0].boxes == ({1: ((0.0, 0.1, 1.0, 0.5),)},)
    row["boxes"] = {"1": [0, 0.1, 1 + 1e-5, 0.5]}
    with pytest.raises(DataError, match=r"line 1: .* not \[0.0, 0.1, 1.00001, 0.5\]"):
        read(write("rows.jsonl", row))


# Odd files

ODD: dict[str, tuple[str, Any, str]] = {
    "UTF-16": ("rows.csv", "image,caption\na.png,a dog\n".encode("utf-16"), "save the file as UTF-8"),
    "UTF-16 without a mark": ("rows.csv", "image,caption\na.png,a dog\n".encode("utf-16-le"), "line 1: a NUL"),
    "a NUL": ("rows.csv", "image,caption\na.png,a\0dog\n", "line 2: a NUL"),
    "NaN": ("rows.jsonl", '{"image": "a.png", "caption": "a", "boxes": {"0": [NaN, 0, 1, 1]}}', "line 1: .*NaN"),
    "Infinity": ("captions.json", '{"images": [], "annotations": [], "x": -Infinity}', "-Infinity"),
    "deep": ("captions.json", '{"images": ' + "[" * 100_000, "nested too deeply"),
    "deep lines": ("rows.jsonl", '{"image": ' + "[" * 100_000, "line 1"),
    "an id that is true": ("rows.jsonl", '{"image_id": true, "caption": "a"}', "'image_id' is True"),
    "an id that is a fraction": ("rows.jsonl", '{"image_id": 1.0, "caption": "a"}', "'image_id' is 1.0"),
    "a huge id": ("rows.jsonl", '{"image_id": 1' + "0" * 30 + ', "caption": "a"}', r"2\*\*63"),
    "an endless id": ("rows.jsonl", '{"image_id": 1' + "0" * 9000 + ', "caption": "a"}', "line 1: not JSON"),
    "a surrogate": ("rows.jsonl", '{"image": "\\ud83d.png", "caption": "a dog"}', "'image' is"),
    "raw surrogates": ("rows.csv", "image,caption\na.png,\ud83d\n", "line 2: byte .* is not UTF-8"),
    "damaged gzip": ("rows.csv.gz", gzip.compress(b"image,caption\na.png,a dog\n")[:-6], "damaged or cut short"),
    "a gzip bomb": ("rows.csv.gz", gzip.compress(b"\n" * (1 << 27)), "more than .* bytes"),
    "empty": ("rows.csv", b"", "is empty"),
    "quotes alone": ("rows.csv", b'""', "no header"),
}


@pytest.mark.parametrize("what", ODD)
def test_odd_files_are_refused_by_all(write: Write, what: str) -> None:
    name, content, words = ODD[what]
    path = write(name, content)
    for reader in (read, read_annotations):
        with pytest.raises(DataError, match=words) as raised:
            reader(path)
        assert str(path) in str(raised.value)


@pytest.mark.parametrize("change", [lambda t: t.replace("\n", "\r\n"), lambda t: "\ufeff" + t, lambda t: "\n\n" + t])
@pytest.mark.parametrize("zipped", [False, True])
def test_line_ends_marks_blank_lines_and_gzip_change_nothing(write: Write, change: Any, zipped: bool) -> None:
    texts = {
        "rows.csv": "image,caption,split\na.png,a dog,test\n",
        "rows.tsv": "image\tcaption\tsplit\na.png\ta dog\ttest\n",
        "semicolons.csv": "image;caption;split\na.png;a dog;test\n",
        "rows.jsonl": '{"image": "a.png", "caption": "a dog", "split": "test"}\n',
        "coco.json": json.dumps(coco(["test"]), indent=1),
        "test.token": "a.png#0\ta dog\n",
    }
    write("x.testImages.txt", "a.png\n")
    for name, text in texts.items():
        content = change(text).encode()
        path = write(name + ".gz" * zipped, gzip.compress(content) if zipped else content)
        (record,) = read(path)
        assert (record.image.name, record.captions, record.split) == ("a.png", ("a dog",), "test")
        assert list(read_annotations(path, split="test").references.values()) == [["a dog"]]


def test_a_folder_and_a_device_are_no_files(tmp_path: Path) -> None:
    for reader, message in ((read_annotations, "no captions found"), (read_results, "is a folder")):
        with pytest.raises(DataError, match=message):
            reader(tmp_path)
        with pytest.raises(DataError, match="is a device"):
            reader("/dev/zero")


def test_files_of_captions_of_two_formats_are_not_chosen_from(write: Write, tmp_path: Path) -> None:
    write("captions.csv", "image,caption\na.png,a dog\n")
    write("captions.json", coco(["train"]))
    with pytest.raises(DataError, match=r"captions.csv, captions.json.*name one"):
        read(tmp_path)


def test_a_gzipped_file_is_found_in_a_folder_where_there_is_no_other(write: Write, tmp_path: Path) -> None:
    write("captions.json.gz", gzip.compress(json.dumps(coco(["train"])).encode()))
    assert read(tmp_path)[0].captions == ("a dog",)
    write("captions.csv", "image,caption\nb.png,a cat\n")
    assert read(tmp_path)[0].captions == ("a cat",)


def test_pictures_may_lie_outside_the_folder(write: Write, tmp_path: Path) -> None:
    (tmp_path / "more").mkdir()
    names = ["../a.png", str(tmp_path / "b.png")]
    path = write("rows.jsonl", "".join(json.dumps({"image": name, "caption": "a dog"}) + "\n" for name in names))
    assert all(record.image.resolve().parent == tmp_path for record in read(path, images=tmp_path / "more"))


def test_karpathy_pictures_of_one_name_in_two_folders_are_two(write: Write, tmp_path: Path) -> None:
    images = [{"filepath": f, "filename": "1.png", "split": "train", "sentences": [{"raw": f"a {f}"}]} for f in "xy"]
    path = write("dataset.json", {"images": images})
    found = read_annotations(path)
    assert found.references == {"x/1.png": ["a x"], "y/1.png": ["a y"]}
    assert readers.name_as({"x/1.png": "a", "y/1.png": "b"}, found) == {"x/1.png": "a", "y/1.png": "b"}
    assert [record.id for record in read(path, images=tmp_path)] == ["x/1.png", "y/1.png"]


def test_readers_import_no_grounding_and_no_torch() -> None:
    program = "import sys, captioner.data.readers; print(*sys.modules)"
    names = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert not [name for name in names if name.startswith(("captioner.grounding", "torch", "pycocotools"))]


# The registry


def test_a_format_is_added_by_its_class_alone(write: Write) -> None:
    @READERS.register("lines of test")
    class Lines(Format):
        patterns = ("captions.lines",)

        def recognises(self, source: Source) -> bool:
            return source.name.endswith(".lines")

        def entries(self, source: Source) -> list[Entry]:
            rows = [line.split("|") for line in source.text.splitlines()]
            return [Entry(place=f"line {i}", id=a, image=a, captions=(b,)) for i, (a, b) in enumerate(rows)]

    try:
        path = write("captions.lines", "a.png|a dog\nb.png|a cat\n")
        assert [record.captions for record in read(path.parent)] == [("a dog",), ("a cat",)]
        assert read_annotations(path).references == {"a.png": ["a dog"], "b.png": ["a cat"]}
    finally:
        READERS.unregister("lines of test")


def test_every_name_of_the_package_is_there() -> None:
    assert all(hasattr(readers, name) for name in readers.__all__)
    assert issubclass(DataError, CaptionerError)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert set(READERS) >= {"flickr8k", "coco", "karpathy", "csv", "json lines", "webdataset"}
