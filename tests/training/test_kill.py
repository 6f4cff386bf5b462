"""A training process that is killed outright, and started again by the same command."""

import json
import signal
import time
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch.optim.optimizer import register_optimizer_step_post_hook

from captioner.cli import main
from captioner.data.scenes import write_scenes

from .launched import command, start

SMALL = {
    "lstm": {"width": 16, "embedding": 16, "output_hidden": 16, "attention_width": 16, "heads": 2},
    "transformer": {"width": 16, "layers": 1, "heads": 2, "hidden": 16},
}


def train(scenes: Path, output: Path, decoder: str) -> list[str]:
    """The command, in which nothing says whether the run is new: saved after every step, with dropout."""
    options = {
        "data": scenes,
        "output": output,
        "device": "cpu",
        "decoder": decoder,
        "decoder-options": json.dumps(SMALL[decoder]),
        "backbone": "tiny",
        "encoder-options": json.dumps({"side": 32}),
        "refiner-options": json.dumps({"width": 16}),
        "minimum-count": 1,
        "epochs": 4,
        "frozen-epochs": 2,
        "batch-pictures": 4,
        "captions-per-picture": 2,
        "warmup-steps": 2,
        "save-minutes": 1e-9,
        "precision": "float32",
    }
    return ["train", *(word for name, value in options.items() for word in (f"--{name}", str(value)))]


def kill_after_steps(arguments: list[str], state: Path, saves: int) -> None:
    """Start the command in a process of its own; kill it when it has saved its state so many times anew."""
    before = state.stat().st_mtime_ns if state.exists() else None
    seen = {before}
    process = start(command, arguments, name=state.parent.with_name("process"))
    deadline = time.monotonic() + 300
    while len(seen) <= saves and process.is_alive() and time.monotonic() < deadline:
        if state.exists():
            seen.add(state.stat().st_mtime_ns)
        time.sleep(0.001)
    assert process.is_alive(), "it was over before it could be killed"
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL


def main_with_steps(arguments: list[str]) -> tuple[int, int]:
    """The exit code, and how many steps the optimiser took."""
    steps: list[None] = []
    counting = register_optimizer_step_post_hook(lambda *_: steps.append(None))
    try:
        return main(arguments), len(steps)
    finally:
        counting.remove()


@pytest.mark.parametrize(("decoder", "kills"), [("lstm", (3, 6)), ("transformer", (5,))])
def test_a_process_that_is_killed_and_started_again_ends_with_the_same_weights(
    decoder: str, kills: tuple[int, ...], tmp_path: Path
) -> None:
    scenes = write_scenes(tmp_path / "scenes", count=21, dev=5, size=(96, 72))
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    code, steps = main_with_steps(train(scenes, whole, decoder))
    assert code == 0
    for saves in kills:
        kill_after_steps(train(scenes, killed, decoder), killed / "state.safetensors", saves)
    # Who began again would end alike: the run goes on from what was saved, and computes nothing twice.
    with safe_open(killed / "state.safetensors", framework="pt") as state:
        saved = json.loads(state.metadata()["progress"])["step"]
    assert saved > 0
    assert main_with_steps(train(scenes, killed, decoder)) == (0, steps - saved)
    for name in ("last.safetensors", "best.safetensors"):
        ours, theirs = load_file(whole / name), load_file(killed / name)
        assert ours.keys() == theirs.keys()
        for key, tensor in ours.items():
            assert torch.equal(tensor, theirs[key]), (name, key)
    ends = [[json.loads(line) for line in (run / "log.jsonl").open()] for run in (whole, killed)]
    assert [line["dev"] for line in ends[0] if "dev" in line] == [line["dev"] for line in ends[1] if "dev" in line]
