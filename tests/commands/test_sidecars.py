"""``captioner caption --sidecar``, ``--xmp``, and what goes before and after every caption."""

import errno
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from captioner.data.sidecars import Join, TextSidecar
from captioner.data.writers import BesideFiles
from captioner.image import Geometry
from captioner.results import Caption
from tests.commands.conftest import Command

MakePicture = Callable[..., Path]


@pytest.fixture
def photos(make_picture: MakePicture) -> Path:
    """Three pictures, one in a subfolder."""
    for i, name in enumerate(("a.png", "b.jpg", "sub/ü c.png")):
        make_picture(f"photos/{name}", seed=i)
    return Path("photos")


def contents(folder: Path = Path()) -> dict[str, bytes]:
    return {os.fspath(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def fail(*_: object, **__: object) -> None:
    pytest.fail("it began")


def texts(folder: Path, ending: str = ".txt") -> dict[str, str]:
    return {path.stem: path.read_text(encoding="utf-8") for path in sorted(folder.rglob(f"*{ending}"))}


def test_a_text_beside_each_picture(command: Command, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = command("caption", photos).out
    before = contents()
    run = command("caption", photos, "--sidecar", ".txt", "--xmp", "--sidecar", "txt")
    assert (run.code, run.out) == (0, "")
    assert "3 captioned" in run.err
    captions = {Path(name).stem: f"{text}\n" for name, text in (line.split("\t") for line in shown.splitlines())}
    assert texts(photos) == captions
    assert {name: content for name, content in contents().items() if name in before} == before
    assert sorted(path.name for path in photos.rglob("*.xmp")) == ["a.xmp", "b.xmp", "ü c.xmp"]
    # All are there: nothing is captioned, and they are no files of other kinds.
    monkeypatch.setattr("captioner.pipeline.load", fail)
    run = command("caption", photos, "--sidecar", ".txt", "--xmp")
    assert (run.code, run.err) == (0, "")
    after = contents()
    assert command("caption", photos, "--xmp", "--xmp-name", "name", "--dry-run").code == 0
    assert contents() == after


@pytest.mark.parametrize("existing", ["append", "prepend", "overwrite", "skip"])
def test_what_is_there_is_treated_as_asked_for_and_once(command: Command, photos: Path, existing: str) -> None:
    (photos / "a.txt").write_text("mine\n")
    separator = ["--separator", " | "] if existing in ("append", "prepend") else []
    options = ["--sidecar", ".txt", "--existing", existing, *separator]
    assert command("caption", photos, *options).code == 0
    made = texts(photos)
    new = command("caption", photos / "a.png").out.strip()
    wanted = {"append": f"mine | {new}", "prepend": f"{new} | mine", "overwrite": new, "skip": "mine"}
    assert made["a"] == f"{wanted[existing]}\n"
    assert command("caption", photos, *options).code == 0  # a run that was stopped, repeated
    assert texts(photos) == made


@pytest.mark.parametrize("hard_link", [False, True], ids=["same stem", "a disk that ignores case"])
def test_two_pictures_of_one_stem_are_named_and_nothing_is_written_for_them(
    command: Command, make_picture: MakePicture, photos: Path, hard_link: bool
) -> None:
    other = make_picture("photos/A.webp" if hard_link else "photos/a.webp", seed=7)
    if hard_link:  # a disk that ignores case finds a.webp under that name too
        (photos / "a.webp").hardlink_to(other)
    left_out = "a.webp" if hard_link else "x"
    run = command("caption", photos, "--sidecar", ".txt", "--failures", "failed.csv", "--exclude", left_out)
    assert run.code == 1
    named = [line for line in run.err.splitlines() if "would be the sidecar of" in line]
    assert len(named) == 2
    assert all("rename" in line for line in named)
    assert set(texts(photos)) == {"b", "ü c"}
    failed = Path("failed.csv").read_text()
    assert failed.count("\n") == 3
    assert "photos/a.png" in failed


def test_stems_that_differ_in_case_are_two_where_the_disk_has_both(
    command: Command, make_picture: MakePicture, photos: Path
) -> None:
    make_picture("photos/A.png", seed=7)
    if len(list(photos.glob("[aA].png"))) < 2:
        pytest.skip("this disk ignores case")
    assert command("caption", photos, "--sidecar", ".txt").code == 0
    assert set(texts(photos)) == {"a", "A", "b", "ü c"}


@pytest.mark.parametrize("kind", ["symbolic link", "hard link", "folder", "link to nowhere"])
def test_a_sidecar_that_is_an_input_or_no_file_is_a_failure(command: Command, photos: Path, kind: str) -> None:
    path = photos / "a.txt"
    {
        "symbolic link": lambda: path.symlink_to("b.jpg"),
        "hard link": lambda: path.hardlink_to(photos / "a.png"),
        "folder": path.mkdir,
        "link to nowhere": lambda: path.symlink_to("nowhere"),
    }[kind]()
    before = contents()
    run = command("caption", photos, "--sidecar", ".txt", "--existing", "overwrite")
    assert run.code == 1
    assert "photos/a.txt" in run.err
    after = contents()
    assert {name: after[name] for name in before} == before
    assert set(after) - set(before) == {"photos/b.txt", "photos/sub/ü c.txt"}


def test_the_list_of_pictures_is_no_sidecar_under_any_name(command: Command, photos: Path) -> None:
    (photos / "a.txt").write_text(f"{photos.absolute()}/a.png\n")
    before = contents()
    run = command("caption", "--from", photos / "a.txt", "--sidecar", ".txt", "--existing", "overwrite")
    assert run.code == 2
    assert "photos/a.txt: is an input" in run.err
    assert contents() == before


def test_one_stem_in_two_shards_is_a_conflict_in_both(
    command: Command, make_picture: MakePicture, photos: Path
) -> None:
    make_picture("photos/a.webp", seed=7)
    runs = [command("caption", photos, "--shard", f"{i}/8", "--sidecar", ".txt") for i in range(1, 9)]
    named = [line for run in runs for line in run.err.splitlines() if "would be the sidecar of" in line]
    assert sorted(line.split(": ")[1] for line in named) == ["photos/a.png", "photos/a.webp"]
    assert set(texts(photos)) == {"b", "ü c"}


def test_a_sidecar_through_a_link_replaces_what_the_link_leads_to(command: Command, photos: Path) -> None:
    Path("texts").mkdir()
    Path("texts/a.txt").write_text("mine")
    (photos / "a.txt").symlink_to("../texts/a.txt")
    assert command("caption", photos, "--sidecar", ".txt", "--existing", "overwrite").code == 0
    assert (photos / "a.txt").is_symlink()
    assert Path("texts/a.txt").read_text() != "mine"
    (photos / "b.txt").unlink()
    (photos / "b.txt").symlink_to("../texts/a.txt")
    run = command("caption", photos, "--sidecar", ".txt", "--existing", "overwrite")
    assert run.code == 1
    assert run.err.count("would be the sidecar of") == 2


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        ("--sidecar .txt --output photos/a.txt", ("--output", "photos/a.txt", "photos/a.png")),
        ("--sidecar .jpg", ("--sidecar .jpg", ".txt")),
        ("--sidecar .xmp", ("--sidecar .xmp", "--xmp")),
        ("--existing append", ("--existing", "--sidecar")),
        ("--separator x --sidecar .txt", ("--separator", "--existing append")),
        ("--alt-text", ("--alt-text", "--xmp")),
        ("--xmp-name name", ("--xmp-name", "--xmp")),
        ("--prefix {size}", ("--prefix", "{size}", "index")),
        ("--shard 9/8", ("--shard 9/8", "8/8")),
        ("--output a.csv --failures a.csv", ("--output", "--failures")),
        ("--failures failed.txt", ("failed.txt", ".csv")),
        ("--failures photos/a.png", ("a.png",)),
        ("--move-failed photos", ("--move-failed", "photos/")),
        ("--move-failed photos/a.png", ("--move-failed", "folder")),
        ("--watch --page a.html", ("--watch", "--page")),
        ("--watch 0 --sidecar .txt", ("--watch 0", "0.05")),
        ("photos/a.png --watch 1", ("photos/a.png", "no folder")),
        ("--include=", ("--include", "*.jpg")),
        ("--from nowhere.txt", ("--from nowhere.txt",)),
    ],
)
def test_conflicts_are_one_line_before_any_work(
    command: Command, photos: Path, monkeypatch: pytest.MonkeyPatch, options: str, parts: tuple[str, ...]
) -> None:
    monkeypatch.setattr("captioner.pipeline.load", fail)
    before = contents()
    run = command("caption", photos, *options.split())
    assert (run.code, run.out) == (2, "")
    assert run.err.count("\n") == 1, run.err
    assert all(part in run.err for part in parts), run.err
    assert contents() == before


def test_prefix_and_suffix_are_in_every_output(command: Command, photos: Path) -> None:
    options = ["--prefix", "{index}: ", "--suffix", " ({stem})"]
    shown = command("caption", photos, *options).out.splitlines()
    assert [line.split("\t")[1].split(":")[0] for line in shown] == ["1", "2", "3"]
    assert [line.rpartition(" ")[2] for line in shown] == ["(a)", "(b)", "c)"]
    captions = {Path(line.split("\t")[0]).stem: line.split("\t")[1] for line in shown}
    written = [*options, "--sidecar", ".json", "--xmp", "--page", "p.html"]
    assert command("caption", photos, *written, "--output", "c.jsonl").code == 0
    rows = [json.loads(line) for line in Path("c.jsonl").read_text().splitlines()]
    assert {Path(row["image"]).stem: row["caption"] for row in rows} == captions
    beside = {path.stem: json.loads(path.read_text())["caption"] for path in photos.rglob("*.json")}
    assert beside == captions
    assert all(text in (photos / f"{name}.xmp").read_text() for name, text in captions.items() if name != "ü c")
    assert all(text in Path("p.html").read_text() for text in captions.values() if "ü" not in text)
    # A file that was made with a prefix is not resumed without it; a shard has the numbers of the whole.
    run = command("caption", photos, "--output", "c.jsonl")
    assert run.code == 2
    assert "prefix '{index}: ', not ''" in run.err
    parts = [command("caption", photos, *options, "--shard", f"{i}/2").out.splitlines() for i in (1, 2)]
    assert sorted(line.split("\t")[-1] for part in parts for line in part) == sorted(captions.values())


def test_a_dry_run_writes_nothing(command: Command, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("captioner.pipeline.load", fail)
    (photos / "a.txt").write_text("mine")
    before = contents()
    outputs = ["--output", "new/c.csv", "--failures", "f.csv", "--figure", "figures", "--page", "p.html"]
    run = command("caption", photos, "--sidecar", ".txt", "--existing", "append", *outputs, "--dry-run")
    assert run.code == 0
    for line in ("photos/a.txt: add to", "photos/b.txt: new", "new/c.csv: 3 more rows", "p.html: a page of 3 pictures"):
        assert line in run.out.splitlines()
    assert "3 would be captioned" in run.err
    assert contents() == before
    assert not Path("new").exists()


def test_a_folder_that_cannot_be_written_is_a_failure_before_any_work(
    command: Command, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    allowed = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: not os.fspath(path).endswith("sub") and allowed(path, mode))
    run = command("caption", photos, "--sidecar", ".txt")
    assert run.code == 1
    assert "photos/sub" in run.err
    assert set(texts(photos)) == {"a", "b"}


def test_a_full_disk_stops_with_one_line_and_whole_sidecars(
    command: Command, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def fsync(_: int) -> None:
        calls.append(1)
        if len(calls) > 1:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", fsync)
    run = command("caption", photos, "--sidecar", ".txt", "--quiet")
    assert run.code == 1
    assert run.err.count("\n") == 1
    assert "photos/b.txt" in run.err
    assert "No space left" in run.err
    assert set(texts(photos)) == {"a"}
    assert not list(photos.glob(".captioner-*"))


def caption_of(picture: Path, text: str) -> Caption:
    geometry = Geometry(size=(4, 4), side=4, grid=(1, 1))
    return Caption(
        text=text, words=(), score=0.0, finished=True, image=os.fspath(picture), model="m", geometry=geometry,
        source=picture,
    )  # fmt: skip


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("former", [None, "mine\n"], ids=["new", "there"])
@pytest.mark.parametrize("moment", ["fsync", "link", "replace", "unlink"])
def test_a_kill_at_any_moment_leaves_no_half_of_a_sidecar(tmp_path: Path, moment: str, former: str | None) -> None:
    picture, path = tmp_path / "a.png", tmp_path / "a.txt"
    picture.touch()
    if former is not None:
        path.write_text(former)

    def sidecars() -> BesideFiles:
        return BesideFiles(TextSidecar(), lambda _: "a.txt", Join(existing="append"), option="--sidecar")

    child = os.fork()
    if child == 0:
        whole: Any = getattr(os, moment)

        def killed(*given: Any, **more: Any) -> None:
            if moment in ("link", "replace"):
                whole(*given, **more)
            os.kill(os.getpid(), signal.SIGKILL)

        setattr(os, moment, killed)
        sidecars().write(caption_of(picture, "a dog"))
        os._exit(0)
    os.waitpid(child, 0)
    after = path.read_text() if path.exists() else None
    assert after in (former, "a dog\n" if former is None else "mine, a dog\n")
    sidecars().write(caption_of(picture, "a dog"))
    assert path.read_text() == ("a dog\n" if former is None else "mine, a dog\n")
    assert sorted(one.name for one in tmp_path.iterdir()) == ["a.png", "a.txt"]


def test_a_sidecar_that_is_edited_meanwhile_keeps_the_edit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture, path = tmp_path / "a.png", tmp_path / "a.txt"
    path.write_text("mine\n")
    sidecars = BesideFiles(TextSidecar(), lambda _: "a.txt", Join(existing="append"), option="--sidecar")
    edits = iter(["mine, edited\n"])

    def somebody_edits(_: int) -> None:
        if (text := next(edits, None)) is not None:
            path.write_text(text)

    monkeypatch.setattr(os, "fsync", somebody_edits)
    sidecars.write(caption_of(picture, "a dog"))
    assert path.read_text() == "mine, edited, a dog\n"
    assert [one.name for one in tmp_path.iterdir()] == ["a.txt"]


def test_a_sidecar_that_appears_meanwhile_is_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture, path = tmp_path / "a.png", tmp_path / "a.txt"
    sidecars = BesideFiles(TextSidecar(), lambda _: "a.txt", Join(), option="--sidecar")

    def somebody_writes(_: int) -> None:
        path.write_text("mine\n")

    monkeypatch.setattr(os, "fsync", somebody_writes)
    sidecars.write(caption_of(picture, "a dog"))
    assert path.read_text() == "mine\n"
    assert [one.name for one in tmp_path.iterdir()] == ["a.txt"]
