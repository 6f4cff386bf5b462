"""Attention mechanisms: each weighs the cells of a grid by a query and sums them up.

A mechanism is a subclass of `Attention` with an entry in `ATTENTIONS`: one module, one decorator. What acts on the grid
before the decoder is in `captioner.model.grid_attention`.

`VisionLanguageAttention` and `AttentionPooling` are for use on their own, on plain tensors.
"""

from captioner.model.attention.adaptive import AdaptiveAttention, VisualSentinel
from captioner.model.attention.additive import AdditiveAttention
from captioner.model.attention.base import ATTENTIONS, Attended, Attention, AttentionCache, masked_softmax
from captioner.model.attention.channel import ChannelAttention
from captioner.model.attention.dot_product import DotProductAttention
from captioner.model.attention.hard import HardAttention
from captioner.model.attention.hierarchical import HierarchicalAttention, TemporalAttention
from captioner.model.attention.local import LocalAttention, LocalPreviousAttention
from captioner.model.attention.memory import MemoryAttention
from captioner.model.attention.multihead import MultiHeadAttention
from captioner.model.attention.on_attention import AttentionOnAttention
from captioner.model.attention.pooling import AttentionPooling, Pooled
from captioner.model.attention.vision_language import ContextWeights, VisionLanguageAttention

__all__ = [
    "ATTENTIONS",
    "AdaptiveAttention",
    "AdditiveAttention",
    "Attended",
    "Attention",
    "AttentionCache",
    "AttentionOnAttention",
    "AttentionPooling",
    "ChannelAttention",
    "ContextWeights",
    "DotProductAttention",
    "HardAttention",
    "HierarchicalAttention",
    "LocalAttention",
    "LocalPreviousAttention",
    "MemoryAttention",
    "MultiHeadAttention",
    "Pooled",
    "TemporalAttention",
    "VisionLanguageAttention",
    "VisualSentinel",
    "masked_softmax",
]
