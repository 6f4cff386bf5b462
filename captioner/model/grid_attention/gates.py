"""Gates: a number from 0 to 1 for every channel, for every cell, or for both."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from captioner.errors import OptionError
from captioner.model.grid_attention.base import BLOCKS, Block, BlockRefiner, Weights, masked_max, masked_mean
from captioner.model.refiners import REFINERS, RefinerConfig


def _check_reduction(channels: int, reduction: int) -> int:
    if reduction < 1:
        raise OptionError(f"reduction must be at least 1, not {reduction}")
    return max(1, channels // reduction)


def _check_kernel(kernel: int) -> None:
    if kernel < 1 or kernel % 2 == 0:
        raise OptionError(f"the kernel must be an odd number of cells, not {kernel}")


@BLOCKS.register("se")
class SqueezeExcitation(Block):
    """A gate for each channel, from the means of all channels.

    Hu et al. 2018, "Squeeze-and-Excitation Networks", equations 2 to 4 (https://arxiv.org/abs/1709.01507):
    ``s = sigmoid(W_2 relu(W_1 z))`` of the means ``z``. The weights are "channels" (B, D).

    Args:
        channels: D.
        reduction: by which the hidden layer is narrower; r of the paper.
    """

    def __init__(self, *, channels: int, reduction: int = 16) -> None:
        super().__init__()
        hidden = _check_reduction(channels, reduction)
        self.squeeze, self.excite = nn.Linear(channels, hidden), nn.Linear(hidden, channels)

    def forward(self, features: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Weights]:
        """See `Block.forward`."""
        gate = self.excite(self.squeeze(masked_mean(features, mask)).relu()).sigmoid()  # (B, D)
        return features * gate[:, :, None, None], {"channels": gate}


@BLOCKS.register("eca")
class EfficientChannelAttention(Block):
    """A gate for each channel, from the means of its neighbours.

    Wang et al. 2020, "ECA-Net", equations 5, 9 and 12 (https://arxiv.org/abs/1910.03151): a convolution over the
    channels' means, whose kernel grows with their number, ``|log2(D) / 2 + 1 / 2|``, the nearest odd number. The
    weights are "channels" (B, D).
    """

    def __init__(self, *, channels: int) -> None:
        super().__init__()
        size = int(abs(math.log2(channels) / 2 + 0.5))
        size += 1 - size % 2
        self.convolution = nn.Conv1d(1, 1, size, padding=size // 2, bias=False)

    def forward(self, features: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Weights]:
        """See `Block.forward`."""
        gate = self.convolution(masked_mean(features, mask)[:, None])[:, 0].sigmoid()  # (B, D)
        return features * gate[:, :, None, None], {"channels": gate}


@BLOCKS.register("spatial")
class SpatialAttention(Block):
    """A gate for each cell, from the mean and the largest value of the channels about it.

    The spatial half of Woo et al. 2018, "CBAM", equation 3 (https://arxiv.org/abs/1807.06521):
    ``sigmoid(conv([mean; max]))``. The weights are "spatial" (B, h * w), 0 where there is no picture.

    Args:
        channels: D.
        kernel: cells a side of the convolution.
    """

    def __init__(self, *, channels: int, kernel: int = 7) -> None:
        super().__init__()
        _check_kernel(kernel)
        self.convolution = nn.Conv2d(2, 1, kernel, padding=kernel // 2)

    def forward(self, features: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Weights]:
        """See `Block.forward`."""
        both = torch.cat((features.mean(1, keepdim=True), features.amax(1, keepdim=True)), 1)  # (B, 2, h, w)
        gate = self.convolution(both if mask is None else both * mask).sigmoid()  # (B, 1, h, w)
        if mask is not None:
            gate = gate * mask
        return features * gate, {"spatial": gate.flatten(1)}


@BLOCKS.register("cbam")
class ConvolutionalBlockAttention(Block):
    """A gate for each channel, then one for each cell.

    Woo et al. 2018, "CBAM: Convolutional Block Attention Module", equations 1 to 3 (https://arxiv.org/abs/1807.06521):
    ``sigmoid(MLP(mean) + MLP(max))`` over the channels, then `SpatialAttention` of what they let through. The weights
    are "channels" (B, D) and "spatial" (B, h * w).

    Args:
        channels: D.
        reduction: by which the hidden layer is narrower.
        kernel: cells a side of the convolution.
    """

    def __init__(self, *, channels: int, reduction: int = 16, kernel: int = 7) -> None:
        super().__init__()
        hidden = _check_reduction(channels, reduction)
        self.squeeze, self.excite = nn.Linear(channels, hidden), nn.Linear(hidden, channels)
        self.spatial = SpatialAttention(channels=channels, kernel=kernel)

    def forward(self, features: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Weights]:
        """See `Block.forward`."""
        pooled = (masked_mean(features, mask), masked_max(features, mask))
        mean, largest = (self.excite(self.squeeze(one).relu()) for one in pooled)
        gate = (mean + largest).sigmoid()  # (B, D)
        features, weights = self.spatial(features * gate[:, :, None, None], mask)
        return features, {"channels": gate, **weights}


@dataclass(frozen=True, kw_only=True)
class SqueezeExcitationConfig(RefinerConfig):
    """As `RefinerConfig`, and ``reduction`` of `SqueezeExcitation`."""

    reduction: int = 16


@dataclass(frozen=True, kw_only=True)
class EfficientChannelConfig(RefinerConfig):
    """As `RefinerConfig`."""


@dataclass(frozen=True, kw_only=True)
class SpatialConfig(RefinerConfig):
    """As `RefinerConfig`, and ``kernel`` of `SpatialAttention`."""

    kernel: int = 7


@dataclass(frozen=True, kw_only=True)
class ConvolutionalBlockConfig(RefinerConfig):
    """As `RefinerConfig`, and ``reduction`` and ``kernel`` of `ConvolutionalBlockAttention`."""

    reduction: int = 16
    kernel: int = 7


@REFINERS.register_with("se", SqueezeExcitationConfig)
class SqueezeExcitationRefiner(BlockRefiner):
    """The grid refiner with `SqueezeExcitation`."""

    def make_block(self, config: SqueezeExcitationConfig) -> Block:
        """See `BlockRefiner.make_block`."""
        return SqueezeExcitation(channels=config.width, reduction=config.reduction)


@REFINERS.register_with("eca", EfficientChannelConfig)
class EfficientChannelRefiner(BlockRefiner):
    """The grid refiner with `EfficientChannelAttention`."""

    def make_block(self, config: EfficientChannelConfig) -> Block:
        """See `BlockRefiner.make_block`."""
        return EfficientChannelAttention(channels=config.width)


@REFINERS.register_with("spatial", SpatialConfig)
class SpatialRefiner(BlockRefiner):
    """The grid refiner with `SpatialAttention`."""

    def make_block(self, config: SpatialConfig) -> Block:
        """See `BlockRefiner.make_block`."""
        return SpatialAttention(channels=config.width, kernel=config.kernel)


@REFINERS.register_with("cbam", ConvolutionalBlockConfig)
class ConvolutionalBlockRefiner(BlockRefiner):
    """The grid refiner with `ConvolutionalBlockAttention`."""

    def make_block(self, config: ConvolutionalBlockConfig) -> Block:
        """See `BlockRefiner.make_block`."""
        return ConvolutionalBlockAttention(channels=config.width, reduction=config.reduction, kernel=config.kernel)
