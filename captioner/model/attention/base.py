"""What every attention mechanism takes and returns.

A mechanism works in two steps. ``keys_values(grid)`` computes once per picture what does not depend on the query.
``forward(query, cache)`` answers ``T`` queries per picture. The captions of a picture, or its beams, are rows of
``T``: the grid is never copied for them.

Attention is a value: `Attended` holds the context, the weights of every head and the weight off the grid. Nothing
is stored on a module between calls, so threads, gradients and exported graphs see the same numbers.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Self

import torch
from torch import Tensor, nn

from captioner.errors import OptionError
from captioner.model.grid import Grid, maps_of
from captioner.model.quantised import UnquantisedLinear
from captioner.registry import Registry


@dataclass(frozen=True)
class AttentionCache:
    """What a mechanism keeps of ``B`` grids. A mechanism that needs more subclasses it.

    Attributes:
        keys: to compare queries with: (B, L, A), or (B, H, L, A / H) with heads.
        values: to sum: (B, L, D), or (B, H, L, D / H) with heads.
        mask: (B, L), True where a cell holds picture; None where every cell does.
        shape: (h, w) of the grid, row-major, with h * w = L for a picture whose vectors are its cells.
        frames, sources: as of `captioner.model.grid.Grid`.
    """

    keys: Tensor
    values: Tensor
    mask: Tensor | None
    shape: tuple[int, int]
    frames: int = 1
    sources: Tensor | None = None

    @classmethod
    def of(cls, grid: Grid, keys: Tensor, values: Tensor) -> Self:
        """The cache of a grid's keys and values."""
        return cls(keys, values, grid.mask, grid.shape, grid.frames, grid.sources)

    def maps(self, weights: Tensor) -> Tensor:
        """Weights (N, L) as maps over the cells; see `captioner.model.grid.maps_of`."""
        return maps_of(weights, self.shape, frames=self.frames, sources=self.sources)

    def __len__(self) -> int:
        """B, the number of pictures."""
        return self.keys.shape[0]

    def select(self, images: Tensor) -> "AttentionCache":
        """The cache of some of the pictures, (M,) indices, of which every tensor has the pictures as its first axis."""
        chosen: dict[str, Any] = {
            name: value[images] for name, value in vars(self).items() if isinstance(value, Tensor)
        }
        return replace(self, **chosen)


@dataclass(frozen=True)
class Attended:
    """What a mechanism returns for ``T`` queries on each of ``B`` pictures.

    For every head and query, ``weights.sum(-1) + off_grid`` is 1.

    Attributes:
        context: (B, T, D), the weighted sum.
        weights: (B, H, T, L), the weight of each cell. It is the tensor that the context was computed from, so
            gradients reach it.
        off_grid: (B, H, T), the weight of what is no cell: a sentinel, a memory slot, a null key. 0 without any.
        others: weights of the mechanism that are not over cells, by name, each (B, T, ...): "slots" of a memory,
            "channels", "regions", "frames". The mechanism's docstring says which.
    """

    context: Tensor
    weights: Tensor
    off_grid: Tensor
    others: Mapping[str, Tensor] = field(default_factory=dict)

    @classmethod
    def on_grid(cls, context: Tensor, weights: Tensor, **others: Tensor) -> "Attended":
        """Attention that lies on the grid alone."""
        return cls(context, weights, weights.new_zeros(weights.shape[:-1]), others)


def masked_softmax(scores: Tensor, mask: Tensor | None) -> Tensor:
    """Softmax over the last dimension, exactly 0 where ``mask`` is False.

    It is computed in float32 whatever the input's type. A row with no valid cell is all 0 rather than NaN.

    Args:
        scores: (..., L).
        mask: broadcastable to ``scores``; True where a cell may be attended to.
    """
    wide = scores.float()
    if mask is None:
        return wide.softmax(-1).to(scores.dtype)
    lowest = torch.finfo(torch.float32).min
    weights = wide.masked_fill(~mask, lowest).softmax(-1)
    return (weights * mask).to(scores.dtype)


