"""Refiners: what prepares the encoder's grid for the decoder. An entry in `REFINERS` adds one."""

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor, nn

from captioner.errors import OptionError
from captioner.model.grid import Grid
from captioner.registry import ConfiguredRegistry


class Refiner(nn.Module):
    """The interface of every refiner.

    The constructor takes ``channels`` (of the encoder's grid) and ``config``, which has the attribute ``width`` (D, of
    the refined grid), by keyword.
    """

    def forward(self, grid: Grid) -> Grid:
        """(B, h * w, channels) -> (B, h * w, D), or fewer vectors with ``sources``; see `Grid`."""
        raise NotImplementedError


REFINERS: ConfiguredRegistry[type[Refiner]] = ConfiguredRegistry("refiner")


@dataclass(frozen=True, kw_only=True)
class RefinerConfig:
    """How the encoder's grid is prepared for the decoder.

    Attributes:
        width: D of the grid that the decoder sees.
        position: how strongly a two-dimensional sinusoidal position is added to each cell at first, so that "left
            of" can be learned; the strength is learned from there. 0 for no positions. As strong as the features
            (1), it makes the attention of a decoder that is trained from scratch settle on fixed places.
        layers: layers of self-attention among the cells. Each cell then also knows of the others, and the maps are a
            little less local.
        heads: attention heads of each of those layers.
        hidden: units of the feed-forward network of each of those layers; 0 for four times the width.
        dropout: on the refined features.
    """

    width: int = 512
    position: float = 0.1
    layers: int = 0
    heads: int = 8
    hidden: int = 0
    dropout: float = 0.1

    def __post_init__(self) -> None:
        if self.width < 4 or self.width % 4:
            raise OptionError(f"the grid's width must be a positive multiple of 4, not {self.width}")
        if not self.position >= 0:
            raise OptionError(f"the strength of positions must not be negative, as {self.position} is")
        if self.layers < 0 or self.heads < 1:
            raise OptionError(f"a grid needs 0 layers or more of 1 head or more, not {self.layers} of {self.heads}")
        if self.hidden < 0:
            raise OptionError(f"hidden must be 1 unit or more, or 0 for four times the width, not {self.hidden}")
        if not 0 <= self.dropout < 1:
            raise OptionError(f"dropout must be in [0, 1), not {self.dropout}")
        if self.layers and self.width % self.heads:
            raise OptionError(f"the grid's width {self.width} is not a multiple of its {self.heads} heads")


@REFINERS.register_with("transformer_encoder", RefinerConfig)
class GridRefiner(Refiner):
    """Normalise, project to the decoder's width, add positions, let cells attend to one another."""

    def __init__(self, *, channels: int, config: RefinerConfig) -> None:
        super().__init__()
        self.config = config
        self.input_norm = nn.LayerNorm(channels)
        # None where there are no positions: a parameter that is never used is an error under several processes.
        self.position_gain = nn.Parameter(torch.tensor(float(config.position))) if config.position else None
        self.projection = nn.Linear(channels, config.width)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(
                config.width,
                config.heads,
                dim_feedforward=config.hidden or 4 * config.width,
                dropout=config.dropout,
                activation="gelu",
                batch_first=True,
                norm_first=True,
            )
            for _ in range(config.layers)
        )
        self.output_norm = nn.LayerNorm(config.width)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, grid: Grid) -> Grid:
        """(B, h * w, channels) -> (B, h * w, width)."""
        x = self.projection(self.input_norm(grid.features))
        if self.position_gain is not None:
            x = x + self.position_gain * sinusoidal_positions(*grid.shape, self.config.width).to(x)
        padding = None if grid.mask is None else ~grid.mask
        for layer in self.layers:
            x = layer(x, src_key_padding_mask=padding)
        return self.finish(grid, x)

    def finish(self, grid: Grid, x: Tensor) -> Grid:
        """The refined grid, of the projected cells (B, h * w, width)."""
        return grid.with_features(self.dropout(self.output_norm(x)))


@lru_cache(maxsize=8)
def sinusoidal_positions(height: int, width: int, channels: int) -> Tensor:
    """Two-dimensional sinusoidal positions, (height * width, channels): half for rows, half for columns.

    Positions run from 0 to 1 along each side, so that the same place has the same code on a finer grid.
    After Vaswani et al. 2017, section 3.5, carried to two dimensions as in DETR (Carion et al. 2020).
    """
    with torch.inference_mode(False):  # kept for later calls, which may train
        quarter = channels // 4
        frequency = math.pi * torch.exp(torch.linspace(0, math.log(16.0), quarter))  # half a wave to 8 per side
        row = ((torch.arange(height) + 0.5) / height)[:, None] * frequency  # (h, quarter)
        column = ((torch.arange(width) + 0.5) / width)[:, None] * frequency  # (w, quarter)
        rows = torch.cat((row.sin(), row.cos()), 1)[:, None].expand(height, width, 2 * quarter)
        columns = torch.cat((column.sin(), column.cos()), 1)[None].expand(height, width, 2 * quarter)
        return torch.cat((rows, columns), 2).reshape(height * width, channels)
