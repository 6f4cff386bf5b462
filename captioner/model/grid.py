"""The grid: what a picture is to a decoder."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Grid:
    """Feature vectors of ``B`` pictures on ``h x w`` cells, row-major.

    A refiner may replace the cells by ``L`` vectors that are each a weighted sum of cells (latent queries, coarse
    cells); ``sources`` then holds their weights, and the maps of words still lie on the cells.

    Attributes:
        features: (B, L, D) with L = frames * h * w, or as many as ``sources`` has.
        shape: (h, w).
        mask: (B, L), True where the vector is of picture; None where every one is.
        frames: of a clip, whose cells follow one another frame by frame; 1 for a picture.
        sources: (B, L, frames * h * w), the weight of every cell in each vector, which sum to 1; None where the vectors
            are the cells.
        fine: (B, frames * h * w, 4 F), the features of the 2 x 2 parts of each cell, which finer maps are made of; None
            without. See `captioner.model.fine_maps`.
        members: what the refiners of an ensemble's members made of the same pictures, by the numbers of these members.
        weights: what the refiner weighed with, by name, where it has such weights; see its docstring. For
            instance "spatial" (B, h * w) or "channels" (B, D).
        pooled: (B, C), the mean of the encoder's vectors over the cells, for a model with a reranker; None without one.
    """

    features: Tensor
    shape: tuple[int, int]
    mask: Tensor | None = None
    frames: int = 1
    sources: Tensor | None = None
    fine: Tensor | None = None
    members: "Mapping[int, Grid]" = field(default_factory=dict)
    weights: Mapping[str, Tensor] = field(default_factory=dict)
    pooled: Tensor | None = None

    def __post_init__(self) -> None:
        cells = self.frames * self.shape[0] * self.shape[1]
        vectors = cells if self.sources is None else self.sources.shape[1]
        if self.features.dim() != 3 or self.features.shape[1] != vectors:
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
        chosen: dict[str, Any] = {
            name: value[images] for name, value in vars(self).items() if isinstance(value, Tensor)
        }
        members = {number: grid.select(images) for number, grid in self.members.items()}
        weights = {name: value[images] for name, value in self.weights.items()}
        return replace(self, **chosen, members=members, weights=weights)

    @classmethod
    def together(cls, grids: Sequence["Grid"]) -> "Grid":
        """The grids of all pictures of some grids of one shape, in their order."""
        first, *more = grids
        if not more:
            return first
        whole: dict[str, Any] = {
            name: torch.cat([getattr(one, name) for one in grids])
            for name, value in vars(first).items()
            if isinstance(value, Tensor)
        }
        members = {number: cls.together([one.members[number] for one in grids]) for number in first.members}
        weights = {name: torch.cat([one.weights[name] for one in grids]) for name in first.weights}
        return replace(first, **whole, members=members, weights=weights)

    def with_features(self, features: Tensor) -> "Grid":
        return replace(self, features=features)

    def maps(self, weights: Tensor) -> Tensor:
        """Weights (N, ..., L) over the vectors as maps over the cells; see `maps_of`."""
        return maps_of(weights, self.shape, frames=self.frames, sources=self.sources)

    @classmethod
    def of_frames(cls, grid: "Grid") -> "Grid":
        """The grid of one clip, of the grids of its ``B`` frames: all their vectors, frame by frame."""
        mask = None if grid.mask is None else grid.mask.reshape(1, -1)
        # A frame's vectors are of its own cells.
        sources = None if grid.sources is None else torch.block_diag(*grid.sources)[None]
        fine = None if grid.fine is None else grid.fine.flatten(0, 1)[None]
        return cls(
            grid.features.flatten(0, 1)[None],
            grid.shape,
            mask,
            frames=len(grid),
            sources=sources,
            fine=fine,
            members={number: cls.of_frames(one) for number, one in grid.members.items()},
            pooled=None if grid.pooled is None else grid.pooled.mean(0, keepdim=True),
        )


def maps_of(weights: Tensor, shape: tuple[int, int], *, frames: int = 1, sources: Tensor | None = None) -> Tensor:
    """Weights over the vectors of grids as maps over their cells.

    Args:
        weights: (N, ..., L); N is a multiple of B, and the rows of a picture follow one another.
        shape, frames, sources: as of `Grid`.

    Returns:
        (N, ..., h, w), or (N, ..., frames, h, w) for clips. Their sums are those of the weights.
    """
    if sources is not None:
        per_picture = weights.reshape(sources.shape[0], -1, weights.shape[-1])  # (B, k * ..., L)
        weights = (per_picture @ sources).reshape(*weights.shape[:-1], sources.shape[-1])
    maps: Tensor = weights.unflatten(-1, shape if frames == 1 else (frames, *shape))
    return maps