class Attention(nn.Module):
    """The interface of every mechanism; see the module's docstring.

    The constructor takes ``text_width`` (of queries), ``image_width`` (D, of cells and of the context), ``width`` (A,
    of the space in which both are compared) and ``heads`` (H), all by keyword, and options of its own after them.

    Raises:
        OptionError: the mechanism cannot have so many heads, or an option is out of its range.

    Attributes:
        takes: what `forward` takes of a decoder's step beside the query, by keyword: "sentinel" (B, T, text_width), the
            visual sentinel of `captioner.model.attention.adaptive.VisualSentinel`; "previous" (B, T, L), the weights of
            the step before, None at the first.
        needs_steps: whether it is only for decoders with one layer of attention that go word by word.
        has_off_grid: whether `Attended.off_grid` may be above 0.
    """

    takes: tuple[str, ...] = ()
    needs_steps: bool = False
    has_off_grid: bool = False

    def keys_values(self, grid: Grid) -> AttentionCache:
        """Keys and values of the grid, computed once per picture."""
        raise NotImplementedError

    def forward(self, query: Tensor, cache: AttentionCache) -> Attended:
        """Attend.

        Args:
            query: (B, T, D_text).
            cache: what `keys_values` returned for the same ``B`` pictures.
        """
        raise NotImplementedError

    def context(self, query: Tensor, cache: AttentionCache) -> Tensor:
        """The context alone, (B, T, D), where a mechanism has a faster way to it."""
        attended: Attended = self(query, cache)
        return attended.context


ATTENTIONS: Registry[Callable[..., Attention]] = Registry("attention mechanism")
"""Classes of mechanisms, or functions that make one, with the arguments of `Attention` and options of their own."""


def build_attention(
    name: str, *, text_width: int, image_width: int, width: int, heads: int, options: Mapping[str, Any] | None = None
) -> Attention:
    """The mechanism of that name, for queries of ``text_width`` over cells of ``image_width``.

    Args:
        name: an entry of `ATTENTIONS`.
        text_width, image_width, width, heads: as of `Attention`.
        options: of this mechanism, by name; see its class.

    Raises:
        OptionError: no such mechanism, heads that it cannot have, or options that it does not know.
    """
    mechanism = ATTENTIONS[name]
    try:
        return mechanism(
            text_width=text_width, image_width=image_width, width=width, heads=heads, **dict(options or {})
        )
    except TypeError as error:
        if not options:
            raise
        raise OptionError(
            f"the attention '{name}' does not take the options {', '.join(options)} ({error})",
            remedy="leave out attention_options, or see the docstring of the mechanism",
        ) from None


class SingleHeadAttention(Attention):
    """What mechanisms with one head over the whole width share."""

    def __init__(self, *, text_width: int, image_width: int, width: int, heads: int = 1) -> None:
        super().__init__()
        if heads != 1:
            raise OptionError(
                f"{type(self).__name__} has one head, not {heads}", remedy="set heads to 1; 'multihead' has several"
            )
        self.query = nn.Linear(text_width, width)
        self.key = UnquantisedLinear(image_width, width, bias=False)

    def keys_values(self, grid: Grid) -> AttentionCache:
        """Projected keys; the cells themselves are the values."""
        return AttentionCache.of(grid, self.key(grid.features), grid.features)

    def scores(self, query: Tensor, keys: Tensor) -> Tensor:
        """Scores (B, T, L) of projected queries (B, T, A) against keys (B, L, A)."""
        raise NotImplementedError

    def forward(self, query: Tensor, cache: AttentionCache) -> Attended:
        """See `Attention.forward`."""
        scores = self.scores(self.query(query), cache.keys)
        mask = None if cache.mask is None else cache.mask[:, None]
        weights = masked_softmax(scores, mask).unsqueeze(1)  # (B, 1, T, L)
        return Attended.on_grid((weights @ cache.values.unsqueeze(1)).squeeze(1), weights)
