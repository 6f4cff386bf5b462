"""Training of a model's fine maps, on boxes, and of nothing else: its words stay what they are."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from captioner.data.records import Record
from captioner.errors import DataError, OptionError
from captioner.model.caption_model import CaptionModel
from captioner.training.batches import Batch, CaptionBatches
from captioner.training.epoch import Figures
from captioner.training.images import Images
from captioner.training.recipe import Recipe, refuse_options
from captioner.training.tasks.base import TASKS, Forward, Part, TaskContext
from captioner.training.tasks.cross_entropy import CrossEntropy


@TASKS.register("maps")
class MapsTask(CrossEntropy):
    """The penalty on maps that miss the boxes of their words, for the fine maps of a trained model.

    The dev score is the share of a map that lies in the boxes of its word, the mean over the words of dev captions that
    have boxes.
    """

    def __init__(self, context: TaskContext) -> None:
        super().__init__(context)
        if context.model.fine_maps is None:
            raise OptionError(
                "the model has no fine maps to train",
                remedy='give encoder_options {"fine_stage": 5} and decoder_options {"fine_width": 128}',
            )
        for split, records in (("train", context.train), ("dev", context.dev)):
            if not any(words for record in records for words in record.boxes):
                raise DataError(
                    f"no picture of the split '{split}' has boxes for the words of its captions",
                    remedy="give --phrase-boxes, or JSON lines with boxes",
                )

    @staticmethod
    def check(recipe: Recipe) -> None:
        """Raises OptionError for options of words and of the encoder, which do not learn, and without a model."""
        CrossEntropy.check(recipe)
        check_maps_alone(recipe)
        refuse_options(
            recipe,
            "teacher",
            "dev_beam",
            "grow_vocabulary",
            "word_dropout",
            "scheduled_sampling",
            "off_grid_supervision",
            "map_regularisation",
            "rehearsal",
        )

    def set_trainable(self, *, frozen: bool) -> None:
        """The fine maps alone; all else is as in evaluation."""
        self._frozen = self.recipe.cache
        freeze(self.context.model)
        assert self.context.model.fine_maps is not None
        self.context.model.fine_maps.requires_grad_(True).train()

    def loss(self, forward: Forward, part: Part, images: Images) -> tuple[Tensor, Figures]:
        """See `captioner.training.tasks.Task.loss`."""
        decoded = forward(images, part.batch.tokens[:, :-1].to(next(self.context.model.parameters()).device))
        targets = part.batch.tokens[:, 1:]
        return self.map_loss(decoded.maps.float(), decoded.off_grid.float(), targets, part, images)

    @torch.inference_mode()
    def dev_score(self, model: CaptionModel) -> tuple[float, Figures]:
        """The mean share of the maps in boxes, and of the strongest cell that boxes cover."""
        processes, recipe = self.context.processes, self.recipe
        boxed = [record for record in self.context.dev if any(record.boxes)]
        mine = boxed[processes.rank :: processes.count]
        grids = self._dev_grids.refined(
            model, mine, frozen=self._frozen, device=processes.device, workers=recipe.workers
        )
        sums, left = [0.0, 0.0, 0.0], iter(mine)
        geometry = self.context.images.geometry((1, 1))  # pictures fill the input, whatever their shape
        for grid in grids:
            for i in range(len(grid)):
                batch = self._read(next(left))
                one = grid.select(torch.tensor([i], device=processes.device))
                decoded = model.decoder(one, batch.tokens[:, :-1].to(processes.device))
                maps = decoded.maps[:, self.context.map_delay :].float().cpu()
                targets = batch.map_targets([geometry])[:, : maps.shape[1]]
                known = targets.amax((2, 3)) > 0
                sums = [a + b for a, b in zip(sums, shares_inside(maps[known], targets[known]), strict=True)]
        return score_of(processes.sum(sums))

    def _read(self, record: Record) -> Batch:
        """All captions of a picture."""
        batches = CaptionBatches(
            [record],
            self.context.vocabulary,
            batch_pictures=1,
            captions_per_picture=len(record.captions),
            max_length=self.recipe.max_length,
            horizontal_flip=False,
            seed=0,
        )
        return next(batches.epoch(0))


def check_maps_alone(recipe: Recipe) -> None:
    """Raises OptionError where maps alone are to be trained and there is no model, there are no boxes, or an encoder is
    to be trained."""
    objective = f"the objective '{recipe.objective}'"
    if not recipe.start_from:
        raise OptionError(f"{objective} goes on from a trained model", remedy="give start_from")
    if not recipe.map_supervision:
        raise OptionError(f"{objective} learns from boxes", remedy="give map_supervision 1")
    if recipe.frozen_epochs < recipe.epochs:
        raise OptionError(
            f"frozen_epochs is {recipe.frozen_epochs} of {recipe.epochs} epochs, and {objective} trains no encoder",
            remedy=f"set frozen_epochs {recipe.epochs}",
        )


def freeze(model: Any) -> None:
    """Let nothing of a model learn, nor drop out."""
    model.encoder.train_from(None)
    model.requires_grad_(False)
    model.eval()


def shares_inside(maps: Tensor, targets: Tensor) -> tuple[float, float, float]:
    """Sums over maps (N, h, w) of the share in their boxes, and of the share of the strongest cell in them; and N.

    Args:
        maps: of words that have boxes.
        targets: (N, h, w), the share of each cell that the boxes cover.
    """
    maps, targets = maps.flatten(1), targets.flatten(1)
    strongest = targets.gather(1, maps.argmax(1, keepdim=True)) if len(maps) else targets[:, :1]
    return (maps * targets).sum().item(), strongest.sum().item(), float(len(maps))


def score_of(sums: Sequence[float]) -> tuple[float, Figures]:
    """The dev score and the figures of what `shares_inside` returned for all maps, summed."""
    inside, strongest, count = sums
    figures = {"inside": inside / max(1.0, count), "strongest_inside": strongest / max(1.0, count)}
    return figures["inside"], figures
