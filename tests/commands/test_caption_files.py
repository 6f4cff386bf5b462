"""``captioner caption`` and its files: none is lost, none is written twice, what is asked for is made."""

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from captioner import Captioner, checkpoint
from tests.commands.conftest import PROGRAM, Command

MakePicture = Callable[..., Path]
MakeCheckpoint = Callable[..., checkpoint.Checkpoint]
KINDS = [".txt", ".jsonl", ".csv"]


@pytest.fixture
def photos(make_picture: MakePicture) -> Path:
    """Two pictures in a folder."""
    make_picture("photos/a.png")
    return make_picture("photos/b.png", seed=1).parent


def contents(folder: Path = Path()) -> dict[str, bytes]:
    return {os.fspath(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def fail(*_: object, **__: object) -> None:
    pytest.fail("it began")


# No output is an input.


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        ("photos --figure photos", ("photos/a.png",)),
        ("photos --figure ./photos/../photos", ("photos/a.png",)),
        ("photos/a.png photos/b.png --figure linked-photos", ("photos/a.png",)),
        ("photos/a.png --figure photos/a.png", ("--figure", "photos/a.png")),
        ("photos/a.png --figure photos/../photos/a.png", ("--figure", "a.png")),
        ("photos/a.png --figure hard.png", ("--figure", "hard.png", "photos/a.png")),
        ("photos/a.png --figure soft.png", ("--figure", "soft.png", "photos/a.png")),
        ("soft.png --figure photos/a.png", ("--figure", "photos/a.png", "soft.png")),
        ("photos --page words.html", ("--page", "words.html", "photos/a.png")),
        ("photos --page hard.html", ("--page", "hard.html", "photos/a.png")),
        ("photos --output photo.txt", ("--output", "photo.txt", "photos/a.png")),
        ("photos --output photo.csv --overwrite", ("--output", "photo.csv", "photos/a.png")),
        ("photos/a.png --model ./own.safetensors --output model.csv", ("--output", "model.csv", "own.safetensors")),
        ("photos/a.png --model ./own.safetensors --page model.html", ("--page", "model.html", "own.safetensors")),
        ("photos --output both.txt --page both.html", ("--output", "--page")),
    ],
)
def test_an_output_that_is_an_input_is_refused_before_any_work(
    command: Command,
    photos: Path,
    tiny_model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: str,
    names: tuple[str, ...],
) -> None:
    monkeypatch.setattr("captioner.pipeline.load", fail)
    (tmp_path / "own.safetensors").write_bytes(tiny_model.read_bytes())
    (tmp_path / "linked-photos").symlink_to("photos")
    for name in ("hard.png", "hard.html"):
        (tmp_path / name).hardlink_to(photos / "a.png")
    for name in ("soft.png", "words.html", "photo.txt", "photo.csv"):
        (tmp_path / name).symlink_to(photos / "a.png")
    for name in ("model.csv", "model.html"):
        (tmp_path / name).symlink_to("own.safetensors")
    for name in ("both.txt", "both.html"):
        (tmp_path / name).symlink_to("new")
    before = contents()
    run = command("caption", *arguments.split())
    assert (run.code, run.out) == (2, "")
    assert run.err.count("\n") == 1
    assert all(name in run.err for name in names)
    assert contents() == before


def test_reference_captions_are_no_results(command: Command, photos: Path) -> None:
    tokens = "a.png#0\ta dog\na.png#1\ta hound\n"
    Path("tokens.txt").write_text(tokens)
    for more in ((), ("--overwrite",)):
        run = command("caption", "photos", "--output", "tokens.txt", *more)
        assert run.code == 2
        assert "tokens.txt" in run.err
        assert "--output" in run.err
    assert Path("tokens.txt").read_text() == tokens


# Going on.


