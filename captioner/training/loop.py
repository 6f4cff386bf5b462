"""The training loop: on one device or many, resumable at any step.

The pictures of a step depend on the recipe and the step's number alone; weights, optimiser, moving average and random
state are saved together. So a run that is killed and started again ends where it would have ended. A step is split over
the processes, and their gradients are summed: so many processes end where one would, except for what each draws at
random (dropout, samples).
"""

import gc
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from captioner.data.records import Record, evenly_spread, of_split
from captioner.errors import DataError, OptionError
from captioner.model.decoder import Decoded
from captioner.tokenizer.vocabulary import Vocabulary
from captioner.training import precision
from captioner.training.distributed import Processes
from captioner.training.epoch import Figures
from captioner.training.evaluation import Evaluation, diverged
from captioner.training.feeding import Feeder
from captioner.training.images import ImageDataset, Images, Pixels
from captioner.training.inputs import describe_inputs, refuse_other_inputs, remedy_of_new_run, stored_vocabulary
from captioner.training.memory import keep_memory
from captioner.training.optimiser import MovingAverage, Optimiser, learning_rate_ratio
from captioner.training.progress import Progress
from captioner.training.recipe import FILES, Recipe
from captioner.training.rehearsal import split_rest
from captioner.training.run_folder import RunFolder
from captioner.training.start import (
    build_vocabulary,
    delay_of_maps,
    earlier_recipes,
    first_model,
    stored_options,
    teacher_recipes,
)
from captioner.training.state import TrainingState
from captioner.training.tasks import TASKS, Part, TaskContext


