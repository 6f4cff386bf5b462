"""A better model whose judgement of every next word a run learns from, beside the captions of people."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from captioner.checkpoint import load as load_checkpoint
from captioner.errors import OptionError
from captioner.model.encoder import EncoderConfig
from captioner.model.transformer import TransformerConfig
from captioner.tokenizer.vocabulary import Vocabulary
from captioner.training.grids import Pixels


class Teacher:
    """Knowledge distillation (Hinton et al. 2015): a small model learns what a larger one holds likely.

    The teacher sees the very pictures that its student sees, cut and mirrored alike, and reads the same words, none of
    them hidden. Where these are the student's own, it is asked about the states that the student will be in (Agarwal
    et al. 2024, "On-Policy Distillation of Language Models").

    Args:
        file: of a model.
        vocabulary: of the student.
        encoder: the student's, for how its pixels are normalised.
        longest: words that it must be able to read.
        device: of both.
        autocast: the run's precision.

    Raises:
        OptionError: the teacher knows other words, takes pictures of another shape, or reads fewer words.
        CheckpointError: the file does not load.
    """

    def __init__(
        self,
        file: str,
        vocabulary: Vocabulary,
        encoder: EncoderConfig,
        *,
        longest: int,
        device: torch.device,
        autocast: Callable[[], AbstractContextManager[Any]],
    ) -> None:
        checkpoint = load_checkpoint(file)
        if checkpoint.vocabulary.words != vocabulary.words:
            raise OptionError(f"the teacher {file} knows other words than the model: both need one vocabulary")
        config = checkpoint.model.config
        if config.encoder.pad != encoder.pad:
            raise OptionError(f"pad is {config.encoder.pad} in the teacher {file}, {encoder.pad} in the model")
        if isinstance(config.decoder, TransformerConfig) and config.decoder.longest <= longest:
            raise OptionError(f"longest is {longest}: the teacher {file} can read {config.decoder.longest - 1} words")
        self.model, self.student, self.autocast = (
            checkpoint.model.to(device).eval().requires_grad_(False),
            encoder,
            autocast,
        )

    @torch.no_grad()
    def logits(self, pixels: Pixels, reads: Tensor) -> Tensor:
        """What the teacher would say next.

        Args:
            pixels: B pictures as the student takes them.
            reads: (N, T) tokens; N is a multiple of B, the captions of a picture side by side.

        Returns:
            (N, T, V).
        """
        with self.autocast():
            logits: Tensor = self.model(self._as_it_takes(pixels.values), reads, self._cells(pixels.mask))[0]
        return logits

    def _as_it_takes(self, values: Tensor) -> Tensor:
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
