"""Multi-head attention with learned memory slots beside the cells (Cornia et al. 2020)."""

import math

import torch
from torch import Tensor, nn

from captioner.errors import OptionError
from captioner.model.attention.base import ATTENTIONS, Attended, Attention, AttentionCache, masked_softmax
from captioner.model.attention.multihead import MultiHeadAttention


@ATTENTIONS.register("memory")
class MemoryAttention(MultiHeadAttention):
    """Keys ``[W_k X; M_k]`` and values ``[W_v X; M_v]`` with learned slots ``M``, which hold what no picture shows.

    Cornia et al. 2020, "Meshed-Memory Transformer for Image Captioning", equations 2 and 3
    (https://arxiv.org/abs/1912.08226), there in the encoder. The slots' weight is ``off_grid``; ``others`` has "slots"
    (B, T, H, M), the weight of each.

    Args:
        slots: M, of each head.
    """

    has_off_grid = True

    def __init__(self, *, text_width: int, image_width: int, width: int, heads: int = 8, slots: int = 40) -> None:
        super().__init__(text_width=text_width, image_width=image_width, width=width, heads=heads)
        if slots < 1:
            raise OptionError(f"memory attention needs 1 slot or more, not {slots}")
        share = width // heads
        self.slot_keys = nn.Parameter(torch.randn(heads, slots, share) / share)
        self.slot_values = nn.Parameter(torch.randn(heads, slots, share) / slots)

    def forward(self, query: Tensor, cache: AttentionCache) -> Attended:
        """See `Attention.forward`."""
        q = self._split(self.query(query))  # (B, H, T, A / H)
        q = q / math.sqrt(q.shape[-1])  # before the products, which would otherwise leave the range of half precision
        cells = q @ cache.keys.transpose(2, 3)  # (B, H, T, L)
        slots = q @ self.slot_keys.transpose(1, 2)  # (B, H, T, M)
        mask = cache.mask
        if mask is not None:
            mask = torch.cat((mask, mask.new_ones(mask.shape[0], slots.shape[-1])), 1)[:, None, None]
        both = masked_softmax(torch.cat((cells, slots), 3), mask)
        weights, memory = both.split((cells.shape[-1], slots.shape[-1]), 3)
        context = self.output(self._join(weights @ cache.values + memory @ self.slot_values))
        return Attended(context, weights, memory.sum(-1), {"slots": memory.transpose(1, 2)})

    def context(self, query: Tensor, cache: AttentionCache) -> Tensor:
        """See `Attention.context`."""
        return Attention.context(self, query, cache)
