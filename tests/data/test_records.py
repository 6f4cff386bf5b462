"""Pictures are checked before training, and splits keep apart."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from captioner.data.records import Record, of_split, refuse_leaks, split_by_name, usable
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


def test_a_picture_in_two_splits_is_a_leak() -> None:
    a, b = Path("a.jpg"), Path("b.jpg")
    refuse_leaks([record(a), record(a), record(b, "test")])
    with pytest.raises(DataError, match=r"b.jpg is in the splits 'test' and 'train'"):
        refuse_leaks([record(a), record(b, "test"), record(b)])
