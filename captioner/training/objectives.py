"""What a run strives for: the words of captions, a reward, or the language alone.

An objective deals the batches of an epoch and turns a part of one into a loss. Losses are sums over the part,
divided by what the whole step holds: so it does not matter in how many parts a step is computed.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from captioner.data.records import Record
from captioner.image import Geometry
from captioner.model.caption_model import CaptionModel
from captioner.model.decoder import END, PAD, START, UNKNOWN
from captioner.model.grid import Grid
from captioner.tokenizer.vocabulary import Vocabulary
from captioner.training.batches import Batch, CaptionBatches, TextBatches, hide_words
from captioner.training.epoch import Figures
from captioner.training.grids import Pixels
from captioner.training.losses import (
    caption_loss,
    distillation_loss,
    doubly_stochastic_penalty,
    map_supervision,
    reward_loss,
)
from captioner.training.recipe import Recipe
from captioner.training.rewards import NEVER_SAID, CaptionReward, breaks_off, draw_captions
from captioner.training.teacher import Teacher
from captioner.training.views import View

Seen = Pixels | Grid | None
"""What is known of a part's pictures: pixels, grids of the frozen encoder, or nothing."""

Teach = Callable[[Seen, Tensor], tuple[Tensor, Tensor]]
"""The model in training: pictures and the tokens read -> logits and maps."""


@dataclass(frozen=True)
class Part:
    """What one process computes in one round of a step, and the size of the whole step."""

    batch: Batch
    step: Batch


class Objective(Protocol):
    """See the module's text."""

    def __len__(self) -> int:
        """Steps of an epoch."""

    def epoch(self, number: int, *, start: int, steady: bool) -> Iterator[Batch]:
        """The batches of an epoch from the ``start``-th on; ``steady`` where grids come from the store."""

    def loss(self, teach: Teach, part: Part, seen: Seen) -> tuple[Tensor, Figures]:
        """The part's share of the step's loss, and its share of figures for the log."""


class Words:
    """Cross-entropy on the captions of pictures, and what may be asked of the maps beside it."""

    def __init__(
        self,
        recipe: Recipe,
        records: Sequence[Record],
        vocabulary: Vocabulary,
        geometry: Callable[[int, View], Geometry],
        teacher: Teacher | None = None,
    ) -> None:
        self.recipe, self.geometry, self.teacher = recipe, geometry, teacher
        self.batches = CaptionBatches(
            records,
            vocabulary,
            batch_pictures=recipe.batch_pictures,
            captions_per_picture=recipe.captions_per_picture,
            longest=recipe.longest,
            flips=recipe.flips,
            seed=recipe.seed,
            cut=recipe.cut,
            light=recipe.light,
        )

    def __len__(self) -> int:
        return len(self.batches)

    def epoch(self, number: int, *, start: int, steady: bool) -> Iterator[Batch]:
        return self.batches.epoch(number, start=start, steady=steady)

    def loss(self, teach: Teach, part: Part, seen: Seen) -> tuple[Tensor, Figures]:
        tokens = part.batch.tokens.to(_device(seen))
        reads, says = tokens[:, :-1], tokens[:, 1:]
        if self.recipe.own_words:
            reads = self._mix_in_guesses(teach, seen, reads)
        shown = hide_words(reads, self.recipe.hide_words) if self.recipe.hide_words else reads
        logits, maps = teach(seen, shown)
        loss = caption_loss(logits, says, label_smoothing=self.recipe.label_smoothing, count=part.step.words)
        loss = loss + self.of_maps(maps.float(), says, part, seen)
        distance, figures = self.from_teacher(logits, seen, reads, says, count=part.step.said)
        return loss + distance, figures

    def from_teacher(
        self, logits: Tensor, seen: Seen, reads: Tensor, says: Tensor, *, count: int
    ) -> tuple[Tensor, Figures]:
        """The weighted distance of logits (N, T, V) from the teacher's after ``reads``; 0 without a teacher."""
        if self.teacher is None:
            return logits.new_zeros((), dtype=torch.float32), {}
        assert isinstance(seen, Pixels)  # which the recipe sees to
        distance = distillation_loss(logits, self.teacher.logits(seen, reads), says, count=count)
        return self.recipe.distillation * distance, {"from_teacher": distance.item()}

    def of_maps(self, maps: Tensor, says: Tensor, part: Part, seen: Seen) -> Tensor:
        """The penalties on maps (N, T, h, w) of the words (N, T)."""
        recipe, batch = self.recipe, part.batch
        loss = maps.new_zeros(())
        if recipe.map_regularisation:
            mask = getattr(seen, "mask", None)
            if mask is not None:
                mask = mask.flatten(1).repeat_interleave(batch.copies, 0).unflatten(1, maps.shape[2:])
            penalty = doubly_stochastic_penalty(maps, says, mask, count=len(part.step.tokens))
            loss = loss + recipe.map_regularisation * penalty
        if recipe.map_supervision and batch.placed:
            targets = batch.map_targets(list(map(self.geometry, batch.pictures, batch.views))).to(maps.device)
            loss = loss + recipe.map_supervision * map_supervision(maps, targets, count=part.step.placed)
        return loss

    def _mix_in_guesses(self, teach: Teach, seen: Seen, reads: Tensor) -> Tensor:
        """Scheduled sampling in two passes: what the model would have said stands in for some words.

        Bengio et al. 2015; in parallel for any decoder as in Mihaylova and Martins 2019.
        """
        with torch.no_grad():
            logits, _ = teach(seen, reads)
        logits[..., [*NEVER_SAID, END]] = float("-inf")
        guesses = torch.distributions.Categorical(logits=logits[:, :-1].float()).sample()
        words = (reads[:, 1:] != PAD) & (reads[:, 1:] != END)
        chosen = words & (torch.rand(guesses.shape, device=guesses.device) < self.recipe.own_words)
        return torch.cat((reads[:, :1], torch.where(chosen, guesses, reads[:, 1:])), 1)


