"""Pictures are checked before training, and splits keep apart."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from captioner.data.records import Record, ShardPicture, of_split, refuse_leaks, split_by_name, usable
from captioner.errors import DataError


def record(image: Path, split: str = "train") -> Record:
    return Record(image, ("a dog",), split, image.name)


def test_broken_pictures_are_left_out_and_named(make_picture: Callable[..., Path]) -> None:
    good = [record(make_picture(f"{i}.jpg", seed=i)) for i in range(6)]
    cut, text = make_picture("cut.jpg", size=(90, 90)), make_picture("text.png")
    cut.write_bytes(cut.read_bytes()[:2000])
    text.write_text("no picture")
    missing = cut.with_name("missing.jpg")
    mixed = [*good[:2], record(cut), good[2], record(missing), record(text), *good[3:]]

    kept, faults = usable(mixed, threads=3)
    assert kept == good  # in their order
    assert set(faults) == {str(cut), str(missing), str(text)}
    assert "truncated" in faults[str(cut)]
    assert "no such file" in faults[str(missing)]
    assert "not an image" in faults[str(text)]
    assert all(path in what for path, what in faults.items())


def test_records_of_a_split() -> None:
    records = [record(Path(f"{i}.jpg"), split) for i, split in enumerate(("train", "dev", "train", ""))]
    assert of_split(records, "train") == [records[0], records[2]]
    assert of_split(records, "test") == []


def test_one_in_twenty_goes_to_dev() -> None:
    counts = Counter(split_by_name(f"{i:06}.jpg") for i in range(20_000))
    assert set(counts) == {"train", "dev"}
    assert counts["dev"] == pytest.approx(1000, abs=150)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("val2014/COCO_val2014_000000391895.jpg", "val2017/000000391895.jpg"),
        ("flickr8k/1032122270_ea6f0beedb.jpg", "flickr30k/1032122270_ea6f0beedb.png"),
    ],
)
def test_a_picture_under_another_path_is_a_leak_where_its_name_is_known(one: str, other: str) -> None:
    refuse_leaks([record(Path(one), "test")], [record(Path(other), "test")])
    with pytest.raises(DataError, match=f"{other}.*test.*{one}.*train"):
        refuse_leaks([record(Path(one), "test")], [record(Path(other))])
    refuse_leaks([record(Path("a/000001.jpg"), "test")], [record(Path("b/000001.jpg"))])  # a name that says nothing
    refuse_leaks([record(Path(one), "test"), record(Path(other))])  # within a set, its own names


def test_pictures_in_shards_are_known_by_their_ids(tmp_path: Path) -> None:
    picture = ShardPicture(tmp_path / "train-0.tar", "000000.jpg", 0, 1)
    with pytest.raises(DataError, match="keep it in one"):
        refuse_leaks(
            [replace(record(Path("x.jpg")), image=picture, id="1032122270_ea6f0beedb.jpg")],
            [record(Path("flickr8k/1032122270_ea6f0beedb.jpg"), "test")],
        )


def test_a_picture_in_two_splits_is_a_leak() -> None:
    a, b = Path("a.jpg"), Path("b.jpg")
    refuse_leaks([record(a), record(a), record(b, "test")])
    with pytest.raises(DataError, match=r"b.jpg is in the splits 'test' and 'train'"):
        refuse_leaks([record(a), record(b, "test"), record(b)])
