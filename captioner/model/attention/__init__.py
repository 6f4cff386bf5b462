"""Attention mechanisms: each weighs the cells of a grid by a query and sums them up.

A mechanism is a subclass of `Attention` with an entry in `ATTENTIONS`: one module, one decorator.
"""

from captioner.model.attention.additive import AdditiveAttention
from captioner.model.attention.base import ATTENTIONS, Attended, Attention, AttentionCache, masked_softmax
from captioner.model.attention.dot_product import DotProductAttention
from captioner.model.attention.multihead import MultiHeadAttention

__all__ = [
    "ATTENTIONS",
    "AdditiveAttention",
    "Attended",
    "Attention",
    "AttentionCache",
    "DotProductAttention",
    "MultiHeadAttention",
    "masked_softmax",
]
