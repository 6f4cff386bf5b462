"""The inverted residual blocks of a backbone, with as many hidden channels as wanted (Sandler et al. 2018)."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from captioner.errors import OptionError
from captioner.model.vision import import_torchvision


class InvertedResidual(NamedTuple):
    """The convolutions of a block, each with its batch-norm: C to H hidden channels, H to H one by one, H to C'.

    Attributes:
        expansion, depthwise, projection: the convolutions.
        has_skip: whether the block's input is added to the output.
    """

    expansion: nn.Sequential
    depthwise: nn.Sequential
    projection: nn.Sequential
    has_skip: bool

    @property
    def hidden_channels(self) -> int:
        """H."""
        width: int = _convolution(self.depthwise).out_channels
        return width

    def keep(self, channels: Tensor) -> None:
        """Leave only some of the hidden channels, (K,) in ascending order, in place."""
        for part in (self.expansion, self.depthwise):
            convolution, norm = _convolution(part), part[1]
            assert isinstance(norm, nn.BatchNorm2d)
            convolution.weight = _parameter(convolution.weight[channels])
            convolution.out_channels = norm.num_features = len(channels)
            norm.weight, norm.bias = _parameter(norm.weight[channels]), _parameter(norm.bias[channels])
            assert norm.running_mean is not None and norm.running_var is not None
            norm.running_mean, norm.running_var = norm.running_mean[channels], norm.running_var[channels]
        depthwise, projection = _convolution(self.depthwise), _convolution(self.projection)
        projection.weight = _parameter(projection.weight[:, channels])
        depthwise.groups = depthwise.in_channels = projection.in_channels = len(channels)


def inverted_residuals(stages: nn.Module) -> list[InvertedResidual]:
    """The blocks with hidden channels of their own, in order.

    Raises:
        OptionError: there are none, or they have squeeze-and-excitation, whose layers would have to change too.
    """
    found = []
    vision = import_torchvision()
    for module in stages.modules():
        if not isinstance(module, vision.models.efficientnet.MBConv):
            continue
        parts = [part for part in module.block if not isinstance(part, nn.Identity)]
        if any(isinstance(part, vision.ops.SqueezeExcitation) for part in parts):
            raise OptionError(
                "the encoder's blocks have squeeze-and-excitation, and cannot be pruned",
                remedy="take a model with efficientnet_lite0",
            )
        if len(parts) == 3:  # a block without expansion has the hidden channels of what comes before it
            found.append(InvertedResidual(parts[0], parts[1], parts[2], module.use_res_connect))
    if not found:
        raise OptionError(
            "the encoder's stages have no blocks that can be pruned",
            remedy="take a model with three stages or more of efficientnet_lite0",
        )
    return found


def set_hidden_channels(stages: nn.Module, hidden_channels: Sequence[int]) -> None:
    """Give the blocks so many hidden channels, in place; which weights stay says nothing yet.

    Raises:
        OptionError: not one number for each block, or one that is not from 1 to the block's own.
    """
    blocks = inverted_residuals(stages)
    if len(hidden_channels) != len(blocks):
        raise OptionError(
            f"hidden_channels needs {len(blocks)} numbers, one for each block, not {len(hidden_channels)}"
        )
    for block, width in zip(blocks, hidden_channels, strict=True):
        if not 1 <= width <= block.hidden_channels:
            raise OptionError(f"a block has 1 to {block.hidden_channels} hidden channels, not {width}")
        block.keep(torch.arange(width))


def _convolution(part: nn.Sequential) -> nn.Conv2d:
    convolution = part[0]
    assert isinstance(convolution, nn.Conv2d)
    return convolution


def _parameter(values: Tensor) -> nn.Parameter:
    return nn.Parameter(values.detach().clone())
