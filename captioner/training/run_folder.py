"""The folder of a run: its lock, recipe, inputs, log, models, and the state that a run resumes from."""

import contextlib
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from captioner.checkpoint import write_tensors
from captioner.errors import CheckpointError, DataError, OptionError, one_line
from captioner.partial import written_whole
from captioner.training import aliases
from captioner.training.recipe import default_of, options

fcntl: Any
try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

# Options that do not change what is learned may differ when a run is resumed.
_FREE = {"workers", "save_minutes"}
_OTHER = "give another --output, or the same options to resume it"


class RunFolder:
    """Files of a run. Of several processes, the first one locks the folder and writes.

    The lock belongs to the process: it ends with `release`, with this object, or when the process is killed.

    Args:
        path: of the folder.
        first: whether this is the first process.

    Raises:
        OptionError: another run uses the folder, or the path is no folder that can be written.
    """

    def __init__(self, path: str | Path, *, first: bool = True) -> None:
        self.path, self.first = Path(path), first
        self.best, self.last = self.path / "best.safetensors", self.path / "last.safetensors"
        self.recipe, self.inputs = self.path / "recipe.json", self.path / "inputs.json"
        self.log_file, self.state = self.path / "log.jsonl", self.path / "state.safetensors"
        self._lock: int | None = None
        self._made: list[Path] = []  # folders, the innermost first
        if first:
            self._acquire()

    def outputs(self) -> list[Path]:
        """The files that a run writes."""
        of_rehearsal = [self.path / "rest.jsonl", self.path / "scenes" / "captions.jsonl"]
        return [self.best, self.last, self.recipe, self.inputs, self.log_file, self.state, *of_rehearsal]

    def release(self) -> None:
        """Give the lock back. Folders that were made for nothing are removed."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None
        with contextlib.suppress(OSError):
            for folder in self._made:
                folder.rmdir()  # it stays if anything is in it

    def __del__(self) -> None:
        if getattr(self, "_lock", None) is not None:
            self.release()

    def _acquire(self) -> None:
        try:
            self._made = [folder for folder in (self.path, *self.path.parents) if not folder.exists()]
            self.path.mkdir(parents=True, exist_ok=True)
            probe = self.path / f".{os.getpid()}.partial"
            probe.touch()
            probe.unlink()
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise OptionError(
                f"--output {self.path}: no folder that can be written ({reason})",
                remedy="give another --output",
            ) from None
        if fcntl is None:
            return
        self._lock = os.open(self.path, os.O_RDONLY)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._lock)
            self._lock, self._made = None, []
            raise OptionError(
                f"--output {self.path} is in use by another run", remedy="wait for it, or give another --output"
            ) from None
        except OSError:  # a file system without locks
            os.close(self._lock)
            self._lock = None

    def check_recipe(self, recipe: Mapping[str, Any]) -> str:
        """Make sure that the folder holds no run of another recipe.

        A run that ended before it had saved anything gives way to another recipe.

        Returns:
            A warning that names renamed options of the stored recipe; empty if there are none.

        Raises:
            OptionError: it holds one, and the message names the option; or it holds files that no run wrote.
            CheckpointError: the stored recipe is damaged.
        """
        found = self._read_json(self.recipe)
        if found is None:
            own = (self.best, self.last, self.state, self.log_file, self.inputs)
            if strange := next((file for file in own if os.path.lexists(file)), None):
                raise OptionError(
                    f"{self.path} is not the folder of a run, but holds {strange.name}, which a run would overwrite",
                    remedy="give another --output",
                )
            return ""
        if self._gives_way(found):
            return ""
        stored, renamed = aliases.current(found)
        defaults = {option.name: default_of(option) for option in options()}
        for name in defaults:
            mine, before = recipe[name], stored.get(name, defaults[name])  # an older version did not know the option
            unset = name == "precision" and before == "auto"  # so older versions kept it
            if name not in _FREE and before != mine and not unset:
                # "auto" may be another precision on another machine.
                remedy = f"give --precision {before}" if name == "precision" else _OTHER
                raise OptionError(f"{self.path} holds a run with {name} {before!r}, not {mine!r}", remedy=remedy)
        return aliases.warning(renamed, place=str(self.recipe))

    def stored_recipe(self) -> dict[str, Any] | None:
        """The recipe of the run that is there, in today's names; None if there is none that has saved anything.

        Raises:
            CheckpointError: it is damaged.
        """
        found = self._read_json(self.recipe)
        return None if found is None or self._gives_way(found) else aliases.current(found)[0]

    def _gives_way(self, recipe: Mapping[str, Any]) -> bool:
        """Whether a run of this stored recipe never saved anything."""
        saved = any(map(os.path.lexists, (self.best, self.last, self.state)))
        return "objective" in recipe and not saved and not any("dev" in line for line in read_log(self.path))

    def claim(self, recipe: Mapping[str, Any], inputs: Mapping[str, Any]) -> None:
        """Write recipe and inputs. Raises DataError if they cannot be written."""
        if self.first:
            self._write(self.recipe, json.dumps(recipe, indent=1) + "\n")
            self._write(self.inputs, json.dumps(inputs, indent=1) + "\n")

    def read_inputs(self) -> dict[str, Any] | None:
        """What `claim` wrote; None if there is nothing. Raises CheckpointError if it is damaged."""
        return self._read_json(self.inputs)

    def log(self, line: Mapping[str, Any]) -> None:
        """Append a line, with the time. Raises DataError if it cannot be written."""
        if self.first:
            try:
                with self.log_file.open("a", encoding="utf-8") as file:
                    file.write(json.dumps({**line, "time": round(time.time(), 1)}) + "\n")
            except OSError as error:
                raise _unwritable(self.log_file, error) from None

    def forget_log_after(self, step: int) -> None:
        """Remove the lines of steps that will be computed again. Raises DataError if it cannot be written."""
        if self.first and self.log_file.exists():
            kept = [json.dumps(line) + "\n" for line in read_log(self.path) if 0 < step >= line["step"]]
            self._write(self.log_file, "".join(kept))

    def save_state(self, tensors: Mapping[str, Tensor], progress: Mapping[str, Any]) -> None:
        """Write what the run resumes from. Raises CheckpointError if it cannot be written; the old file stays whole."""
        if self.first:
            whole = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
            write_tensors(self.state, whole, {"progress": json.dumps(progress)})

    def load_state(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """What `save_state` wrote; None if there is nothing.

        Raises:
            CheckpointError: the file is damaged.
        """
        if not self.state.exists():
            return None
        try:
            with safe_open(self.state, framework="pt") as opened:
                progress = json.loads(opened.metadata()["progress"])
                tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
            raise self.damaged_state(error) from None
        return tensors, progress

    def damaged_state(self, error: object) -> CheckpointError:
        """The error of a state that cannot be resumed from."""
        return CheckpointError(
            f"{self.state}: damaged ({one_line(error)})", remedy="remove it to start the run from its first step"
        )

    def _read_json(self, path: Path) -> dict[str, Any] | None:
        try:
            value = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, RecursionError) as error:
            raise CheckpointError(f"{path}: damaged ({error})", remedy="give another --output") from None
        if not isinstance(value, dict):
            raise CheckpointError(f"{path}: damaged (no JSON object)", remedy="give another --output")
        return value

    def _write(self, path: Path, text: str) -> None:
        """Write a file whole or not at all."""
        try:
            with written_whole(path) as partial:
                partial.write_text(text, encoding="utf-8")
        except OSError as error:
            raise _unwritable(path, error) from None


def read_log(folder: Path) -> list[dict[str, Any]]:
    """The lines of a run's log. Lines that were cut off or damaged are left out."""
    try:
        text = (folder / "log.jsonl").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    lines = []
    for line in text.splitlines():
        with contextlib.suppress(ValueError, RecursionError):
            value = json.loads(line)
            if isinstance(value, dict) and isinstance(value.get("step"), int):
                lines.append(value)
    return lines


def _unwritable(path: Path, error: OSError) -> DataError:
    return DataError(f"{path}: cannot be written ({error.strerror or error})", remedy="free some space, start it again")
