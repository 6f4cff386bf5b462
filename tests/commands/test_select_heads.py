"""The command ``captioner select-heads``."""

import json
from pathlib import Path

import pytest

from captioner import checkpoint
from captioner.cli import main
from captioner.data.scenes import write_scenes


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes")
    write_scenes(folder, count=1, dev=5, size=(96, 72))
    return folder


def test_the_command_writes_a_model_with_its_map_options(
    tiny_model: Path, scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out.safetensors"
    command = ["select-heads", str(tiny_model), "--data", str(scenes), "--output", str(output), "--gradients", "2"]
    assert main(command) == 0
    captured = capsys.readouterr()
    measured = json.loads(captured.out)
    assert measured["pictures"] == 5
    assert 0 <= measured["plain"]["pointing"]["value"] <= 1
    assert "sinks standardise, delay 1" in captured.err and "gradient (on fewer pictures), sinks keep" in captured.err
    about = checkpoint.load(output).about
    assert about["maps_measured"] == measured
    assert about["maps"]["explain"] == measured["default"]


@pytest.mark.parametrize(
    ("more", "named"),
    [
        (["--split", "test"], "'test'"),
        (["--split", "tset"], "tset"),
        (["--pictures", "0"], "--pictures"),
        (["--gradients", "-1"], "--gradients"),
        (["--output", "model.txt"], "model.txt"),
        (["--data", "nowhere"], "nowhere"),
        (["--device", "cpu:7"], "cpu:7"),
    ],
)
def test_bad_input_is_one_line(
    more: list[str], named: str, tiny_model: Path, scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out.safetensors"
    command = ["select-heads", str(tiny_model), "--data", str(scenes), "--output", str(output), *more]
    assert main(command) == 2
    error = capsys.readouterr().err
    assert named in error and error.count("\n") == 1
    assert not output.exists()


def test_the_model_is_not_overwritten(
    tiny_model: Path, scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    link = tmp_path / "link.safetensors"
    link.symlink_to(tiny_model)
    before = tiny_model.read_bytes()
    for output in (tiny_model, link):
        assert main(["select-heads", str(tiny_model), "--data", str(scenes), "--output", str(output)]) == 2
        assert "--output" in capsys.readouterr().err
    assert tiny_model.read_bytes() == before


def test_a_failed_picture_is_named_and_the_others_are_used(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_scenes(tmp_path, count=1, dev=5, size=(96, 72))
    rows = [json.loads(line) for line in (tmp_path / "captions.jsonl").read_text().splitlines()]
    bad = next(tmp_path.rglob(next(Path(row["image"]).name for row in rows if row["split"] == "dev")))
    bad.write_text("no picture")
    output = tmp_path / "out.safetensors"
    assert main(["select-heads", str(tiny_model), "--data", str(tmp_path), "--output", str(output)]) == 1
    captured = capsys.readouterr()
    assert captured.err.count(bad.name) == 1
    assert json.loads(captured.out)["pictures"] == 4
