"""The folder of a run: what it was started on, its lock, damaged files, full disks; and training that diverges."""

import errno
import gzip
import json
import math
import multiprocessing
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from captioner import checkpoint
from captioner.cli import main
from captioner.data.scenes import write_scenes
from captioner.training import run_folder
from captioner.training.run_folder import RunFolder, read_log
from captioner.training.sizes import upright_size

pytestmark = pytest.mark.filterwarnings("ignore::captioner.metrics.evaluate.FewPicturesWarning")

OPTIONS = {
    "decoder-options": json.dumps({"width": 8, "embedding": 8, "output_hidden": 8, "attention_width": 8, "heads": 1}),
    "backbone": "tiny",
    "encoder-options": '{"side": 32}',
    "refiner-options": '{"width": 8}',
    "minimum-count": "1",
    "epochs": "2",
    "frozen-epochs": "1",
    "batch-pictures": "4",
    "captions-per-picture": "1",
    "warmup-steps": "1",
    "save-minutes": "1e-9",
    "precision": "float32",
    "device": "cpu",
}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Captions in JSON lines, with their pictures."""
    return write_scenes(tmp_path / "scenes", count=8, dev=2, size=(48, 36))


def command(data: Path, output: Path, **changes: str) -> list[str]:
    given = OPTIONS | {name.replace("_", "-"): value for name, value in changes.items()}
    words = [word for name, value in given.items() for word in (f"--{name}", value)]
    return ["train", "--data", str(data), "--output", str(output), *words]


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    """The last line of standard error, the only one that is no progress."""
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("captioner: ")]
    assert len(lines) == 1, lines
    return lines[0]


def rewrite(data: Path, change: Any) -> None:
    rows = [json.loads(line) for line in data.read_text().splitlines()]
    data.write_text("".join(json.dumps(change(i, row)) + "\n" for i, row in enumerate(rows)))


def _other_words(index: int, row: dict[str, Any]) -> dict[str, Any]:
    return {**row, "caption": " ".join(word[::-1] + "x" for word in row["caption"].split())}


def _other_split(index: int, row: dict[str, Any]) -> dict[str, Any]:
    return {**row, "split": "train"} if index == 8 else row


def _rename(data: Path) -> None:
    (data.parent / "images" / "000002.png").rename(data.parent / "images" / "new.png")
    rewrite(data, lambda i, row: {**row, "image": "new.png"} if i == 2 else row)


CHANGES: dict[str, Any] = {
    "vocabulary": lambda data: rewrite(data, _other_words),
    "captions": lambda data: rewrite(data, lambda i, row: {**row, "caption": row["caption"] + " " + "a" * (i == 1)}),
    "boxes": lambda data: rewrite(data, lambda i, row: {**row, "boxes": {}}),
    "splits": lambda data: rewrite(data, _other_split),
    "list of pictures": _rename,
    "images": lambda data: Image.new("RGB", (48, 36), "red").save(data.parent / "images" / "000000.png"),
}


def test_a_run_resumes_on_what_it_was_started_on_and_nothing_else(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert main(command(data, run)) == 0
    capsys.readouterr()
    before = {file: file.read_bytes() for file in run.iterdir()}
    kept = tmp_path / "kept"
    shutil.copytree(data.parent, kept)
    for what, change in CHANGES.items():
        change(data)
        assert main(command(data, run)) == 2, what
        line = one_line(capsys)
        assert what in line
        assert "--output" in line
        assert {file: file.read_bytes() for file in run.iterdir()} == before, "the run is as it was"
        shutil.rmtree(data.parent)
        shutil.copytree(kept, data.parent)  # with other times of the files, and the same contents
    assert main(command(data, run)) == 0
    capsys.readouterr()
    assert main(command(data, run, seed="2")) == 2
    assert "seed 1, not 2" in one_line(capsys)
    inputs = json.loads((run / "inputs.json").read_text())
    inputs["versions"]["torch"] = "1.0"
    (run / "inputs.json").write_text(json.dumps(inputs))
    assert main(command(data, run)) == 2
    line = one_line(capsys)
    assert "torch 1.0" in line
    assert "--start-from" in line


def test_the_text_of_a_run_may_not_change(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text, run = tmp_path / "text.txt", tmp_path / "run"
    text.write_text("a dog\na red ball\n" * 10)
    words = command(data, run, objective="language_model", text=str(text))
    assert main(words) == 0
    capsys.readouterr()
    text.write_text("a dog\na blue ball\n" * 10)
    assert main(words) == 2
    assert "text file" in one_line(capsys)


@pytest.mark.parametrize("name", ["state.safetensors", "recipe.json", "inputs.json"])
@pytest.mark.parametrize("damage", ["cut", "empty", "other"])
def test_a_damaged_file_of_a_run_is_one_line(
    name: str, damage: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert main(command(data, run, epochs="1")) == 0
    capsys.readouterr()
    raw = (run / name).read_bytes()
    other = (run / "best.safetensors").read_bytes() if name.endswith(".safetensors") else b"[]"
    (run / name).write_bytes({"cut": raw[: len(raw) // 2], "empty": b"", "other": other}[damage])
    assert main(command(data, run, epochs="1")) == 2
    line = one_line(capsys)
    assert name in line
    assert "remove it" in line or "--output" in line


def test_a_log_with_half_a_line_is_resumed(data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert main(command(data, run)) == 0
    before = read_log(run)
    with (run / "log.jsonl").open("a") as file:
        file.write('{"step": 1, "ep\n{"epoch": 0, "st')
    assert main(command(data, run)) == 0
    assert read_log(run) == before
    assert len((run / "log.jsonl").read_text().splitlines()) == len(before)


def test_a_folder_in_use_is_refused_and_a_kill_gives_it_back(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    processes = multiprocessing.get_context("fork")
    locked = processes.Event()

    def hold() -> None:
        held = RunFolder(run)
        locked.set()
        time.sleep(100)
        held.release()

    other = processes.Process(target=hold, daemon=True)
    other.start()
    assert locked.wait(60)
    assert main(command(tmp_path / "no data is read", run)) == 2
    line = one_line(capsys)
    assert str(run) in line
    assert "in use" in line
    other.kill()
    other.join()
    RunFolder(run).release()


def test_folders_that_were_made_for_nothing_are_removed(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    RunFolder(tmp_path / "mine" / "runs" / "words").release()
    assert not list((tmp_path / "mine").iterdir())
    folder = RunFolder(tmp_path / "mine" / "runs" / "words")
    (tmp_path / "mine" / "runs" / "other").mkdir()
    folder.release()
    assert [path.name for path in (tmp_path / "mine" / "runs").iterdir()] == ["other"]


@pytest.mark.parametrize("kind", ["a file", "below a file", "the data", "the images", "the pictures", "a model"])
def test_an_output_that_is_no_folder_for_a_run_is_refused(
    kind: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, changes = data.parent, {}
    if kind == "a file":
        run = data
    elif kind == "below a file":
        run = data / "run"
    elif kind == "the pictures":
        run = data.parent / "images"
    elif kind == "the images":
        changes["images"] = str(run)
    elif kind == "a model":
        run = tmp_path / "run"
        run.mkdir()
        (run / "best.safetensors").write_bytes(b"mine")
        changes["start_from"] = str(run / ".." / "run" / "best.safetensors")
    before = {file: file.read_bytes() for file in [data, *run.glob("*.safetensors")]}
    source = data.parent if kind == "the data" else data
    assert main(command(source, run, **changes)) == 2
    assert "--output" in one_line(capsys)
    assert {file: file.read_bytes() for file in before} == before
    assert not list(data.parent.rglob("recipe.json"))


def test_a_loss_that_is_not_finite_stops_at_its_step(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert main(command(data, run, learning_rate="1e30", epochs="3", frozen_epochs="3")) == 2
    line = one_line(capsys)
    assert "step 2" in line
    assert "learning rate 1e+30" in line
    assert "--learning-rate" in line
    with checkpoint.safe_open(run / "state.safetensors", framework="pt") as state:
        assert json.loads(state.metadata()["progress"])["step"] == 1, "the last good state stays"


def test_dev_scores_that_are_not_finite_leave_the_last_good_model(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from captioner.training.tasks.cross_entropy import CrossEntropy

    scores = iter([0.5, float("nan")])
    monkeypatch.setattr(CrossEntropy, "dev_score", lambda self, model: ((score := next(scores)), {"cider": score}))
    run = tmp_path / "run"
    assert main(command(data, run)) == 2
    assert "step 4" in one_line(capsys)
    assert checkpoint.load(run / "last.safetensors").about["epoch"] == 1
    assert [line["epoch"] for line in read_log(run) if "dev" in line] == [0]


@pytest.mark.parametrize("option", ["start_from", "teacher", "encoder_from"])
def test_a_model_with_weights_that_are_not_finite_is_no_start(
    option: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command(data, tmp_path / "first", epochs="1")) == 0
    capsys.readouterr()
    model = checkpoint.load(tmp_path / "first" / "best.safetensors")
    with torch.no_grad():
        next(model.model.decoder.parameters())[0] = float("nan")
    checkpoint.save(tmp_path / "broken.safetensors", model)
    changes = {option: str(tmp_path / "broken.safetensors")}
    assert main(command(data, tmp_path / "run", frozen_epochs="0", **changes)) == 2
    assert "broken.safetensors" in one_line(capsys)
    assert not (tmp_path / "run").exists(), "a folder for nothing is removed"


@pytest.mark.parametrize("option", ["start_from", "teacher", "encoder_from", "decoder_from"])
def test_the_model_files_of_a_run_may_not_change(
    option: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command(data, tmp_path / "first", epochs="1")) == 0
    file, run = tmp_path / "given.safetensors", tmp_path / "run"
    given = checkpoint.load(tmp_path / "first" / "best.safetensors")
    checkpoint.save(file, given)
    words = command(data, run, frozen_epochs="0", epochs="1", **{option: str(file)})
    assert main(words) == 0
    whole = file.read_bytes()
    with torch.no_grad():
        next(given.model.decoder.parameters()).mul_(0.5)
    checkpoint.save(file, given)
    capsys.readouterr()
    assert main(words) == 2
    line = one_line(capsys)
    assert option in line and "--output" in line
    file.write_bytes(whole)
    assert main(words) == 0


@pytest.mark.parametrize("part", [".exp_avg", "average.", "model."])
def test_a_state_with_numbers_that_are_not_finite_is_not_resumed(
    part: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert main(command(data, run, epochs="1")) == 0
    folder = RunFolder(run, first=False)
    found = folder.load_state()
    assert found is not None
    tensors, progress = found
    name = next(name for name, tensor in tensors.items() if part in name and tensor.dim())
    tensors[name].view(-1)[0] = float("inf")
    checkpoint.write_tensors(folder.state, tensors, {"progress": json.dumps(progress)})
    capsys.readouterr()
    assert main(command(data, run, epochs="1")) == 2
    line = one_line(capsys)
    assert name in line and "state.safetensors" in line
    if part == "model.":
        tensors[name].view(-1)[0] = 0.0
        checkpoint.write_tensors(folder.state, tensors, {"progress": json.dumps({**progress, "step": math.inf})})
        assert main(command(data, run, epochs="1")) == 2
        assert "state.safetensors" in one_line(capsys)


@pytest.mark.parametrize("name", ["best.safetensors", "last.safetensors"])
def test_models_that_no_run_wrote_are_not_overwritten(
    name: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / name).write_bytes(b"years of work")
    assert main(command(data, tmp_path / "models")) == 2
    line = one_line(capsys)
    assert name in line and "--output" in line
    assert [file.name for file in (tmp_path / "models").iterdir()] == [name]
    assert (tmp_path / "models" / name).read_bytes() == b"years of work"


def test_a_picture_that_vanishes_is_one_line(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from captioner.data import records

    def usable_until_now(given: Any) -> tuple[list[Any], dict[str, str]]:
        (data.parent / "images" / "000003.png").unlink()
        return list(given), {}

    monkeypatch.setattr(records, "usable", usable_until_now)
    for workers in ("0", "2"):
        shutil.copy(data.parent / "images" / "000001.png", data.parent / "images" / "000003.png")
        assert main(command(data, tmp_path / f"run{workers}", workers=workers, frozen_epochs="0")) == 2
        line = one_line(capsys)
        assert "000003.png" in line
        assert "Traceback" not in line


def test_files_that_are_no_grids_of_a_run_stay(data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    for name in ("grids-of-mine.png", "grids-1.npy"):
        (run / name).write_text("mine")
    (run / "grids-0123456789abcdef.partial").write_text("of a run that was killed")
    assert main(command(data, run, epochs="1")) == 0
    assert sorted(file.read_text() for file in run.iterdir() if file.stat().st_size == 4) == ["mine", "mine"]
    assert not list(run.glob("*.partial"))


def test_grids_of_changed_pictures_are_computed_again(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert main(command(data, run, epochs="1")) == 0
    (before,) = run.glob("grids-*[0-9a-f].npy")
    for i in range(8):
        Image.new("RGB", (48, 36), (30 * i, 0, 0)).save(data.parent / "images" / f"{i:06}.png")
    for file in (run / "state.safetensors", run / "log.jsonl"):
        file.unlink()
    capsys.readouterr()
    assert main(command(data, run, epochs="1")) == 0
    assert "grids" in capsys.readouterr().err
    (after,) = run.glob("grids-*[0-9a-f].npy")
    assert after != before


@pytest.mark.parametrize("where", ["state", "log", "grids"])
def test_a_full_disk_is_one_line_and_the_last_state_stays(
    where: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from captioner.training import grid_cache

    run = tmp_path / "run"
    assert main(command(data, run, epochs="1" if where == "state" else "2")) == 0
    capsys.readouterr()
    before = (run / "state.safetensors").read_bytes()

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    if where == "state":
        monkeypatch.setattr(checkpoint, "save_file", full)
        (run / "recipe.json").write_text((run / "recipe.json").read_text().replace('"epochs": 1', '"epochs": 2'))
    elif where == "log":
        monkeypatch.setattr(run_folder.RunFolder, "_write", RunFolder._write)
        monkeypatch.setattr(Path, "write_text", full)
    else:
        monkeypatch.setattr(grid_cache, "_allocate", full)
        run = tmp_path / "other"
    assert main(command(data, run)) == 2
    line = one_line(capsys)
    assert "No space left" in line
    assert str(run) in line
    if where != "grids":
        assert (run / "state.safetensors").read_bytes() == before
        assert not list(run.glob("*.partial*"))


def test_one_file_in_two_splits_is_refused_whatever_its_name(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other" / "images"
    other.mkdir(parents=True)
    (other / "x.png").symlink_to(data.parent / "images" / "000008.png")  # of dev
    row = {"image": "x.png", "caption": "a dog", "split": "train"}
    (tmp_path / "other" / "captions.jsonl").write_text(json.dumps(row) + "\n")
    words = command(data, tmp_path / "run")
    words.insert(3, str(tmp_path / "other" / "captions.jsonl"))
    assert main(words) == 2
    line = one_line(capsys)
    assert "x.png" in line
    assert "dev" in line


TEXTS = {
    "empty": b"",
    "no words": b"...\n!!\n",
    "damaged gzip": gzip.compress(b"a dog\n" * 99)[:-9],
    "not UTF-8": b"\xff\xfe a",
}


@pytest.mark.parametrize("kind", TEXTS)
def test_text_without_words_or_damaged_is_one_line(
    kind: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = tmp_path / ("text.txt.gz" if "gzip" in kind else "text.txt")
    text.write_bytes(TEXTS[kind])
    assert main(command(data, tmp_path / "run", objective="language_model", text=str(text))) == 2
    assert "text" in one_line(capsys)


def test_captions_without_a_frequent_word_are_one_line(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command(data, tmp_path / "run", minimum_count="1000")) == 2
    assert "--minimum-count" in one_line(capsys)


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
@pytest.mark.parametrize("ending", ["jpg", "png", "tiff", "webp"])
def test_sizes_come_from_the_header_and_are_upright(ending: str, orientation: int, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = tmp_path / f"x.{ending}"
    Image.new("RGB", (40, 30)).save(file, exif=exif)
    expected = (30, 40) if orientation > 4 else (40, 30)
    assert upright_size(file) == expected
    if ending == "png":
        raw = file.read_bytes()
        file.write_bytes(raw[: raw.index(b"IDAT") + 8])  # no pixels: the header suffices
        assert upright_size(file) == expected


def test_the_help_of_the_command_imports_no_torch() -> None:
    code = "import sys; from captioner.cli import main\n"
    code += "try: main(['train', '--help'])\nexcept SystemExit: pass\nassert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL, env=os.environ)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"text": "captions.txt"}, "--text is not for the objective 'cross_entropy'"),
        ({"start-from": "default", "weights": "none.pt"}, "--weights none.pt is for a new encoder, and --start-from"),
        (
            {"encoder-from": "default", "weights": "none.pt"},
            "--weights none.pt is for a new encoder, and --encoder-from",
        ),
    ],
)
def test_what_a_run_does_not_read_is_refused(
    options: dict[str, str], said: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    (tmp_path / "captions.txt").write_text("a dog\n")
    assert main(command(data, tmp_path / "run", **options)) == 2
    assert said in one_line(capsys)


def test_a_rank_without_a_world_is_no_process_of_a_group(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "3")
    assert main(command(data, tmp_path / "run", epochs="1")) == 0
    assert {"recipe.json", "log.jsonl", "state.safetensors"} <= {path.name for path in (tmp_path / "run").iterdir()}
