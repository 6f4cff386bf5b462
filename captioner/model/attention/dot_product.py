"""Scaled dot-product attention with one head (Vaswani et al. 2017, equation 1)."""

import math

from torch import Tensor

from captioner.model.attention.base import ATTENTIONS, SingleHeadAttention


@ATTENTIONS.register("dot")
class DotProductAttention(SingleHeadAttention):
    """Text and image in a common space; scores are ``q . k / sqrt(A)``."""

    def scores(self, query: Tensor, keys: Tensor) -> Tensor:
        # Divided before the product, which would otherwise leave the range of half precision.
        return query / math.sqrt(query.shape[-1]) @ keys.transpose(1, 2)
