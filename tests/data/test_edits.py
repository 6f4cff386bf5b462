"""Files of edits: written at once, whole after a kill, one row for each picture."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from captioner.data.readers import read
from captioner.data.writers import Edit, EditsFile
from captioner.errors import OptionError


def edit(image: Path | str, caption: str = "a dog", status: str = "accepted") -> Edit:
    return Edit(image=os.fspath(image), caption=caption, status=status, original="a cat", model="tiny")


def rows(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "edits.jsonl"


def test_each_edit_is_in_the_file_before_the_next_and_names_are_relative_to_it(path: Path, tmp_path: Path) -> None:
    with EditsFile(path) as file:
        file.write(edit(tmp_path / "sub" / "a.png"))
        assert [row["image"] for row in rows(path)] == ["sub/a.png"]
        file.write(edit("/elsewhere/b.png", "ein Hund 🐕", "edited"))
        assert rows(path)[1] == {
            "image": "/elsewhere/b.png",
            "caption": "ein Hund 🐕",
            "status": "edited",
            "original": "a cat",
            "model": "tiny",
        }


def test_a_picture_keeps_its_last_row(path: Path, tmp_path: Path) -> None:
    picture = tmp_path / "a.png"
    with EditsFile(path) as file:
        for text in ("a", "a d", "a dog"):
            file.write(edit(picture, text, "draft"))
        file.write(edit(tmp_path / "b.png"))
        file.write(edit(tmp_path / "x" / ".." / "a.png", "a dog runs", "edited"))
        assert len(rows(path)) == 5
    assert [(row["image"], row["caption"]) for row in rows(path)] == [("a.png", "a dog runs"), ("b.png", "a dog")]
    with EditsFile(path) as file:
        found = file.get(picture)
        assert found is not None
        assert (found.caption, found.status) == ("a dog runs", "edited")
        assert file.get(tmp_path / "c.png") is None


@pytest.mark.parametrize("length", [1, 8, 30, -1])
def test_what_a_kill_cut_off_is_removed_and_all_before_stays(path: Path, tmp_path: Path, length: int) -> None:
    with EditsFile(path) as file:
        file.write(edit(tmp_path / "a.png"))
        file.write(edit(tmp_path / "b.png"))
    first, second = path.read_bytes().splitlines()
    path.write_bytes(first + b"\n" + second[:length])
    with EditsFile(path) as file:
        assert file.notes
        file.write(edit(tmp_path / "c.png"))
    assert [row["image"] for row in rows(path)] == ["a.png", "c.png"]


def test_a_last_row_without_a_line_feed_stays(path: Path, tmp_path: Path) -> None:
    with EditsFile(path) as file:
        file.write(edit(tmp_path / "a.png"))
    path.write_bytes(path.read_bytes().rstrip(b"\n"))
    with EditsFile(path) as file:
        assert not file.notes
        file.write(edit(tmp_path / "b.png"))
    assert [row["image"] for row in rows(path)] == ["a.png", "b.png"]


@pytest.mark.parametrize("content", ['{"image": "a.png", "caption": "a dog"}\n', "a.png\ta dog\n", "[]\n", "{]\n{}\n"])
def test_a_file_of_another_kind_is_refused_and_stays(path: Path, content: str) -> None:
    path.write_text(content)
    with pytest.raises(OptionError) as error:
        EditsFile(path)
    assert "line 1" in str(error.value)
    assert "--output" in error.value.remedy
    assert path.read_text() == content


def test_two_programs_do_not_share_a_file_and_an_empty_one_is_removed(path: Path) -> None:
    with EditsFile(path), pytest.raises(OptionError, match="another program"):
        EditsFile(path)
    assert not path.exists()
    with pytest.raises(OptionError, match=r"\.jsonl"):
        EditsFile(path.with_suffix(".csv"))


def test_readers_take_what_is_accepted_or_edited(path: Path, make_picture: Callable[..., Path]) -> None:
    pictures = [make_picture(f"{name}.png") for name in "abcd"]
    with EditsFile(path) as file:
        for picture, status in zip(pictures, ("accepted", "edited", "flagged", "draft"), strict=True):
            file.write(edit(picture, f"{picture.stem} dog runs", status))
        file.write(edit(pictures[0], "a cat sleeps", "edited"))  # not yet removed from the file
        found = read(path)
    assert [(Path(record.image).name, record.captions) for record in found] == [
        ("a.png", ("a cat sleeps",)),
        ("b.png", ("b dog runs",)),
    ]
