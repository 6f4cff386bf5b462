"""Cross-entropy on the captions of pictures, with penalties on the maps and distillation beside it."""

from collections.abc import Sequence

import torch
from torch import Tensor

from captioner.data.records import Record
from captioner.decoding import Beam
from captioner.errors import OptionError
from captioner.explain.gradient import log_probabilities
from captioner.image import Geometry
from captioner.metrics.cider import DocumentFrequencies
from captioner.model.attention.hard import HardAttention
from captioner.model.caption_model import CaptionModel
from captioner.model.decoder import Decoded
from captioner.model.grid import Grid
from captioner.tokenizer.function_words import is_function_word
from captioner.tokenizer.vocabulary import END, PAD, SPECIAL, UNKNOWN
from captioner.training.batches import CaptionBatches, word_dropout
from captioner.training.dev import DevGrids, frequencies_of, generate_captions, score_captions
from captioner.training.epoch import Figures
from captioner.training.images import Images
from captioner.training.losses import (
    caption_loss,
    distillation_loss,
    doubly_stochastic_penalty,
    hard_attention_loss,
    map_supervision,
    off_grid_supervision,
)
from captioner.training.recipe import OF_ANSWERS, OF_REWARD, Recipe, refuse_options
from captioner.training.rewards import NEVER_GENERATED
from captioner.training.sizes import upright_size
from captioner.training.tasks.base import TASKS, Forward, Part, TaskContext
from captioner.training.views import View


