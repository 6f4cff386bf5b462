"""Attention within a grid, before the decoder asks: what every block takes and returns, and refiners made of one.

A block acts on feature maps ``(B, D, h, w)`` and keeps their shape. It stands in two places: behind a refiner's
projection, where the refiner bears the block's name in `captioner.model.refiners.REFINERS`, and between the stages of
the encoder (`captioner.model.encoder.EncoderConfig`, ``attention``).
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from captioner.errors import OptionError
from captioner.model.grid import Grid
from captioner.model.refiners import GridRefiner, RefinerConfig
from captioner.registry import Registry

Weights = dict[str, Tensor]


class Block(nn.Module):
    """The interface of every block. The constructor takes ``channels`` (D), and options of its own by keyword."""

    def forward(self, features: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Weights]:
        """The features weighed, and the weights by name.

        Args:
            features: (B, D, h, w).
            mask: (B, 1, h, w), True where a cell holds picture; None where every cell does. What lies elsewhere has
                no influence on the cells that do.
        """
        raise NotImplementedError


BLOCKS: Registry[Callable[..., Block]] = Registry("attention block")


def build_block(name: str, *, channels: int, options: Mapping[str, Any] | None = None) -> Block:
    """The block of that name for D channels.

    Raises:
        OptionError: no such block, an option that it does not know, or one that is out of range.
    """
    block = BLOCKS[name]
    try:
        return block(channels=channels, **dict(options or {}))
    except TypeError as error:
        raise OptionError(
            f"the attention block '{name}' does not take the options {', '.join(options or {})} ({error})"
        ) from None


class BlockRefiner(GridRefiner):
    """The grid refiner with a block behind its last normalisation. The block's weights are in ``Grid.weights``."""

    def __init__(self, *, channels: int, config: RefinerConfig) -> None:
        super().__init__(channels=channels, config=config)
        self.block = self.make_block(config)

    def make_block(self, config: Any) -> Block:
        """The block of this refiner, for ``config.width`` channels."""
        raise NotImplementedError

    def finish(self, grid: Grid, x: Tensor) -> Grid:
        """See `GridRefiner.finish`."""
        features = self.output_norm(x).transpose(1, 2).unflatten(-1, grid.shape)  # (B, D, h, w)
        mask = None if grid.mask is None else grid.mask.unflatten(1, grid.shape).unsqueeze(1)
        features, weights = self.block(features, mask)
        return replace(grid, features=self.dropout(features.flatten(2).transpose(1, 2)), weights=weights)


class EncoderBlock(nn.Module):
    """A stage of the encoder and the block behind it; the block's weights are not kept.

    The encoder has no mask: of a padded picture the block sees the padding too.
    """

    def __init__(self, stage: nn.Module, block: Block) -> None:
        super().__init__()
        self.stage, self.block = stage, block

    def forward(self, features: Tensor) -> Tensor:
        """As the stage: (B, D, h, w) to (B, D', h', w')."""
        weighed: Tensor = self.block(self.stage(features))[0]
        return weighed


def masked_mean(features: Tensor, mask: Tensor | None) -> Tensor:
    """The mean of each channel over the cells that hold picture, (B, D)."""
    if mask is None:
        return features.mean((2, 3))
    return (features * mask).sum((2, 3)) / mask.sum((2, 3)).clamp(min=1)


def masked_max(features: Tensor, mask: Tensor | None) -> Tensor:
    """The largest value of each channel over the cells that hold picture, (B, D); 0 where none does."""
    if mask is None:
        return features.amax((2, 3))
    largest = features.masked_fill(~mask, torch.finfo(features.dtype).min).amax((2, 3))
    return largest * (mask.sum((2, 3)) > 0)
