"""``captioner export`` to ONNX: graphs beside a model file, and folders."""

import json
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest

from captioner.backends.graph_files import graph_folder
from captioner.cli import main
from captioner.pipeline import load

MakePicture = Callable[..., Path]


@pytest.fixture
def model_file(tiny_model: Path, tmp_path: Path) -> Path:
    path = tmp_path / "mine.safetensors"
    path.write_bytes(tiny_model.read_bytes())
    return path


def test_graphs_are_written_beside_the_model_file(
    quick_model: Path,
    tmp_path: Path,
    make_picture: MakePicture,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model_file = tmp_path / "mine.safetensors"
    model_file.write_bytes(quick_model.read_bytes())  # whose graphs are traced already, and not once more
    graphs = {file.stem: onnx.load(file, load_external_data=False) for file in graph_folder(quick_model).iterdir()}
    monkeypatch.setattr("captioner.export.graphs.export_graphs", lambda *_, **__: graphs)
    assert main(["export", str(model_file), "--graphs"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["model"] == "mine"
    assert 0 <= said["log_p_difference"] < 1e-4
    assert {file.name for file in graph_folder(model_file).iterdir()} == {"encode.onnx", "step.onnx", "score.onnx"}
    picture = make_picture()
    assert load(model_file, backend="onnx").caption(picture).text == load(model_file).caption(picture).text


def test_a_folder_is_written_and_captions(
    quick_model: Path, tmp_path: Path, make_picture: MakePicture, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, picture = tmp_path / "exported", make_picture()
    assert main(["export", str(quick_model), "--output", str(folder), "--precision", "fp16"]) == 0
    assert json.loads((folder / "config.json").read_text())["precision"] == "fp16"
    capsys.readouterr()
    assert main(["caption", str(picture), "--model", str(folder)]) == 0
    expected = load(folder).caption(picture).text
    assert expected in capsys.readouterr().out
    again = ["--output", str(tmp_path / "again.safetensors"), "--data", str(picture)]
    for command in (
        ["export", str(folder), "--output", str(tmp_path / "again")],
        ["export", str(folder), *again],
        ["select-heads", str(folder), *again],
        ["average", str(quick_model), str(folder), *again[:2]],
        ["ensemble", str(quick_model), str(folder), *again[:2]],
    ):
        assert main(command) == 2
        error = capsys.readouterr().err
        assert "is exported already" in error and error.count("\n") == 1, error
    assert not Path(again[1]).exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "one of --output, --graphs and --web"),
        (("--graphs", "--output", "x"), "one of --output, --graphs and --web"),
        (("--graphs", "--precision", "fp16"), "--precision"),
        (("--graphs", "--threads", "0"), "--threads must be at least 1"),
        (("--graphs", "--side", "64"), "--side is for a release"),
        (("--graphs", "--device", "cpu"), "--device is for a release"),
        (("--output", "exported", "--precision", "int3"), "'int3'"),
        (("--output", "exported", "--calibrate", "photos"), "--calibrate photos"),
        (("--web", "page", "--precision", "int8"), "--precision int8"),
        (("--output", "exported", "--precision", "int8", "--calibrate", "photos"), "photos: no such folder"),
    ],
)
def test_bad_input_is_one_line(
    arguments: tuple[str, ...],
    said: str,
    model_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["export", str(model_file), *arguments]) == 2
    line = capsys.readouterr().err
    assert said in line
    assert line.count("\n") == 1
    assert [file.name for file in tmp_path.iterdir()] == ["mine.safetensors"]


def test_the_name_of_data_is_for_a_release(tiny_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", str(tiny_model), "--graphs", "--name", "X"]) == 2
    assert "--name is for a release" in capsys.readouterr().err
