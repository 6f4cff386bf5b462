"""Several processes, several rounds, one process: all end with the same weights."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from captioner.data.readers import read
from captioner.data.scenes import write_scenes
from captioner.errors import DataError
from captioner.training.loop import Trainer
from captioner.training.processes import leave
from captioner.training.recipe import Recipe

from .launched import TOGETHER, command, free_port, launch

SMALL = {
    "lstm": {"width": 16, "embedding": 16, "output_hidden": 16, "attention_width": 16, "heads": 2, "dropout": 0.0},
    "transformer": {"width": 16, "layers": 1, "heads": 2, "hidden": 16, "dropout": 0.0},
}


def options(decoder: str, **changes: object) -> dict[str, object]:
    """Without dropout, the one thing that each process draws for itself."""
    values: dict[str, object] = {
        "decoder": decoder,
        "decoder_options": SMALL[decoder],
        "backbone": "tiny",
        "encoder_options": {"side": 32},
        "refiner_options": {"width": 16, "dropout": 0.0},
        "minimum_count": 1,
        "epochs": 2,
        "frozen_epochs": 1,
        "batch_pictures": 6,
        "captions_per_picture": 2,
        "warmup_steps": 2,
        "clip_norm": 1e9,  # nothing may take a wrong factor out of the gradients
        "map_supervision": 0.1,
        "map_regularisation": 0.1,
        "max_length": 12,
        "precision": "float32",
    }
    return values | changes


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_scenes(tmp_path_factory.mktemp("scenes"), count=21, dev=5, size=(96, 72))


def same(a: Path, b: Path) -> None:
    """The weights of two runs, and their gradients: Adam's weights would hide a factor that all gradients have."""
    ours, theirs = (load_file(run / "state.safetensors") for run in (a, b))
    compared = [name for name in ours if name.startswith(("model.", "average.")) or name.endswith(".exp_avg")]
    assert {name.partition(".")[0] for name in compared} == {"model", "average", "optimizer"}
    for name in compared:
        scale = ours[name].abs().max().item()
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-3, atol=1e-3 * scale + 1e-9, msg=name)


def epochs(run: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (run / "log.jsonl").open()]
    return [line for line in lines if "dev" in line]


