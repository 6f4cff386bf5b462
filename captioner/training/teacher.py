"""Knowledge distillation: a run learns the distributions of another model beside the captions or the answers."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from captioner.checkpoint import load_answering, load_to_train
from captioner.errors import OptionError
from captioner.model.caption_model import CaptionModel
from captioner.model.encoder import EncoderConfig, GridEncoder
from captioner.model.grid import Grid
from captioner.tokenizer.vocabulary import Vocabulary
from captioner.training.growth import without_fine_maps
from captioner.training.images import Pixels
from captioner.training.recipe import Recipe


class Teacher:
    """The other model of knowledge distillation (Hinton et al. 2015, "Distilling the Knowledge in a Neural Network").

    The teacher gets the same augmented pictures as the student and the same input words, without word dropout. Where
    the words are the student's samples, this is on-policy distillation (Agarwal et al. 2024, "On-Policy Distillation of
    Language Models"). While the student's encoder is frozen the teacher reads grids too: the student's where it has the
    same encoder, as the model that a run starts from (self-distillation), and else those of its own. These it also
    reads later where they are kept on disk. Pixels come at the student's size, and are made as large as its own.

    Args:
        file: of a model.
        vocabulary: of the student; the teacher's words may be in another order.
        encoder: the configuration of the student's, for the normalisation of its pixels.
        max_length: words that it must be able to read.
        device: of both.
        autocast: the run's precision.
        answers: of a student that answers questions; empty for one that makes captions.

    Raises:
        OptionError: the teacher has other words, other answers or other padding, or reads fewer words.
        CheckpointError: the file does not load.
    """

    def __init__(
        self,
        file: str,
        vocabulary: Vocabulary,
        encoder: EncoderConfig,
        *,
        max_length: int,
        device: torch.device,
        autocast: Callable[[], AbstractContextManager[Any]],
        answers: tuple[str, ...] = (),
    ) -> None:
        checkpoint: Any = load_answering(file) if answers else load_to_train(file)
        if sorted(checkpoint.vocabulary.words) != sorted(vocabulary.words):
            raise OptionError(
                f"the vocabulary of the teacher {file} is not that of the model",
                remedy="take a teacher that was trained with the same vocabulary",
            )
        if answers and checkpoint.answers != answers:
            raise OptionError(
                f"the answers of the teacher {file} are not those of the model",
                remedy="take a teacher that was trained on the same questions",
            )
        config = checkpoint.model.config
        if config.encoder.pad != encoder.pad:
            raise OptionError(f"pad is {config.encoder.pad} in the teacher {file} and {encoder.pad} in the model")
        reader = checkpoint.model.answerer.config if answers else checkpoint.model.decoder
        if (most := reader.max_length) < max_length:
            raise OptionError(
                f"max_length is {max_length}, and the teacher {file} reads at most {most} words",
                remedy=f"set max_length {most}",
            )
        model = without_fine_maps(checkpoint.model)  # nothing asks a teacher for its maps
        self.model = model.to(device).eval().requires_grad_(False)
        self.student, self.autocast, self._answers = encoder, autocast, bool(answers)
        self._words: Tensor | None = None  # the teacher's id of each of the student's
        if checkpoint.vocabulary.words != vocabulary.words:
            self._words = torch.tensor([checkpoint.vocabulary.ids[word] for word in vocabulary.words], device=device)

    @classmethod
    def of_recipe(
        cls,
        recipe: Recipe,
        encoder: GridEncoder,
        vocabulary: Vocabulary,
        *,
        device: torch.device,
        autocast: Callable[[], AbstractContextManager[Any]],
        answers: tuple[str, ...] = (),
    ) -> "Teacher | None":
        """The teacher that a recipe names; None where it names none. ``encoder`` is the student's, the others are as of
        the class.

        Raises:
            OptionError, CheckpointError: as of the class.
        """
        if not recipe.teacher:
            return None
        return cls(
            recipe.teacher,
            vocabulary,
            encoder.config,
            max_length=recipe.max_length,
            device=device,
            autocast=autocast,
            answers=answers,
        )

    def reads_grids_of(self, encoder: GridEncoder) -> bool:
        """Whether the teacher's encoder is this one: the same configuration and weights."""
        own, config = self.model.encoder, encoder.config
        if own.config.fine_stage is None:  # it leaves the fine stage of a grid aside
            config = replace(config, fine_stage=None)
        if own.config != config:
            return False
        ours, theirs = own.state_dict(), encoder.state_dict()
        return all(torch.equal(ours[name].float(), theirs[name].to(ours[name].device).float()) for name in ours)

    def has_decoder_of(self, model: CaptionModel) -> bool:
        """Whether the teacher's decoder is that of a model of the student's words, in 16 bits, as files have it, and
        without fine maps."""
        ours, theirs = ({n: t.half().cpu() for n, t in one.decoder.state_dict().items()} for one in (model, self.model))
        ours = {name: tensor for name, tensor in ours.items() if not name.startswith("fine.")}
        same_order = self._words is None
        return same_order and ours.keys() == theirs.keys() and all(torch.equal(ours[n], theirs[n]) for n in ours)

    @torch.no_grad()
    def logits(self, images: Pixels | Grid, inputs: Tensor) -> Tensor:
        """The teacher's logits of the next words, or of the answers.

        Args:
            images: B pictures, normalised for the student; or their grids before the refiner, of the teacher's encoder.
            inputs: (N, T) tokens; N is a multiple of B, the captions of a picture in a row. Or (B, k, T), questions.

        Returns:
            (N, T, V), or (B, k, A).
        """
        if self._words is not None:
            inputs = self._words[inputs]
        with self.autocast():
            if isinstance(images, Grid):
                read = self.model(images, inputs)
            else:
                read = self.model(self._renormalised(images.values), inputs, self._cells(images.mask))
        logits: Tensor = read.logits
        return logits if self._words is None or self._answers else logits[..., self._words]

    @torch.no_grad()
    def refined(self, images: Pixels | Grid, shape: tuple[int, int]) -> Tensor:
        """The teacher's refined grids, made of its encoder's grids once these have another shape (bilinear).

        Args:
            images: as of `logits`, without masks.
            shape: (h, w) of the student's grids.

        Returns:
            (B, h * w, D).
        """
        with self.autocast():
            grid = images if isinstance(images, Grid) else self.model.encode_image(self._renormalised(images.values))
            if grid.shape != shape:
                cells = grid.features.transpose(1, 2).unflatten(2, grid.shape).float()
                cells = F.interpolate(cells, size=shape, mode="bilinear", antialias=True)
                grid = Grid(cells.flatten(2).transpose(1, 2), shape)
            refined: Tensor = self.model.refine(grid).features
        return refined

    def _renormalised(self, values: Tensor) -> Tensor:
        own = self.model.encoder.config
        mean, std, own_mean, own_std = (
            values.new_tensor(channels).view(3, 1, 1)
            for channels in (self.student.mean, self.student.std, own.mean, own.std)
        )
        values = values * std + mean
        if own.side != self.student.side:
            values = F.interpolate(values, size=own.side, mode="bilinear", antialias=True)
        return (values - own_mean) / own_std

    def _cells(self, mask: Tensor | None) -> Tensor | None:
        """The mask (B, h, w) over the teacher's cells."""
        if mask is None:
            return None
        # As a mask is made: a cell with a sliver of picture holds picture.
        return F.adaptive_max_pool2d(mask[:, None].float(), self.model.encoder.grid_shape)[:, 0] > 0