@TASKS.register("cross_entropy")
class CrossEntropy:
    """Teacher forcing with cross-entropy, and the dev score CIDEr-D of generated captions."""

    uses_images, uses_captions, uses_text = True, True, False

    def __init__(self, context: TaskContext) -> None:
        self.context, self.recipe = context, context.recipe
        recipe = self.recipe
        self.batches = CaptionBatches(
            context.train,
            context.vocabulary,
            batch_pictures=recipe.batch_pictures,
            captions_per_picture=recipe.captions_per_picture,
            max_length=recipe.max_length,
            horizontal_flip=recipe.horizontal_flip,
            seed=recipe.seed,
            crop=recipe.crop,
            colour_jitter=recipe.colour_jitter,
            rest=context.rest,
            rehearsal=recipe.rehearsal,
        )
        self.teacher = context.teacher()
        if recipe.frozen_epochs < recipe.epochs:  # an unknown stage is refused now, not after the frozen epochs
            context.model.encoder.train_from(recipe.train_from)
        self._sizes: dict[int, tuple[int, int]] = {}
        self._dev_grids, self._frozen = DevGrids(), False
        self._function_words = _function_words(context) if recipe.off_grid_supervision else None

    @staticmethod
    def check(recipe: Recipe) -> None:
        """Raises OptionError for options of answers and rewards, and a refiner that is neither trained nor taken."""
        refuse_options(recipe, *OF_ANSWERS, *OF_REWARD)
        check_refiner(recipe, "start_from", "encoder_from")

    def set_trainable(self, *, frozen: bool) -> None:
        """Refiner and decoder, and the encoder after the frozen epochs, with dropout."""
        model = self.context.model
        self._frozen = self.recipe.cache and frozen
        model.encoder.train_from(None if frozen else self.recipe.train_from)
        model.train()
        for refiner in model.refiners():
            refiner.requires_grad_(self.recipe.train_refiner).train(self.recipe.train_refiner)
        if model.fine_maps is not None:
            model.fine_maps.requires_grad_(bool(self.recipe.map_supervision or self.recipe.map_regularisation))

    def loss(self, forward: Forward, part: Part, images: Images) -> tuple[Tensor, Figures]:
        """See `captioner.training.tasks.Task.loss`."""
        tokens = part.batch.tokens.to(device_of(images))
        inputs, targets = tokens[:, :-1], tokens[:, 1:]
        if self.recipe.scheduled_sampling:
            inputs = self.mix_in_predictions(forward, images, inputs)
        shown = word_dropout(inputs, self.recipe.word_dropout) if self.recipe.word_dropout else inputs
        decoded = forward(images, shown)
        count = part.step.known_targets
        loss = caption_loss(decoded.logits, targets, label_smoothing=self.recipe.label_smoothing, count=count)
        of_maps, penalties = self.map_loss(decoded.maps.float(), decoded.off_grid.float(), targets, part, images)
        loss = loss + self.hard_loss(decoded, targets, count=count)
        distance, figures = self.teacher_loss(
            decoded.logits, part.for_teacher(images), inputs, targets, count=part.step.targets
        )
        return loss + of_maps + distance, figures | penalties

    def dev_score(self, model: CaptionModel) -> tuple[float, Figures]:
        """CIDEr-D of generated captions; with rehearsal, the mean of those of both kinds of pictures."""
        context = self.context
        if not context.rest_dev:
            scores = self._dev_scores(model, context.dev)
            return scores["cider"], scores
        # The own dev pictures may be ten, whose document frequencies say nothing: those of all own captions do.
        own = [*context.train[: len(context.train) - context.rest], *context.dev]
        scores = self._dev_scores(model, context.dev, frequencies=frequencies_of(own))
        rest = self._dev_scores(model, context.rest_dev)
        scores |= {f"rest_{name}": rest[name] for name in ("cider", "bleu_4")}
        return (scores["cider"] + rest["cider"]) / 2, scores

    def _dev_scores(
        self, model: CaptionModel, dev: Sequence[Record], *, frequencies: DocumentFrequencies | None = None
    ) -> Figures:
        """The scores of generated captions; each process captions its share of the pictures."""
        processes, recipe = self.context.processes, self.recipe
        mine = dev[processes.rank :: processes.count]
        grids = self._dev_grids.refined(
            model, mine, frozen=self._frozen, device=processes.device, workers=recipe.workers
        )
        options = Beam(width=recipe.dev_beam, max_length=recipe.max_length)
        captions: dict[str, str] = {}
        for theirs in processes.gather(generate_captions(model, self.context.vocabulary, mine, grids, options=options)):
            captions |= theirs
        return score_captions(captions, dev, frequencies=frequencies)

    def teacher_loss(
        self, logits: Tensor, images: Images, inputs: Tensor, targets: Tensor, *, count: int
    ) -> tuple[Tensor, Figures]:
        """The weighted divergence of logits (N, T, V) from the teacher's for ``inputs``; 0 without a teacher."""
        if self.teacher is None:
            return logits.new_zeros((), dtype=torch.float32), {}
        assert images is not None
        distance = distillation_loss(logits, self.teacher.logits(images, inputs), targets, count=count)
        return self.recipe.distillation * distance, {"from_teacher": distance.item()}

    def map_loss(
        self, maps: Tensor, off_grid: Tensor, targets: Tensor, part: Part, images: Images
    ) -> tuple[Tensor, Figures]:
        """The weighted penalties on maps (N, T, h, w) of the words (N, T), and on their weight off the grid (N, T).

        Returns:
            Their sum, and the penalties of supervision before they are weighted, for the log.
        """
        recipe, batch, delay = self.recipe, part.batch, self.context.map_delay
        figures: Figures = {}
        learned = recipe.map_supervision or recipe.map_regularisation
        loss = maps.sum() * 0 if learned else maps.new_zeros(())  # fine maps have a gradient in parts without boxes too

        def until(words: Tensor) -> Tensor:
            """Of words (N, T, ...) those whose maps there are: with a delay, all but the end."""
            return words[:, : words.shape[1] - delay]

        if recipe.map_regularisation:
            mask = getattr(images, "mask", None)
            if mask is not None:
                mask = mask.flatten(1).repeat_interleave(batch.copies, 0).unflatten(1, maps.shape[2:])
            penalty = doubly_stochastic_penalty(maps, targets, mask, count=len(part.step.tokens))
            loss = loss + recipe.map_regularisation * penalty
        if recipe.map_supervision and part.step.boxed_words:
            figures["maps_missed"] = 0.0  # processes sum the same figures, also those without boxes in their part
        if recipe.map_supervision and batch.boxed_words:
            boxes = batch.map_targets(list(map(self._geometry, batch.pictures, batch.views))).to(maps.device)
            missed = map_supervision(maps[:, delay:], until(boxes), count=part.step.boxed_words)
            figures["maps_missed"] = missed.item()
            loss = loss + recipe.map_supervision * missed
        if self._function_words is not None:
            words = torch.isin(targets, self._function_words.to(targets.device))
            count = int(torch.isin(part.step.tokens[:, 1:], self._function_words).sum())
            looked = off_grid_supervision(off_grid[:, delay:], until(words), count=count)
            figures["function_words_looked"] = looked.item()
            loss = loss + recipe.off_grid_supervision * looked
        return loss, figures

    def hard_loss(self, decoded: Decoded, targets: Tensor, *, count: int) -> Tensor:
        """REINFORCE for the cells that hard attention drew, and its baseline; 0 for other mechanisms."""
        attention = getattr(self.context.model.decoder.map_decoder, "attention", None)
        if not isinstance(attention, HardAttention) or "log_p" not in decoded.others:
            return decoded.logits.new_zeros((), dtype=torch.float32)
        spoken = targets != PAD  # (N, T)
        with torch.no_grad():
            log_p = log_probabilities(decoded.logits, targets).masked_fill(~spoken | (targets == UNKNOWN), 0.0).sum(1)
        processes = self.context.processes  # their baselines stay the same, as all buffers do
        mean = processes.sum([log_p.float().mean().item()])[0] / processes.count
        probabilities = decoded.maps.float().flatten(2)  # (N, T, L)
        entropy = -(probabilities * probabilities.clamp(min=1e-12).log()).sum(-1).masked_fill(~spoken, 0.0)
        loss = hard_attention_loss(
            log_p,
            decoded.others["log_p"].masked_fill(~spoken, 0.0),
            entropy,
            attention.follow(log_p.new_tensor([mean])),
            reward=attention.reward_weight,
            entropy_weight=attention.entropy_weight,
        )
        return loss / count

    def mix_in_predictions(self, forward: Forward, images: Images, inputs: Tensor) -> Tensor:
        """Scheduled sampling in two passes: some input words are replaced by sampled predictions.

        Bengio et al. 2015; in parallel for any decoder as in Mihaylova and Martins 2019.
        """
        with torch.no_grad():
            logits = forward(images, inputs).logits
        logits[..., [*NEVER_GENERATED, END]] = float("-inf")
        sampled = torch.distributions.Categorical(logits=logits[:, :-1].float()).sample()
        words = (inputs[:, 1:] != PAD) & (inputs[:, 1:] != END)
        chosen = words & (torch.rand(sampled.shape, device=sampled.device) < self.recipe.scheduled_sampling)
        return torch.cat((inputs[:, :1], torch.where(chosen, sampled, inputs[:, 1:])), 1)

    def _geometry(self, index: int, view: View) -> Geometry:
        """Boxes are fractions of a picture, and the cells that they cover depend on its shape."""
        if not self.batches.boxes[index]:
            width, height = 1, 1
        else:
            if index not in self._sizes:
                self._sizes[index] = upright_size(self.context.train[index].image)
            width, height = self._sizes[index]
        left, top, right, bottom = view.crop
        size = (max(1, round(width * (right - left))), max(1, round(height * (bottom - top))))
        return self.context.images.geometry(size)


