"""Alternating co-attention (Lu et al. 2016, "Hierarchical Question-Image Co-Attention", section 3.3, eq. 6)."""

from torch import Tensor, nn

from captioner.model.attention.base import masked_softmax
from captioner.model.co_attention.base import CO_ATTENTIONS, Cells, CoAttended, CoAttention, require_one_head
from captioner.model.grid import Grid


class _Guided(nn.Module):
    """``H = tanh(X W_x + g W_g)``, ``a = softmax(H w)`` (eq. 6): the weights of features X under a guide g."""

    def __init__(self, width: int, *, guided: bool) -> None:
        super().__init__()
        self.of_features = nn.Linear(width, width, bias=False)  # W_x
        self.of_guide = nn.Linear(width, width, bias=False) if guided else None  # W_g; the first step has no guide
        self.score = nn.Linear(width, 1, bias=False)  # w

    def forward(self, projected: Tensor, guide: Tensor | None, mask: Tensor | None) -> Tensor:
        """``X W_x`` (B, 1 or k, S, D), guides (B, k, D) and a mask broadcastable to (B, k, S) -> (B, k, S)."""
        if self.of_guide is not None and guide is not None:
            projected = projected + self.of_guide(guide).unsqueeze(2)
        return masked_softmax(self.score(projected.tanh()).squeeze(-1), mask)


@CO_ATTENTIONS.register("alternating")
class AlternatingCoAttention(CoAttention):
    """Three steps in turn: sum up the question; attend to the picture under that; attend to the words under the
    picture.

    Each step is ``H = tanh(X W_x + g W_g)``, ``a = softmax(H w)`` and the sum ``a^T X``: of the words with ``g = 0``,
    of the cells with the first sum for ``g``, and of the words again with the second sum.
    """

    def __init__(self, *, width: int, heads: int = 1) -> None:
        super().__init__()
        require_one_head("alternating", heads)
        self.summary = _Guided(width, guided=False)
        self.on_cells = _Guided(width, guided=True)
        self.on_words = _Guided(width, guided=True)

    def prepare(self, grid: Grid) -> Cells:
        """V and ``V W_x``."""
        return Cells(grid.features, self.on_cells.of_features(grid.features), grid.mask)

    def forward(self, words: Tensor, mask: Tensor, cells: Cells) -> CoAttended:
        """See `CoAttention.forward`."""
        a_first = self.summary(self.summary.of_features(words), None, mask)  # (B, k, T)
        summary = (a_first.unsqueeze(2) @ words).squeeze(2)  # (B, k, D)
        on_grid = None if cells.mask is None else cells.mask[:, None]
        a_cells = self.on_cells(cells.keys.unsqueeze(1), summary, on_grid)  # (B, k, L)
        picture = a_cells @ cells.values
        a_words = self.on_words(self.on_words.of_features(words), picture, mask)  # (B, k, T)
        question = (a_words.unsqueeze(2) @ words).squeeze(2)
        return CoAttended(picture, question, a_cells.unsqueeze(1), a_words.unsqueeze(1))
