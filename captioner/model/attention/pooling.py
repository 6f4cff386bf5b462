"""Attention pooling: latent queries read the cells (Perceiver, Jaegle et al. 2021)."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from captioner.errors import OptionError
from captioner.model.attention.base import Attended
from captioner.model.attention.multihead import MultiHeadAttention
from captioner.model.grid import Grid


class Pooled(NamedTuple):
    """What `AttentionPooling` returns.

    Attributes:
        vectors: (B, Q, D), one for each latent query.
        weights: (B, H, Q, L), the map of each query in each head; each row sums to 1.
    """

    vectors: Tensor
    weights: Tensor


class AttentionPooling(nn.Module):
    """Learned latent queries attend to the cells once, and a feed-forward layer follows.

    Jaegle et al. 2021, "Perceiver: General Perception with Iterative Attention", section 3.1 and figure 1, one
    cross-attention (https://arxiv.org/abs/2103.03206): ``x = z + MHA(norm(z), norm(cells))``, then
    ``x + MLP(norm(x))``. However many cells there are, ``queries`` vectors come out:

    >>> pooling = AttentionPooling(width=1024, queries=128, heads=8)
    >>> vectors, weights = pooling(torch.randn(16, 196, 1024))
    >>> vectors.shape, weights.shape
    (torch.Size([16, 128, 1024]), torch.Size([16, 8, 128, 196]))

    Args:
        width: D, of the cells and of the latents.
        queries: Q.
        heads: H.
        dropout: on what attention and feed-forward layer add.

    Raises:
        OptionError: no queries, or a width that is no multiple of the heads.
    """

    def __init__(self, *, width: int, queries: int = 128, heads: int = 8, dropout: float = 0.0) -> None:
        super().__init__()
        if queries < 1:
            raise OptionError(f"attention pooling needs 1 query or more, not {queries}")
        self.latents = nn.Parameter(torch.randn(queries, width) * 0.02)
        self.query_norm = nn.LayerNorm(width)
        self.cells_norm = nn.LayerNorm(width)
        self.attention = MultiHeadAttention(text_width=width, image_width=width, width=width, heads=heads)
        self.feed_forward = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, width), nn.GELU(), nn.Linear(width, width)
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, cells: Tensor, mask: Tensor | None = None) -> Pooled:
        """Pool the cells (B, L, D); ``mask`` (B, L) is True where a cell holds picture, None where every cell does."""
        grid = Grid(self.cells_norm(cells), (1, cells.shape[1]), mask)
        latents = self.latents.expand(cells.shape[0], -1, -1)  # (B, Q, D)
        attended: Attended = self.attention(self.query_norm(latents), self.attention.keys_values(grid))
        x = latents + self.dropout(attended.context)
        return Pooled(x + self.dropout(self.feed_forward(x)), attended.weights)
