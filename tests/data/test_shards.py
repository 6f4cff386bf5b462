"""Shards hold what folders hold, and a run on either ends with the same weights."""

import argparse
import io
import json
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

from captioner.checkpoint import load
from captioner.cli import main
from captioner.commands import shards
from captioner.data.readers import read
from captioner.data.records import Record, usable
from captioner.data.scenes import write_scenes
from captioner.data.shards import write_shards
from captioner.errors import DataError, OptionError
from captioner.image import open_image
from captioner.training.loop import Trainer
from captioner.training.recipe import Recipe


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_scenes(tmp_path_factory.mktemp("scenes"), count=12, dev=3, size=(96, 72))


@pytest.fixture(scope="module")
def packed(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shards")
    write_shards(read(scenes), folder, pictures=5)
    return folder


def by_id(records: list[Record]) -> dict[str, Record]:
    return {record.id: record for record in records}


def test_shards_hold_what_they_were_made_of(scenes: Path, packed: Path) -> None:
    assert sorted(file.name for file in packed.iterdir()) == [
        "dev-000000.tar", "train-000000.tar", "train-000001.tar", "train-000002.tar",
    ]  # fmt: skip
    ours, theirs = by_id(read(packed)), by_id(read(scenes))
    assert ours.keys() == theirs.keys()
    for key, record in ours.items():
        assert (record.captions, record.split, record.boxes) == (
            theirs[key].captions, theirs[key].split, theirs[key].boxes,
        )  # fmt: skip
        assert open_image(record.image).tobytes() == open_image(theirs[key].image).tobytes()


@pytest.mark.parametrize("order", [("json", "txt"), ("txt", "json")])
def test_captions_in_a_txt_keep_what_the_json_says(tmp_path: Path, order: tuple[str, str]) -> None:
    picture = io.BytesIO()
    Image.new("RGB", (8, 8)).save(picture, "PNG")
    about = {"split": "test", "id": "seven", "boxes": [{"1": [0, 0, 1, 1]}]}
    files = {"json": json.dumps(about).encode(), "txt": b"a dog\n", "png": picture.getvalue()}
    with tarfile.open(tmp_path / "train-0.tar", "w") as tar:
        for suffix in (*order, "png"):
            member = tarfile.TarInfo(f"a.{suffix}")
            member.size = len(files[suffix])
            tar.addfile(member, io.BytesIO(files[suffix]))
    (found,) = read(tmp_path)
    assert (found.split, found.id, found.captions) == ("test", "seven", ("a dog",))
    assert found.boxes[0].keys() == {1}


def test_a_run_on_shards_ends_as_one_on_a_folder(scenes: Path, packed: Path, tmp_path: Path) -> None:
    recipe = Recipe(
        decoder_options={"width": 16, "embedding": 16, "output_hidden": 16, "attention_width": 16, "heads": 2},
        backbone="tiny",
        encoder_options={"side": 32},
        refiner_options={"width": 16},
        epochs=2,
        frozen_epochs=1,
        minimum_count=1,
        batch_pictures=4,
        captions_per_picture=1,
        map_supervision=0.1,
        max_length=12,
    )
    ends = [
        load(Trainer(recipe, read(data), tmp_path / data.name, device="cpu").run()).model.state_dict()
        for data in (scenes, packed)
    ]
    torch.testing.assert_close(*ends)


def test_pictures_in_shards_that_do_not_open_are_named(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "train-0.tar", "w") as tar:
        add(tar, "a.jpg", b"no picture")
        add(tar, "a.txt", b"a dog\na brown dog\n")
        add(tar, "b.jpg", picture())
        add(tar, "b.json", json.dumps({"caption": "a cat", "split": "val"}).encode())
    records = read(tmp_path)
    assert [(r.id, r.captions, r.split) for r in records] == [
        ("train-0/a", ("a dog", "a brown dog"), "train"),
        ("train-0/b", ("a cat",), "dev"),
    ]
    good, faults = usable(records)
    assert [record.id for record in good] == ["train-0/b"]
    name = f"{tmp_path}/train-0.tar/a.jpg"
    assert list(faults) == [name] and name in faults[name] and "not an image" in faults[name]


def add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


def picture() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 6), "red").save(file, "jpeg")
    return file.getvalue()


