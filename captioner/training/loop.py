"""The training loop: on one device or many, resumable at any step.

Which pictures a step holds depends on the recipe and the step's number alone; weights, optimiser, running average
and random state are saved together. So a run that is killed and started again ends where it would have ended. A
step's pictures are dealt to the processes, and their gradients summed: so many processes end where one would, but
for what each draws for itself (dropout, samples, hidden words).
"""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, DistributedType, gather_object
from torch import Tensor

from captioner.checkpoint import Checkpoint, save
from captioner.data.records import Record, of_split
from captioner.decoding import Beam
from captioner.errors import DataError, OptionError
from captioner.image import Geometry, open_image
from captioner.model.caption_model import CaptionModel
from captioner.model.encoder import GridEncoder
from captioner.model.grid import Grid
from captioner.tokenizer.ptb import tokenize
from captioner.training import precision
from captioner.training.batches import Batch, pad
from captioner.training.dev import encode_records, score_captions, write_captions
from captioner.training.epoch import EpochFigures, Figures
from captioner.training.grids import Pictures, Pixels, StoredGrids, encode_batches, load_batches
from captioner.training.memory import keep_memory
from captioner.training.objectives import Objective, Part, Reward, Seen, Text, Words, perplexity
from captioner.training.recipe import Recipe
from captioner.training.run_folder import RunFolder
from captioner.training.start import earlier_recipes, first_model, recipes_of
from captioner.training.teacher import Teacher
from captioner.training.views import View

_SHARDED = (DistributedType.DEEPSPEED, DistributedType.FSDP, DistributedType.MEGATRON_LM)

Report = Callable[[str, int, int, dict[str, float]], None]
"""Told what is being done, how much of it is done, of how much, and figures to show."""


