"""Alternating co-attention (Lu et al. 2016, "Hierarchical Question-Image Co-Attention", section 3.3, eq. 6)."""

from torch import Tensor, nn

from captioner.model.attention.base import masked_softmax
from captioner.model.co_attention.base import CO_ATTENTIONS, CoAttended, CoAttention, require_one_head
from captioner.model.grid import Grid


class _Guided(nn.Module):
    """``H = tanh(X W_x + g W_g)``, ``a = softmax(H w)`` (eq. 6): the weights of features X under a guide g."""

    def __init__(self, width: int, *, guided: bool) -> None:
        super().__init__()
        self.of_features = nn.Linear(width, width, bias=False)  # W_x
        self.of_guide = nn.Linear(width, width, bias=False) if guided else None  # W_g; the first step has no guide
        self.score = nn.Linear(width, 1, bias=False)  # w

    def forward(self, features: Tensor, guide: Tensor | None, mask: Tensor | None) -> Tensor:
        """(B, 1 or k, S, D), (B, k, D) and a mask broadcastable to (B, k, S) -> (B, k, S)."""
        h = self.of_features(features)
        if self.of_guide is not None and guide is not None:
            h = h + self.of_guide(guide).unsqueeze(2)
        return masked_softmax(self.score(h.tanh()).squeeze(-1), mask)


@CO_ATTENTIONS.register("alternating")
class AlternatingCoAttention(CoAttention):
    """Three steps in turn: sum up the question; attend to the picture under that; attend to the words under the picture."""

    def __init__(self, *, width: int, heads: int = 1) -> None:
        super().__init__()
        require_one_head("alternating", heads)
        self.summary = _Guided(width, guided=False)
        self.on_cells = _Guided(width, guided=True)
        self.on_words = _Guided(width, guided=True)

    def forward(self, words: Tensor, mask: Tensor, grid: Grid) -> CoAttended:
        """See `CoAttention.forward`."""
        summary = (self.summary(words, None, mask).unsqueeze(2) @ words).squeeze(2)  # (B, k, D)
        on_grid = None if grid.mask is None else grid.mask[:, None]
        a_cells = self.on_cells(grid.features.unsqueeze(1), summary, on_grid)  # (B, k, L)
        picture = a_cells @ grid.features
        a_words = self.on_words(words, picture, mask)  # (B, k, T)
        question = (a_words.unsqueeze(2) @ words).squeeze(2)
        return CoAttended(picture, question, a_cells.unsqueeze(1), a_words.unsqueeze(1))
