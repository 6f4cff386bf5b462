"""Which pictures ``captioner caption`` takes, what it says of failures, and results in Parquet."""

import csv
import io
import json
import os
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from captioner.commands import watch
from captioner.commands.progress import Pace, progress, span
from captioner.errors import CheckpointError
from tests.commands.conftest import Command

MakePicture = Callable[..., Path]


def captioned(out: str) -> list[str]:
    return [line.split("\t")[0] for line in out.splitlines()]


@pytest.fixture
def photos(make_picture: MakePicture) -> Path:
    """Three pictures, one in a subfolder."""
    for i, name in enumerate(("a.png", "b.jpg", "sub/c.png")):
        make_picture(f"photos/{name}", seed=i)
    return Path("photos")


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ("--no-recursive", ["a.png", "b.jpg"]),
        ("--include *.png", ["a.png", "sub/c.png"]),
        ("--include sub/*", ["sub/c.png"]),
        ("--exclude sub", ["a.png", "b.jpg"]),
        ("--include *.png --exclude a*", ["sub/c.png"]),
    ],
)
def test_what_is_taken_of_a_folder(command: Command, photos: Path, options: str, names: list[str]) -> None:
    run = command("caption", photos, *options.split(), "--output", "c.txt")
    assert run.code == 0
    assert captioned(Path("c.txt").read_text()) == [f"photos/{name}" for name in names]


def test_shards_are_all_pictures_once(command: Command, photos: Path) -> None:
    for i in (1, 2, 3):
        assert command("caption", photos, "--shard", f"{i}/3", "--output", f"{i}.txt").code == 0
    parts = [captioned(path.read_text()) for path in Path().glob("[123].txt")]
    assert sorted(name for part in parts for name in part) == ["photos/a.png", "photos/b.jpg", "photos/sub/c.png"]


def test_lists_of_pictures(command: Command, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    odd = photos / "new\nline.png"
    odd.write_bytes((photos / "a.png").read_bytes())
    Path("list.txt").write_bytes(b"\xef\xbb\xbfphotos/a.png\r\n\nphotos/sub\nhttps://example.org/b.jpg\ngone.png\n")
    run = command("caption", "--from", "list.txt", "--output", "c.txt")
    assert run.code == 1
    assert captioned(Path("c.txt").read_text()) == ["photos/a.png", "photos/sub/c.png"]
    assert "https://example.org/b.jpg: a URL" in run.err
    assert "gone.png" in run.err
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(f"{odd}\0photos/b.jpg\0".encode())))
        run = command("caption", "--from", "-")
    assert captioned(run.out) == ["photos/new\\nline.png", "photos/b.jpg"]
    Path("empty.txt").touch()
    run = command("caption", "--from", "empty.txt")
    assert (run.code, run.err.count("\n")) == (2, 1)


