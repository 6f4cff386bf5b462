"""Distillation of a teacher's grids: a small encoder learns to show a decoder what a larger one shows it."""

import torch
import torch.nn.functional as F
from torch import Tensor

from captioner.errors import OptionError
from captioner.model.caption_model import CaptionModel
from captioner.model.grid import Grid
from captioner.training.epoch import Figures
from captioner.training.images import Images, Pixels
from captioner.training.recipe import Recipe, refuse_options
from captioner.training.tasks.base import TASKS, Forward, Part, TaskContext
from captioner.training.tasks.cross_entropy import CrossEntropy, device_of

_OF_WORDS = (
    "word_dropout",
    "scheduled_sampling",
    "map_supervision",
    "map_regularisation",
    "off_grid_supervision",
    "grow_vocabulary",
)


@TASKS.register("grid_distillation")
class GridDistillation(CrossEntropy):
    """The mean squared error between the refined grids of the model and the teacher, and the divergence of their words.

    Hints of Romero et al. 2015, "FitNets: Hints for Thin Deep Nets", section 2.2, at the layer that the decoder reads.
    Encoder and refiner learn; the decoder is the teacher's, and stays what it is. Beside the error stands the KL
    divergence from the teacher's words after the references (``distillation``): it says which of a grid's numbers
    matter. The dev score is CIDEr-D of generated captions.
    """

    def __init__(self, context: TaskContext) -> None:
        super().__init__(context)
        model, teacher = context.model, self.teacher
        assert teacher is not None
        with torch.no_grad():
            grids = [one.refine(blank_grid(one)) for one in (model, teacher.model)]
        if model.encoder.config.pad or any(grid.sources is not None or grid.members for grid in grids):
            raise OptionError(
                "only grids whose cells are those of the encoder are distilled, of pictures that fill the input",
                remedy="take models without pad, without latent_queries and coarse_cells, and a member of an ensemble",
            )
        ours, theirs = (grid.features.shape[2] for grid in grids)
        if ours != theirs:
            raise OptionError(
                f"the refined grid is {ours} wide, and that of the teacher {context.recipe.teacher} {theirs}",
                remedy=f'give refiner_options {{"width": {theirs}}}, or a teacher of that width',
            )
        if not teacher.has_decoder_of(model):
            raise OptionError(
                f"the decoder is not that of the teacher {context.recipe.teacher}, whose grids say nothing to it",
                remedy="give decoder_from, the teacher",
            )

    @staticmethod
    def check(recipe: Recipe) -> None:
        """Raises OptionError without a teacher or a decoder, and for options of words, which do not learn."""
        CrossEntropy.check(recipe)
        refuse_options(recipe, *_OF_WORDS)
        objective = f"the objective '{recipe.objective}'"
        if not recipe.teacher:
            raise OptionError(f"{objective} learns the grids of a teacher", remedy="give teacher")
        if not (recipe.start_from or recipe.decoder_from):
            raise OptionError(f"{objective} trains no decoder", remedy="give decoder_from, the teacher")
        if not recipe.train_refiner:
            raise OptionError(f"{objective} trains the refiner, and train_refiner is false", remedy="leave it out")

    def set_trainable(self, *, frozen: bool) -> None:
        """The refiner, and the encoder after the frozen epochs, without dropout."""
        super().set_trainable(frozen=frozen)
        model = self.context.model
        model.decoder.requires_grad_(False)
        model.eval()

    def loss(self, forward: Forward, part: Part, images: Images) -> tuple[Tensor, Figures]:
        """See `captioner.training.tasks.Task.loss`."""
        assert self.teacher is not None
        model, seen = self.context.model, part.for_teacher(images)
        assert images is not None
        assert seen is not None
        if isinstance(images, Pixels):  # encoded once, for the grids and for the words
            with self.context.autocast():
                images = model.encode_image(images.values, images.mask)
        with self.context.autocast():
            refined = model.refine(images).features.float()
        wanted = self.teacher.refined(seen, images.shape).float()
        error = F.mse_loss(refined, wanted, reduction="sum") / (wanted[0].numel() * len(part.step.pictures))
        tokens = part.batch.tokens.to(device_of(images))
        inputs, targets = tokens[:, :-1], tokens[:, 1:]
        logits = forward(images, inputs).logits
        distance, figures = self.teacher_loss(logits, seen, inputs, targets, count=part.step.targets)
        return error + distance, {"grid_error": error.item(), **figures}


def blank_grid(model: CaptionModel) -> Grid:
    """The grid of one picture, all 0, as the model's encoder would make it."""
    (height, width), device = model.encoder.grid_shape, next(model.parameters()).device
    return Grid(torch.zeros(1, height * width, model.encoder.vector_width, device=device), (height, width))
