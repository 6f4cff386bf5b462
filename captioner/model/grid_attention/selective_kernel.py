"""Branches of several kernels, softly selected for each channel (SKNet, Li et al. 2019)."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from captioner.errors import OptionError
from captioner.model.grid_attention.base import BLOCKS, Block, BlockRefiner, Weights, masked_mean
from captioner.model.refiners import REFINERS, RefinerConfig


@BLOCKS.register("selective_kernel")
class SelectiveKernel(Block):
    """Convolutions that see more and less, and a softmax over them for each channel.

    Li et al. 2019, "Selective Kernel Networks", equations 1 to 6 (https://arxiv.org/abs/1903.06586): the branches are
    summed, ``s`` is the mean over the cells, ``z = relu(norm(W s))``, and ``softmax(A_i z)`` over the branches weighs
    each for every channel. The branches are depthwise 3 x 3 convolutions of growing dilation, as the paper has for the
    larger kernel. ``norm`` is over the channels here, and not over the batch, and the selected features are added to
    the input, as a residual network does around the unit. The weights are "branches" (B, branches, D), which sum to 1
    over the branches.

    Args:
        channels: D.
        branches: of dilation 1, 2, ...
        reduction: by which ``z`` is narrower; r of the paper.
    """

    def __init__(self, *, channels: int, branches: int = 2, reduction: int = 16) -> None:
        super().__init__()
        if branches < 2:
            raise OptionError(f"a selection needs 2 branches or more, not {branches}")
        if reduction < 1:
            raise OptionError(f"reduction must be at least 1, not {reduction}")
        self.branches = nn.ModuleList(
            nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1 + i, dilation=1 + i, groups=channels), nn.ReLU())
            for i in range(branches)
        )
        hidden = max(channels // reduction, 32)
        self.squeeze = nn.Sequential(nn.Linear(channels, hidden), nn.LayerNorm(hidden), nn.ReLU())
        self.select = nn.Linear(hidden, branches * channels)

    def forward(self, features: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Weights]:
        """See `Block.forward`."""
        shown = features if mask is None else features * mask
        branches = torch.stack([branch(shown) for branch in self.branches], 1)  # (B, branches, D, h, w)
        hidden = self.squeeze(masked_mean(branches.sum(1), mask))
        weights = self.select(hidden).unflatten(1, (len(self.branches), -1)).softmax(1)  # (B, branches, D)
        return features + (weights[..., None, None] * branches).sum(1), {"branches": weights}


@dataclass(frozen=True, kw_only=True)
class SelectiveKernelConfig(RefinerConfig):
    """As `RefinerConfig`, and ``branches`` and ``reduction`` of `SelectiveKernel`."""

    branches: int = 2
    reduction: int = 16


@REFINERS.register_with("selective_kernel", SelectiveKernelConfig)
class SelectiveKernelRefiner(BlockRefiner):
    """The grid refiner with `SelectiveKernel`."""

    def make_block(self, config: SelectiveKernelConfig) -> Block:
        """See `BlockRefiner.make_block`."""
        return SelectiveKernel(channels=config.width, branches=config.branches, reduction=config.reduction)
