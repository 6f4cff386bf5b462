"""Where to look: mechanisms that weigh the cells of a grid by a query and sum them up.

Each has the same two steps. ``look_at(grid)`` does once per picture what does not depend on the query;
``forward(query, seen)`` answers ``T`` queries per picture with a context vector and the weights over the
``L`` cells; ``forward_heads`` gives the weights of each head. Captions of one picture, or beams, are rows of
``T``: the grid is never copied for them.

A new mechanism is a subclass of `Attention` and an entry in `ATTENTIONS`; one that changes the grid rather
than weighing it belongs in `captioner.model.grid`.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from captioner.errors import OptionError
from captioner.model.grid import Grid


@dataclass(frozen=True)
class Seen:
    """What a mechanism keeps of ``B`` grids: keys to compare with, values to sum, the mask of valid cells."""

    keys: Tensor  # (B, L, A), or (B, H, L, A / H) with heads
    values: Tensor  # (B, L, D), or (B, H, L, D / H) with heads
    mask: Tensor | None  # (B, L)


def masked_softmax(scores: Tensor, mask: Tensor | None) -> Tensor:
    """Softmax over the last dimension, exactly 0 where ``mask`` is False.

    In float32 whatever the input's type; a row with no valid cell is all 0 rather than NaN.

    Args:
        scores: (..., L).
        mask: broadcastable to ``scores``; True where a cell may be looked at.
    """
    wide = scores.float()
    if mask is None:
        return wide.softmax(-1).to(scores.dtype)
    lowest = torch.finfo(torch.float32).min
    weights = wide.masked_fill(~mask, lowest).softmax(-1)
    return (weights * mask).to(scores.dtype)


class Attention(nn.Module):
    """The interface of every mechanism; see the module's text.

    Attributes:
        listener: is told the weights of each head, (B, H, T, L), whenever some are made: the very tensor that the
            context comes of, so that gradients reach it. `captioner.explain.maps` reads heads and gradients so.
    """

    listener: Callable[[Tensor], None] | None = None

    def look_at(self, grid: Grid) -> Seen:
        """Keys and values of the grid, computed once per picture."""
        raise NotImplementedError

    def forward(self, query: Tensor, seen: Seen) -> tuple[Tensor, Tensor]:
        """Answer queries.

        Args:
            query: (B, T, D_text).
            seen: what `look_at` returned for the same ``B`` pictures.

        Returns:
            The context (B, T, D_image) and the weights (B, T, L), which sum to 1 over the valid cells; with heads
            the mean over them.
        """
        context, weights = self.forward_heads(query, seen)
        return context, weights.mean(1)

    def forward_heads(self, query: Tensor, seen: Seen) -> tuple[Tensor, Tensor]:
        """As `forward`, but the weights of each head: (B, H, T, L)."""
        raise NotImplementedError

    def _tell(self, weights: Tensor) -> None:
        if self.listener is not None:
            self.listener(weights)


class _OneHead(Attention):
    """What mechanisms of a single head share."""

    def _sum_up(self, scores: Tensor, seen: Seen) -> tuple[Tensor, Tensor]:
        """Context (B, T, D_image) and weights (B, 1, T, L) of scores (B, T, L)."""
        weights = masked_softmax(scores, None if seen.mask is None else seen.mask[:, None]).unsqueeze(1)
        self._tell(weights)
        return (weights @ seen.values.unsqueeze(1)).squeeze(1), weights


class AdditiveAttention(_OneHead):
    """Scores by a small network over query and cell: ``v . tanh(W q + U k)``.

    Bahdanau et al. 2015; the soft attention of Show, Attend and Tell (Xu et al. 2015, eq. 4-6, 13).
    """

    def __init__(self, *, text_width: int, image_width: int, width: int, heads: int = 1) -> None:
        super().__init__()
        _one_head(self, heads)
        self.query = nn.Linear(text_width, width)
        self.key = nn.Linear(image_width, width, bias=False)
        self.score = nn.Linear(width, 1, bias=False)

    def look_at(self, grid: Grid) -> Seen:
        return Seen(self.key(grid.features), grid.features, grid.mask)

    def forward_heads(self, query: Tensor, seen: Seen) -> tuple[Tensor, Tensor]:
        hidden = self.query(query).unsqueeze(2) + seen.keys.unsqueeze(1)  # (B, T, L, A)
        scores = self.score(hidden.tanh()).squeeze(-1)  # (B, T, L)
        return self._sum_up(scores, seen)


class DotProductAttention(_OneHead):
    """Text and image in a common space; scores are scaled dot products (Vaswani et al. 2017, eq. 1)."""

    def __init__(self, *, text_width: int, image_width: int, width: int, heads: int = 1) -> None:
        super().__init__()
        _one_head(self, heads)
        self.query = nn.Linear(text_width, width)
        self.key = nn.Linear(image_width, width, bias=False)

    def look_at(self, grid: Grid) -> Seen:
        return Seen(self.key(grid.features), grid.features, grid.mask)

    def forward_heads(self, query: Tensor, seen: Seen) -> tuple[Tensor, Tensor]:
        q = self.query(query)  # (B, T, A)
        scores = q @ seen.keys.transpose(1, 2) / math.sqrt(q.shape[-1])  # (B, T, L)
        return self._sum_up(scores, seen)


class MultiHeadAttention(Attention):
    """Several scaled dot products, each over its share of the width (Vaswani et al. 2017, section 3.2.2)."""

    def __init__(self, *, text_width: int, image_width: int, width: int, heads: int = 8) -> None:
        super().__init__()
        if width % heads:
            raise OptionError(f"the attention's width {width} is not a multiple of its {heads} heads")
        self.heads = heads
        self.query = nn.Linear(text_width, width)
        self.key = nn.Linear(image_width, width, bias=False)
        self.value = nn.Linear(image_width, width)
        self.output = nn.Linear(width, image_width)

    def look_at(self, grid: Grid) -> Seen:
        keys = self._split(self.key(grid.features))
        values = self._split(self.value(grid.features))
        return Seen(keys, values, grid.mask)

    def forward_heads(self, query: Tensor, seen: Seen) -> tuple[Tensor, Tensor]:
        q = self._split(self.query(query))  # (B, H, T, A / H)
        scores = q @ seen.keys.transpose(2, 3) / math.sqrt(q.shape[-1])  # (B, H, T, L)
        mask = None if seen.mask is None else seen.mask[:, None, None]
        weights = masked_softmax(scores, mask)
        self._tell(weights)
        return self.output(self._join(weights @ seen.values)), weights

    def forward_fused(self, query: Tensor, seen: Seen) -> Tensor:
        """The context alone, by the fused kernel, for where nobody asks for the weights: (B, T, D_image)."""
        q = self._split(self.query(query))
        mask = None if seen.mask is None else seen.mask[:, None, None]
        context = F.scaled_dot_product_attention(q, seen.keys, seen.values, attn_mask=mask)
        joined: Tensor = self.output(self._join(context))
        return joined

    def _split(self, x: Tensor) -> Tensor:
        split: Tensor = x.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (B, T, A) -> (B, H, T, A / H)
        return split

    def _join(self, x: Tensor) -> Tensor:
        return x.transpose(1, 2).flatten(2)  # (B, H, T, A / H) -> (B, T, A)


ATTENTIONS: dict[str, type[Attention]] = {
    "additive": AdditiveAttention,
    "dot": DotProductAttention,
    "multihead": MultiHeadAttention,
}


def build_attention(name: str, *, text_width: int, image_width: int, width: int, heads: int) -> Attention:
    """The mechanism of that name, for queries of ``text_width`` over cells of ``image_width``.

    Raises:
        OptionError: no such mechanism, or heads that it cannot have.
    """
    if name not in ATTENTIONS:
        raise OptionError(f"no attention is called '{name}'; there are {', '.join(ATTENTIONS)}")
    kind = ATTENTIONS[name]
    return kind(text_width=text_width, image_width=image_width, width=width, heads=heads)


def _one_head(attention: Attention, heads: int) -> None:
    if heads != 1:
        raise OptionError(f"{type(attention).__name__} has one head, not {heads}; 'multihead' has several")
