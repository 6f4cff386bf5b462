"""Pixels as the encoder wants them."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from captioner.model.encoder import EncoderConfig


def normalise(pixels: "NDArray[np.uint8] | Tensor", config: EncoderConfig) -> Tensor:
    """(B, side, side, 3) of 0 to 255 -> (B, 3, side, side), normalised by the configuration's mean and std.

    The result is laid out with interleaved channels, as `GridEncoder` computes.
    """
    x = torch.as_tensor(pixels).float() / 255
    x = (x - x.new_tensor(config.mean)) / x.new_tensor(config.std)
    return x.permute(0, 3, 1, 2)
