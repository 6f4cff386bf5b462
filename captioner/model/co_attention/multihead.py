"""Alternating co-attention with scaled dot products of several heads.

The three steps are those of Lu et al. 2016, section 3.3; each attends as in Vaswani et al. 2017, section 3.2.2. The
first step asks with a learned query, as there is no guide yet. The weights of a head cost one product of vectors a
cell instead of a hyperbolic tangent a cell and unit.
"""

import math

import torch
from torch import Tensor, nn

from captioner.errors import OptionError
from captioner.model.attention.base import masked_softmax
from captioner.model.co_attention.base import CO_ATTENTIONS, Cells, CoAttended, CoAttention
from captioner.model.grid import Grid


@CO_ATTENTIONS.register("multihead")
class MultiHeadCoAttention(CoAttention):
    """Sum up the question; attend to the picture under that; attend to the words under the picture."""

    def __init__(self, *, width: int, heads: int = 8) -> None:
        super().__init__()
        if width % heads:
            raise OptionError(f"the co-attention's width {width} is not a multiple of its {heads} heads")
        self.heads = heads
        self.learned = nn.Parameter(torch.randn(width) / math.sqrt(width))
        self.word_key, self.word_value = nn.Linear(width, width, bias=False), nn.Linear(width, width)
        self.cell_query, self.cell_key = nn.Linear(width, width), nn.Linear(width, width, bias=False)
        self.cell_value, self.cell_output = nn.Linear(width, width), nn.Linear(width, width)
        self.word_query, self.word_output = nn.Linear(width, width), nn.Linear(width, width)
        # Without these the contexts grow in training until both softmaxes are saturated.
        self.picture_norm, self.question_norm = nn.LayerNorm(width), nn.LayerNorm(width)

    def prepare(self, grid: Grid) -> Cells:
        """Values and keys of each head, (B, H, L, D / H)."""
        keys, values = self._heads(self.cell_key(grid.features)), self._heads(self.cell_value(grid.features))
        return Cells(values.transpose(1, 2), keys.transpose(1, 2), grid.mask)

    def forward(self, words: Tensor, mask: Tensor, cells: Cells) -> CoAttended:
        """See `CoAttention.forward`."""
        keys = self._heads(self.word_key(words)).transpose(2, 3)  # (B, k, H, T, A)
        values = self._heads(self.word_value(words)).transpose(2, 3)
        learned = self._heads(self.learned).to(keys.dtype)  # (H, A)
        _, summary = self._over_words(learned.expand(*keys.shape[:3], keys.shape[-1]), keys, values, mask)
        query = self._heads(self.cell_query(summary)).transpose(1, 2)  # (B, H, k, A)
        # Divided before the product, which would otherwise leave the range of half precision; so below.
        scores = query / math.sqrt(query.shape[-1]) @ cells.keys.transpose(2, 3)  # (B, H, k, L)
        a_cells = masked_softmax(scores, None if cells.mask is None else cells.mask[:, None, None])
        picture = self.picture_norm(self.cell_output((a_cells @ cells.values).transpose(1, 2).flatten(2)))  # (B, k, D)
        a_words, question = self._over_words(self._heads(self.word_query(picture)), keys, values, mask)
        return CoAttended(picture, self.question_norm(self.word_output(question)), a_cells, a_words.transpose(1, 2))

    def _over_words(self, query: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Queries (B, k, H, A) over the words of each question: weights (B, k, H, T) and context (B, k, D)."""
        scores = (keys @ (query / math.sqrt(query.shape[-1])).unsqueeze(-1)).squeeze(-1)
        weights = masked_softmax(scores, mask.unsqueeze(2))
        return weights, (weights.unsqueeze(3) @ values).squeeze(3).flatten(2)

    def _heads(self, x: Tensor) -> Tensor:
        heads: Tensor = x.unflatten(-1, (self.heads, -1))  # (..., D) -> (..., H, A)
        return heads