@pytest.mark.parametrize("kind", KINDS)
def test_going_on_with_another_model_or_options_is_refused(
    command: Command, photos: Path, make_checkpoint: MakeCheckpoint, tmp_path: Path, kind: str
) -> None:
    checkpoint.save(tmp_path / "other.safetensors", make_checkpoint("transformer"))
    output = f"c{kind}"
    assert command("caption", "photos", "--output", output).code == 0
    before = Path(output).read_bytes()
    for more, part in (
        (["--model", "./other.safetensors"], "other"),
        (["--beam", 1], "beam 2, not 1"),
        (["--n-best", 2], "n-best 1, not 2"),
        (["--explain", "gradient"], "explain attention, not gradient"),
        (["--sample", "--seed", 3], "beam, not sampling"),
    ):
        run = command("caption", "photos", "--output", output, *more)
        assert (run.code, run.out) == (2, "")
        assert run.err.count("\n") == 1
        assert all(word in run.err for word in (output, part, "--overwrite"))
        assert Path(output).read_bytes() == before
    # An option that says what holds anyway is no other option.
    assert command("caption", "photos", "--output", output, "--beam", 2, "--max-length", 6).code == 0
    run = command("caption", "photos", "--output", output, "--max-length", 3, "--overwrite")
    assert (run.code, run.err) == (0, f"{output}: 2 captions\n")
    assert Path(output).read_bytes() != before
    assert Path(output).read_text().count("photos/a.png") == 1
    run = command("caption", "photos", "--output", output, "--max-length", 3)
    assert (run.code, run.err) == (0, f"{output}: 2 captions (2 were there)\n")


def test_a_model_file_of_the_same_name_is_another_model(
    command: Command, photos: Path, make_checkpoint: MakeCheckpoint, tmp_path: Path
) -> None:
    for name, decoder in (("one", "lstm"), ("two", "transformer")):
        (tmp_path / name).mkdir()
        checkpoint.save(tmp_path / name / "best.safetensors", make_checkpoint(decoder))
    assert command("caption", "photos", "--model", "one/best.safetensors", "--output", "c.txt").code == 0
    run = command("caption", "photos", "--model", "two/best.safetensors", "--output", "c.txt")
    assert run.code == 2
    assert "another file of model best" in run.err


@pytest.mark.parametrize("kind", KINDS)
def test_each_file_has_one_row_whatever_it_is_called(
    command: Command, photos: Path, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "linked").symlink_to("photos")
    output = tmp_path / f"c{kind}"
    assert command("caption", "photos", "--output", output).code == 0
    before = output.read_bytes()
    for spelling in ("./photos", "photos/../photos", photos, "linked", "photos/a.png", "linked/b.png"):
        run = command("caption", spelling, "--output", output)
        assert run.code == 0
        assert output.read_bytes() == before
    monkeypatch.chdir(photos)
    assert command("caption", "../photos", "a.png", "--output", output).code == 0
    assert output.read_bytes() == before


def test_other_names_of_a_file_are_counted_apart(command: Command, photos: Path, tmp_path: Path) -> None:
    for number in range(3):
        (photos / f"link{number}.png").symlink_to(photos / "a.png")
    rows = len({path.resolve() for path in photos.iterdir()})
    output = ("--output", tmp_path / "c.csv")
    assert f"{rows} more rows" in command("caption", photos, *output, "--dry-run").out
    for again in ((), (), ("--json",)):
        run = command("caption", photos, *output, *again)
        assert run.code == 0
        assert f"{rows} captions" in run.err and "3 more" in run.err
        assert len((tmp_path / "c.csv").read_text().splitlines()) == rows + 1


def test_figures_keep_their_names_in_every_order_and_run(
    command: Command, photos: Path, make_picture: MakePicture
) -> None:
    make_picture("more/a.png", seed=2)
    assert command("caption", "photos", "more", "--figure", "f", "--max-length", 3).code == 0
    first = contents(Path("f"))
    assert len(first) == 3
    assert command("caption", "more", "photos", "--figure", "f", "--max-length", 3).code == 0
    assert contents(Path("f")).keys() == first.keys()
    assert command("caption", "photos/a.png", "--figure", "g/", "--max-length", 3).code == 0
    assert command("caption", "more/../more", "--figure", "g", "--max-length", 3).code == 0
    assert {path.name for path in Path("g").iterdir()} < {Path(name).name for name in first}
    assert len(list(Path("g").iterdir())) == 2


def test_missing_figures_are_drawn_when_a_run_goes_on(command: Command, photos: Path) -> None:
    assert command("caption", "photos", "--output", "c.csv").code == 0
    rows = Path("c.csv").read_bytes()
    run = command("caption", "photos", "--output", "c.csv", "--figure", "figures")
    assert (run.code, run.err) == (0, "c.csv: 2 captions (2 were there)\n")
    one, two = sorted(Path("figures").iterdir())
    one.unlink()
    two.write_text("mine")
    assert command("caption", "photos", "--output", "c.csv", "--figure", "figures").code == 0
    assert one.read_bytes().startswith(b"\x89PNG")
    assert two.read_text() == "mine"  # it was there
    assert Path("c.csv").read_bytes() == rows
    assert command("caption", "photos", "--output", "c.csv", "--figure", "figures", "--overwrite").code == 0
    assert two.read_bytes().startswith(b"\x89PNG")
    assert Path("c.csv").read_bytes() == rows


