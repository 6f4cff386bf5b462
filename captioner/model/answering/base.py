"""What every answerer takes and returns. It chooses among the answers that it was trained with."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from captioner.errors import OptionError
from captioner.model.answering.question import QuestionEncoder
from captioner.model.grid import Grid
from captioner.registry import ConfiguredRegistry


@dataclass(frozen=True)
class Answered:
    """What an answerer returns for ``k`` questions on each of ``B`` pictures.

    Attributes:
        logits: (B, k, A), of the answers.
        maps: (B, k, h, w), where it looked, which sums to 1: the mean of the map heads, unless the answerer says else.
        words: (B, k, T), the weight of each word of the question, which sums to 1 over the real ones.
        cells: (B, S, k, L), the weights of all heads of all steps, in their order.
        attributes: (B, N), the logits of the answerer's attributes; None where it has none.
        attribute_maps: (B, N, h, w), where each attribute was looked for.
    """

    logits: Tensor
    maps: Tensor
    words: Tensor
    cells: Tensor
    attributes: Tensor | None = None
    attribute_maps: Tensor | None = None


def drop_grid(grid: Grid, *, channels: float, cells: float) -> Grid:
    """A grid for training, with random channels of each picture set to 0 and random cells hidden.

    Args:
        grid: of B pictures.
        channels: share of the channels that are 0 in all cells of a picture (Tompson et al. 2015, section 3.2); the
            others are scaled up.
        cells: share of the cells that are masked. A picture of which none would be left keeps all.
    """
    features, mask = grid.features, grid.mask
    if channels:
        features = features * F.dropout(features.new_ones(len(grid), 1, features.shape[-1]), channels)
    if cells:
        kept = torch.rand(features.shape[:2], device=features.device) >= cells
        kept = kept if mask is None else kept & mask
        whole = torch.ones_like(kept) if mask is None else mask
        mask = torch.where(kept.any(1, keepdim=True), kept, whole)
    return replace(grid, features=features, mask=mask)


DROPOUTS = ("dropout", "channel_dropout", "cell_dropout")
NOT_LEARNED = (*DROPOUTS, "fine_dropout", "attribute_map", "attribute_answers")
"""The options of answerers, and of decoders those that they have, that change neither weights nor their shapes."""


def check_answerer(config: Any, *, sizes: Sequence[str], heads: int, named: str) -> None:
    """Set ``map_heads`` to whole numbers, and check what the configurations of all answerers have.

    Args:
        config: of an answerer, with the three kinds of dropout.
        sizes: the options that must be positive, beside ``embedding``, ``width``, ``hidden`` and ``max_length``.
        heads: all that there are.
        named: how a message calls these.

    Raises:
        OptionError: an option is out of range.
    """
    object.__setattr__(config, "map_heads", tuple(int(head) for head in config.map_heads))
    for name in ("embedding", "width", "hidden", "max_length", *sizes):
        if getattr(config, name) < 1:
            raise OptionError(f"the answerer's {name} must be positive, not {getattr(config, name)}")
    for name in DROPOUTS:
        if not 0 <= getattr(config, name) < 1:
            raise OptionError(f"{name} must be in [0, 1), not {getattr(config, name)}")
    for head in config.map_heads:
        if not 0 <= head < heads:
            raise OptionError(f"map head {head} is not among {named}")


class Answerer(nn.Module):
    """The interface of every answerer.

    The constructor takes ``question_vocabulary`` and ``answers`` (their sizes), ``image_width`` (of the refined grid)
    and ``config``, by keyword. Every configuration has ``map_heads`` and ``max_length`` (of questions, in words).

    Attributes:
        config: its configuration.
        question: what reads the questions.
    """

    config: Any
    question: QuestionEncoder

    def forward(self, grid: Grid, questions: Tensor) -> Answered:
        """Answer.

        Args:
            grid: the refined grid of B pictures.
            questions: (B, k, T), the ids of the words, padded with PAD at the end; at least one word each.
        """
        raise NotImplementedError


ANSWERERS: ConfiguredRegistry[type[Answerer]] = ConfiguredRegistry("answerer")