class Trainer:
    """One run: a recipe, records, a folder.

    The folder gets ``recipe.json``, ``inputs.json`` (what the run was started on), ``log.jsonl`` (a line every 20 steps
    and one each epoch), ``best.safetensors`` (the model of the best dev score), ``last.safetensors`` and
    ``state.safetensors`` (to resume). Under ``torchrun`` each process makes a Trainer, and they share the work.

    Args:
        recipe: the options.
        records: with the splits train and dev; the pictures must open (see `captioner.data.records.usable`).
        output: the run's folder; a run that it holds is resumed.
        rest: further records that are mixed in against forgetting, see `captioner.training.rehearsal`.
        text: captions without pictures, for language-model training.
        device: "auto", "cpu", "cuda", "cuda:1", "mps".
        processes: that share the run, if the caller has joined them already.

    Attributes:
        warnings: lines for the user.

    Raises:
        DataError: no training or dev pictures, pictures without captions where the objective reads captions, fewer
            pictures in a step than parts, or no text where it is needed.
        OptionError: another run uses the folder, the folder holds a run of another recipe or of other data, or the
            recipe does not fit its task, first model or teacher.
        CheckpointError: a model file does not load, or a file of the run is damaged.
    """

    def __init__(
        self,
        recipe: Recipe,
        records: Sequence[Record],
        output: str | Path | RunFolder,
        *,
        rest: Sequence[Record] = (),
        text: Sequence[str] = (),
        device: str | torch.device = "auto",
        processes: Processes | None = None,
    ) -> None:
        self.recipe = recipe
        TASKS[recipe.objective].check(recipe)
        self._own, self.dev_records = _splits(recipe, records)
        rest_train, self._rest_dev = split_rest(rest, most_dev=recipe.dev_pictures)
        if getattr(TASKS[recipe.objective], "uses_captions", True):
            _refuse_without_captions([*self._own, *self.dev_records, *rest_train, *self._rest_dev], recipe)
        if bool(recipe.rehearsal) != bool(rest_train):
            raise DataError(
                f"rehearsal is {recipe.rehearsal}, and there are {len(rest_train)} training pictures of the rest",
                remedy="give both or neither",
            )
        self.train_records = [*self._own, *rest_train]
        # The rest has captions of the first model, in its words; without one, it has references.
        self._worded = self._own if recipe.start_from else self.train_records
        self.processes = processes or Processes.join(device)
        self.precision = recipe.precision
        if recipe.precision == "auto":
            self.precision = "bfloat16" if precision.has_bfloat16(self.processes.device) else "float32"
        if self.processes.device.type == "cpu":
            keep_memory()
        self.folder = output if isinstance(output, RunFolder) else RunFolder(output, first=self.processes.is_first)
        self.warnings: list[str] = []
        try:
            self._build(text)
        except BaseException:
            self.folder.release()
            raise

    def _build(self, text: Sequence[str]) -> None:
        recipe, processes = self.recipe, self.processes
        values = {**recipe.as_dict(), "precision": self.precision, "training_pictures": len(self.train_records)}
        self.warnings += filter(None, [self.folder.check_recipe(values)])
        earlier = earlier_recipes(recipe)
        stored = self.folder.read_inputs() if self.folder.state.exists() else None
        if stored is None and self.folder.state.exists():
            raise OptionError(
                f"{self.folder.path} holds a run of an older version, which did not store what it was started on",
                remedy=remedy_of_new_run(self.folder.last),
            )
        torch.manual_seed(recipe.seed)
        vocabulary = stored_vocabulary(stored, self.folder.inputs) if stored else None
        task = TASKS[recipe.objective]
        make: Any = getattr(task, "first_model", first_model)  # a task may train a model of its own kind
        made: tuple[Any, Vocabulary] = make(recipe, self._worded, vocabulary=vocabulary)
        self.model, self.vocabulary = made
        context = TaskContext(
            recipe=recipe,
            train=self.train_records,
            dev=self.dev_records,
            text=text,
            vocabulary=self.vocabulary,
            model=self.model,
            images=ImageDataset([record.image for record in self.train_records], self.model.encoder),
            processes=processes,
            precision=self.precision,
            rest=len(self.train_records) - len(self._own),
            rest_dev=self._rest_dev,
            map_delay=delay_of_maps(recipe),
        )
        self._context = context
        self.task = task(context)
        self._check_parts()
        if recipe.map_supervision and not any(any(record.boxes) or record.objects for record in self.train_records):
            self.warnings.append(
                f"map_supervision is {recipe.map_supervision}, and no training picture has boxes: it changes nothing"
            )
        if processes.is_first:
            self._claim(values, stored, text)
        processes.wait()
        self.model.to(processes.device)
        self.optimiser = Optimiser(self.model, recipe)
        average = MovingAverage(self.model, decay=recipe.ema_decay, vocabulary_size=len(self.vocabulary))
        self.state = TrainingState(self.model, self.optimiser, average, processes)
        about: dict[str, Any] = {
            "recipe": {**recipe.for_readers(), "precision": self.precision},
            "earlier": earlier,
            **({"teacher": teachers} if (teachers := teacher_recipes(recipe)) else {}),
            **stored_options(recipe),
        }
        self._evaluation = Evaluation(self.task, context, self.state, self.folder, about)
        self._feeder = Feeder(self.task, context, self.folder.path)
        self._wrapped: Any = None
        self._phase: bool | None = None
        torch.manual_seed(recipe.seed + 1_000_003 * processes.rank)  # each process draws its own dropout
        self._saved_at = time.monotonic()
        self.state.restore(self.folder)

    def _claim(self, values: dict[str, Any], stored: dict[str, Any] | None, text: Sequence[str]) -> None:
        """Write what the run is started on, or make sure that it is the same."""
        recipe = self.recipe
        today = self.vocabulary
        if stored is not None and not (recipe.start_from or recipe.decoder_from):
            build = getattr(TASKS[recipe.objective], "build_vocabulary", build_vocabulary)
            today = build(recipe, self._own)  # older versions took no words of the rest
            if list(today.words) != stored.get("vocabulary"):
                today = build(recipe, self._worded)
        records, images = [*self.train_records, *self.dev_records, *self._rest_dev], self.task.uses_images
        found = describe_inputs(
            records,
            text=text,
            vocabulary=today,
            stored=stored,
            images=images,
            files={name: getattr(recipe, name) for name in FILES if getattr(recipe, name)},
        )
        if stored is not None:
            refuse_other_inputs(stored, found, folder=self.folder.path)
        self.folder.claim(values, found)

    def _check_parts(self) -> None:
        rounds, size = self.recipe.gradient_accumulation_steps, self.task.batches.size
        if size < self.processes.count * rounds:
            raise DataError(
                f"a step of {size} cannot be split over {self.processes.count} processes in {rounds} rounds",
                remedy="raise batch_pictures, or lower gradient_accumulation_steps",
            )

    @property
    def step(self) -> int:
        """Number of steps done."""
        return self.state.step

    @property
    def is_first(self) -> bool:
        """Whether this process writes the files and prints."""
        return self.processes.is_first

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the folder's lock back. `run` does so at its end."""
        self.folder.release()

    def run(self) -> Path:
        """Train to the last epoch; the path of the best model. Raises as `steps`."""
        for _ in self.steps():
            pass
        return self.folder.best

    def steps(self) -> Iterator[Progress]:
        """Train to the last epoch, and report each step, each part of the grids, and each dev score.

        Raises:
            DivergedError: a loss, a gradient or a dev score is not finite.
            ImageError: a picture does not open any more.
            CheckpointError, DataError: a file cannot be written.
        """
        try:
            yield from self._steps()
            self.processes.wait()  # a process that ends first must not end the launcher while another still writes
        finally:
            self.close()

    def _steps(self) -> Iterator[Progress]:
        per_epoch, epochs = len(self.task.batches), self.recipe.epochs
        total = epochs * per_epoch
        if self.recipe.rehearsal and self.step == 0:
            yield Progress("dev before", 0, total, self._evaluation.before())
        for epoch in range(self.step // per_epoch, epochs):
            frozen = epoch < self.recipe.frozen_epochs
            self._enter_phase(frozen=frozen)
            self.state.figures.begin()
            for whose, done, all_ in self._feeder.fill(frozen=frozen):
                yield Progress(whose, done, all_)
            for parts in self._feeder.steps(epoch, start=self.step % per_epoch, frozen=frozen):
                figures = self._learn(parts, self._ratio(self.step))
                self.state.step += 1
                self.state.figures.add(figures)
                if self.step % 20 == 0:
                    self.folder.log({"step": self.step, "epoch": epoch, **figures})
                yield Progress(f"epoch {epoch + 1}/{epochs}", self.step, total, figures)
                within = self.step % per_epoch > 0  # the last step is saved with the epoch's scores
                if within and self._is_time_to_save():
                    self._save_state()
            scores = self._evaluation.end_epoch(epoch, rate=self.recipe.learning_rate * self._ratio(self.step - 1))
            self._save_state()
            yield Progress(f"dev after epoch {epoch + 1}", self.step, total, scores)

    def _enter_phase(self, *, frozen: bool) -> None:
        """Choose what is trained. The wrapper of several processes must know it, so each phase has its own."""
        if self._phase != frozen:
            self._phase = frozen
            self.task.set_trainable(frozen=frozen)
            if self._wrapped not in (None, self.model):
                self._wrapped = None
                gc.collect()  # the old wrapper's hooks on the gradients go with it
            self._wrapped = self.processes.wrap(self.model)

    def _learn(self, parts: Sequence[tuple[Part, Images]], ratio: float) -> Figures:
        """One step; this process has its parts of it."""
        self.optimiser.zero_grad()
        sums: Figures = {}
        for i, (part, images) in enumerate(parts):
            last = i == len(parts) - 1
            with nullcontext() if last else self.processes.no_sync(self._wrapped):
                loss, figures = self.task.loss(self._forward, part, images)
                # The wrapper averages over the processes what must be summed.
                (loss * self.processes.count).backward()
            for name, value in {"loss": loss.item(), **figures}.items():
                sums[name] = sums.get(name, 0.0) + value
        norm = self.optimiser.clip()
        names = sorted(sums)
        sums = dict(zip(names, self.processes.sum([sums[name] for name in names]), strict=True))
        for what, value in (("loss", sums["loss"]), ("norm of the gradient", norm)):
            if not math.isfinite(value):
                raise diverged(
                    f"the {what} is {value} at step {self.step + 1}",
                    rate=self.recipe.learning_rate * ratio,
                    folder=self.folder,
                )
        self.optimiser.step(ratio)
        self.state.average.update(self.step)
        return {**sums, "gradient": norm, "rate": ratio}

    def _forward(self, images: Images, tokens: Tensor) -> Decoded:
        pictures, mask = (images.values, images.mask) if isinstance(images, Pixels) else (images, None)
        with self._context.autocast():
            decoded: Decoded = self._wrapped(pictures, tokens, mask)
        return decoded

    def _ratio(self, step: int) -> float:
        total = self.recipe.epochs * len(self.task.batches)
        return learning_rate_ratio(step, total=total, recipe=self.recipe)

    def _is_time_to_save(self) -> bool:
        """Whether the first process finds that it is; all must agree, since they save together."""
        due = time.monotonic() - self._saved_at > self.recipe.save_minutes * 60
        return self.processes.any(due and self.is_first)

    def _save_state(self) -> None:
        self.state.save(self.folder)
        self._saved_at = time.monotonic()


def _splits(recipe: Recipe, records: Sequence[Record]) -> tuple[list[Record], list[Record]]:
    """The records to train on and to score, as many as the recipe wants. Raises DataError if there are none."""
    train, dev = of_split(records, "train"), of_split(records, "dev")
    for split, found in (("train", train), ("dev", dev)):
        if not found:
            raise DataError(f"the data has no pictures of the split '{split}'", remedy="training needs train and dev")
    if recipe.train_pictures > 0:
        train = evenly_spread(train, recipe.train_pictures)
    return train, dev[: recipe.dev_pictures] if recipe.dev_pictures else dev


def _refuse_without_captions(records: Sequence[Record], recipe: Recipe) -> None:
    """Raises DataError if a picture has questions alone."""
    if without := [record for record in records if not record.captions]:
        raise DataError(
            f"{len(without):,} of {len(records):,} pictures have no captions, and the objective '{recipe.objective}' "
            f"trains on captions; the first is {without[0].id}",
            remedy="leave their questions out, or train answers: --objective answers",
        )
