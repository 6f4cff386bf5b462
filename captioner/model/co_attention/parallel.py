"""Parallel co-attention (Lu et al. 2016, "Hierarchical Question-Image Co-Attention", section 3.3, eq. 3 to 5)."""

from torch import Tensor, nn

from captioner.model.attention.base import masked_softmax
from captioner.model.co_attention.base import CO_ATTENTIONS, Cells, CoAttended, CoAttention, require_one_head
from captioner.model.grid import Grid


@CO_ATTENTIONS.register("parallel")
class ParallelCoAttention(CoAttention):
    """Cells and words attend to each other at once, through the affinity of each cell with each word.

    With ``V`` (L, D) the cells and ``Q`` (T, D) the words of a question:

    - ``C = tanh(Q W_b V^T)``, (T, L), the affinity (eq. 3);
    - ``H_v = tanh(V W_v + C^T Q W_q)``, (L, D), and ``H_q = tanh(Q W_q + C V W_v)``, (T, D) (eq. 4);
    - ``a_v = softmax(H_v w_v)`` over the cells, ``a_q = softmax(H_q w_q)`` over the words (eq. 4);
    - the picture is ``a_v^T V``, the question ``a_q^T Q`` (eq. 5).
    """

    def __init__(self, *, width: int, heads: int = 1) -> None:
        super().__init__()
        require_one_head("parallel", heads)
        self.affinity = nn.Linear(width, width, bias=False)  # W_b
        self.of_cells = nn.Linear(width, width, bias=False)  # W_v
        self.of_words = nn.Linear(width, width, bias=False)  # W_q
        self.score_cells = nn.Linear(width, 1, bias=False)  # w_v
        self.score_words = nn.Linear(width, 1, bias=False)  # w_q

    def prepare(self, grid: Grid) -> Cells:
        """V and ``V W_v``."""
        return Cells(grid.features, self.of_cells(grid.features), grid.mask)

    def forward(self, words: Tensor, mask: Tensor, cells: Cells) -> CoAttended:
        """See `CoAttention.forward`."""
        values, of_cells = cells.values.unsqueeze(1), cells.keys.unsqueeze(1)  # (B, 1, L, D)
        there = mask.unsqueeze(-1).to(words.dtype)  # (B, k, T, 1)
        affinity = (self.affinity(words) @ values.transpose(2, 3)).tanh() * there  # (B, k, T, L)
        if cells.mask is not None:
            affinity = affinity * cells.mask[:, None, None].to(affinity.dtype)
        of_words = self.of_words(words)
        h_cells = (of_cells + affinity.transpose(2, 3) @ of_words).tanh()  # (B, k, L, D)
        h_words = (of_words + affinity @ of_cells).tanh()  # (B, k, T, D)
        on_grid = None if cells.mask is None else cells.mask[:, None]
        a_cells = masked_softmax(self.score_cells(h_cells).squeeze(-1), on_grid)  # (B, k, L)
        a_words = masked_softmax(self.score_words(h_words).squeeze(-1), mask)  # (B, k, T)
        return CoAttended(
            picture=a_cells @ cells.values,
            question=(a_words.unsqueeze(2) @ words).squeeze(2),
            cells=a_cells.unsqueeze(1),
            words=a_words.unsqueeze(1),
        )
