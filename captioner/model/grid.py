"""The grid: what a picture is to a decoder."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Grid:
    """Feature vectors of ``B`` pictures on ``h x w`` cells, row-major.

    Attributes:
        features: (B, h * w, D).
        shape: (h, w).
        mask: (B, h * w), True where the cell holds picture; None where every cell does.
    """

    features: Tensor
    shape: tuple[int, int]
    mask: Tensor | None = None

    def __post_init__(self) -> None:
        if self.features.dim() != 3 or self.features.shape[1] != self.shape[0] * self.shape[1]:
            raise ValueError(f"features of shape {tuple(self.features.shape)} do not fill a grid of {self.shape} cells")

    def __len__(self) -> int:
        return self.features.shape[0]

    def mean(self) -> Tensor:
        """The mean feature vector over the cells that hold picture, (B, D)."""
        if self.mask is None:
            return self.features.mean(1)
        weight = self.mask.to(self.features.dtype)
        return torch.einsum("bl,bld->bd", weight, self.features) / weight.sum(1, keepdim=True).clamp(min=1)

    def select(self, images: Tensor) -> "Grid":
        """The grids of some of the pictures, (M,) indices."""
        return Grid(self.features[images], self.shape, None if self.mask is None else self.mask[images])

    def with_features(self, features: Tensor) -> "Grid":
        return Grid(features, self.shape, self.mask)