def test_failures_are_a_table_of_the_last_run(command: Command, photos: Path) -> None:
    (photos / "bad\n,.jpg").write_text("no picture")
    run = command("caption", photos, "gone.png", "--failures", "failed.csv", "--output", "c.csv")
    assert run.code == 1
    with Path("failed.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["path"] for row in rows] == ["gone.png", "photos/bad\n,.jpg"]
    assert list(rows[0]) == ["path", "error", "remedy"]
    assert rows[1]["remedy"].startswith("known are JPEG")
    assert (photos / "bad\n,.jpg").exists()
    (photos / "bad\n,.jpg").unlink()
    assert command("caption", photos, "--failures", "failed.csv", "--output", "c.csv").code == 0
    assert Path("failed.csv").read_text() == "path,error,remedy\n"
    Path("mine.csv").write_text("name,age\n")
    run = command("caption", photos, "--failures", "mine.csv")
    assert (run.code, Path("mine.csv").read_text()) == (2, "name,age\n")


def test_pictures_that_do_not_open_are_moved_where_nothing_is_lost(command: Command, photos: Path) -> None:
    for folder in (photos, photos / "sub"):
        (folder / "bad.jpg").write_text(f"in {folder.name}")
    (photos / "link.jpg").symlink_to("sub/bad.jpg")
    Path("failed").mkdir()
    Path("failed/bad.jpg").write_text("of a former run")
    run = command("caption", photos, "--move-failed", "failed", "--failures", "failed.csv", "--quiet")
    assert run.code == 1
    with Path("failed.csv").open(newline="") as file:
        rows = [row["path"] for row in csv.DictReader(file)]
    assert sorted(rows) == ["failed/bad-2.jpg", "failed/bad-3.jpg", "photos/link.jpg"], "where they are now"
    kept = {path.name: path.read_text() for path in Path("failed").iterdir()}
    assert kept == {"bad.jpg": "of a former run", "bad-2.jpg": "in photos", "bad-3.jpg": "in sub"}
    assert not (photos / "bad.jpg").exists()
    assert (photos / "link.jpg").is_symlink()


def test_rows_of_moved_pictures_stay_until_they_are_gone(command: Command, photos: Path) -> None:
    (photos / "bad.jpg").write_text("no picture")
    (photos / "link.jpg").symlink_to("bad.jpg")
    options = ("--move-failed", "failed", "--failures", "f.csv", "--output", "c.txt")
    assert command("caption", photos, *options).code == 1
    (photos / "link.jpg").unlink()
    for _ in range(2):
        assert command("caption", photos, *options).code == 0
        with Path("f.csv").open(newline="") as file:
            assert [row["path"] for row in csv.DictReader(file)] == ["failed/bad.jpg"]
    os.chdir(photos)
    command("caption", "a.png", "--move-failed", "../failed", "--failures", "../f.csv", "--output", "../d.txt")
    os.chdir("..")
    assert "failed/bad.jpg" in Path("f.csv").read_text()
    Path("failed/bad.jpg").unlink()
    assert command("caption", photos, *options).code == 0
    assert Path("f.csv").read_text() == "path,error,remedy\n"


def test_failures_stay_where_a_run_cannot_start(
    command: Command, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (photos / "bad.jpg").write_text("no picture")
    assert command("caption", photos, "gone.png", "--failures", "f.csv").code == 1
    before = Path("f.csv").read_text()
    assert before.count("\n") == 3

    def damaged(_: object) -> None:
        raise CheckpointError("the weights are damaged")

    monkeypatch.setattr("captioner.commands.caption.load_model", damaged)
    assert command("caption", photos, "other.png", "--failures", "f.csv").code == 2
    assert Path("f.csv").read_text() == before


def test_failures_stay_where_outputs_cannot_be_made_and_a_dry_run_makes_nothing(command: Command, photos: Path) -> None:
    assert command("caption", photos, "gone.png", "--failures", "f.csv").code == 1
    before = Path("f.csv").read_text()
    Path("file").touch()
    run = command("caption", photos, "other.png", "--failures", "f.csv", "--move-failed", "file/sub")
    assert (run.code, "cannot be made" in run.err) == (2, True)
    assert Path("f.csv").read_text() == before
    run = command("caption", photos, "--failures", "f.csv", "--output", "new/deep/c.parquet", "--dry-run")
    assert run.code == 0
    assert not Path("new").exists() and Path("f.csv").read_text() == before


def test_a_picture_that_cannot_be_moved_is_not_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from captioner.data.writers import FailedFolder

    (tmp_path / "a.jpg").write_text("x")
    failed = FailedFolder(tmp_path / "failed")
    failed.prepare()
    unlink = Path.unlink

    def fixed(self: Path, missing_ok: bool = False) -> None:
        if self.parent == tmp_path:
            raise PermissionError(13, "Permission denied")
        unlink(self, missing_ok)

    monkeypatch.setattr(Path, "unlink", fixed)
    for _ in range(2):
        with pytest.raises(PermissionError):
            failed.move(tmp_path / "a.jpg")
    assert [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.jpg")] == ["a.jpg"]


def test_moving_to_another_disk_copies_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from captioner.data.writers import FailedFolder

    def no_links(*_: object, **__: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", no_links)
    (tmp_path / "a.jpg").write_text("x")
    failed = FailedFolder(tmp_path / "failed")
    failed.prepare()
    assert failed.move(tmp_path / "a.jpg") == tmp_path / "failed" / "a.jpg"
    assert [path.name for path in tmp_path.rglob("*.jpg")] == ["a.jpg"]


def test_quiet_says_nothing_but_failures(command: Command, photos: Path) -> None:
    (photos / "notes.txt").touch()
    run = command("caption", photos, "gone.png", "--output", "c.csv", "--quiet")
    assert (run.code, run.err) == (1, "captioner: gone.png: no such file or folder\n")


# Results in Parquet, and pictures from it.


def test_parquet_is_resumed_and_says_what_made_it(
    command: Command, photos: Path, make_picture: MakePicture, monkeypatch: pytest.MonkeyPatch
) -> None:
    pq = pytest.importorskip("pyarrow.parquet", reason="needs pyarrow (captioner[parquet])")
    from captioner.data.writers.parquet import ParquetResults

    finish = ParquetResults._finish

    def killed(self: ParquetResults) -> None:  # as by a kill before the table is written
        raise KeyboardInterrupt

    monkeypatch.setattr(ParquetResults, "_finish", killed)
    assert command("caption", photos, "--output", "c.parquet", "--exclude", "sub").code == 130
    assert not Path("c.parquet").exists()
    dry = command("caption", photos, "--output", "c.parquet", "--dry-run")
    assert "1 would be captioned, 2 are there" in dry.err
    left = Path(".c.parquet.rows.jsonl").read_bytes()
    monkeypatch.setattr(ParquetResults, "_finish", finish)
    run = command("caption", photos, "--output", "c.parquet")
    assert (run.code, run.err) == (0, "c.parquet: 3 captions (2 were there)\n")
    # A dry run leaves the table, and the rows of a run that was killed.
    Path(".c.parquet.rows.jsonl").write_bytes(left)
    whole = Path("c.parquet").read_bytes()
    assert command("caption", photos, "--output", "c.parquet", "--overwrite", "--dry-run").code == 0
    assert (Path("c.parquet").read_bytes(), Path(".c.parquet.rows.jsonl").read_bytes()) == (whole, left)
    make_picture("photos/d.png", seed=9)
    run = command("caption", photos, "--output", "c.parquet")
    assert (run.code, run.err) == (0, "c.parquet: 4 captions (3 were there)\n")
    assert [path.name for path in Path().iterdir() if "parquet" in path.name] == ["c.parquet"]
    assert command("caption", photos, "--output", "c.jsonl").code == 0
    rows = {row["image"]: row for row in map(json.loads, Path("c.jsonl").read_text().splitlines())}
    table = pq.read_table("c.parquet").to_pylist()
    assert len(table) == len(rows) == 4
    for row in table:
        same = rows[row["image"]]
        assert (row["caption"], row["grid"], row["size"]) == (same["caption"], same["grid"], same["size"])
        assert row["words"] == [word["word"] for word in same["words"]]
        assert row["probabilities"] == pytest.approx([word["probability"] for word in same["words"]], abs=1e-4)
        flat = [[value for line in word["map"] for value in line] for word in same["words"]]
        assert all(a == pytest.approx(b, abs=1e-4) for a, b in zip(row["maps"], flat, strict=True))
    run = command("caption", photos, "--output", "c.parquet", "--beam", "1")
    assert run.code == 2
    assert "beam 2, not 1" in run.err
    assert command("caption", photos, "--output", "c.parquet", "--beam", "1", "--overwrite").code == 0
    assert pq.read_table("c.parquet").num_rows == 4


def test_a_table_of_others_is_refused(command: Command, photos: Path) -> None:
    pa = pytest.importorskip("pyarrow", reason="needs pyarrow (captioner[parquet])")
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"image": ["a"]}), "c.parquet")
    before = Path("c.parquet").read_bytes()
    for more in ((), ("--overwrite",)):
        run = command("caption", photos, "--output", "c.parquet", *more)
        assert (run.code, run.err.count("\n")) == (2, 1)
        assert Path("c.parquet").read_bytes() == before
        assert not list(Path().glob(".c.parquet*"))


def test_a_row_without_a_path_fails_alone(command: Command, photos: Path) -> None:
    pa = pytest.importorskip("pyarrow", reason="needs pyarrow (captioner[parquet])")
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"path": ["photos/a.png", None, "photos/b.jpg", ""]}), "in.parquet")
    run = command("caption", "in.parquet", "--column", "path", "--output", "c.txt", "--failures", "f.csv")
    assert run.code == 1
    assert captioned(Path("c.txt").read_text()) == ["photos/a.png", "photos/b.jpg"]
    with Path("f.csv").open(newline="") as file:
        assert [row["path"] for row in csv.DictReader(file)] == ["in.parquet/00000001", "in.parquet/00000003"]


