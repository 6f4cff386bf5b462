"""Adaptive attention with a visual sentinel (Lu et al. 2017, "Knowing When to Look").

https://arxiv.org/abs/1612.01887
"""

import torch
from torch import Tensor, nn

from captioner.model.attention.additive import AdditiveAttention
from captioner.model.attention.base import ATTENTIONS, Attended, AttentionCache, masked_softmax


class VisualSentinel(nn.Module):
    """What an LSTM knows without the picture: ``s_t = sigmoid(W_x x_t + W_h h_{t-1}) * tanh(m_t)`` (equations 9, 10).

    Args:
        input_width: of the LSTM's input ``x_t``.
        width: of its hidden state.
    """

    def __init__(self, *, input_width: int, width: int) -> None:
        super().__init__()
        self.gate_input = nn.Linear(input_width, width)
        self.gate_hidden = nn.Linear(width, width, bias=False)

    def forward(self, inputs: Tensor, before: Tensor, cell: Tensor) -> Tensor:
        """The sentinel (N, width) of the step's input (N, input_width), the hidden state before it and the memory cell
        ``m_t`` after it (N, width)."""
        gate: Tensor = (self.gate_input(inputs) + self.gate_hidden(before)).sigmoid()
        return gate * cell.tanh()


@ATTENTIONS.register("adaptive")
class AdaptiveAttention(AdditiveAttention):
    """Additive attention over the cells and a sentinel that is no cell; its weight is ``off_grid``.

    Lu et al. 2017, equations 6 to 8, 11 and 12: one softmax over ``[z; v . tanh(W_s s + W q)]``, whose last weight
    is ``beta = off_grid``; the context is ``beta s + (1 - beta) c``, with ``s`` projected to the cells' width.
    ``1 - off_grid`` is the share of the attention on the picture.

    A decoder with a memory cell gives `VisualSentinel`'s value. Without one the query stands in its place, as the
    language signal of Zhang et al. 2021 ("RSTNet") does in a Transformer.
    """

    takes = ("sentinel",)
    has_off_grid = True

    def __init__(self, *, text_width: int, image_width: int, width: int, heads: int = 1) -> None:
        super().__init__(text_width=text_width, image_width=image_width, width=width, heads=heads)
        self.sentinel_key = nn.Linear(text_width, width, bias=False)
        self.sentinel_value = nn.Linear(text_width, image_width)

    def forward(self, query: Tensor, cache: AttentionCache, sentinel: Tensor | None = None) -> Attended:
        """See `Attention.forward`; ``sentinel`` (B, T, text_width), None for the query itself."""
        sentinel = query if sentinel is None else sentinel
        q = self.query(query)  # (B, T, A)
        own = self.score((q + self.sentinel_key(sentinel)).tanh())  # (B, T, 1)
        mask = cache.mask
        if mask is not None:
            mask = torch.cat((mask, mask.new_ones(mask.shape[0], 1)), 1)[:, None]  # (B, 1, L + 1)
        both = masked_softmax(torch.cat((self.scores(q, cache.keys), own), 2), mask)  # (B, T, L + 1)
        weights, beta = both[:, None, :, :-1], both[..., -1:]  # (B, 1, T, L), (B, T, 1)
        seen = (weights @ cache.values.unsqueeze(1)).squeeze(1)  # (B, T, D)
        return Attended(seen + beta * self.sentinel_value(sentinel), weights, beta.transpose(1, 2))
