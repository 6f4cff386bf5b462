"""Multi-head attention (Vaswani et al. 2017, section 3.2.2)."""

import math

import torch.nn.functional as F
from torch import Tensor, nn

from captioner.errors import OptionError
from captioner.model.attention.base import ATTENTIONS, Attended, Attention, AttentionCache, masked_softmax
from captioner.model.grid import Grid
from captioner.model.quantised import UnquantisedLinear


@ATTENTIONS.register("multihead")
class MultiHeadAttention(Attention):
    """Several scaled dot products, each over its share of the width."""

    def __init__(self, *, text_width: int, image_width: int, width: int, heads: int = 8) -> None:
        super().__init__()
        if width % heads:
            raise OptionError(f"the attention's width {width} is not a multiple of its {heads} heads")
        self.heads = heads
        self.query = nn.Linear(text_width, width)
        self.key = UnquantisedLinear(image_width, width, bias=False)
        self.value = UnquantisedLinear(image_width, width)
        self.output = nn.Linear(width, image_width)

    def keys_values(self, grid: Grid) -> AttentionCache:
        """Keys and values of each head, (B, H, L, A / H), laid out so that no step copies them for its products."""
        keys = self._split(self.key(grid.features)).contiguous()
        values = self._split(self.value(grid.features)).contiguous()
        return AttentionCache.of(grid, keys, values)

    def forward(self, query: Tensor, cache: AttentionCache) -> Attended:
        """See `Attention.forward`."""
        q = self._split(self.query(query))  # (B, H, T, A / H)
        # Divided before the product, which would otherwise leave the range of half precision.
        scores = q / math.sqrt(q.shape[-1]) @ cache.keys.transpose(2, 3)  # (B, H, T, L)
        weights = masked_softmax(scores, None if cache.mask is None else cache.mask[:, None, None])
        return Attended.on_grid(self.output(self._join(weights @ cache.values)), weights)

    def context(self, query: Tensor, cache: AttentionCache) -> Tensor:
        """The context alone, (B, T, D), by the fused kernel, which returns no weights."""
        q = self._split(self.query(query))
        mask = None if cache.mask is None else cache.mask[:, None, None]
        context = F.scaled_dot_product_attention(q, cache.keys, cache.values, attn_mask=mask)
        joined: Tensor = self.output(self._join(context))
        return joined

    def _split(self, x: Tensor) -> Tensor:
        split: Tensor = x.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (B, T, A) -> (B, H, T, A / H)
        return split

    def _join(self, x: Tensor) -> Tensor:
        return x.transpose(1, 2).flatten(2)  # (B, H, T, A / H) -> (B, T, A)