def test_pictures_of_tables_and_shards(command: Command, photos: Path) -> None:
    pa = pytest.importorskip("pyarrow", reason="needs pyarrow (captioner[parquet])")
    import pyarrow.parquet as pq

    plain = dict(line.split("\t") for line in command("caption", photos).out.splitlines())
    data = [path.read_bytes() for path in (photos / "a.png", photos / "b.jpg")]
    pq.write_table(pa.table({"image": [data[0], b"damaged", data[1]]}), "in.parquet")
    with tarfile.open("in.tar", "w") as tar:
        tar.add(photos / "a.png", "a.png")
    run = command("caption", "in.parquet", "in.tar", "--output", "c.txt", "--failures", "f.csv")
    assert run.code == 1
    rows = dict(line.split("\t") for line in Path("c.txt").read_text().splitlines())
    assert rows == {
        "in.parquet/00000000": plain["photos/a.png"],
        "in.parquet/00000002": plain["photos/b.jpg"],
        "in.tar/a.png": plain["photos/a.png"],
    }
    assert "in.parquet/00000001" in Path("f.csv").read_text()
    run = command("caption", "in.parquet", "in.tar", "--output", "c.txt")
    assert "c.txt: 3 captions (3 were there)" in run.err
    run = command("caption", "in.parquet", "--sidecar", ".txt")
    assert (run.code, run.err.count("\n")) == (2, 1)
    assert "--output" in run.err
    run = command("caption", "in.parquet", "--column", "picture", "--output", "d.txt")
    assert (run.code, "image (binary)" in run.err) == (2, True)


