"""The end of an epoch: dev score, log line, and the models of the best and the last epoch."""

import math
from typing import Any

from captioner.checkpoint import Checkpoint, save
from captioner.errors import CaptionerError
from captioner.model.caption_model import CaptionModel
from captioner.training.epoch import Figures
from captioner.training.optimiser import DivergedError
from captioner.training.run_folder import RunFolder
from captioner.training.state import TrainingState
from captioner.training.tasks import Task, TaskContext


class Evaluation:
    """Scores the averaged model on dev after each epoch, and writes it.

    Args:
        task: whose dev score is computed.
        context: of the run.
        state: of the run; its best score is updated.
        folder: of the run.
        about: facts for the model files.
    """

    def __init__(
        self, task: Task, context: TaskContext, state: TrainingState, folder: RunFolder, about: dict[str, Any]
    ) -> None:
        self.task, self.context, self.state, self.folder, self.about = task, context, state, folder, about

    def end_epoch(self, epoch: int, *, rate: float) -> Figures:
        """The dev scores after an epoch (from 0), whose last step had this learning rate.

        Raises:
            DivergedError: the model or its score is not finite; nothing is written.
            CheckpointError, DataError: a file cannot be written.
        """
        state, first = self.state, self.context.processes.is_first
        means, seconds = state.figures.end()
        model = state.average.averaged_model()
        score, scores = self._dev_score(model, rate)
        train = {f"train_{name}": value for name, value in means.items()}
        self.folder.log({"epoch": epoch, "step": state.step, **train, "seconds": seconds, "dev": scores})
        about = {**self.about, "epoch": epoch + 1, "training_pictures": len(self.context.train), "dev": scores}
        make = getattr(self.task, "checkpoint", Checkpoint)  # a task may train a model of its own kind
        checkpoint = make(model=model, vocabulary=self.context.vocabulary, about=about)
        if score > state.best:
            state.best, state.best_epoch = score, epoch
            if first:
                save(self.folder.best, checkpoint)
        if first:
            save(self.folder.last, checkpoint)
        return scores

    def before(self) -> Figures:
        """The dev scores before the first step, which are logged as those of epoch -1."""
        _, scores = self._dev_score(self.state.average.averaged_model(), 0.0)
        self.folder.log({"epoch": -1, "step": 0, "dev": scores})
        return scores

    def _dev_score(self, model: CaptionModel, rate: float) -> tuple[float, Figures]:
        step = self.state.step
        for name, tensor in model.state_dict().items():
            if not tensor.isfinite().all():
                raise diverged(f"{name} is not finite after step {step}", rate=rate, folder=self.folder)
        try:
            score, scores = self.task.dev_score(model)
        except CaptionerError as error:
            if "not finite" not in str(error):
                raise
            what = f"the dev captions after step {step} failed ({error})"
            raise diverged(what, rate=rate, folder=self.folder) from None
        if not math.isfinite(score):
            raise diverged(f"the dev score after step {step} is {score}", rate=rate, folder=self.folder)
        return score, scores


def diverged(what: str, *, rate: float, folder: RunFolder) -> DivergedError:
    """The error of a number that is not finite, at a learning rate."""
    kept = f"{folder.path} keeps the last good state" if folder.state.exists() else "nothing was saved"
    return DivergedError(
        f"training diverged: {what}, with learning rate {rate:g}; {kept}",
        remedy="start a run in another --output with a lower --learning-rate or --clip-norm, or more --warmup-steps",
    )
