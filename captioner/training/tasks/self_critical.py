"""Self-critical sequence training (Rennie et al. 2017): sampled captions above their baseline become likelier."""

import torch
from torch import Tensor, nn

from captioner.errors import OptionError
from captioner.model.caption_model import CaptionModel
from captioner.model.grid import Grid
from captioner.tokenizer.vocabulary import END, PAD, START
from captioner.training.batches import Batch
from captioner.training.epoch import Figures
from captioner.training.images import Images, Pixels
from captioner.training.losses import caption_loss, reward_loss
from captioner.training.recipe import OF_ANSWERS, Recipe, refuse_options
from captioner.training.rewards import NEVER_GENERATED, CaptionReward, breaks_off, draw_captions
from captioner.training.tasks.base import TASKS, Forward, Part, TaskContext
from captioner.training.tasks.cross_entropy import CrossEntropy


@TASKS.register("self_critical")
class SelfCritical:
    """CIDEr-D of sampled captions as the reward, with cross-entropy and the penalties on maps beside it.

    The baseline of a sample is the mean reward of the picture's other samples (Luo 2020, "A Better Variant of
    Self-Critical Sequence Training") or the reward of the greedy caption.
    """

    uses_images, uses_captions, uses_text = True, True, False

    def __init__(self, context: TaskContext) -> None:
        self.context, self.recipe, self.model = context, context.recipe, context.model
        self.captions = CrossEntropy(context)
        self.batches, self.teacher = self.captions.batches, self.captions.teacher
        self.reward = CaptionReward(
            context.train,
            context.vocabulary,
            bleu=self.recipe.bleu_reward,
            bleu_1=self.recipe.bleu_1_reward,
            between=self.recipe.between_pictures_penalty,
            absent_objects=self.recipe.absent_objects_penalty,
        )

    @staticmethod
    def check(recipe: Recipe) -> None:
        """A trained model, samples to compare with, and no options of answers. Raises OptionError."""
        refuse_options(recipe, "word_dropout", "scheduled_sampling", *OF_ANSWERS)
        if not recipe.start_from:
            raise OptionError(
                "self_critical training starts from a trained model", remedy="give start_from (--start-from)"
            )
        if recipe.baseline == "samples" and recipe.samples < 2:
            raise OptionError(
                f"the baseline 'samples' needs at least 2 samples, not {recipe.samples}",
                remedy="raise samples, or set baseline greedy",
            )

    def set_trainable(self, *, frozen: bool) -> None:
        """As cross-entropy, but without dropout: samples are drawn without it, and must be learned from without it."""
        self.captions.set_trainable(frozen=frozen)
        self.model.train(False)

    def dev_score(self, model: CaptionModel) -> tuple[float, Figures]:
        """CIDEr-D of generated captions."""
        return self.captions.dev_score(model)

    def loss(self, forward: Forward, part: Part, images: Images) -> tuple[Tensor, Figures]:
        """See `captioner.training.tasks.Task.loss`."""
        batch, k, pixels = part.batch, self.recipe.samples, images
        if isinstance(images, Pixels):  # encoded once: samples are drawn from the grids that are then trained on
            with self.context.autocast():
                images = self.model.encode_image(images.values, images.mask)
        assert images is not None
        samples, advantage, figures = self._draw(batch, images)
        # Samples and references of a picture are rows of one pass: (B, k + copies, T).
        rows = [_per_picture(samples, k), _per_picture(batch.tokens.to(samples.device), batch.copies)[..., 1:]]
        width = max(row.shape[2] for row in rows)
        targets = torch.cat([nn.functional.pad(row, (0, width - row.shape[2]), value=PAD) for row in rows], 1)
        inputs = nn.functional.pad(targets[..., :-1], (1, 0), value=START)
        inputs = inputs.masked_fill(inputs == END, PAD)  # nothing is predicted after the end
        decoded = forward(images, inputs.flatten(0, 1))
        by_picture = decoded.logits.unflatten(0, targets.shape[:2])
        banned = by_picture.new_tensor(NEVER_GENERATED, dtype=torch.long)
        drawn = by_picture[:, :k].float().index_fill(-1, banned, float("-inf")).flatten(0, 1)
        step_samples = len(part.step.pictures) * k
        per_caption = max(1, part.step.known_targets // len(part.step.tokens))
        loss = reward_loss(drawn, targets[:, :k].flatten(0, 1), advantage, count=step_samples * per_caption)
        references = targets[:, k:].flatten(0, 1)
        loss = loss + self.recipe.cross_entropy_weight * caption_loss(
            by_picture[:, k:].flatten(0, 1),
            references,
            label_smoothing=self.recipe.label_smoothing,
            count=part.step.known_targets,
        )
        maps = decoded.maps.float().unflatten(0, targets.shape[:2])
        maps = maps[:, k:, : batch.tokens.shape[1] - 1].flatten(0, 1)
        off_grid = decoded.off_grid.float().unflatten(0, targets.shape[:2])[:, k:, : maps.shape[1]].flatten(0, 1)
        of_maps, penalties = self.captions.map_loss(maps, off_grid, references[:, : maps.shape[1]], part, images)
        distance, of_teacher = self.captions.teacher_loss(
            decoded.logits,
            part.for_teacher(pixels),
            inputs.flatten(0, 1),
            targets.flatten(0, 1),
            count=step_samples * per_caption + part.step.targets,
        )
        share = len(batch.pictures) / len(part.step.pictures)
        figures = {name: value * share for name, value in figures.items()}
        return loss + of_maps + distance, {**figures, **of_teacher, **penalties}

    @torch.no_grad()
    def _draw(self, batch: Batch, grid: Grid) -> tuple[Tensor, Tensor, Figures]:
        """Samples (B * k, T), their advantage (B * k,), and means of this part."""
        model, most, k = self.model, self.recipe.max_length, self.recipe.samples
        training = model.training
        model.eval()
        with self.context.autocast():
            grid = model.refine(grid)
            samples = draw_captions(model.decoder, grid, count=k, max_length=most)
            greedy = self.recipe.baseline == "greedy"
            best = draw_captions(model.decoder, grid, count=1, max_length=most, greedy=True) if greedy else None
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


def _per_picture(tokens: Tensor, copies: int) -> Tensor:
    return tokens.view(-1, copies, tokens.shape[1])  # (B * k, T) -> (B, k, T)
