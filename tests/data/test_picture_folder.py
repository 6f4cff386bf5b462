"""A folder of pictures with sidecars is a data set."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from captioner.data.readers import LeftOutWarning, read, read_annotations
from captioner.errors import DataError

MakePicture = Callable[..., Path]


@pytest.fixture
def photos(make_picture: MakePicture) -> Path:
    """Thirty pictures with sidecars of every form, in a folder and a subfolder."""
    for i in range(30):
        picture = make_picture(f"photos/{'sub/' if i % 2 else ''}{i:02}.png", size=(4, 3))
        captions = [f"a dog and {i} cats", f"{i} cats"]
        if i % 3 == 0:
            picture.with_suffix(".txt").write_text("\n".join(captions) + "\n\n")
        elif i % 3 == 1:
            picture.with_suffix(".json").write_text(json.dumps({"captions": captions}))
        else:
            picture.with_suffix(".caption").write_text("\r\n".join(captions))
    return Path(picture.parents[1] if picture.parent.name == "sub" else picture.parent)


def test_it_is_read_for_training_and_for_evaluation(photos: Path) -> None:
    records = read(photos)
    assert len(records) == 30
    assert sum(record.split == "dev" for record in records) == 6  # a fifth of a few pictures
    assert all(len(record.captions) == 2 and record.image.exists() for record in records)  # type: ignore[union-attr]
    found = read_annotations(photos)
    assert found.references["sub/01.png"] == ["a dog and 1 cats", "1 cats"]
    dev = read_annotations(photos, split="dev")
    assert set(dev.references) == {record.id for record in records if record.split == "dev"}


def test_there_is_a_picture_of_dev_however_few_there_are(make_picture: MakePicture) -> None:
    for name in ("a", "b", "c"):
        make_picture(f"few/{name}.png").with_suffix(".txt").write_text("a dog")
    path = make_picture("few/without.png").parent
    with pytest.warns(LeftOutWarning, match="1 of 4 pictures have no captions"):
        records = read(path)
    assert sorted(record.split for record in records) == ["dev", "train", "train"]


def test_folders_and_fields_name_splits(make_picture: MakePicture) -> None:
    make_picture("s/train/a.png").with_suffix(".txt").write_text("a dog")
    make_picture("s/val/b.png").with_suffix(".txt").write_text("a cat")
    make_picture("s/c.png").with_suffix(".json").write_text('{"caption": "a ball", "split": "test"}')
    folder = make_picture("s/train/d.jpg").parents[1]
    (folder / "train" / "d.jpg.txt").write_text("a bird")
    assert {record.id: record.split for record in read(folder)} == {
        "c.png": "test",
        "train/a.png": "train",
        "train/d.jpg": "train",
        "val/b.png": "dev",
    }


def test_a_name_as_long_as_names_can_be_has_no_sidecar(make_picture: MakePicture) -> None:
    picture = make_picture("s/a.png")
    picture.with_suffix(".txt").write_text("a dog")
    picture.with_name("x" * 251 + ".png").write_bytes(picture.read_bytes())
    assert [record.captions for record in read(picture.parent)] == [("a dog",)]


def test_two_sidecars_that_differ_are_refused(make_picture: MakePicture) -> None:
    picture = make_picture("s/a.png")
    picture.with_suffix(".txt").write_text("a dog")
    picture.with_suffix(".json").write_text('{"caption": "a dog"}')
    assert read(picture.parent)[0].captions == ("a dog",)
    picture.with_suffix(".json").write_text('{"caption": "a cat"}')
    with pytest.raises(DataError, match=r"a\.txt and .*a\.json.*keep one"):
        read(picture.parent)


@pytest.mark.parametrize(
    ("ending", "content"), [(".json", b"{"), (".json", b'{"caption": 3}'), (".txt", b"\xff\xfe"), (".xmp", b"<x")]
)
def test_a_damaged_sidecar_is_named(make_picture: MakePicture, ending: str, content: bytes) -> None:
    picture = make_picture("s/a.png")
    picture.with_suffix(ending).write_bytes(content)
    with pytest.raises(DataError, match=rf"a\{ending}"):
        read(picture.parent)


def test_a_folder_named_images_in_it_is_one_of_its_folders(make_picture: MakePicture) -> None:
    folder = make_picture("photos/a.jpg").parent
    make_picture("photos/images/a.jpg")
    (folder / "a.txt").write_text("a red thing")
    (folder / "images" / "a.txt").write_text("a blue thing")
    found = {record.image: record.captions for record in read(folder)}
    assert found == {folder / "a.jpg": ("a red thing",), folder / "images" / "a.jpg": ("a blue thing",)}