class Reward:
    """Self-critical training (Rennie et al. 2017): captions that score above their baseline become likelier.

    The baseline of a sample is the mean reward of the picture's other samples (Luo 2020, "A Better Variant of
    Self-Critical Sequence Training") or that of the greedy caption. Cross-entropy stays beside the reward, and
    the penalties on maps with it.
    """

    def __init__(
        self,
        recipe: Recipe,
        records: Sequence[Record],
        words: Words,
        vocabulary: Vocabulary,
        model: CaptionModel,
        autocast: Callable[[], AbstractContextManager[Any]],
    ) -> None:
        self.recipe, self.words, self.model, self.autocast = recipe, words, model, autocast
        self.reward = CaptionReward(records, vocabulary, bleu=recipe.bleu_reward, bleu_1=recipe.bleu_1_reward)

    def __len__(self) -> int:
        return len(self.words)

    def epoch(self, number: int, *, start: int, steady: bool) -> Iterator[Batch]:
        return self.words.epoch(number, start=start, steady=steady)

    def loss(self, teach: Teach, part: Part, seen: Seen) -> tuple[Tensor, Figures]:
        batch, k, pictures = part.batch, self.recipe.samples, seen
        if isinstance(seen, Pixels):  # looked at once: samples are drawn from the grids that are then learned on
            with self.autocast():
                seen = self.model.look(seen.values, seen.mask)
        assert seen is not None
        samples, advantage, figures = self._draw(batch, seen)
        # Samples and references of a picture are rows of one pass: (B, k + copies, T).
        rows = [_per_picture(samples, k), _per_picture(batch.tokens.to(samples.device), batch.copies)[..., 1:]]
        width = max(row.shape[2] for row in rows)
        says = torch.cat([nn.functional.pad(row, (0, width - row.shape[2]), value=PAD) for row in rows], 1)
        reads = nn.functional.pad(says[..., :-1], (1, 0), value=START)
        reads = reads.masked_fill(reads == END, PAD)  # nothing is asked after the end
        logits, maps = teach(seen, reads.flatten(0, 1))
        by_picture = logits.unflatten(0, says.shape[:2])
        banned = logits.new_tensor(NEVER_SAID, dtype=torch.long)
        drawn = by_picture[:, :k].float().index_fill(-1, banned, float("-inf")).flatten(0, 1)
        step_samples = len(part.step.pictures) * k
        per_caption = max(1, part.step.words // len(part.step.tokens))
        loss = reward_loss(drawn, says[:, :k].flatten(0, 1), advantage, count=step_samples * per_caption)
        given = says[:, k:].flatten(0, 1)
        loss = loss + self.recipe.cross_entropy * caption_loss(
            by_picture[:, k:].flatten(0, 1), given, label_smoothing=self.recipe.label_smoothing, count=part.step.words
        )
        own_maps = maps.float().unflatten(0, says.shape[:2])[:, k:, : batch.tokens.shape[1] - 1].flatten(0, 1)
        loss = loss + self.words.of_maps(own_maps, given[:, : own_maps.shape[1]], part, seen)
        distance, of_teacher = self.words.from_teacher(
            logits,
            pictures,
            reads.flatten(0, 1),
            says.flatten(0, 1),
            count=step_samples * per_caption + part.step.said,
        )
        share = len(batch.pictures) / len(part.step.pictures)
        return loss + distance, {**{name: value * share for name, value in figures.items()}, **of_teacher}

    @torch.no_grad()
    def _draw(self, batch: Batch, grid: Grid) -> tuple[Tensor, Tensor, Figures]:
        """Samples (B * k, T), their advantage (B * k,), and means of this part."""
        model, longest, k = self.model, self.recipe.longest, self.recipe.samples
        training = model.training
        model.eval()
        with self.autocast():
            grid = model.refine(grid)
            samples = draw_captions(model.decoder, grid, count=k, longest=longest)
            greedy = self.recipe.baseline == "greedy"
            best = draw_captions(model.decoder, grid, count=1, longest=longest, greedy=True) if greedy else None
        model.train(training)
        captions = self.reward.words(samples)
        rewards = torch.tensor(self.reward(captions, batch.pictures), dtype=torch.float32).view(-1, k)
        if best is not None:
            baseline = torch.tensor(self.reward(self.reward.words(best), batch.pictures), dtype=torch.float32)[:, None]
        else:
            baseline = (rewards.sum(1, keepdim=True) - rewards) / (k - 1)
        figures = {
            "reward": rewards.mean().item(),
            "breaks_off": sum(map(breaks_off, captions)) / len(captions),
        }
        return samples, (rewards - baseline).flatten().to(samples.device), figures


class Text:
    """The language from captions without pictures: the decoder reads with a blank grid before it."""

    def __init__(self, recipe: Recipe, captions: Sequence[str], vocabulary: Vocabulary) -> None:
        self.recipe = recipe
        self.batches = TextBatches(
            captions,
            vocabulary,
            batch_captions=recipe.batch_pictures * recipe.captions_per_picture,
            longest=recipe.longest,
            seed=recipe.seed,
        )

    def __len__(self) -> int:
        return len(self.batches)

    def epoch(self, number: int, *, start: int, steady: bool) -> Iterator[Batch]:
        for tokens in self.batches.epoch(number, start=start):
            nothing: list[Mapping[int, Any]] = [{}] * len(tokens)
            yield Batch(list(range(len(tokens))), [View()] * len(tokens), tokens, nothing)

    def loss(self, teach: Teach, part: Part, seen: Seen) -> tuple[Tensor, Figures]:
        tokens = part.batch.tokens
        logits, _ = teach(None, hide_words(tokens[:, :-1], self.recipe.hide_words))
        says = tokens[:, 1:].to(logits.device)
        return caption_loss(logits, says, label_smoothing=self.recipe.label_smoothing, count=part.step.words), {}


def _per_picture(tokens: Tensor, copies: int) -> Tensor:
    return tokens.view(-1, copies, tokens.shape[1])  # (B * k, T) -> (B, k, T)


def _device(seen: Seen) -> torch.device:
    if isinstance(seen, Grid):
        return seen.features.device
    assert seen is not None
    return seen.values.device


@torch.inference_mode()
def perplexity(model: CaptionModel, captions: Sequence[Tensor]) -> float:
    """Of captions (N, T) a batch, read with a blank grid; unknown words are not counted."""
    total, count = 0.0, 0
    for tokens in captions:
        logits, _ = model(None, tokens[:, :-1])
        asked = int(((tokens[:, 1:] != PAD) & (tokens[:, 1:] != UNKNOWN)).sum())
        total += caption_loss(logits, tokens[:, 1:].to(logits.device), count=1).item()
        count += asked
    return float(torch.tensor(total / max(1, count)).exp())
