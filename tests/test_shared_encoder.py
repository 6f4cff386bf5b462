"""A model file that leaves its encoder and refiner to another file."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import captioner
from captioner import checkpoint
from captioner.asking import load_answering
from captioner.backends.graph_files import Weights
from captioner.cli import main
from captioner.data.scenes import draw_scene
from captioner.errors import CheckpointError, OptionError
from captioner.header import read_header
from captioner.hub import save_pretrained
from captioner.training.growth import add_refiner_layers


@pytest.fixture
def files(
    tmp_path: Path,
    make_checkpoint: Callable[..., checkpoint.Checkpoint],
    make_answering: Callable[..., checkpoint.AnswerCheckpoint],
) -> Path:
    """A folder with ``captions.safetensors``; in ``answering/`` one that shares its encoder, and one that is whole."""
    captions, answers = make_checkpoint("lstm"), make_answering()
    for part in ("encoder", "refiner"):
        getattr(answers.model, part).load_state_dict(getattr(captions.model, part).state_dict())
    checkpoint.save(tmp_path / "captions.safetensors", captions)
    folder = tmp_path / "answering"
    checkpoint.save(folder / "whole.safetensors", answers)
    checkpoint.save(folder / "answers.safetensors", answers, share_encoder=tmp_path / "captions.safetensors")
    return folder


@pytest.mark.parametrize("layers", [0, 1])
def test_it_may_have_a_refiner_of_its_own(
    layers: int,
    files: Path,
    tmp_path: Path,
    make_checkpoint: Callable[..., checkpoint.Checkpoint],
    make_answering: Callable[..., checkpoint.AnswerCheckpoint],
) -> None:
    answers = checkpoint.load_answering(files / "whole.safetensors")
    start = make_checkpoint("lstm")
    start.model.encoder.load_state_dict(answers.model.encoder.state_dict())
    captions = add_refiner_layers(start, {"layers": layers, "heads": 2})
    torch.nn.init.normal_(captions.model.refiner.output_norm.weight)  # type: ignore[union-attr, arg-type]
    checkpoint.save(tmp_path / "captions.safetensors", captions)
    sharing = files / "own.safetensors"
    checkpoint.save(sharing, answers, share_encoder=tmp_path / "captions.safetensors")
    names = set(read_header(sharing)["tensors"])
    assert not any(name.startswith("encoder.") for name in names)
    ours, theirs = checkpoint.load_answering(sharing).model.state_dict(), answers.model.state_dict()
    assert {name for name in theirs if name.startswith("refiner.")} <= names
    assert ours.keys() == theirs.keys()
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name])
    with Weights(sharing, read_header(sharing)) as read:
        np.testing.assert_allclose(read["refiner.output_norm.weight"], theirs["refiner.output_norm.weight"])
        np.testing.assert_allclose(read["encoder.stages.0.0.weight"], theirs["encoder.stages.0.0.weight"], atol=1e-3)


def test_it_is_the_model_that_has_its_own_encoder(files: Path) -> None:
    sharing, whole = (files / f"{name}.safetensors" for name in ("answers", "whole"))
    ours, theirs = (checkpoint.load_answering(file).model.state_dict() for file in (sharing, whole))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    encoder = sum(np.prod(tensor.shape) for name, tensor in theirs.items() if name.startswith("encoder."))
    assert whole.stat().st_size - sharing.stat().st_size > encoder
    header = read_header(sharing)
    assert header["shared"] is not None and header["shared"][0] == str(files.parent / "captions.safetensors")
    assert header["digest"] != read_header(whole)["digest"] and read_header(whole)["shared"] is None
    assert not any(name.startswith(("encoder.", "refiner.")) for name in header["tensors"])


@pytest.mark.slow
def test_it_runs_without_torch_and_is_exported(files: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="needs onnxruntime, which is not installed")
    pytest.importorskip("onnxscript", reason="needs the extra 'export', which is not installed")
    sharing, picture = files / "answers.safetensors", tmp_path / "scene.png"
    draw_scene(3, size=(64, 48)).image.save(picture)
    assert main(["export", str(sharing), "--graphs"]) == 0
    assert main(["export", str(sharing), "--output", str(tmp_path / "exported")]) == 0
    texts = ["what is the dog", "is the cat red"]
    expected = load_answering(files / "whole.safetensors", backend="torch").ask(picture, texts)
    for model in (sharing, tmp_path / "exported"):
        for one, other in zip(load_answering(model, backend="onnx").ask(picture, texts), expected, strict=True):
            assert one.text == other.text and one.probability == pytest.approx(other.probability, abs=1e-4)
    drawn = []
    for model in ("answers", "whole"):
        assert main(["models", str(files / f"{model}.safetensors"), "--diagram", str(tmp_path / "flow.gv")]) == 0
        drawn.append((tmp_path / "flow.gv").read_text().replace(f"{model}:", "MODEL:"))
    assert drawn[0] == drawn[1], "with the channels of the encoder that it shares"


def test_what_is_listed_names_the_other_file(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sharing, whole = (str(files / f"{name}.safetensors") for name in ("answers", "whole"))
    assert main(["models", sharing]) == main(["models", whole]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert " tiny of captions + hierarchical" in first and " tiny + hierarchical" in second
    assert main(["models", sharing, "--json"]) == main(["models", whole, "--json"]) == 0
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert first["shared"] == str(files.parent / "captions.safetensors") and second["shared"] is None
    assert first["bytes"] == Path(sharing).stat().st_size


def test_a_release_shares_the_encoder_of_a_model(
    files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], tiny_model: Path
) -> None:
    data, released = tmp_path / "data", tmp_path / "answering" / "released.safetensors"
    (data / "images").mkdir(parents=True)
    draw_scene(3, size=(64, 48)).image.save(data / "images" / "a.png")
    row = {"image": "a.png", "split": "dev", "question": "what is the dog", "answer": "two"}
    (data / "questions.jsonl").write_text(json.dumps(row))
    captions = tmp_path / "captions.safetensors"
    before = captions.read_bytes()
    command = ["export", str(files / "whole.safetensors"), "--data", str(data)]
    assert main([*command, "--output", str(released), "--share-encoder", str(captions)]) == 0
    header = read_header(released)
    assert header["shared"] is not None and header["about"]["dev"]["questions"] == 1
    other, exported = tmp_path / "other.safetensors", tmp_path / "exported"
    weights = load_file(captions)
    with safe_open(captions, "pt") as opened:
        metadata = opened.metadata()
    weights["encoder.stages.0.0.weight"] += 1
    save_file(weights, other, metadata)
    shutil.copyfile(captions, tmp_path / "captions.bin")
    exported.mkdir()
    (exported / "config.json").write_text("{}")
    old = tmp_path / "old.safetensors"
    save_file(load_file(captions), old, {**metadata, "version": "1"})
    sharing, far = files / "answers.safetensors", tmp_path / "a" / "b" / "far.safetensors"
    capsys.readouterr()
    for file, output, said in (
        (tmp_path / "typo.safetensors", released, "no such model file"),
        (other, released, "its encoder.stages.0.0.weight is not that of the model"),
        (tmp_path / "captions.bin", released, "captions.bin"),
        (exported, released, "exported"),
        (old, released, "of format version 1"),
        (captions, far, "would not find it"),
        (captions, captions, "is an input of this run"),
        (sharing, captions, "is an input of this run"),
    ):
        assert main([*command, "--output", str(output), "--share-encoder", str(file)]) == 2, said
        error = capsys.readouterr().err
        assert said in error and error.count("\n") == 1 + (file == old), error
    assert main(["export", str(sharing), "--data", str(data), "--output", str(captions)]) == 2
    assert "is an input of this run" in capsys.readouterr().err
    assert captions.read_bytes() == before
    assert main(["export", str(released), "--graphs", "--share-encoder", str(captions)]) == 2
    assert "--share-encoder is for a release" in capsys.readouterr().err


def test_the_file_that_it_shares_with_is_beside_it_or_above(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sharing, captions = files / "answers.safetensors", files.parent / "captions.safetensors"
    moved = files / "deeper" / "answers.safetensors"
    moved.parent.mkdir()
    shutil.copyfile(sharing, moved)
    with pytest.raises(CheckpointError, match=r"captions\.safetensors, which is neither beside it nor in the folder"):
        read_header(moved)
    shutil.copyfile(captions, moved.with_name(captions.name))
    assert checkpoint.load_answering(moved).answers
    for content in ((files / "whole.safetensors").read_bytes(), b"something else"):  # comes first
        (files / captions.name).write_bytes(content)
        assert checkpoint.load_answering(sharing).answers, "the digest decides"
    monkeypatch.chdir(moved.parent)
    assert read_header(Path("..") / "answers.safetensors")["shared"] == read_header(sharing)["shared"]
    captions.unlink()
    with pytest.raises(CheckpointError, match=r"that of another file than .*captions\.safetensors; get both"):
        checkpoint.load_answering(sharing)


@pytest.mark.parametrize(
    "shares",
    [
        None, 5, {}, {"file": 5}, {"file": "/etc/passwd.safetensors"}, {"file": "../up.safetensors"},
        {"file": "a\\b.safetensors"}, {"file": "a\0.safetensors"}, {"file": "plain.txt"},
        {"file": "answers.safetensors"}, {"file": "answers.safetensors", "digest": []},
        {"file": "a" * 300 + ".safetensors"}, {"file": "a\nb\x1b[31m.safetensors"}, {"file": "C:x.safetensors"},
        {"file": "\udc80.safetensors"},
    ],
)  # fmt: skip
def test_what_a_stranger_writes_there_ends_in_an_error(files: Path, shares: Any) -> None:
    file = files / "answers.safetensors"
    with safe_open(file, "pt") as opened:
        metadata = opened.metadata()
    model = json.loads(metadata["model"]) | {"shares": shares}
    save_file(load_file(file), file, {**metadata, "model": json.dumps(model)})
    with pytest.raises(CheckpointError) as caught:
        checkpoint.load_answering(file)
    assert str(caught.value).isprintable() and len(str(caught.value)) < 500


def test_links_are_followed_when_writing_as_when_reading(files: Path, tmp_path: Path) -> None:
    sharing, captions = files / "answers.safetensors", tmp_path / "captions.safetensors"
    elsewhere = tmp_path / "else" / "where"
    elsewhere.mkdir(parents=True)
    link = elsewhere / "link.safetensors"
    link.symlink_to(sharing)
    assert checkpoint.load_answering(link).answers, "what the link leads to has its encoder above"
    beside = elsewhere / captions.name
    beside.symlink_to(captions)
    written = elsewhere / "written.safetensors"
    checkpoint.save(written, checkpoint.load_answering(sharing), share_encoder=captions)
    assert checkpoint.load_answering(written).answers, "a link beside it leads to its encoder"


def test_what_is_shared_is_the_same_to_the_last_bit(files: Path, tmp_path: Path) -> None:
    captions, model = tmp_path / "captions.safetensors", checkpoint.load_answering(files / "whole.safetensors")
    with torch.no_grad():
        model.model.encoder.stages[0][0].weight.mul_(1 + 1e-5)  # type: ignore[index,operator]  # less than 16 bits tell
    checkpoint.save(files / "half.safetensors", model, share_encoder=captions)
    with pytest.raises(CheckpointError, match=r"its encoder\.stages\.0\.0\.weight is not that of the model"):
        checkpoint.save(files / "full.safetensors", model, half=False, share_encoder=captions)
    content = captions.read_bytes()
    captions.write_bytes(content.replace(b'"F16"', b'"F32"', 1))  # twice as many bytes as there are
    with pytest.raises(CheckpointError, match="damaged"):
        checkpoint.save(files / "other.safetensors", model, share_encoder=captions)


def test_the_hub_gets_whole_files(tmp_path: Path, make_checkpoint: Callable[..., checkpoint.Checkpoint]) -> None:
    pytest.importorskip("huggingface_hub", reason="needs the extra 'hub', which is not installed")
    whole, sharing = tmp_path / "whole.safetensors", tmp_path / "sharing.safetensors"
    checkpoint.save(whole, make_checkpoint("lstm"))
    checkpoint.save(sharing, make_checkpoint("lstm"), share_encoder=whole)
    assert captioner.load(sharing, backend="torch").model.encoder is not None
    with pytest.raises(OptionError, match=r"its encoder is in .*whole\.safetensors; 'captioner export' without"):
        save_pretrained(sharing, tmp_path / "folder")
    checkpoint.save(tmp_path / "again.safetensors", checkpoint.load(sharing))
    assert save_pretrained(tmp_path / "again.safetensors", tmp_path / "folder").is_dir()


def test_a_file_that_shares_itself_has_no_encoder_to_share(files: Path, tmp_path: Path) -> None:
    first, second = files / "answers.safetensors", files / "second.safetensors"
    with safe_open(first, "pt") as opened:
        metadata = opened.metadata()
    shares = {"file": first.name, "digest": read_header(first)["digest"]}
    model = json.loads(metadata["model"]) | {"shares": shares}
    save_file(load_file(first), second, {**metadata, "model": json.dumps(model)})
    with pytest.raises(CheckpointError, match=r"its encoder is that of another file than .*answers\.safetensors"):
        read_header(second)
    checkpoint.save(second, checkpoint.load_answering(first), share_encoder=first)  # its source is taken in its place
    assert read_header(second)["shared"] == read_header(first)["shared"]
