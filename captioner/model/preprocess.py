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
    x = torch.as_tensor(pixels).permute(0, 3, 1, 2).float()
    # Channels first in the arithmetic too: ONNX Runtime is slow where the last axis, of three channels, is broadcast.
    mean, std = (255 * x.new_tensor(values).view(3, 1, 1) for values in (config.mean, config.std))
    return (x - mean) / std
