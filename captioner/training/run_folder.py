"""The folder of a run: its recipe, its log, its models, and the state from which it goes on."""

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from captioner.checkpoint import write_tensors
from captioner.errors import CheckpointError, OptionError
from captioner.training.recipe import default_of, options

# Options that change nothing of what is learned may differ when a run goes on.
_FREE = {"workers", "save_minutes"}


class RunFolder:
    """Files of a run; of several processes only the first writes.

    Args:
        path: of the folder.
        first: whether this is the first process.
    """

    def __init__(self, path: Path, *, first: bool) -> None:
        self.path, self.first = path, first
        self.best, self.last = path / "best.safetensors", path / "last.safetensors"
        self._recipe, self._log, self._state = path / "recipe.json", path / "log.jsonl", path / "state.safetensors"

    def claim(self, recipe: Mapping[str, Any]) -> None:
        """Write the recipe, or find that the folder has it.

        Raises:
            OptionError: the folder holds a run of another recipe.
        """
        if self._recipe.exists():
            theirs = json.loads(self._recipe.read_text())
            defaults = {option.name: default_of(option) for option in options()}
            for name, mine in recipe.items():
                before = theirs.get(name, defaults.get(name))  # a run of an older version did not know the option
                unsaid = name == "precision" and before == "auto"  # so older versions kept it
                if name not in _FREE and before != mine and not unsaid:
                    raise OptionError(
                        f"{self.path} holds a run with {name} {before!r}, not {mine!r}: "
                        "give another --output, or the same options to go on with it"
                    )
        elif self.first:
            self.path.mkdir(parents=True, exist_ok=True)
            _write(self._recipe, json.dumps(recipe, indent=1) + "\n")

    def log(self, line: Mapping[str, Any]) -> None:
        """Append a line, with the time."""
        if self.first:
            with self._log.open("a") as file:
                file.write(json.dumps({**line, "time": round(time.time(), 1)}) + "\n")

    def read_log(self) -> list[dict[str, Any]]:
        """The lines of the log; one that was cut off while it was written is left out."""
        if not self._log.exists():
            return []
        whole = [line for line in self._log.read_text().splitlines(keepends=True) if line.endswith("\n")]
        return [json.loads(line) for line in whole]

    def forget_log_after(self, step: int) -> None:
        """Remove the lines of steps that will be done again."""
        if self.first and self._log.exists():
            kept = [json.dumps(line) + "\n" for line in self.read_log() if line["step"] <= step]
            _write(self._log, "".join(kept))

    def save_state(self, tensors: Mapping[str, Tensor], progress: Mapping[str, Any]) -> None:
        """Write what the run goes on from."""
        if self.first:
            whole = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
            write_tensors(self._state, whole, {"progress": json.dumps(progress)})

    def load_state(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """What `save_state` wrote; None if there is nothing.

        Raises:
            CheckpointError: the file is damaged.
        """
        if not self._state.exists():
            return None
        try:
            with safe_open(self._state, framework="pt") as opened:
                progress = json.loads(opened.metadata()["progress"])
                return {name: opened.get_tensor(name) for name in opened.keys()}, progress  # noqa: SIM118
        except (SafetensorError, KeyError, json.JSONDecodeError) as error:
            raise CheckpointError(f"{self._state}: damaged ({error}); remove it to start anew") from None


def _write(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text)
    partial.replace(path)