def test_figures_are_not_captioned(command: Command, photos: Path) -> None:
    for _ in range(2):
        run = command("caption", "photos", "--output", "c.csv", "--figure", "photos/figures", "--page", "photos/p.html")
        assert run.code == 0
        assert len(Path("c.csv").read_text().splitlines()) == 3
        assert len(list(Path("photos/figures").iterdir())) == 2
    run = command("caption", "photos", "--output", "c.csv")  # without the option that names the folder
    assert run.code == 0
    assert "2 were there" in run.err
    assert "2 figures left out" in run.err


@pytest.mark.parametrize("name", ["maps.v2", "out.2024", "figures.png/"])
def test_folders_of_figures_may_have_a_dot(command: Command, photos: Path, name: str) -> None:
    Path("out.2024").mkdir()
    assert command("caption", "photos", "--figure", name, "--max-length", 3).code == 0
    assert len(list(Path(name).iterdir())) == 2


# Several captions, and JSON beside a file.


def test_all_of_several_captions_are_printed(command: Command, photos: Path) -> None:
    lines = command("caption", "photos", "--n-best", 3).out.splitlines()
    assert len(lines) == 6
    assert [line.split("\t")[0] for line in lines] == ["photos/a.png", "", "", "photos/b.png", "", ""]
    found = [json.loads(line) for line in command("caption", "photos", "--n-best", 3, "--json").out.splitlines()]
    texts = [[caption["caption"], *(other["caption"] for other in caption["alternatives"])] for caption in found]
    assert [line.split("\t")[1] for line in lines] == [text for some in texts for text in some]


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_that_holds_one_caption_of_several_is_named(command: Command, photos: Path, kind: str) -> None:
    run = command("caption", "photos", "--n-best", 3, "--output", f"c{kind}")
    assert run.code == 0
    assert (f"c{kind}: holds only" in run.err) == (kind != ".jsonl")
    assert (".jsonl" in run.err.splitlines()[0]) == (len(run.err.splitlines()) == 2 or kind == ".jsonl")


def test_json_is_printed_beside_a_results_file(command: Command, photos: Path) -> None:
    run = command("caption", "photos", "--json", "--output", "d.csv")
    assert [json.loads(line)["image"] for line in run.out.splitlines()] == ["photos/a.png", "photos/b.png"]
    run = command("caption", "photos", "--json", "--output", "d.csv")
    assert len(run.out.splitlines()) == 2
    assert run.err == "d.csv: 2 captions (2 were there)\n"
    assert len(Path("d.csv").read_text().splitlines()) == 3


def test_overwrite_needs_something_to_overwrite(command: Command, photos: Path) -> None:
    run = command("caption", "photos", "--overwrite")
    assert run.code == 2
    assert "--output" in run.err


# Runs that meet trouble.


def test_a_second_run_ends_at_once(command: Command, photos: Path, quick_model: Path, tmp_path: Path) -> None:
    from captioner.data.writers import ResultsFile

    for kind in KINDS:
        with ResultsFile(tmp_path / f"c{kind}"):
            run = command("caption", "photos", "--output", f"c{kind}")
            assert (run.code, run.out) == (2, "")
            assert f"c{kind}: is being written by another run" in run.err
        assert not (tmp_path / f"c{kind}").exists()
    # Of two processes at a time, one writes each picture once.
    line = [*PROGRAM, "caption", "photos", "--model", str(quick_model), "--output", "c.csv"]
    runs = [subprocess.Popen(line, cwd=tmp_path, stderr=subprocess.DEVNULL) for _ in range(2)]
    codes = {run.wait(60) for run in runs}
    assert codes <= {0, 2}
    assert 0 in codes
    assert len((tmp_path / "c.csv").read_text().splitlines()) == 3


@pytest.mark.parametrize("kept", [True, False])
def test_a_picture_that_vanishes_is_named_and_the_others_are_done(
    command: Command, photos: Path, make_picture: MakePicture, monkeypatch: pytest.MonkeyPatch, kept: bool
) -> None:
    make_picture("photos/c.png", seed=2)
    prepare = Captioner.prepare

    def vanish(self: Captioner, picture: Any, **options: Any) -> Any:
        if not kept:
            options.pop("keep")  # as if a copy had not been kept
        prepared = prepare(self, picture, **options)
        if Path(picture).name == "b.png":
            Path(picture).unlink()
        return prepared

    monkeypatch.setattr(Captioner, "prepare", vanish)
    run = command("caption", "photos", "--page", "all.html", "--figure", "f", "--output", "c.txt", "--batch", 1)
    done = 3 if kept else 2
    assert run.code == (0 if kept else 1)
    assert ("photos/b.png" in run.err) == (not kept)
    assert Path("all.html").read_text().count("<section>") == done
    assert len(list(Path("f").iterdir())) == done
    assert Path("c.txt").read_text().count("\n") == done