def check_refiner(recipe: Recipe, *sources: str) -> None:
    """Make sure that a refiner is trained, now or where one of these options takes it from. Raises OptionError."""
    if not recipe.train_refiner and not any(getattr(recipe, name) for name in sources):
        raise OptionError("train_refiner is false, and no trained refiner is taken", remedy=f"give {sources[0]}")


def _function_words(context: TaskContext) -> Tensor:
    """The ids of function words. Raises OptionError if the decoder has no place off the grid."""
    if not any(getattr(part, "has_off_grid", False) for part in context.model.decoder.map_decoder.modules()):
        raise OptionError(
            f"off_grid_supervision is {context.recipe.off_grid_supervision}, and the decoder's attention "
            f"'{getattr(context.model.decoder.map_decoder.config, 'attention', '')}' has no place off the grid",
            remedy='give decoder_options {"attention": "memory", "attention_options": {"slots": 1}}; a model with '
            "multihead attention that is started from keeps what it learned",
        )
    words = context.vocabulary.words
    return torch.tensor([i for i, word in enumerate(words) if i >= len(SPECIAL) and is_function_word(word)])


def device_of(images: Images) -> torch.device:
    """The device of pixels or grids."""
    if isinstance(images, Grid):
        return images.features.device
    assert images is not None
    return images.values.device
