"""Fine maps: maps of twice the grid's resolution, by attention from coarse to fine.

The cells of a CNN's last stage are large: things smaller than one cannot be pointed at. An earlier stage has cells of
half the side, and knows less of what they show. Here a word's attention to the cells, which the decoder computes and
reads, is multiplied by a second attention to the 2 x 2 parts of each cell, which compares the word with features of
both stages: a lateral connection, as in the feature pyramids of Lin et al. 2017 (https://arxiv.org/abs/1612.03144), in
attention from coarse to fine, after Deng et al. 2017, "Image-to-Markup Generation with Coarse-to-Fine Attention"
(https://arxiv.org/abs/1609.04938). Words do not depend on it.
"""

import math
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from captioner.errors import OptionError
from captioner.model.grid import Grid
from captioner.model.quantised import UnquantisedLinear, set_to_zero

FINER = 2
"""Parts of a cell's side."""
_NONE = -1e30  # a score whose softmax is 0
_LEAST = 1e-6  # of the weight of a cell, before its logarithm


def parts_of_cells(features: Tensor, shape: tuple[int, int]) -> Tensor:
    """Features (B, F, H, W) of an earlier stage as those of the parts of the cells of a grid, (B, h * w, 4 F).

    They are brought to (2 h, 2 w) by bilinear interpolation. The parts of a cell are row-major, each F numbers.
    """
    height, width = shape
    resized = F.interpolate(features.float(), (FINER * height, FINER * width), mode="bilinear", align_corners=False)
    parts = resized.unflatten(3, (width, FINER)).unflatten(2, (height, FINER))  # (B, F, h, 2, w, 2)
    found: Tensor = parts.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)
    return found


def split_fine(grid: Grid, channels: int) -> Grid:
    """The encoder's grid with `Grid.fine`, of vectors (B, L, channels + 4 F); without a fine stage as it was."""
    if grid.features.shape[2] == channels:
        return grid
    features, fine = grid.features[:, :, :channels], grid.features[:, :, channels:]
    return replace(grid, features=features, fine=fine)


def repeat_cells(maps: Tensor) -> Tensor:
    """Maps (..., h, w) as maps (..., 2 h, 2 w) of the same sum, each cell in equal parts."""
    return maps.repeat_interleave(FINER, -2).repeat_interleave(FINER, -1) / FINER**2


class FineMaps(nn.Module):
    """The weight of the parts of each cell, of a word's weights of the cells.

    ``m_ip = a_i^t exp(q . k_ip) / sum_jr a_j^t exp(q . k_jr)`` times the weight that is on the grid, for cells i and
    parts p: with the word's weights a, its query q, a learned exponent t, and keys
    ``k_ip = W relu(W_c norm(c_i) + W_f norm(f_ip))`` of the cell's refined features c and the part's features f.

    Args:
        query_width: of the decoder's queries; 0 where they come as wide as the keys.
        image_width: of the refined grid.
        fine_channels: F, of the encoder's fine stage.
        width: of queries and keys.
        dropout: on queries, and on whole channels of the parts.
    """

    def __init__(
        self, *, query_width: int, image_width: int, fine_channels: int, width: int, dropout: float = 0.2
    ) -> None:
        super().__init__()
        self.fine_channels = fine_channels
        self.query = nn.Linear(query_width, width) if query_width else None
        self.cell_norm, self.part_norm = nn.LayerNorm(image_width), nn.LayerNorm(fine_channels)
        self.cell, self.part = UnquantisedLinear(image_width, width), UnquantisedLinear(fine_channels, width)
        self.key = UnquantisedLinear(width, width)
        self.exponent = nn.Parameter(torch.ones(()))
        self.dropout, self.channel_dropout = nn.Dropout(dropout), nn.Dropout1d(dropout / 2)
        self.divide_equally()

    @classmethod
    def of_width(
        cls, width: int, *, query: int, image_width: int, fine_channels: int, dropout: float = 0.2
    ) -> "FineMaps | None":
        """Those of a configuration's ``fine_width``; None for 0."""
        if not width:
            return None
        return cls(
            query_width=query, image_width=image_width, fine_channels=fine_channels, width=width, dropout=dropout
        )

    def divide_equally(self) -> None:
        """Forget what was learned: each cell in equal parts."""
        if self.query is not None:
            set_to_zero(self.query)
        nn.init.ones_(self.exponent)

    def hidden_units(self, grid: Grid) -> Tensor:
        """What the keys of the parts of a refined grid are made of, ``relu(W_c norm(c_i) + W_f norm(f_ip))``.

        Returns:
            (B, L * 4, width), the parts of a cell in a row.

        Raises:
            OptionError: the grid has no fine features, or its vectors are not the cells.
        """
        if grid.fine is None or grid.sources is not None:
            raise OptionError(
                "fine maps need a fine stage of the encoder, and a refiner that keeps the cells",
                remedy="set the encoder's fine_stage, or leave fine_width out of decoder_options",
            )
        parts = grid.fine.unflatten(2, (FINER * FINER, self.fine_channels)).flatten(1, 2)  # (B, L * 4, F)
        parts = self.channel_dropout(parts.transpose(1, 2)).transpose(1, 2)
        cells = self.cell(self.cell_norm(grid.features)).unsqueeze(2)  # (B, L, 1, width)
        both = self.part(self.part_norm(parts)).unflatten(1, (-1, FINER * FINER)) + cells
        return torch.relu(both).flatten(1, 2)

    def forward(self, query: Tensor, hidden: Tensor, weights: Tensor) -> Tensor:
        """The weights of the parts.

        Args:
            query: (B, T, query_width), or (B, T, width), T words of each picture.
            hidden: what `hidden_units` returned for the same pictures.
            weights: (B, T, L), of the cells; what is missing to a sum of 1 is off the grid.

        Returns:
            (B, T, L * 4), of the same sums.
        """
        query = self.dropout(query)
        q = (query if self.query is None else self.query(query)) / math.sqrt(hidden.shape[2])
        weights = weights.float()
        whole = weights.sum(2, keepdim=True)
        share = weights / whole.clamp(min=_LEAST)
        # Cells of no weight, which are masked or beyond a window, have none in any part.
        prior = (self.exponent * share.clamp(min=_LEAST).log()).masked_fill(weights <= 0, _NONE)
        # q . (W h + b) = (W^T q) . h + q . b: there are fewer words than parts.
        products = (q @ self.key.weight) @ hidden.transpose(1, 2) + (q @ self.key.bias).unsqueeze(2)
        scores = products.float().unflatten(2, (-1, FINER * FINER)) + prior.unsqueeze(3)
        found: Tensor = scores.flatten(2).softmax(2) * whole
        return found


def maps_of_parts(weights: Tensor, shape: tuple[int, int], *, frames: int = 1) -> Tensor:
    """Weights (N, ..., L * 4) of parts as maps (N, ..., 2 h, 2 w), or (N, ..., frames, 2 h, 2 w) of a clip.

    Args:
        weights: as `FineMaps` returns them.
        shape: (h, w) of the grid.
        frames: of a clip, whose cells follow one another frame by frame.
    """
    height, width = shape
    parts = weights.unflatten(-1, (frames, height, width, FINER, FINER)).transpose(-2, -3)  # (..., h, 2, w, 2)
    maps: Tensor = parts.flatten(-2).flatten(-3, -2)  # (N, ..., frames, 2 h, 2 w)
    return maps if frames > 1 else maps.squeeze(-3)
