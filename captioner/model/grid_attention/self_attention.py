"""Self-attention among the cells of feature maps, behind a gate that opens as it is learned."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from captioner.errors import OptionError
from captioner.model.attention.base import masked_softmax
from captioner.model.grid_attention.base import BLOCKS, Block, BlockRefiner, Weights
from captioner.model.refiners import REFINERS, RefinerConfig


@BLOCKS.register("self_attention")
class GridSelfAttention(Block):
    """Scaled dot products among the cells, added to the features through a gate that starts at 0.

    Wang et al. 2018, "Non-local Neural Networks", equations 1, 3 and 6 (https://arxiv.org/abs/1711.07971):
    ``y = softmax(theta(x) . phi(x)) g(x)`` and ``z = W y + x``. Zhang et al. 2019, "Self-Attention Generative
    Adversarial Networks", equation 3 (https://arxiv.org/abs/1805.08318): the gate ``gamma``, 0 at first, so that a
    trained network is as it was. Dot products are scaled by the root of the width. The weights are "cells"
    (B, heads, h * w, h * w), of every cell for every cell.

    Args:
        channels: D.
        width: of the space in which cells are compared; 0 for D / 2.
        heads: each over its share of the width.
    """

    def __init__(self, *, channels: int, width: int = 0, heads: int = 1) -> None:
        super().__init__()
        width = width or max(1, channels // 2)
        if heads < 1 or width < 1 or width % heads:
            raise OptionError(f"the width {width} of self-attention is not a multiple of its {heads} heads")
        self.heads = heads
        self.query, self.value = nn.Conv2d(channels, width, 1), nn.Conv2d(channels, width, 1)
        self.key = nn.Conv2d(channels, width, 1, bias=False)  # the softmax would cancel a bias
        self.output = nn.Conv2d(width, channels, 1)
        self.gate = nn.Parameter(torch.zeros(()))

    def forward(self, features: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Weights]:
        """See `Block.forward`."""
        shape = features.shape[2:]
        q, k, v = (self._split(part(features)) for part in (self.query, self.key, self.value))  # (B, H, L, A / H)
        q = q / math.sqrt(q.shape[-1])  # before the products, which could overflow in half precision
        scores = q @ k.transpose(2, 3) + self.position_scores(q, shape)
        weights = masked_softmax(scores, None if mask is None else mask.flatten(2).unsqueeze(1))  # (B, H, L, L)
        read = (weights @ v).transpose(2, 3).flatten(1, 2).unflatten(-1, shape)  # (B, A, h, w)
        return features + self.gate * self.output(read), {"cells": weights}

    def position_scores(self, query: Tensor, shape: torch.Size) -> Tensor | float:
        """What is added to the scores (B, H, L, L) for where the cells are; nothing here."""
        return 0.0

    def _split(self, x: Tensor) -> Tensor:
        split: Tensor = x.flatten(2).unflatten(1, (self.heads, -1)).transpose(2, 3)
        return split


@BLOCKS.register("relative_self_attention")
class RelativeSelfAttention(GridSelfAttention):
    """`GridSelfAttention` that knows how far apart two cells are.

    Bello et al. 2019, "Attention Augmented Convolutional Networks", equation 3 (https://arxiv.org/abs/1904.09925): to
    ``q_i . k_j`` are added ``q_i . r_(j_x - i_x)`` and ``q_i . r_(j_y - i_y)``, with a learned vector for every
    distance along each side. Distances beyond ``reach`` count as ``reach``, so that the block fits every grid.

    Args:
        channels, width, heads: as of `GridSelfAttention`.
        reach: cells; the largest distance that has a vector of its own.
    """

    def __init__(self, *, channels: int, width: int = 0, heads: int = 1, reach: int = 15) -> None:
        super().__init__(channels=channels, width=width, heads=heads)
        if reach < 1:
            raise OptionError(f"the reach of relative positions must be at least 1 cell, not {reach}")
        self.reach = reach
        share = self.query.out_channels // heads
        self.rows, self.columns = (nn.Parameter(torch.randn(2 * reach + 1, share) * share**-0.5) for _ in range(2))

    def position_scores(self, query: Tensor, shape: torch.Size) -> Tensor:
        """See `GridSelfAttention.position_scores`."""
        height, width = shape
        cell = torch.arange(height * width, device=query.device)
        row, column = cell // width, cell % width
        by_row, by_column = (query @ vectors.t() for vectors in (self.rows, self.columns))  # (B, H, L, 2 reach + 1)
        found: Tensor = torch.zeros((), device=query.device, dtype=query.dtype)
        for scores, place in ((by_row, row), (by_column, column)):
            distance = (place[None] - place[:, None]).clamp(-self.reach, self.reach) + self.reach  # (L, L)
            found = found + scores.gather(3, distance.expand(*scores.shape[:2], -1, -1))
        return found


@dataclass(frozen=True, kw_only=True)
class SelfAttentionConfig(RefinerConfig):
    """As `RefinerConfig`, and the width and heads of `GridSelfAttention`."""

    attention_width: int = 0
    attention_heads: int = 4


@dataclass(frozen=True, kw_only=True)
class RelativeSelfAttentionConfig(SelfAttentionConfig):
    """As `SelfAttentionConfig`, and ``reach`` of `RelativeSelfAttention`."""

    reach: int = 15


@REFINERS.register_with("self_attention", SelfAttentionConfig)
class SelfAttentionRefiner(BlockRefiner):
    """The grid refiner with `GridSelfAttention`."""

    def make_block(self, config: SelfAttentionConfig) -> Block:
        """See `BlockRefiner.make_block`."""
        return GridSelfAttention(channels=config.width, width=config.attention_width, heads=config.attention_heads)


@REFINERS.register_with("relative_self_attention", RelativeSelfAttentionConfig)
class RelativeSelfAttentionRefiner(BlockRefiner):
    """The grid refiner with `RelativeSelfAttention`."""

    def make_block(self, config: RelativeSelfAttentionConfig) -> Block:
        """See `BlockRefiner.make_block`."""
        return RelativeSelfAttention(
            channels=config.width, width=config.attention_width, heads=config.attention_heads, reach=config.reach
        )
