"""Graphs of answering models: they compute what torch computes, and asking with them needs no torch."""

import json
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("onnxscript", reason="needs the extra 'export', which is not installed")

from captioner import checkpoint
from captioner.asking import load_answering
from captioner.backends.graph_files import graph_folder, read_description
from captioner.backends.onnx_answering import OnnxAnsweringBackend
from captioner.cli import main
from captioner.errors import CheckpointError
from captioner.export.answers import write_answering_graphs

Make = Callable[..., checkpoint.AnswerCheckpoint]


@pytest.fixture(scope="module")
def exported(make_answering: Make, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("exported") / "tiny.safetensors"
    checkpoint.save(path, make_answering(pad=True))
    found = write_answering_graphs(path)  # any number of pictures, questions and words is tried
    assert max(found.log_p, found.maps) < 1e-5
    return path


def test_graphs_hold_no_weights_and_answer_as_torch(exported: Path, make_picture: Callable[..., Path]) -> None:
    for name in ("encode", "answer"):
        content = (graph_folder(exported) / f"{name}.onnx").read_bytes()
        description = read_description(content)
        assert description["graph"] == name and description["max_length"] == 12
        assert any("gates" in recipe for recipe in description["initialisers"].values()) == (name == "answer")
    picture, questions = make_picture(), ["what is the dog doing", "how many"]
    ours, theirs = (load_answering(exported, backend=name).ask(picture, questions) for name in ("onnx", "torch"))
    for one, other in zip(ours, theirs, strict=True):
        assert one.text == other.text and one.probability == pytest.approx(other.probability, abs=1e-4)


@pytest.mark.parametrize("threads", [1, 2])
def test_as_many_pictures_as_threads_are_encoded_side_by_side(
    threads: int, exported: Path, make_picture: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [make_picture(f"photos/{i}.png", seed=i).name for i in range(4)]
    names.insert(2, "gone.png")
    rows = [{"image": name, "question": question} for name in names for question in ("the dog", "how many")]
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    encode, together, used = OnnxAnsweringBackend.encode, threading.Barrier(threads), set()

    def encode_together(self: OnnxAnsweringBackend, *arguments: Any) -> Any:
        used.add(threading.get_ident())
        together.wait(30)  # until so many are inside
        return encode(self, *arguments)

    monkeypatch.setattr(OnnxAnsweringBackend, "encode", encode_together)
    command = ["ask", "--questions", str(tmp_path / "q.jsonl"), "--images", str(tmp_path / "photos")]
    command += ["--output", str(tmp_path / "a.jsonl"), "--model", str(exported), "--device", "cpu"]
    assert main([*command, "--threads", str(threads)]) == 1
    answers = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    assert [(row["image"], row["question"]) for row in answers] == [(row["image"], row["question"]) for row in rows]
    assert [row["image"] for row in answers if "error" in row] == ["gone.png"] * 2
    assert len(used) == threads and (threads > 1 or used == {threading.get_ident()})


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_a_folder_answers_as_the_model_does(
    precision: str,
    exported: Path,
    make_picture: Callable[..., Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder, picture, question = tmp_path / "folder", make_picture(), "what is the dog doing?"
    command = ["export", str(exported), "--output", str(folder), "--precision", precision]
    assert main(command) == 0
    config = json.loads((folder / "config.json").read_text())
    assert sorted(path.name for path in folder.iterdir()) == ["answer.onnx", "config.json", "encode.onnx", "example.py"]
    assert config["precision"] == precision and config["answers"][4] == "red ball"
    ours, theirs = (load_answering(path).ask(picture, question, n_best=5) for path in (folder, exported))
    probabilities = [{one.text: one.probability for one in (found, *found.alternatives)} for found in (ours, theirs)]
    assert probabilities[0] == pytest.approx(probabilities[1], abs=0.01)
    assert abs(ours.map - theirs.map).max() < 0.1 * theirs.map.max()
    capsys.readouterr()
    assert main(["ask", str(picture), question, "--model", str(folder)]) == 0
    assert capsys.readouterr().out.strip() == ours.text
    assert main(["models", str(folder)]) == 0
    assert "5 answers" in capsys.readouterr().out
    if precision == "fp16":
        run = [sys.executable, str(folder / "example.py"), str(picture), question]
        lines = subprocess.run(run, capture_output=True, text=True, check=True).stdout.splitlines()
        assert lines[0] == ours.text and "looked most at row" in lines[1] and lines[2].count("  ") == 4
        assert main(command) == 0, "it may be exported again"
        assert main(["caption", str(picture), "--model", str(folder)]) == 2
        assert "captioner ask" in capsys.readouterr().err
        assert main(["export", str(exported), "--web", str(tmp_path / "web")]) == 2
        assert "--web" in capsys.readouterr().err


def test_asking_imports_no_torch(exported: Path, make_picture: Callable[..., Path]) -> None:
    code = (
        "import sys; from captioner.cli import main; "
        f"code = main(['ask', {str(make_picture())!r}, 'the dog', '--model', {str(exported)!r}, '--device', 'cpu']); "
        "sys.exit(code or ('torch' in sys.modules) * 3)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_graphs_of_another_model_are_refused(exported: Path, make_answering: Make, tmp_path: Path) -> None:
    other = tmp_path / exported.name
    model = make_answering(pad=True)
    checkpoint.save(
        other,
        checkpoint.AnswerCheckpoint(
            model=model.model, vocabulary=model.vocabulary, answers=model.answers, about={"note": "other"}
        ),
    )
    graph_folder(other).parent.mkdir()
    graph_folder(other).symlink_to(graph_folder(exported))
    with pytest.raises(CheckpointError, match="another model file"):
        load_answering(other, backend="onnx")
