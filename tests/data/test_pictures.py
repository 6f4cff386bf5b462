"""Which pictures a command line names, and that none vanishes without a word."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from captioner.data.pictures import FoundPictures, find_pictures
from captioner.image import SUFFIXES, UNREADABLE_SUFFIXES


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def make(*names: str) -> None:
    for name in names:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()


def names_of(found: FoundPictures) -> list[str]:
    return [os.fspath(picture) for picture in found.pictures]


def test_every_ending_that_opens_is_taken_in_any_case() -> None:
    names = [f"photos/{i:02}{suffix}" for i, suffix in enumerate(sorted(SUFFIXES))]
    make(*names, *(f"photos/U{Path(name).name.upper()}" for name in names))
    found = find_pictures(["photos"])
    assert len(found.pictures) == 2 * len(SUFFIXES)
    assert (found.failures, found.notes, found.several) == ([], [], True)


def test_what_cannot_be_opened_is_named_and_other_kinds_are_counted() -> None:
    suffix = sorted(UNREADABLE_SUFFIXES)[0]
    make(
        "photos/a.png", f"photos/b{suffix.upper()}", "photos/sub/c.json", "photos/d.json", "photos/README", "photos/.x"
    )
    found = find_pictures(["photos"])
    assert names_of(found) == ["photos/a.png"]
    (failure,) = map(str, found.failures)
    assert failure.startswith(f"photos/b{suffix.upper()}: ")
    (note,) = found.notes
    assert note.startswith("photos: 3 files")
    assert "2 .json" in note


def test_a_folder_of_unreadable_pictures_is_not_said_to_have_none() -> None:
    make("photos/a.heic", "empty/notes.txt")
    assert not any("no pictures" in str(one) for one in find_pictures(["photos"]).failures)
    (failure,) = map(str, find_pictures(["empty"]).failures)
    assert failure.startswith("empty: no pictures in this folder")
    assert ".jpg" in failure


def test_links_to_folders_are_followed_once_and_loops_end() -> None:
    make("photos/z/a.png", "elsewhere/b.png", "elsewhere/sub/c.png")
    Path("photos/a-link").symlink_to("z")  # sorts before the folder itself
    Path("photos/linked").symlink_to("../elsewhere")
    Path("photos/again").symlink_to("../elsewhere/sub")
    Path("elsewhere/loop").symlink_to("../photos")
    Path("photos/self").symlink_to("self")
    found = find_pictures(["photos"])
    assert sorted(Path(name).name for name in names_of(found)) == ["a.png", "b.png", "c.png"]
    assert "photos/z/a.png" in names_of(found)
    (failure,) = map(str, found.failures)
    assert failure.startswith("photos/self: ")
    # What was found through a link is not found once more under its own name.
    assert names_of(find_pictures(["photos", "elsewhere", "photos/z/a.png"])) == names_of(found)
    assert find_pictures(["photos", "photos/z"]).failures == found.failures


def test_links_to_nowhere_are_named() -> None:
    make("photos/a.png")
    Path("photos/gone").symlink_to("../moved")
    Path("gone.jpg").symlink_to("moved.jpg")
    found = find_pictures(["photos", "gone.jpg"])
    assert names_of(found) == ["photos/a.png"]
    assert [one.image for one in found.failures] == ["photos/gone", "gone.jpg"]
    assert "../moved" in str(found.failures[0])


def test_a_folder_that_cannot_be_read_is_named() -> None:
    make("photos/a.png", "photos/locked/b.png")
    Path("photos/locked").chmod(0)
    program = (
        "import os, sys; os.geteuid() or os.seteuid(65534)\n"  # root reads every folder
        "from captioner.data.pictures import find_pictures\n"
        "found = find_pictures(['photos', 'photos/locked']); print(found.pictures); print(*found.failures, sep='\\n')"
    )
    program = "from captioner.data.pictures import find_pictures\n" + program  # imported while it may be read
    for folder in (Path(), *Path.cwd().parents):
        if os.geteuid() == 0 and folder.stat().st_uid == 0 and folder.stat().st_mode & 0o777 == 0o700:
            folder.chmod(0o711)  # the folders of the test, which belong to root alone
    try:
        run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    finally:
        Path("photos/locked").chmod(0o755)
    pictures, *failures = run.stdout.splitlines()
    assert "a.png" in pictures
    assert "b.png" not in pictures
    assert len(failures) == 2
    assert all(line.startswith("photos/locked: ") for line in failures)
    assert not any("no pictures" in line for line in failures)


def test_what_is_no_regular_file_is_named() -> None:
    make("photos/a.png")
    os.mkfifo("photos/b.png")  # opening it would wait for ever
    found = find_pictures(["photos"])
    assert names_of(found) == ["photos/a.png"]
    assert [str(one) for one in found.failures] == ["photos/b.png: not a regular file"]


def test_outputs_and_figures_are_left_out() -> None:
    make("photos/a.png", "photos/figures/old.png", "photos/results.csv", "photos/page.html")
    make("photos/photos-a-0123456789.figure.png", "photos/not-a.figure.png")
    outputs = [Path("photos/figures"), Path("photos/../photos/results.csv"), Path("photos/page.html")]
    found = find_pictures(["photos"], leave_out=outputs)
    assert names_of(found) == ["photos/a.png", "photos/not-a.figure.png"]
    assert found.failures == []
    assert found.notes == ["photos: 1 figure left out"]
    Path("seen").symlink_to("photos/figures")
    Path("photos/linked").symlink_to("figures")
    assert names_of(find_pictures(["photos"], leave_out=[Path("seen")])) == names_of(found)


def test_a_file_that_is_named_is_taken_whatever_its_ending() -> None:
    make("a.xyz", "b", "c.heic", "d-0123456789.figure.png")
    found = find_pictures(["a.xyz", "b", "c.heic", "d-0123456789.figure.png"])
    assert names_of(found) == ["a.xyz", "b", "c.heic", "d-0123456789.figure.png"]
    assert found.failures == []


def test_other_spellings_of_a_file_are_one_picture(tmp_path: Path) -> None:
    make("photos/a.png")
    Path("photos/same.png").symlink_to("a.png")  # a name of its own in the folder
    found = find_pictures(["photos/a.png", "./photos/a.png", "photos/../photos/a.png", str(tmp_path / "photos")])
    assert names_of(found) == ["photos/a.png", str(tmp_path / "photos" / "same.png")]
    assert not find_pictures(["photos/a.png", "./photos/a.png"]).several


@pytest.mark.parametrize(
    ("argument", "parts"),
    [
        ("https://example.org/a.jpg", ("https://example.org/a.jpg", "fetch it first")),
        ("S3://bucket/a.jpg", ("S3://bucket/a.jpg", "fetch it first")),
        ("", ("empty",)),
        ("nowhere", ("nowhere: no such file or folder",)),
        ("x" * 300, ("x: no such file or folder",)),
        ("a\0b", ("no such file or folder",)),
    ],
)
def test_arguments_that_give_nothing(argument: str, parts: tuple[str, ...]) -> None:
    found = find_pictures([argument])
    assert found.pictures == []
    (failure,) = map(str, found.failures)
    assert all(part in failure for part in parts)