BAD: dict[str, tuple[dict[str, bytes], str]] = {
    "a picture alone": ({"a.jpg": picture()}, "a.jpg: no captions beside it"),
    "JSON cut off": ({"a.jpg": picture(), "a.json": b'{"caption": '}, "a.json, line 1 column 13"),
    "a list": ({"a.jpg": picture(), "a.json": b"[1]"}, "a.json: not a JSON object"),
    "a caption that is a number": (
        {"a.jpg": picture(), "a.json": b'{"caption": 3}'},
        "'captions' must be a list",
    ),
    "a split of no name": (
        {"a.jpg": picture(), "a.json": b'{"caption": "a dog", "split": "dve"}'},
        "the split 'dve' is none of",
    ),
    "boxes of another number": (
        {"a.jpg": picture(), "a.json": b'{"captions": ["a dog", "a cat"], "boxes": [{}]}'},
        "1 sets of boxes for 2 captions",
    ),
    "boxes that are no list": (
        {"a.jpg": picture(), "a.json": b'{"caption": "a dog", "boxes": 3}'},
        "'boxes' must be a list",
    ),
    "no pictures": ({"a.txt": b"a dog"}, "no pictures in its shards"),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_shards_are_named(what: str, tmp_path: Path) -> None:
    files, said = BAD[what]
    with tarfile.open(tmp_path / "train-0.tar", "w") as tar:
        for name, content in files.items():
            add(tar, name, content)
    with pytest.raises(DataError, match=r"train-0.tar|shards") as error:
        read(tmp_path)
    assert said in str(error.value)


def test_links_in_a_shard_are_named(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "train-0.tar", "w") as tar:
        add(tar, "a.txt", b"a dog")
        link = tarfile.TarInfo("a.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "b.jpg"
        tar.addfile(link)
    with pytest.raises(DataError, match=r"train-0\.tar: .*1 link .*a\.jpg.*dereference"):
        read(tmp_path)


def test_a_file_that_is_no_tar_or_cut_off_is_named(tmp_path: Path, packed: Path) -> None:
    (tmp_path / "x.tar").write_bytes(b"no tar at all" * 100)
    with pytest.raises(DataError, match=r"x.tar: no tar file, or cut off"):
        read(tmp_path / "x.tar")
    whole = (packed / "dev-000000.tar").read_bytes()
    (tmp_path / "x.tar").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"x.tar: no tar file, or cut off"):
        read(tmp_path / "x.tar")
    with pytest.raises(DataError, match=r"y.tar: no such file or folder"):
        read(tmp_path / "y.tar")


def test_the_command_makes_shards_and_does_not_write_over_them(
    scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = arguments(scenes, tmp_path / "out", "--shard-size", 8)
    assert shards.run(run) == 0
    assert capsys.readouterr().out == f"3 shards of 15 pictures in {tmp_path / 'out'}\n"
    with pytest.raises(DataError, match="holds shards already"):
        shards.run(run)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_bytes(b"")
    with pytest.raises(DataError, match=r"photos holds other files \(a\.jpg\)"):
        shards.run(arguments(scenes, tmp_path / "photos"))
    with pytest.raises(OptionError, match="--shard-size must be at least 1, not 0"):
        shards.run(arguments(scenes, tmp_path / "more", "--shard-size", 0))
    with pytest.raises(DataError, match=r"captions.jsonl is a file; give a folder"):
        shards.run(arguments(scenes, scenes))


@pytest.mark.parametrize("kind", ["data", "pictures", "link"])
def test_shards_are_not_written_among_what_they_are_made_of(kind: str, scenes: Path, tmp_path: Path) -> None:
    data = Path(shutil.copytree(scenes.parent if scenes.is_file() else scenes, tmp_path / "data"))
    output = {"data": data, "pictures": data / "images", "link": tmp_path / "link"}[kind]
    if kind == "link":
        output.symlink_to(data)
    before = sorted(data.rglob("*"))
    for given in (data, data / "captions.jsonl"):
        with pytest.raises(OptionError, match=str(output)):
            shards.run(arguments(given, output))
    assert sorted(data.rglob("*")) == before


def arguments(*given: object) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    shards.add_arguments(parser)
    return parser.parse_args([str(argument) for argument in given])


def test_pictures_that_cannot_be_read_are_named_and_the_others_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.jpeg").write_bytes(picture())
    (tmp_path / "odd.picture").write_bytes(picture())
    rows = [{"image": name, "caption": "a dog"} for name in ("a.jpeg", "gone.jpg", "odd.picture")]
    (tmp_path / "captions.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert shards.run(arguments(tmp_path, tmp_path / "out")) == 1
    printed = capsys.readouterr()
    assert "gone.jpg: cannot be read" in printed.err
    assert "2 pictures (1 left out)" in printed.out
    assert [record.id for record in read(tmp_path / "out")] == ["a.jpeg", "odd.picture"]


def test_questions_are_not_lost_in_shards(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(picture())
    (tmp_path / "questions.jsonl").write_text('{"image": "a.jpg", "question": "what?", "answer": "dog"}\n')
    with pytest.raises(DataError, match=r"a\.jpg has questions"):
        shards.run(arguments(tmp_path / "questions.jsonl", tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_nothing_is_left_of_shards_that_could_not_be_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.jpg").write_bytes(picture())
    records = [Record(tmp_path / "a.jpg", ("a dog",), "train", str(i)) for i in range(5)]
    added = iter(range(3))

    def full(self: tarfile.TarFile, *arguments: object, **more: object) -> None:
        if next(added, None) is None:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(tarfile.TarFile, "addfile", full)
    with pytest.raises(DataError, match="No space left on device"):
        write_shards(records, tmp_path / "out", pictures=1)
    assert not (tmp_path / "out").exists()
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "mine.txt").touch()
    with pytest.raises(DataError):
        write_shards(records, tmp_path / "there", pictures=1)
    assert [file.name for file in (tmp_path / "there").iterdir()] == ["mine.txt"]


def test_a_picture_whose_folder_is_gone_is_left_out_of_shards(
    make_picture: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = make_picture("set/a.png").parent / "captions.csv"
    data.write_text("image,caption\na.png,a dog\ngone/b.png,a cat\n")
    (tmp_path / "shards").mkdir()
    assert main(["shards", str(data), str(tmp_path / "shards")]) == 1
    assert "gone/b.png" in capsys.readouterr().err
    assert list((tmp_path / "shards").glob("*.tar"))
