"""Several processes, several rounds, one process: all end with the same weights."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from captioner.checkpoint import load
from captioner.data.readers import read
from captioner.data.scenes import write_scenes
from captioner.errors import DataError
from captioner.training.loop import Trainer
from captioner.training.recipe import Recipe

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
        "warm_up": 2,
        "map_supervision": 0.1,
        "map_regularisation": 0.1,
        "longest": 12,
        "precision": "float32",
    }
    return values | changes


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_scenes(tmp_path_factory.mktemp("scenes"), count=21, dev=5, size=(96, 72))


def same(a: Path, b: Path) -> None:
    theirs = load(b).model.state_dict()
    for name, tensor in load(a).model.state_dict().items():
        torch.testing.assert_close(tensor, theirs[name], rtol=1e-3, atol=1e-4, msg=name)


@pytest.mark.parametrize("decoder", SMALL)
def test_two_processes_end_where_one_does(decoder: str, scenes: Path, tmp_path: Path) -> None:
    one = Trainer(Recipe(**options(decoder)), read(scenes), tmp_path / "one", device="cpu")  # type: ignore[arg-type]
    one.run()

    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", f"--master-port={free_port()}"]
    command += ["-m", "captioner.cli", "train", "--device", "cpu", "--data", str(scenes)]
    command += ["--output", str(tmp_path / "two")]
    for name, value in options(decoder).items():
        text = json.dumps(value) if isinstance(value, dict) else str(value)
        command += [f"--{name.replace('_', '-')}", text]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.split() == [str(tmp_path / "two" / "best.safetensors")], "one process speaks for both"

    same(tmp_path / "one" / "last.safetensors", tmp_path / "two" / "last.safetensors")
    logs = [[json.loads(line) for line in (tmp_path / run / "log.jsonl").open()] for run in ("one", "two")]
    for ours, theirs in zip(*logs, strict=True):
        assert ours["dev"] == pytest.approx(theirs["dev"], abs=1e-6), "each captioned its share of the dev split"


@pytest.mark.parametrize("decoder", SMALL)
def test_rounds_end_where_one_step_does(decoder: str, scenes: Path, tmp_path: Path) -> None:
    records = read(scenes)
    for rounds in (1, 3):
        recipe = Recipe(**options(decoder, accumulate=rounds))  # type: ignore[arg-type]
        Trainer(recipe, records, tmp_path / str(rounds), device="cpu").run()
    same(tmp_path / "1" / "last.safetensors", tmp_path / "3" / "last.safetensors")


def test_a_step_too_small_for_its_rounds_is_refused(scenes: Path, tmp_path: Path) -> None:
    recipe = Recipe(**options("lstm", accumulate=7))  # type: ignore[arg-type]
    with pytest.raises(DataError, match="a step of 6 pictures cannot be dealt to 1 processes in 7 rounds"):
        Trainer(recipe, read(scenes), tmp_path / "run", device="cpu")


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])
