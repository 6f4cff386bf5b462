"""Co-attention: a question weighs the cells of a picture, and the picture weighs the words of the question.

A mechanism is a subclass of `CoAttention` with an entry in `CO_ATTENTIONS`: one module, one decorator.
"""

from captioner.model.co_attention.alternating import AlternatingCoAttention
from captioner.model.co_attention.base import CO_ATTENTIONS, Cells, CoAttended, CoAttention
from captioner.model.co_attention.multihead import MultiHeadCoAttention
from captioner.model.co_attention.parallel import ParallelCoAttention

__all__ = [
    "CO_ATTENTIONS",
    "AlternatingCoAttention",
    "Cells",
    "CoAttended",
    "CoAttention",
    "MultiHeadCoAttention",
    "ParallelCoAttention",
]
