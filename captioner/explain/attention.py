"""What every head attended to, in one shape for every decoder."""

from collections.abc import Sequence

import torch
from torch import Tensor

from captioner.model.decoder import Decoder, captions_per_picture
from captioner.model.grid import Grid


def by_step(attention: Sequence[Tensor], copies: int, steps: int) -> Tensor:
    """The attention of `captioner.model.decoder.Decoded` as one tensor.

    Args:
        attention: each (B, H, k * t, L): one for each layer (t = T), or one for each step and layer (t = 1).
        copies: k, captions of each picture.
        steps: T.

    Returns:
        (N, heads of all layers, T, L). A decoder that drops captions when they have ended has fewer steps; the rest
        is 0.
    """
    each = attention[0].shape[2] // copies
    rows = [
        weights.unflatten(2, (copies, each)).transpose(1, 2).flatten(0, 1) for weights in attention
    ]  # each (N, H, t, L)
    if each == steps:
        return torch.cat(rows, 1)
    layers = max(1, len(rows) // steps)
    found = torch.cat([torch.cat(rows[i : i + layers], 1) for i in range(0, len(rows), layers)], 2)
    return torch.nn.functional.pad(found, (0, 0, 0, steps - found.shape[2]))


@torch.no_grad()
def attention_heads(decoder: Decoder, grid: Grid, tokens: Tensor) -> Tensor:
    """The weights of every head at every step: (N, heads of all layers, T, h, w).

    Args:
        decoder: any.
        grid: of B pictures.
        tokens: (N, T), see `captioner.model.decoder.Decoder.forward`.
    """
    decoded = decoder(grid, tokens, attention=True)
    heads = by_step(decoded.attention, captions_per_picture(len(tokens), len(grid)), tokens.shape[1])
    return grid.maps(heads)
