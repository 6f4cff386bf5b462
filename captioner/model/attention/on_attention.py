"""Attention on attention: what was attended to is judged by the query once more (Huang et al. 2019)."""

import torch
from torch import Tensor, nn

from captioner.model.attention.base import ATTENTIONS, Attended, AttentionCache
from captioner.model.attention.multihead import MultiHeadAttention


@ATTENTIONS.register("attention_on_attention")
class AttentionOnAttention(MultiHeadAttention):
    """Multi-head attention whose result is gated by itself and the query.

    Huang et al. 2019, "Attention on Attention for Image Captioning", equations 3 to 5
    (https://arxiv.org/abs/1908.06954): an information vector ``i = W_q q + W_v v + b`` and a gate
    ``g = sigmoid(V_q q + V_v v + c)`` of the query and the attended vector ``v``; the context is ``g * i``.
    ``others`` has "gate" (B, T, D), the share of each channel that is let through.
    """

    def __init__(self, *, text_width: int, image_width: int, width: int, heads: int = 8) -> None:
        super().__init__(text_width=text_width, image_width=image_width, width=width, heads=heads)
        self.information = nn.Linear(text_width + image_width, image_width)
        self.gate = nn.Linear(text_width + image_width, image_width)

    def forward(self, query: Tensor, cache: AttentionCache) -> Attended:
        """See `Attention.forward`."""
        attended = super().forward(query, cache)
        context, gate = self._judge(query, attended.context)
        return Attended.on_grid(context, attended.weights, gate=gate)

    def context(self, query: Tensor, cache: AttentionCache) -> Tensor:
        """See `Attention.context`."""
        return self._judge(query, super().context(query, cache))[0]

    def _judge(self, query: Tensor, found: Tensor) -> tuple[Tensor, Tensor]:
        both = torch.cat((query, found), -1)
        gate: Tensor = self.gate(both).sigmoid()
        return gate * self.information(both), gate