class Trainer:
    """One run: a recipe, records, a folder.

    The folder gets ``recipe.json``, ``log.jsonl`` (a line every so many steps and one each epoch),
    ``best.safetensors`` (the model of the best dev score), ``last.safetensors`` and ``state.safetensors`` (to
    resume). Under ``torchrun`` or ``accelerate launch`` each process makes a Trainer, and they share the work.

    Args:
        recipe: what to do.
        records: with the splits train and dev; the pictures must open (see `captioner.data.records.usable`).
        output: the run's folder; where it holds a state, the run goes on from there.
        text: captions without pictures, for the objective "text".
        device: to train on; None for a GPU where there is one.
        report: called every step, by the first process alone.

    Raises:
        DataError: no training or dev pictures, fewer pictures in a step than parts to deal them to, or no text for
            the objective "text".
        OptionError: the folder holds a run of another recipe, or the recipe does not fit its first model or teacher.
        CheckpointError: a model file does not load.
    """

    def __init__(
        self,
        recipe: Recipe,
        records: Sequence[Record],
        output: str | Path,
        *,
        text: Sequence[str] = (),
        device: str | torch.device | None = None,
        report: Report | None = None,
    ) -> None:
        self.recipe = recipe
        self.train_records, self.dev_records = of_split(records, "train"), of_split(records, "dev")
        for split, found in (("train", self.train_records), ("dev", self.dev_records)):
            if not found:
                raise DataError(f"the data has no pictures of the split '{split}': training needs train and dev")
        if recipe.objective == "text" and not text:
            raise DataError("the objective 'text' needs captions without pictures: give --text")
        if 0 < recipe.train_pictures < (total := len(self.train_records)):
            kept = (total * i // recipe.train_pictures for i in range(recipe.train_pictures))
            self.train_records = [self.train_records[i] for i in kept]
        if recipe.dev_pictures:
            self.dev_records = self.dev_records[: recipe.dev_pictures]
        if device is not None:
            try:
                torch.empty(0, device=device)
            except (RuntimeError, AssertionError):  # the latter where torch was built without CUDA
                raise OptionError(f"there is no device '{device}' here: 'cpu' is everywhere") from None
        # Said here, for what `accelerate config` wrote on a machine would otherwise change what is learned.
        cpu = device is not None and torch.device(device).type == "cpu"
        # Buffers are alike everywhere and stay so; sent around, they would change under grids already looked at.
        wrapper = DistributedDataParallelKwargs(broadcast_buffers=False)
        self.accelerator = Accelerator(
            cpu=cpu, mixed_precision="no", gradient_accumulation_steps=1, kwargs_handlers=[wrapper]
        )
        if self.accelerator.distributed_type in _SHARDED:
            raise OptionError(
                f"training does not go with {self.accelerator.distributed_type.value}: launch it without, "
                "each process has the whole model"
            )
        self.device = self.accelerator.device if device is None else torch.device(device)
        self.precision = recipe.precision
        if recipe.precision == "auto":
            self.precision = "bfloat16" if precision.has_bfloat16(self.device) else "float32"
        if self.device.type == "cpu":
            keep_memory()
        self.is_first = self.accelerator.is_main_process
        self.parts = self.accelerator.num_processes * recipe.accumulate
        if recipe.objective == "text":
            size, what = min(recipe.batch_pictures * recipe.captions_per_picture, len(text)), "captions"
        else:
            size, what = min(recipe.batch_pictures, len(self.train_records)), "pictures"
        if size < self.parts:
            raise DataError(
                f"a step of {size} {what} cannot be dealt to "
                f"{self.accelerator.num_processes} processes in {recipe.accumulate} rounds: take larger steps"
            )
        self.report: Report = report if report and self.is_first else (lambda *_: None)

        torch.manual_seed(recipe.seed)
        self.model, self.vocabulary = first_model(recipe, self.train_records)
        if recipe.objective != "text" and recipe.frozen_epochs < recipe.epochs:
            self.model.encoder.train_from(recipe.train_from)  # says now, not hours later, if there is no such stage
        self.teacher: Teacher | None = None
        if recipe.teacher:
            self.teacher = Teacher(
                recipe.teacher,
                self.vocabulary,
                self.model.config.encoder,
                longest=recipe.longest,
                device=self.device,
                autocast=self._autocast,
            )
        self.folder = RunFolder(Path(output), first=self.is_first)
        self.folder.claim(
            {**recipe.as_dict(), "precision": self.precision, "training_pictures": len(self.train_records)}
        )
        self.accelerator.wait_for_everyone()
        self._earlier = earlier_recipes(recipe)
        self.model.to(self.device)
        self.pictures = Pictures([record.image for record in self.train_records], self.model.encoder)
        # Boxes are in fractions of a picture; where cells lie on it depends on its shape.
        self._sizes = {
            i: open_image(record.image).size
            for i, record in enumerate(self.train_records)
            if recipe.map_supervision and record.boxes and recipe.objective != "text"
        }
        self.objective = self._new_objective(text)
        self.optimizer = self._new_optimizer()
        self.average = {name: tensor.clone() for name, tensor in self._learned()} if recipe.average else {}
        self.step, self.best, self.best_epoch = 0, -math.inf, -1
        self.figures = EpochFigures()
        torch.manual_seed(recipe.seed + 1_000_003 * self.accelerator.process_index)  # each process its own dropout
        self._saved_at = time.monotonic()
        self._resume()

    # What a run consists of

    def run(self) -> Path:
        """Train to the last epoch; the path of the best model."""
        steps, recipe = len(self.objective), self.recipe
        total = recipe.epochs * steps
        for epoch in range(self.step // steps, recipe.epochs):
            frozen = epoch < recipe.frozen_epochs
            self._enter_phase(frozen=frozen)
            stored = frozen and recipe.cache and recipe.objective != "text"
            batches = list(self.objective.epoch(epoch, start=self.step % steps, steady=stored))
            self.figures.begin()
            for batch, rounds in self._with_pictures(batches, frozen=frozen, stored=stored):
                figures = self._learn(batch, rounds, self._rate(self.step, total))
                self.step += 1
                self.figures.add(figures)
                if self.step % 20 == 0:
                    self.folder.log({"step": self.step, "epoch": epoch, **figures})
                self.report(f"epoch {epoch + 1}/{recipe.epochs}", self.step, total, figures)
                within = self.step % steps > 0  # the last step is saved with the epoch's scores
                if within and self._is_time_to_save():
                    self._save_state()
            self._end_epoch(epoch)
        self.accelerator.wait_for_everyone()  # who ends first must not end the launcher while another still writes
        return self.folder.best

    def _enter_phase(self, *, frozen: bool) -> None:
        """Choose what learns. Gradients of several processes meet in a wrapper that must know it."""
        recipe, model = self.recipe, self.model
        model.encoder.train_from(None if frozen or recipe.objective == "text" else recipe.train_from)
        model.refiner.requires_grad_(recipe.objective != "text")
        # Samples are drawn without dropout, and so must be what is learned from them.
        model.train(recipe.objective != "reward")
        self.accelerator.free_memory()
        self.taught = self.accelerator.prepare_model(model) if self.accelerator.num_processes > 1 else model

    def _learn(self, batch: Batch, rounds: Sequence[tuple[Batch, Seen]], rate: float) -> Figures:
        """One step; this process has its parts of it."""
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak"] * rate
        self.optimizer.zero_grad(set_to_none=True)
        sums: Figures = {}
        for i, (mine, seen) in enumerate(rounds):
            last = i == len(rounds) - 1
            with nullcontext() if last else self.accelerator.no_sync(self.taught):
                loss, figures = self.objective.loss(self._teach, Part(mine, batch), seen)
                # The wrapper averages over the processes what is to be summed.
                (loss * self.accelerator.num_processes).backward()
            for name, value in {"loss": loss.item(), **figures}.items():
                sums[name] = sums.get(name, 0.0) + value
        learned = [tensor for _, tensor in self._learned() if tensor.grad is not None]
        norm = torch.nn.utils.clip_grad_norm_(learned, self.recipe.clip)
        self.optimizer.step()
        self._follow_average()
        if self.accelerator.num_processes > 1:
            together = self.accelerator.reduce(torch.tensor(list(sums.values()), device=self.device), "sum")
            sums = dict(zip(sums, together.tolist(), strict=True))
        return {**sums, "gradient": norm.item(), "rate": rate}

    def _teach(self, seen: Seen, tokens: Tensor) -> tuple[Tensor, Tensor]:
        pictures, mask = (seen.values, seen.mask) if isinstance(seen, Pixels) else (seen, None)
        with self._autocast():
            logits, maps = self.taught(pictures, tokens, mask)
        return logits, maps

    def _with_pictures(
        self, batches: Sequence[Batch], *, frozen: bool, stored: bool
    ) -> Iterator[tuple[Batch, list[tuple[Batch, Seen]]]]:
        """Each batch with this process's parts of it and their pictures, made or read one at a time."""
        first = self.accelerator.process_index * self.recipe.accumulate
        mine = [batch.parts(self.parts)[first : first + self.recipe.accumulate] for batch in batches]
        if self.recipe.objective == "text":
            for batch, parts in zip(batches, mine, strict=True):
                yield batch, [(part, None) for part in parts]
            return
        keys = [list(zip(part.pictures, part.views, strict=True)) for parts in mine for part in parts]
        seen: Iterator[Seen]
        if stored:
            grids = StoredGrids(self.model.encoder, self.pictures, self.folder.path, mirrored=self.recipe.flips)
            grids.fill(
                device=self.device,
                workers=self.recipe.workers,
                batch=self.recipe.batch_pictures,
                progress=lambda done, all_: self.report("grids", done, all_, {}),
                process=self.accelerator.process_index,
                processes=self.accelerator.num_processes,
                wait=self.accelerator.wait_for_everyone,
            )
            seen = grids.read(keys, device=self.device)
        else:
            # A frozen encoder looks once, however often the decoder asks; one that learns is part of each pass.
            look = self._encoded if frozen else load_batches
            seen = look(self.model.encoder, self.pictures, keys, device=self.device, workers=self.recipe.workers)
        for batch, parts in zip(batches, mine, strict=True):
            yield batch, list(zip(parts, islice(seen, len(parts)), strict=True))

    def _encoded(self, encoder: GridEncoder, *arguments: Any, **options: Any) -> Iterator[Grid]:
        """As `encode_batches`, in the run's precision."""
        grids = encode_batches(encoder, *arguments, **options)
        while True:
            with torch.no_grad(), self._autocast():
                grid = next(grids, None)
            if grid is None:
                return
            yield grid

    # Scores

    def _end_epoch(self, epoch: int) -> None:
        means, seconds = self.figures.end()
        scored = self._averaged_model()
        if self.recipe.objective == "text":
            scores = {"perplexity": self._dev_perplexity(scored)}
            score = -scores["perplexity"]
        else:
            scores = score_captions(self._dev_captions(scored), self.dev_records)
            score = scores["cider"]
        train = {f"train_{name}": value for name, value in means.items()}
        self.folder.log({"epoch": epoch, "step": self.step, **train, "seconds": seconds, "dev": scores})
        about = {
            "recipe": {**self.recipe.for_readers(), "precision": self.precision},
            "earlier": self._earlier,
            **({"teacher": recipes_of(self.recipe.teacher)} if self.recipe.teacher else {}),
            "epoch": epoch + 1,
            "training_pictures": len(self.train_records),
            "dev": scores,
        }
        checkpoint = Checkpoint(model=scored, vocabulary=self.vocabulary, about=about)
        if score > self.best:
            self.best, self.best_epoch = score, epoch
            if self.is_first:
                save(self.folder.best, checkpoint)
        if self.is_first:
            save(self.folder.last, checkpoint)
        self._save_state()
        self.report(f"dev after epoch {epoch + 1}", self.step, self.recipe.epochs * len(self.objective), scores)

    def _dev_captions(self, model: CaptionModel) -> dict[str, str]:
        """Free-running captions of the dev split; each process writes its share."""
        mine = self.dev_records[self.accelerator.process_index :: self.accelerator.num_processes]
        grids = encode_records(model, mine, device=self.device, workers=self.recipe.workers)
        options = Beam(width=self.recipe.dev_beam, max_length=self.recipe.longest)
        captions = write_captions(model, self.vocabulary, mine, grids, options=options)
        if self.accelerator.num_processes == 1:
            return captions
        return dict(gather_object(list(captions.items())))

    def _dev_perplexity(self, model: CaptionModel) -> float:
        rows = [
            self.vocabulary.encode(tokenize(caption)[: self.recipe.longest])
            for record in self.dev_records
            for caption in record.captions
        ]
        rows.sort(key=len)  # like lengths together, for little padding
        return perplexity(model, [pad(rows[i : i + 256]) for i in range(0, len(rows), 256)])

    # The parts

    def _new_objective(self, text: Sequence[str]) -> Objective:
        if self.recipe.objective == "text":
            return Text(self.recipe, text, self.vocabulary)
        words = Words(self.recipe, self.train_records, self.vocabulary, self._geometry, self.teacher)
        if self.recipe.objective == "words":
            return words
        return Reward(self.recipe, self.train_records, words, self.vocabulary, self.model, self._autocast)

    def _geometry(self, picture: int, view: View) -> Geometry:
        width, height = self._sizes.get(picture, (1, 1))
        left, top, right, bottom = view.cut
        return self.pictures.geometry((max(1, round(width * (right - left))), max(1, round(height * (bottom - top)))))

    def _new_optimizer(self) -> torch.optim.AdamW:
        """Matrices decay, the rest does not; the encoder has a rate of its own."""
        groups: dict[tuple[bool, bool], list[Tensor]] = {}
        for name, tensor in self._learned():
            groups.setdefault((name.startswith("encoder."), tensor.dim() > 1), []).append(tensor)
        return torch.optim.AdamW(
            [
                {
                    "params": tensors,
                    "peak": self.recipe.encoder_learning_rate if of_encoder else self.recipe.learning_rate,
                    "weight_decay": self.recipe.weight_decay if decays else 0.0,
                }
                for (of_encoder, decays), tensors in groups.items()
            ],
            betas=(0.9, 0.98),
            fused=True,
        )

    def _learned(self) -> list[tuple[str, Tensor]]:
        """All parameters, those of a frozen encoder too: the same list in every phase."""
        return list(self.model.named_parameters())

    def _rate(self, step: int, total: int) -> float:
        """The learning rate's share of its peak: up along a line, down along a cosine."""
        if step < self.recipe.warm_up:
            return (step + 1) / self.recipe.warm_up
        done = (step - self.recipe.warm_up) / max(1, total - self.recipe.warm_up)
        lowest = self.recipe.final_rate
        return lowest + (1 - lowest) * 0.5 * (1 + math.cos(math.pi * done))

    def _autocast(self) -> AbstractContextManager[Any]:
        sixteen = self.precision == "bfloat16"
        return torch.autocast(self.device.type, torch.bfloat16) if sixteen else nullcontext()

    def _follow_average(self) -> None:
        if self.average:
            # Short at first, so that the first epochs are not dragged down by the random start.
            decay = min(self.recipe.average, (1 + self.step) / (10 + self.step))
            with torch.no_grad():
                names, tensors = zip(*self._learned(), strict=True)
                torch._foreach_lerp_([self.average[name] for name in names], list(tensors), 1 - decay)

    def _averaged_model(self) -> CaptionModel:
        """A copy of the model with the running average for weights, in evaluation mode."""
        model = CaptionModel(self.model.config, vocabulary_size=len(self.vocabulary)).to(self.device)
        model.load_state_dict({**self.model.state_dict(), **self.average})
        return model.eval()

    # The state

    def _is_time_to_save(self) -> bool:
        """Whether the first process finds that it is; all must agree, for they save together."""
        due = time.monotonic() - self._saved_at > self.recipe.save_minutes * 60
        if self.accelerator.num_processes == 1:
            return due
        votes = torch.tensor(float(due and self.is_first), device=self.device)
        return bool(self.accelerator.reduce(votes, "sum").item() > 0)

    def _save_state(self) -> None:
        tensors = {f"model.{name}": tensor for name, tensor in self.model.state_dict().items()}
        tensors |= {f"average.{name}": tensor for name, tensor in self.average.items()}
        for i, values in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{i}.{name}": value for name, value in values.items()}
        states = {"cpu": torch.get_rng_state()}
        if self.device.type == "cuda":
            states["cuda"] = torch.cuda.get_rng_state(self.device)
        for process, theirs in enumerate(gather_object([states])):
            tensors |= {f"random.{process}.{kind}": state for kind, state in theirs.items()}
        progress = {"step": self.step, "best": self.best, "best_epoch": self.best_epoch, **self.figures.so_far()}
        self.folder.save_state(tensors, progress)
        self._saved_at = time.monotonic()

    def _resume(self) -> None:
        found = self.folder.load_state()
        if found is None:
            self.folder.forget_log_after(0)  # of a run that was killed before it saved anything
            return
        tensors, progress = found
        self.model.load_state_dict(_below("model.", tensors))
        self.average = {name: tensor.to(self.device) for name, tensor in _below("average.", tensors).items()}
        learned = [tensor for group in self.optimizer.param_groups for tensor in group["params"]]
        state: dict[int, dict[str, Tensor]] = {}
        for name, tensor in _below("optimizer.", tensors).items():
            i, _, part = name.partition(".")
            if part != "step":  # laid out in memory as its weights are, for the fused step goes by memory
                tensor = torch.empty_like(learned[int(i)]).copy_(tensor)
            state.setdefault(int(i), {})[part] = tensor
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": state, "param_groups": groups})
        # A run that goes on with more processes than it had: the new ones keep the state they were seeded with.
        random = _below(f"random.{self.accelerator.process_index}.", tensors)
        if random:
            torch.set_rng_state(random["cpu"])
        if self.device.type == "cuda" and "cuda" in random:
            torch.cuda.set_rng_state(random["cuda"], self.device)
        self.step, self.best, self.best_epoch = progress["step"], progress["best"], progress["best_epoch"]
        self.figures.go_on(progress)
        self.folder.forget_log_after(self.step)


def _below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
