"""What every co-attention mechanism takes and returns.

A picture's grid is given once for all its questions: the ``k`` questions of a picture are rows, and the grid is never
copied for them. Questions of different lengths are padded; ``mask`` says which words are real, and it is applied inside
the one softmax over the words, so that padding changes nothing.
"""

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor, nn

from captioner.errors import OptionError
from captioner.model.grid import Grid
from captioner.registry import Registry


@dataclass(frozen=True)
class CoAttended:
    """What a mechanism returns for ``k`` questions on each of ``B`` pictures.

    ``cells.sum(-1)`` and ``words.sum(-1)`` are 1 for every head.

    Attributes:
        picture: (B, k, D), the weighted sum of the cells.
        question: (B, k, D), the weighted sum of the words.
        cells: (B, H, k, L), the weight of each cell. It is the tensor that ``picture`` was computed from.
        words: (B, H, k, T), the weight of each word, likewise.
    """

    picture: Tensor
    question: Tensor
    cells: Tensor
    words: Tensor


@dataclass(frozen=True)
class Cells:
    """What a mechanism keeps of ``B`` grids.

    Attributes:
        values: to sum: (B, L, D), or (B, H, L, D / H) with heads.
        keys: to compare questions with, likewise.
        mask: (B, L), True where a cell holds picture; None where every cell does.
    """

    values: Tensor
    keys: Tensor
    mask: Tensor | None


class CoAttention(nn.Module):
    """The interface of every mechanism.

    The constructor takes ``width`` (D, of cells, words and results) and ``heads`` (H), by keyword.

    Raises:
        OptionError: the mechanism cannot have so many heads.
    """

    def prepare(self, grid: Grid) -> Cells:
        """What is computed once per picture, of a grid of width D."""
        raise NotImplementedError

    def forward(self, words: Tensor, mask: Tensor, cells: Cells) -> CoAttended:
        """Attend to both.

        Args:
            words: (B, k, T, D), the features of the questions' words.
            mask: (B, k, T), True where there is a word.
            cells: what `prepare` returned for the same B pictures.
        """
        raise NotImplementedError


class CoAttentionFactory(Protocol):
    """What `CO_ATTENTIONS` holds: a class of mechanisms, or a function that makes one."""

    def __call__(self, *, width: int, heads: int) -> CoAttention: ...


CO_ATTENTIONS: Registry[CoAttentionFactory] = Registry("co-attention mechanism")


def require_one_head(name: str, heads: int) -> None:
    """Raises OptionError if a mechanism with one head is asked for several."""
    if heads != 1:
        raise OptionError(f"{name} co-attention has one head, not {heads}", remedy="'multihead' has several")
