"""Exported folders: complete, equal to the model, usable without captioner, and refused when they are damaged."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from captioner.backends.graph_files import graph_folder
from captioner.cli import main
from captioner.errors import CheckpointError, OptionError
from captioner.export.example import prepare
from captioner.export.folder import check_folder, export_folder, write_folder
from captioner.options import Greedy
from captioner.pipeline import load

PICTURE = np.random.default_rng(3).integers(0, 256, (48, 80, 3), dtype=np.uint8)


@pytest.fixture(scope="module", params=["fp32", "fp16"])
def precision(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def folder(model_file: Path, precision: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = tmp_path_factory.mktemp("exported") / precision
    export_folder(model_file, path, precision=precision)
    return path


def test_it_captions_as_the_model_does(folder: Path, model_file: Path, precision: str) -> None:
    """In 16 bits too: the weights of the file have no more."""
    exported, on_torch = load(folder), load(model_file, backend="torch")
    assert exported.backend.name == "onnx"
    assert exported.name == precision
    assert exported.backend.digest == on_torch.backend.digest
    assert exported.vocabulary == on_torch.vocabulary
    assert exported.default_options == on_torch.default_options
    ours, theirs = exported.caption(PICTURE), on_torch.caption(PICTURE)
    assert ours.score == pytest.approx(theirs.score, abs=1e-4)
    assert ours.text == theirs.text
    np.testing.assert_allclose(ours.maps, theirs.maps, atol=1e-5)


def test_its_configuration_is_complete(folder: Path, precision: str) -> None:
    config = json.loads((folder / "config.json").read_text())
    assert config["precision"] == precision
    assert config["parity"]["log_p"] < 0.1
    assert config["grid"] == [8, 8]
    assert config["preprocessing"]["pad"] is True
    for key in ("vocabulary", "decoding", "heads", "scores", "about", "digest", "config"):
        assert key in config
    files = ["config.json", "encode.onnx", "example.py", "score.onnx", "step.onnx"]
    assert sorted(path.name for path in folder.iterdir()) == files


def test_it_is_listed(folder: Path, precision: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", str(folder)]) == 0
    line = capsys.readouterr().out
    assert line.startswith(precision) and "tiny" in line


def test_the_example_needs_no_captioner(folder: Path, tmp_path: Path, precision: str, model_file: Path) -> None:
    picture = tmp_path / "picture.png"
    Image.fromarray(PICTURE).save(picture)
    done = subprocess.run(
        [sys.executable, os.fspath(folder / "example.py"), os.fspath(picture)],
        env={key: value for key, value in os.environ.items() if key != "PYTHONPATH"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    if precision == "fp32":
        expected = load(folder).caption(picture, options=Greedy(max_length=6, min_length=0))
        assert done.stdout.splitlines()[0] == " ".join(word.text for word in expected.words)


def test_an_export_is_replaced_and_nothing_else_is(model_file: Path, tmp_path: Path) -> None:
    export_folder(model_file, tmp_path / "exported")
    size = (tmp_path / "exported" / "step.onnx").stat().st_size
    export_folder(model_file, tmp_path / "exported", precision="fp16")
    assert (tmp_path / "exported" / "step.onnx").stat().st_size < size
    assert json.loads((tmp_path / "exported" / "config.json").read_text())["precision"] == "fp16"
    (tmp_path / "exported" / "notes.txt").write_text("mine")
    with pytest.raises(OptionError, match=r"notes\.txt"):
        export_folder(model_file, tmp_path / "exported")
    full = tmp_path / "full"
    full.mkdir()
    (full / "photo.jpg").touch()
    with pytest.raises(OptionError, match="full"):
        export_folder(model_file, full)
    (tmp_path / "file").touch()
    with pytest.raises(OptionError, match="file"):
        export_folder(model_file, tmp_path / "file")
    assert (full / "photo.jpg").exists()


def test_an_unknown_precision_is_named(model_file: Path, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"'int4'.*fp32"):
        export_folder(model_file, tmp_path / "x", precision="int4")


def test_eight_bits(model_file: Path, tmp_path: Path) -> None:
    """Products alone, and with calibrated convolutions; the calibration skips what does not open."""
    photos = tmp_path / "photos"
    photos.mkdir()
    Image.fromarray(PICTURE).save(photos / "a.png")
    (photos / "b.jpg").write_bytes(b"no picture")
    expected = load(model_file, backend="torch").caption(PICTURE)
    operators = {}
    for name, calibrate in (("products", None), ("convolutions", photos)):
        found = export_folder(model_file, tmp_path / name, precision="int8", calibrate=calibrate)
        config = json.loads((tmp_path / name / "config.json").read_text())
        assert config["precision"] == "int8" and config["calibration"] == (1 if calibrate else 0)
        assert 0 < config["parity"]["log_p"] == found.log_p
        model = load(tmp_path / name)
        assert model.caption(PICTURE).score == pytest.approx(expected.score, abs=0.3)
        (read,) = model.read(PICTURE, ["a dog in the park"])
        (on_torch,) = load(model_file, backend="torch").read(PICTURE, ["a dog in the park"])
        assert read.score == pytest.approx(on_torch.score, abs=0.3)
        for graph in ("encode", "step", "score"):
            operators[name, graph] = {node.op_type for node in onnx.load(tmp_path / name / f"{graph}.onnx").graph.node}
    assert "MatMulInteger" in operators["products", "step"]
    assert "QuantizeLinear" not in operators["products", "encode"]
    assert "QuantizeLinear" in operators["convolutions", "encode"]
    assert "DequantizeLinear" not in operators["products", "score"]  # ONNX Runtime before 1.27 aborts
    (photos / "a.png").unlink()
    with pytest.raises(OptionError, match="no picture that opens"):
        export_folder(model_file, tmp_path / "x", precision="int8", calibrate=photos)
    with pytest.raises(OptionError, match="int8"):
        export_folder(model_file, tmp_path / "x", precision="fp16", calibrate=photos)


def test_the_score_graph_takes_its_weights_from_step(folder: Path, model_file: Path, tmp_path: Path) -> None:
    assert (folder / "score.onnx").stat().st_size < (folder / "step.onnx").stat().st_size
    onnxruntime.InferenceSession(folder / "score.onnx")  # any program opens it
    mixed = Path(shutil.copytree(folder, tmp_path / "mixed"))
    step = onnx.load(mixed / "step.onnx")
    step.doc_string = "another"
    onnx.save(step, mixed / "step.onnx")
    model = load(mixed)
    assert model.caption(PICTURE).words
    with pytest.raises(CheckpointError, match=r"score\.onnx.*export it again"):
        model.read(PICTURE, ["a dog"])


def broken(config: dict[str, object], damage: str) -> str:
    changed = {
        "empty": "",
        "cut": json.dumps(config)[:200],
        "list": "[]",
        "foreign": json.dumps({"architectures": ["Bert"]}),
        "newer": json.dumps({**config, "version": 99}),
        "no words": json.dumps({key: value for key, value in config.items() if key != "vocabulary"}),
        "no digest": json.dumps({**config, "digest": None}),
        "endless number": json.dumps({**config, "about": {"test": {"scores": {"bleu": 10**400}}}}),
    }
    return changed[damage]


@pytest.mark.parametrize(
    "damage", ["empty", "cut", "list", "foreign", "newer", "no words", "no digest", "endless number"]
)
def test_a_damaged_configuration_is_named(folder: Path, tmp_path: Path, damage: str) -> None:
    folder = Path(shutil.copytree(folder, tmp_path / "exported"))
    file = folder / "config.json"
    file.write_text(broken(json.loads(file.read_text()), damage))
    with pytest.raises(CheckpointError, match=r"config\.json") as error:
        load(folder)
    assert "\n" not in str(error.value)


def test_a_vocabulary_of_another_size_is_refused(folder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(folder, tmp_path / "exported"))
    config = json.loads((folder / "config.json").read_text())
    config["vocabulary"].append("zebra")
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=r"the model has \d+ words and its graphs \d+"):
        load(folder)


@settings(max_examples=80, derandomize=True, database=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_whatever_a_graph_says_of_itself_only_errors_of_ours_come_out(
    data: st.DataObject, folder: Path, tmp_path: Path
) -> None:
    """One value anywhere in the description of a graph is replaced by something else."""
    copy = tmp_path / "exported"
    shutil.copytree(folder, copy, dirs_exist_ok=True)
    graph = data.draw(st.sampled_from(["encode", "step"]))
    model = onnx.load(copy / f"{graph}.onnx")
    (entry,) = model.metadata_props
    description = json.loads(entry.value)
    places = [(description, key) for key in description]
    places += [(leaf, key) for leaf in description["state"] for key in leaf]
    places.append((description["grid_shape"], 0))
    where, key = data.draw(st.sampled_from(places))
    simple = st.none() | st.booleans() | st.integers(-3, 2000) | st.floats() | st.text(max_size=5) | st.just(10**400)
    where[key] = data.draw(simple | st.lists(simple, max_size=3) | st.dictionaries(st.text(max_size=4), simple))
    entry.value = json.dumps(description)
    onnx.save(model, copy / f"{graph}.onnx")
    with contextlib.suppress(CheckpointError):
        load(copy).caption(np.zeros((20, 30, 3), dtype=np.uint8))


def test_what_is_missing_or_of_another_model_is_named(
    folder: Path, tmp_path: Path, exported: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, other = Path(shutil.copytree(folder, tmp_path / "exported")), tmp_path / "other"
    export_folder(exported("transformer-padded"), other)
    with pytest.raises(OptionError, match="onnx"):
        load(folder, backend="torch")
    (folder / "step.onnx").write_bytes((other / "step.onnx").read_bytes())
    with pytest.raises(CheckpointError, match=r"step\.onnx"):
        load(folder)
    (folder / "step.onnx").unlink()
    with pytest.raises(CheckpointError, match=r"step\.onnx"):
        load(folder)
    (folder / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"config\.json"):
        load(folder)
    monkeypatch.chdir(tmp_path)
    assert load("other").backend.name == "onnx"
    with pytest.raises(CheckpointError, match=r"nothing"):
        load("nothing/")
    (other / "config.json").unlink()
    for name in ("other", "other/", "./other"):
        with pytest.raises(CheckpointError, match=r"other: .*config\.json"):
            load(name)


def test_graphs_beside_the_model_file_are_used(
    model_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, traced_again: Callable[..., Any]
) -> None:
    path = tmp_path / "mine.safetensors"
    shutil.copyfile(model_file, path)
    shutil.copytree(graph_folder(model_file), graph_folder(path))
    expected = load(path, backend="torch").caption(PICTURE)
    with monkeypatch.context() as patch:
        patch.setattr("captioner.export.folder.export_graphs", None)  # no model is traced
        export_folder(path, tmp_path / "stored")
    found = load(tmp_path / "stored").caption(PICTURE)
    assert found.text == expected.text
    np.testing.assert_allclose(found.maps, expected.maps, atol=1e-5)
    (tmp_path / "graphs" / "mine" / "step.onnx").write_bytes(b"damaged")
    monkeypatch.setattr("captioner.export.folder.export_graphs", traced_again)
    export_folder(path, tmp_path / "again")
    assert load(tmp_path / "again").caption(PICTURE).text == expected.text


def test_an_export_touches_nothing_beside_it(tmp_path: Path) -> None:
    beside = tmp_path / "out.partial" / "precious.txt"
    beside.parent.mkdir()
    beside.write_text("mine")
    for content in (b"1", b"2"):
        write_folder(tmp_path / "out", {"sub/a.bin": content})
        assert (tmp_path / "out" / "sub" / "a.bin").read_bytes() == content
    assert beside.read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "out.partial"]


def test_a_former_export_stays_where_the_new_one_cannot_be_moved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_folder(tmp_path / "out", {"a.bin": b"1"})
    move = Path.replace

    def refused(self: Path, target: Path) -> Path:
        if self.name == "new":
            raise PermissionError(13, "Permission denied")
        return move(self, target)

    monkeypatch.setattr(Path, "replace", refused)
    with pytest.raises(OptionError, match="Permission denied"):
        write_folder(tmp_path / "out", {"a.bin": b"2"})
    assert (tmp_path / "out" / "a.bin").read_bytes() == b"1"


@pytest.mark.parametrize("folder", [".", "..", "../.."])
def test_the_working_folder_is_not_replaced(folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "empty" / "below").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "empty" / "below")
    with pytest.raises(OptionError, match="working folder, or above it"):
        check_folder(Path(folder), set())


def test_the_example_prepares_pictures_as_captioner_does(folder: Path, tmp_path: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    model = load(folder)
    clear = Image.new("RGBA", (40, 30), (200, 10, 10, 0))
    clear.paste((10, 200, 10, 255), (0, 0, 20, 30))
    deep = Image.fromarray(np.linspace(0, 65535, 40 * 30).reshape(30, 40).astype(np.uint16))
    for name, picture in (("clear", clear), ("deep", deep), ("palette", clear.convert("P"))):
        picture.save(tmp_path / f"{name}.png")
        pixels, _ = prepare(str(tmp_path / f"{name}.png"), config)
        ours = model.prepare(tmp_path / f"{name}.png").pixels
        assert np.abs(pixels[0].astype(int) - ours).max() <= 1, name


def test_the_example_says_how_it_is_run(folder: Path) -> None:
    done = subprocess.run([sys.executable, folder / "example.py"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and done.stderr.startswith("usage: python") and "PICTURE" in done.stderr
