"""Globs and shards."""

import pytest

from captioner.data.selection import Selection, parse_shard, relative
from captioner.errors import OptionError

NAMES = [f"2024/{i:03}/photo-{i}.jpg" for i in range(400)]


@pytest.mark.parametrize(
    ("glob", "path", "matches"),
    [
        ("*.jpg", "a/b.jpg", True),
        ("*.jpg", "a/b.JPG", False),
        ("a/*.jpg", "a/b.jpg", True),
        ("a/*.jpg", "a/c/b.jpg", False),
        ("a/**/*.jpg", "a/b.jpg", True),
        ("a/**/*.jpg", "a/c/d/b.jpg", True),
        ("a/**", "a/c/b.jpg", True),
        ("./a/b?.jpg", "a/b1.jpg", True),
        ("b[!12].jpg", "b3.jpg", True),
        ("b[12].jpg", "b3.jpg", False),
        ("[", "[", True),
        ("[!]", "[!]", True),
        ("[!]]", "a", True),
        ("[!]]", "]", False),
        ("a.b", "axb", False),
        ("*", "new\nline", True),
    ],
)
def test_globs(glob: str, path: str, matches: bool) -> None:
    assert Selection(include=(glob,)).takes(path) is matches
    assert Selection(exclude=(glob,)).takes(path) is not matches


def test_an_excluded_folder_is_not_entered() -> None:
    selection = Selection(exclude=("thumbs/",))
    assert not selection.enters("a/thumbs")
    assert selection.enters("a/thumbs2")
    assert not Selection(recursive=False).enters("a")


def test_shards_are_parts_that_do_not_depend_on_other_pictures() -> None:
    parts = [{name for name in NAMES if Selection(shard=(i, 8)).in_shard(name)} for i in range(1, 9)]
    assert sorted(name for part in parts for name in part) == sorted(NAMES)
    assert all(25 < len(part) < 80 for part in parts)
    assert Selection(shard=(3, 8)).in_shard("a.jpg") is False  # by a hash that is the same everywhere
    assert next(i for i in range(1, 9) if Selection(shard=(i, 8)).in_shard("a.jpg")) == SHARD_OF_A


SHARD_OF_A = 2


@pytest.mark.parametrize("text", ["9/8", "0/8", "3", "a/b", "3/0", "-1/8", "1/8/2"])
def test_a_shard_that_is_none(text: str) -> None:
    with pytest.raises(OptionError, match=r"--shard.*(1/8|3/8)"):
        Selection(shard=parse_shard(text))


def test_an_empty_glob_is_refused() -> None:
    with pytest.raises(OptionError, match="--include is empty"):
        Selection(include=("",))


@pytest.mark.parametrize("glob", ["[z-a].jpg", "sub/[9-0]*"])
def test_a_range_that_ends_before_it_begins_is_refused(glob: str) -> None:
    with pytest.raises(OptionError, match=r"--exclude '.*bad character range.*\*\.jpg"):
        Selection(exclude=(glob,))


def test_paths_below_a_folder() -> None:
    assert relative("photos/a/b.jpg", "photos") == relative("photos/a/b.jpg", "photos/") == "a/b.jpg"
    assert relative("a/b.jpg", ".") == relative("a/b.jpg", "") == "a/b.jpg"