# Watching, and progress.


def test_what_appears_is_captioned_when_it_is_whole(
    command: Command, photos: Path, make_picture: MakePicture, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = make_picture("later.png", seed=5).read_bytes()
    looks = []

    def sleep(_: float) -> None:
        looks.append(sorted(path.stem for path in photos.rglob("*.txt")))
        if len(looks) == 2:
            (photos / "new.png").write_bytes(whole[:100])  # while it is copied
            (photos / "bad.png").write_bytes(b"no picture")
        elif len(looks) == 3:
            (photos / "new.png").write_bytes(whole)
        elif len(looks) == 7:
            raise KeyboardInterrupt

    monkeypatch.setattr(watch.time, "sleep", sleep)
    monkeypatch.setattr(watch.Watcher.__init__, "__kwdefaults__", {"sleep": sleep})
    run = command("caption", photos, "--sidecar", ".txt", "--watch", "0.1")
    assert looks[0] == []
    assert looks[1] == ["a", "b", "c"]
    assert looks[-1] == ["a", "b", "c", "new"]
    assert run.code == 1
    assert run.err.count("photos/bad.png") == 1
    assert "4 captioned, 1 failed" in run.err


def test_an_empty_folder_can_be_watched(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def sleep(_: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(watch.Watcher.__init__, "__kwdefaults__", {"sleep": sleep})
    Path("inbox").mkdir()
    run = command("caption", "inbox", "--watch", "--output", "c.csv")
    assert (run.code, run.err) == (0, "")


def test_times_and_rates() -> None:
    assert [span(s) for s in (0.4, 59, 61, 3600, 90000)] == ["0 s", "59 s", "1 min 1 s", "1 h 0 min", "1 d 1 h"]
    pace = Pace(100)
    assert (pace.per_hour, str(pace)) == (0.0, "0 an hour, 0 s left")
    pace._started -= 36
    pace.done = 10
    assert pace.per_hour == pytest.approx(1000, rel=0.01)
    assert str(pace).endswith("an hour, 5 min 24 s left")


def test_without_a_terminal_the_progress_is_a_line_now_and_then(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = iter(range(0, 10_000, 20))
    monkeypatch.setattr("captioner.commands.progress.time.monotonic", lambda: next(now))
    with progress("captions", 50) as (advance, _):
        for _ in range(50):
            advance()
    lines = capsys.readouterr().err.splitlines()
    assert 5 < len(lines) < 50
    assert all(" of 50 captions, " in line and "an hour" in line and "left" in line for line in lines)
    with progress("captions", 50, quiet=True) as (advance, _):
        advance()
    assert capsys.readouterr().err == ""
