"""The training loop: cross-entropy, in two phases, resumable at any step.

What a step does depends on the recipe and the step's number alone; weights, optimiser, running average and
random state are saved together. So a run that is killed and started again ends where it would have ended.
"""

import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from captioner.checkpoint import Checkpoint, save, write_tensors
from captioner.checkpoint import load as load_checkpoint
from captioner.data.records import Record, of_split
from captioner.errors import CheckpointError, DataError, OptionError
from captioner.image import open_image
from captioner.metrics.ptb import tokenize
from captioner.model.caption_model import DECODERS, CaptionModel, ModelConfig
from captioner.model.encoder import EncoderConfig
from captioner.model.grid import Grid, RefinerConfig
from captioner.training.batches import Batch, CaptionBatches, Pictures, StoredGrids, encode_batches
from captioner.training.dev import score_captions
from captioner.training.losses import caption_loss, doubly_stochastic_penalty, map_supervision
from captioner.training.recipe import Recipe
from captioner.vocabulary import Vocabulary

Report = Callable[[str, int, int, dict[str, float]], None]
"""Told what is being done, how much of it is done, of how much, and figures to show."""


class Trainer:
    """One run: a recipe, records, a folder.

    The folder gets ``recipe.json``, ``log.jsonl`` (a line every so many steps and one each epoch),
    ``best.safetensors`` (the model of the best free-running dev score), ``last.safetensors`` and
    ``state.safetensors`` (to resume).

    Args:
        recipe: what to do.
        records: with the splits train and dev; the pictures must open (see `captioner.data.records.usable`).
        output: the run's folder; where it holds a state, the run goes on from there.
        device: to train on; None for a GPU where there is one.
        report: called every step.

    Raises:
        DataError: no training or dev pictures.
        OptionError: the folder holds a run of another recipe.
    """

    def __init__(
        self,
        recipe: Recipe,
        records: Sequence[Record],
        output: str | Path,
        *,
        device: str | torch.device | None = None,
        report: Report | None = None,
    ) -> None:
        self.recipe, self.output = recipe, Path(output)
        self.train_records, self.dev_records = of_split(records, "train"), of_split(records, "dev")
        for split, found in (("train", self.train_records), ("dev", self.dev_records)):
            if not found:
                raise DataError(f"the data has no pictures of the split '{split}': training needs train and dev")
        if recipe.dev_pictures:
            self.dev_records = self.dev_records[: recipe.dev_pictures]
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.report: Report = report or (lambda *_: None)
        self._claim_folder()

        torch.manual_seed(recipe.seed)
        self.model, self.vocabulary = self._new_model()
        self.model.to(self.device)
        self.batches = CaptionBatches(
            self.train_records,
            self.vocabulary,
            batch_pictures=recipe.batch_pictures,
            captions_per_picture=recipe.captions_per_picture,
            longest=recipe.longest,
            flips=recipe.flips,
            seed=recipe.seed,
        )
        self.pictures = Pictures([record.image for record in self.train_records], self.model.encoder)
        # Boxes are in fractions of a picture; where cells lie on it depends on its shape.
        self.sizes = {
            i: open_image(record.image).size
            for i, record in enumerate(self.train_records)
            if recipe.map_supervision and record.boxes
        }
        self.optimizer = self._new_optimizer()
        self.average = {name: tensor.clone() for name, tensor in self._learned()} if recipe.average else {}
        self.step, self.best, self.best_epoch = 0, -math.inf, -1
        self._saved_at = time.monotonic()
        self._resume()

    # What a run consists of

    def run(self) -> Path:
        """Train to the last epoch; the path of the best model."""
        total = self.recipe.epochs * len(self.batches)
        for epoch in range(self.step // len(self.batches), self.recipe.epochs):
            frozen = epoch < self.recipe.frozen_epochs
            self.model.encoder.train_from(None if frozen else self.recipe.train_from)
            self.model.train()
            start = self.step % len(self.batches)
            began, losses = time.monotonic(), 0.0
            batches = list(self.batches.epoch(epoch, start=start))
            for grid, batch in self._with_grids(batches, frozen=frozen):
                figures = self._learn(grid, batch, self._rate(self.step, total))
                self.step += 1
                losses += figures["loss"]
                if self.step % 20 == 0:
                    self._log({"step": self.step, "epoch": epoch, **figures})
                self.report(f"epoch {epoch + 1}/{self.recipe.epochs}", self.step, total, figures)
                within = self.step % len(self.batches) > 0  # the last step is saved with the epoch's scores
                if within and time.monotonic() - self._saved_at > self.recipe.save_minutes * 60:
                    self._save_state()
            self._end_epoch(epoch, losses / max(1, len(batches)), time.monotonic() - began)
        return self.output / "best.safetensors"

    def _learn(self, grid: Grid, batch: Batch, rate: float) -> dict[str, float]:
        """One step on encoded pictures."""
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak"] * rate
        tokens = batch.tokens.to(self.device)
        reads, says = tokens[:, :-1], tokens[:, 1:]
        with self._autocast():
            refined = self.model.refine(grid)
            logits, maps = self.model.decoder.teach(refined, reads)
            loss = caption_loss(logits, says, label_smoothing=self.recipe.label_smoothing)
            if self.recipe.map_regularisation:
                copies = len(tokens) // len(grid)
                mask = None if grid.mask is None else grid.mask.repeat_interleave(copies, 0).unflatten(1, grid.shape)
                loss = loss + self.recipe.map_regularisation * doubly_stochastic_penalty(maps.float(), says, mask)
            if self.recipe.map_supervision and any(batch.boxes):
                sizes = [self.sizes.get(picture, (1, 1)) for picture in batch.pictures]
                targets = batch.map_targets([self.pictures.geometry(size) for size in sizes])
                loss = loss + self.recipe.map_supervision * map_supervision(maps.float(), targets.to(self.device))
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        learned = [tensor for _, tensor in self._learned() if tensor.grad is not None]
        norm = torch.nn.utils.clip_grad_norm_(learned, self.recipe.clip)
        self.optimizer.step()
        self._follow_average()
        return {"loss": loss.item(), "gradient": norm.item(), "rate": rate}

    def _with_grids(self, batches: Sequence[Batch], *, frozen: bool) -> Iterator[tuple[Grid, Batch]]:
        """Each batch with its grid, made or read one at a time."""
        keys = [list(zip(batch.pictures, batch.flips, strict=True)) for batch in batches]
        if frozen and self.recipe.cache:
            stored = StoredGrids(self.model.encoder, self.pictures, self.output, mirrored=self.recipe.flips)
            stored.fill(
                device=self.device,
                workers=self.recipe.workers,
                batch=self.recipe.batch_pictures,
                progress=lambda done, all_: self.report("grids", done, all_, {}),
            )
            grids = stored.read(keys, device=self.device)
        else:
            grids = encode_batches(
                self.model.encoder, self.pictures, keys, device=self.device, workers=self.recipe.workers
            )
        yield from zip(grids, batches, strict=True)

    def _end_epoch(self, epoch: int, loss: float, seconds: float) -> None:
        scored = self._averaged_model()
        scores = score_captions(
            scored,
            self.vocabulary,
            self.dev_records,
            beam=self.recipe.dev_beam,
            longest=self.recipe.longest,
            device=self.device,
            workers=self.recipe.workers,
        )
        self._log({"epoch": epoch, "step": self.step, "train_loss": loss, "seconds": seconds, "dev": scores})
        about = {
            "recipe": self.recipe.as_dict(),
            "epoch": epoch + 1,
            "training_pictures": len(self.train_records),
            "dev": scores,
        }
        checkpoint = Checkpoint(model=scored, vocabulary=self.vocabulary, about=about)
        if scores["cider"] > self.best:
            self.best, self.best_epoch = scores["cider"], epoch
            save(self.output / "best.safetensors", checkpoint)
        save(self.output / "last.safetensors", checkpoint)
        self._save_state()
        self.report(f"dev after epoch {epoch + 1}", self.step, self.recipe.epochs * len(self.batches), scores)

    # The parts

    def _new_model(self) -> tuple[CaptionModel, Vocabulary]:
        recipe = self.recipe
        if recipe.start_from:
            start = load_checkpoint(recipe.start_from)
            return start.model, start.vocabulary
        vocabulary = Vocabulary.build(
            (tokenize(caption) for record in self.train_records for caption in record.captions),
            minimum_count=recipe.minimum_count,
        )
        try:
            config = ModelConfig(
                encoder=EncoderConfig(backbone=recipe.backbone, **recipe.encoder_options),
                refiner=RefinerConfig(**recipe.refiner_options),
                decoder=DECODERS[recipe.decoder](**recipe.decoder_options),
            )
        except TypeError as error:
            raise OptionError(f"an option of the model is not known: {error}") from None
        model = CaptionModel(config, vocabulary_size=len(vocabulary), weights=recipe.weights or None)
        return model, vocabulary

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
        )

    def _learned(self) -> list[tuple[str, Tensor]]:
        """All parameters, those of a frozen encoder too: the same list in every phase."""
        return list(self.model.named_parameters())

    def _rate(self, step: int, total: int) -> float:
        """The learning rate's share of its peak: up along a line, down along a cosine."""
        if step < self.recipe.warm_up:
            return (step + 1) / self.recipe.warm_up
        done = (step - self.recipe.warm_up) / max(1, total - self.recipe.warm_up)
        return 0.5 * (1 + math.cos(math.pi * done))

    def _autocast(self) -> AbstractContextManager[Any]:
        wanted = self.recipe.precision
        if wanted == "auto":
            able = self.device.type == "cuda" and torch.cuda.is_bf16_supported()
            wanted = "bfloat16" if able else "float32"
        return torch.autocast(self.device.type, torch.bfloat16) if wanted == "bfloat16" else nullcontext()

    def _follow_average(self) -> None:
        if self.average:
            # Short at first, so that the first epochs are not dragged down by the random start.
            decay = min(self.recipe.average, (1 + self.step) / (10 + self.step))
            with torch.no_grad():
                for name, tensor in self._learned():
                    self.average[name].lerp_(tensor, 1 - decay)

    def _averaged_model(self) -> CaptionModel:
        """A copy of the model with the running average for weights, in evaluation mode."""
        model = CaptionModel(self.model.config, vocabulary_size=len(self.vocabulary)).to(self.device)
        model.load_state_dict({**self.model.state_dict(), **self.average})
        return model.eval()

    # The folder

    def _claim_folder(self) -> None:
        file = self.output / "recipe.json"
        mine = {**self.recipe.as_dict(), "training_pictures": len(self.train_records)}
        if file.exists():
            theirs = json.loads(file.read_text())
            # Options that change nothing of what is learned may differ when a run goes on.
            free = {"workers", "save_minutes"}
            changed = [name for name in mine if name not in free and theirs.get(name) != mine[name]]
            if changed:
                name = changed[0]
                raise OptionError(
                    f"{self.output} holds a run with {name} {theirs.get(name)!r}, not {mine[name]!r}: "
                    "give another --output, or the same options to go on with it"
                )
            return
        self.output.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(mine, indent=1) + "\n")

    def _log(self, line: dict[str, Any]) -> None:
        with (self.output / "log.jsonl").open("a") as file:
            file.write(json.dumps({**line, "time": round(time.time(), 1)}) + "\n")

    def _save_state(self) -> None:
        tensors = {
            f"model.{name}": tensor.detach().cpu().contiguous() for name, tensor in self.model.state_dict().items()
        }
        tensors |= {f"average.{name}": tensor.cpu().contiguous() for name, tensor in self.average.items()}
        for i, values in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{i}.{name}": value.cpu().contiguous() for name, value in values.items()}
        tensors["random.cpu"] = torch.get_rng_state()
        if self.device.type == "cuda":
            tensors["random.cuda"] = torch.cuda.get_rng_state(self.device)
        progress = {"step": self.step, "best": self.best, "best_epoch": self.best_epoch}
        write_tensors(self.output / "state.safetensors", tensors, {"progress": json.dumps(progress)})
        self._saved_at = time.monotonic()

    def _resume(self) -> None:
        file = self.output / "state.safetensors"
        if not file.exists():
            return
        try:
            with safe_open(file, framework="pt") as opened:
                progress = json.loads(opened.metadata()["progress"])
                tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        except (SafetensorError, KeyError, json.JSONDecodeError) as error:
            raise CheckpointError(f"{file}: damaged ({error}); remove it to start anew") from None
        self.model.load_state_dict(_below("model.", tensors))
        self.average = {name: tensor.to(self.device) for name, tensor in _below("average.", tensors).items()}
        state: dict[int, dict[str, Tensor]] = {}
        for name, tensor in _below("optimizer.", tensors).items():
            i, _, part = name.partition(".")
            state.setdefault(int(i), {})[part] = tensor
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": state, "param_groups": groups})
        torch.set_rng_state(tensors["random.cpu"])
        if self.device.type == "cuda" and "random.cuda" in tensors:
            torch.cuda.set_rng_state(tensors["random.cuda"], self.device)
        self.step, self.best, self.best_epoch = progress["step"], progress["best"], progress["best_epoch"]
        self._forget_log_after(self.step)

    def _forget_log_after(self, step: int) -> None:
        """The log lines of steps that will be done again."""
        file = self.output / "log.jsonl"
        if file.exists():
            lines = [line for line in file.read_text().splitlines(keepends=True) if line.endswith("\n")]
            kept = [line for line in lines if json.loads(line)["step"] <= step]
            file.write_text("".join(kept))


def _below(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