def test_each_picture_is_opened_once(command: Command, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from captioner import image

    opened: list[str] = []
    original = image._file

    def watched(picture: Any, name: str) -> Any:
        if isinstance(picture, (str, os.PathLike)):
            opened.append(os.fspath(picture))
        return original(picture, name)

    monkeypatch.setattr("captioner.image._file", watched)
    everything = ["--page", "all.html", "--figure", "f", "--output", "c.jsonl", "--json"]
    assert command("caption", "photos", *everything).code == 0
    assert sorted(opened) == ["photos/a.png", "photos/b.png"]


def test_a_disk_that_fills_up_ends_the_run_with_what_is_done(
    command: Command, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = os.write

    def full(descriptor: int, data: Any) -> int:
        if b"photos/b.png" in bytes(data):
            write(descriptor, bytes(data)[:5])
            raise OSError(28, "No space left on device")
        return write(descriptor, data)

    monkeypatch.setattr("captioner.data.writers.results.os.write", full)
    run = command("caption", "photos", "--output", "c.csv")
    assert run.code == 1
    assert "captioner: c.csv: cannot be written (No space left on device)\n" in run.err
    assert run.err.endswith("c.csv: 1 caption\n")
    assert [line.split(",")[0] for line in Path("c.csv").read_text().splitlines()] == ["image", "photos/a.png"]
    monkeypatch.undo()


@pytest.mark.parametrize("device", ["cpu:1", "meta", "gpu", "cuda:99", "cuda:x", ""])
def test_a_device_that_is_not_there(command: Command, photos: Path, device: str) -> None:
    run = command("caption", "photos", "--device", device)
    assert (run.code, run.out) == (2, "")
    assert f"'{device}'" in run.err
    assert run.err.count("\n") == 1


def test_a_url_is_no_picture(command: Command, photos: Path) -> None:
    run = command("caption", "https://example.org/a.jpg", "photos/a.png")
    assert run.code == 1
    assert run.err.startswith("captioner: https://example.org/a.jpg: ")
    assert "fetch it first" in run.err
    assert len(run.out.splitlines()) == 1


def test_odd_outputs_are_refused_in_one_line(command: Command, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "folder.csv").mkdir()
    os.mkfifo(tmp_path / "pipe.txt")
    os.mkfifo(tmp_path / "pipe.html")
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "null.csv").symlink_to(os.devnull)
    (tmp_path / "round.csv").symlink_to("round.csv")
    for option, name in (
        ("--output", "folder.csv"),
        ("--output", "pipe.txt"),
        ("--output", "null.csv"),
        ("--output", "round.csv"),
        ("--output", "/dev/stdout"),
        ("--output", "photos/a.png/c.csv"),
        ("--page", "pipe.html"),
        ("--page", "folder.csv"),
        ("--figure", "pipe.png"),
        ("--figure", "photos/a.png/f.png"),
    ):
        run = command("caption", "photos/a.png", option, name)
        assert (run.code, run.out) == (2, ""), (option, name)
        assert name in run.err
        assert run.err.count("\n") == 1
    assert os.path.islink("null.csv")  # noqa: PTH114


@pytest.mark.skipif(os.name != "posix", reason="names of files are bytes on POSIX alone")
@pytest.mark.parametrize("kind", KINDS)
def test_names_are_the_same_in_every_locale(
    command: Command, photos: Path, quick_model: Path, make_picture: MakePicture, kind: str
) -> None:
    make_picture("photos/café.png", seed=2)
    ascii_locale = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    arguments = ["caption", "photos", "--output", f"words{kind}", "--figure", "figures", "--model", str(quick_model)]
    ran = subprocess.run([*PROGRAM, *arguments], env=ascii_locale, capture_output=True, check=False)
    assert ran.returncode == 0, ran.stderr
    before = contents()
    assert any("café" in name for name in before)
    again = command(*arguments)
    assert (again.code, "3 were there" in again.err) == (0, True)
    assert contents() == before
