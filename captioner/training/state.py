"""The state of a run: what is saved together and resumed exactly."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from captioner.model.caption_model import CaptionModel
from captioner.training.distributed import Processes
from captioner.training.epoch import EpochFigures
from captioner.training.optimiser import MovingAverage, Optimiser
from captioner.training.run_folder import RunFolder


class TrainingState:
    """Weights, optimiser, moving average, counters, and the random state of each process.

    Attributes:
        step: number of steps done.
        best, best_epoch: the best dev score so far, and the epoch (from 0) that reached it.
        figures: of the current epoch.
    """

    def __init__(self, model: CaptionModel, optimiser: Optimiser, average: MovingAverage, processes: Processes) -> None:
        self.model, self.optimiser, self.average, self.processes = model, optimiser, average, processes
        self.step, self.best, self.best_epoch = 0, -math.inf, -1
        self.figures = EpochFigures()

    def save(self, folder: RunFolder) -> None:
        """Write the state; all processes call this together. Raises CheckpointError."""
        tensors = {f"model.{name}": tensor for name, tensor in self.model.state_dict().items()}
        tensors |= {f"average.{name}": tensor for name, tensor in self.average.weights.items()}
        tensors |= {f"optimizer.{name}": tensor for name, tensor in self.optimiser.state().items()}
        random = {"cpu": torch.get_rng_state()}
        if self.processes.device.type == "cuda":
            random["cuda"] = torch.cuda.get_rng_state(self.processes.device)
        for rank, theirs in enumerate(self.processes.gather(random)):
            tensors |= {f"random.{rank}.{kind}": state for kind, state in theirs.items()}
        progress = {
            "step": self.step,
            "best": self.best,
            "best_epoch": self.best_epoch,
            "epoch": self.figures.as_dict(),
        }
        folder.save_state(tensors, progress)

    def restore(self, folder: RunFolder) -> None:
        """Load what `save` wrote, if there is anything; the log keeps the lines up to that step.

        Raises:
            CheckpointError: the state is damaged, or of another model.
        """
        found = folder.load_state()
        if found is not None:
            try:
                self._restore(*found)
            except (
                KeyError, IndexError, ValueError, RuntimeError, TypeError, AttributeError, OverflowError
            ) as error:  # fmt: skip
                raise folder.damaged_state(error) from None
        folder.forget_log_after(self.step)  # 0 for a run that was killed before it saved anything

    def _restore(self, tensors: Mapping[str, Tensor], progress: Mapping[str, Any]) -> None:
        if broken := next((name for name, tensor in tensors.items() if not tensor.isfinite().all()), None):
            raise ValueError(f"{broken} is not finite")
        model = _below("model.", tensors)
        self.step, self.best, self.best_epoch = (
            int(progress["step"]),
            float(progress["best"]),
            int(progress["best_epoch"]),
        )
        if self.step < 0 or math.isnan(self.best):
            raise ValueError(f"step {self.step}, best dev score {self.best}")
        self.figures.restore(progress["epoch"])
        self.model.load_state_dict(model)
        device = self.processes.device
        average = {name: tensor.to(device) for name, tensor in _below("average.", tensors).items()}
        shapes = {name: tensor.shape for name, tensor in self.average.weights.items()}
        if {name: tensor.shape for name, tensor in average.items()} != shapes:
            raise ValueError("the moving average is of other weights")
        self.average.weights = average
        self.optimiser.restore(_below("optimizer.", tensors))
        # A run that is resumed by more processes than it had: the new ones keep the state that they were seeded with.
        random = _below(f"random.{self.processes.rank}.", tensors)
        if random:
            torch.set_rng_state(random["cpu"])
        if device.type == "cuda" and "cuda" in random:
            torch.cuda.set_rng_state(random["cuda"], device)


def _below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