@pytest.mark.parametrize("decoder", SMALL)
def test_two_processes_end_where_one_does(decoder: str, scenes: Path, tmp_path: Path) -> None:
    one = Trainer(Recipe(**options(decoder)), read(scenes), tmp_path / "one", device="cpu")  # type: ignore[arg-type]
    one.run()

    words = train(options(decoder), scenes, tmp_path / "two")
    if decoder == "lstm":
        launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", f"--master-port={free_port()}"]
        environment = {**os.environ, **TOGETHER, "ACCELERATE_MIXED_PRECISION": "bf16"}
        line = [*launcher, "-m", "captioner", *words]
        done = subprocess.run(line, capture_output=True, text=True, timeout=300, env=environment, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
        said = done.stdout
    else:
        both = launch(command, words, folder=tmp_path / "out")
        assert [one.returncode for one in both] == [0, 0], [one.stderr[-3000:] for one in both]
        said = "".join(one.stdout for one in both)
    assert said.split() == [str(tmp_path / "two" / "best.safetensors")], "one process speaks for both"

    same(tmp_path / "one", tmp_path / "two")
    for ours, theirs in zip(epochs(tmp_path / "one"), epochs(tmp_path / "two"), strict=True):
        assert ours["dev"] == pytest.approx(theirs["dev"], abs=1e-6), "each captioned its share of the dev split"
        for figure in ("train_loss", "train_gradient"):
            assert ours[figure] == pytest.approx(theirs[figure], rel=1e-4)


def test_two_processes_distil_grids_as_one_does(scenes: Path, tmp_path: Path) -> None:
    """With a teacher's grids on disk, of which each process computes its share, in both phases."""
    start = Trainer(Recipe(**options("lstm", epochs=1)), read(scenes), tmp_path / "words", device="cpu")  # type: ignore[arg-type]
    file = str(start.run())
    given = options("lstm", objective="grid_distillation", teacher=file, decoder_from=file)
    given |= {"encoder_options": {"side": 64}}
    for name in ("decoder", "decoder_options", "minimum_count", "map_supervision", "map_regularisation"):
        del given[name]
    Trainer(Recipe(**given), read(scenes), tmp_path / "one", device="cpu").run()  # type: ignore[arg-type]
    both = launch(command, train(given, scenes, tmp_path / "two"), folder=tmp_path / "out")
    assert [one.returncode for one in both] == [0, 0], [one.stderr[-3000:] for one in both]
    assert list((tmp_path / "two" / "teacher-grids").glob("grids-*.npy"))
    same(tmp_path / "one", tmp_path / "two")
    for ours, theirs in zip(epochs(tmp_path / "one"), epochs(tmp_path / "two"), strict=True):
        for figure in ("train_grid_error", "train_from_teacher", "train_gradient"):
            assert ours[figure] == pytest.approx(theirs[figure], rel=1e-3)


def test_two_processes_train_on_the_reward_though_a_picture_is_missing(scenes: Path, tmp_path: Path) -> None:
    start = Trainer(Recipe(**options("lstm", epochs=1)), read(scenes), tmp_path / "words", device="cpu")  # type: ignore[arg-type]
    lines = [json.loads(line) for line in scenes.open()]
    missing = next(line for line in lines if line["split"] == "train")
    incomplete = scenes.with_name("incomplete.jsonl")
    incomplete.write_text("".join(json.dumps(row) + "\n" for row in [*lines, {**missing, "image": "missing.png"}]))
    given = options("lstm", objective="self_critical", start_from=str(start.run()), samples=2)
    for name in ("decoder", "decoder_options", "backbone", "encoder_options", "refiner_options"):
        del given[name]
    both = launch(command, train(given, incomplete, tmp_path / "two"), folder=tmp_path / "out")
    assert [one.returncode for one in both] == [0, 0], [one.stderr[-3000:] for one in both]
    assert "missing.png: no such file" in both[0].stderr
    ends = epochs(tmp_path / "two")
    assert len(ends) == 2
    assert all(math.isfinite(line["train_loss"]) and 0 <= line["train_breaks_off"] <= 1 for line in ends)


def test_two_processes_sum_figures_that_only_one_has(scenes: Path, tmp_path: Path) -> None:
    lines = [json.loads(line) for line in scenes.open()]
    boxed = next(line for line in lines if line["split"] == "train")
    some = scenes.with_name("some-boxes.jsonl")
    some.write_text("".join(json.dumps({**row, "boxes": row["boxes"] if row is boxed else {}}) + "\n" for row in lines))
    Trainer(Recipe(**options("lstm")), read(some), tmp_path / "one", device="cpu").run()  # type: ignore[arg-type]
    both = launch(command, train(options("lstm"), some, tmp_path / "two"), folder=tmp_path / "out")
    assert [one.returncode for one in both] == [0, 0], [one.stderr[-3000:] for one in both]
    for ours, theirs in zip(epochs(tmp_path / "one"), epochs(tmp_path / "two"), strict=True):
        for figure in ("train_loss", "train_maps_missed"):
            assert ours[figure] == pytest.approx(theirs[figure], rel=1e-4)


def keep_equal(given: dict[str, Any], data: Path, output: Path) -> None:
    trainer = Trainer(Recipe(**given), read(data), output, device="cpu")
    before = torch.cat([p.detach().flatten() for p in trainer.model.encoder.parameters()])
    trainer.run()
    mine = torch.cat([p.detach().flatten() for p in trainer.model.parameters()])
    both = [torch.empty_like(mine) for _ in range(2)]
    torch.distributed.all_gather(both, mine)
    after = torch.cat([p.detach().flatten() for p in trainer.model.encoder.parameters()])
    if trainer.is_first:
        print(json.dumps([torch.equal(*both), (after - before).abs().max().item(), trainer._wrapped.broadcast_buffers]))
    leave()
    print("the process was not left at once, and may now abort or never end")


def test_an_encoder_that_learns_from_the_reward_stays_the_same_in_both_processes(scenes: Path, tmp_path: Path) -> None:
    start = Trainer(Recipe(**options("lstm", epochs=1)), read(scenes), tmp_path / "words", device="cpu")  # type: ignore[arg-type]
    given = options(
        "lstm", objective="self_critical", start_from=str(start.run()), samples=2, epochs=1, frozen_epochs=0
    )
    for name in ("decoder", "decoder_options", "backbone", "encoder_options", "refiner_options"):
        del given[name]
    both = launch(keep_equal, given, scenes, tmp_path / "two", folder=tmp_path / "out")
    assert [one.returncode for one in both] == [0, 0], [one.stderr[-3000:] for one in both]
    equal, moved, broadcast = json.loads(both[0].stdout)
    assert equal, "each process drew its own samples, and both learned from all"
    assert moved > 1e-5, "the encoder learned"
    assert not broadcast, "statistics must not be written between looking and learning"
    assert "broadcast_buffers" not in both[0].stderr, "torch warns of no option"


@pytest.mark.parametrize("decoder", SMALL)
def test_rounds_end_where_one_step_does(decoder: str, scenes: Path, tmp_path: Path) -> None:
    records = read(scenes)
    for rounds in (1, 3):
        recipe = Recipe(**options(decoder, gradient_accumulation_steps=rounds))  # type: ignore[arg-type]
        Trainer(recipe, records, tmp_path / str(rounds), device="cpu").run()
    same(tmp_path / "1", tmp_path / "3")
    ours, theirs = (epochs(tmp_path / rounds) for rounds in ("1", "3"))
    assert [line["train_gradient"] for line in ours] == pytest.approx([line["train_gradient"] for line in theirs], 1e-4)


def test_what_launched_processes_refuse_is_one_line_of_each(scenes: Path, tmp_path: Path) -> None:
    words = train(options("lstm", gradient_accumulation_steps=7), scenes, tmp_path / "two")
    for done in launch(command, words, folder=tmp_path / "out", TORCH_CPP_LOG_LEVEL="ERROR"):
        assert done.returncode == 2
        (said,) = [line for line in done.stderr.splitlines() if "cannot be split over 2 processes in 7 round" in line]
        assert said.startswith("captioner: ")
        assert "DataError" not in done.stderr, "no traceback"
        assert "terminate called" not in done.stderr


def test_a_step_too_small_for_its_rounds_is_refused(scenes: Path, tmp_path: Path) -> None:
    recipe = Recipe(**options("lstm", gradient_accumulation_steps=7))  # type: ignore[arg-type]
    with pytest.raises(DataError, match=r"6 .*7 .*gradient_accumulation_steps"):
        Trainer(recipe, read(scenes), tmp_path / "run", device="cpu")


def train(given: dict[str, object], data: Path, output: Path) -> list[str]:
    """The command line of a run."""
    words = ["train", "--device", "cpu", "--data", str(data), "--output", str(output)]
    for name, value in given.items():
        text = json.dumps(value) if isinstance(value, dict) else str(value)
        words += [f"--{name.replace('_', '-')}", text]
    return words


_END = """
import atexit, sys, torch.distributed
from captioner import cli
store = torch.distributed.FileStore(sys.argv[1], 1)
torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
atexit.register(print, "the interpreter ended in order", file=sys.stderr)
def run(options):
    print("begun")
    raise RuntimeError("the other process is gone")
cli._run = run
cli.main(["models"])
"""


@pytest.mark.parametrize("full", [False, True])
def test_a_process_of_a_group_ends_at_once_whatever_goes_wrong(full: bool, tmp_path: Path) -> None:
    if full and not Path("/dev/full").exists():
        pytest.skip("there is no /dev/full, a disk that is always full, on this system")
    environment = {**os.environ, "GLOO_SOCKET_IFNAME": "lo", "PYTHONUNBUFFERED": ""}  # what is printed waits
    with Path("/dev/full" if full else os.devnull).open("w") as output:
        done = subprocess.run(
            [sys.executable, "-c", _END, str(tmp_path / "store")],
            stdout=output,
            stderr=subprocess.PIPE,
            text=True,
            timeout=120,
            env=environment,
            check=False,
        )
    assert done.returncode == 1
    assert "RuntimeError: the other process is gone" in done.stderr
    assert "ended in order" not in done.stderr
