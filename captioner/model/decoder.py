"""What every decoder can do. Greedy, beam and sampling know a decoder only by this."""

from typing import Any, Protocol, Self, TypeVar

from torch import Tensor

from captioner.model.grid import Grid

PAD, START, END, UNKNOWN = 0, 1, 2, 3  # the first four ids of every vocabulary


class DecoderState(Protocol):
    """Where ``N`` captions of ``B`` pictures stand. Rows are grouped by picture: row r is of r // (N / B)."""

    def select(self, index: Tensor) -> Self:
        """The rows of ``index`` (M,), in that order; M may differ from N.

        A selected row must stay with its picture: ``index[r] // (N / B) == r // (M / B)``. A beam does so by
        nature, and the grids need never be copied.
        """


State = TypeVar("State", bound=DecoderState)


class Decoder(Protocol[State]):
    """One word at a time, and where it looked."""

    def begin(self, grid: Grid) -> State:
        """The state before the first word, one row per picture."""

    def step(self, token: Tensor, state: State) -> tuple[Tensor, Tensor, State]:
        """Read one token per row, say the next.

        Args:
            token: (N,), the word read; START at first.
            state: what `begin`, `step` or `select` returned.

        Returns:
            The logits of the next word (N, V), the map that chose it (N, h, w), and the state after it.
        """

    def teach(self, grid: Grid, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """All steps at once, for training: what `step` would say after each prefix of ``tokens``.

        Args:
            grid: of B pictures.
            tokens: (B * k, T), k captions of each picture in a row, each beginning with START.

        Returns:
            logits (B * k, T, V) and maps (B * k, T, h, w); what is said after an END or PAD means nothing, and may
            be 0.
        """


AnyDecoder = Decoder[Any]


def captions_per_picture(rows: int, pictures: int) -> int:
    """How many rows each picture has.

    Raises:
        ValueError: the rows cannot be dealt evenly.
    """
    if rows == 0 or rows % pictures:
        raise ValueError(f"{rows} captions cannot be dealt evenly to {pictures} pictures")
    return rows // pictures


def still_reading(tokens: Tensor) -> Tensor:
    """True for the tokens of captions (N, T) before their first END or PAD: those that a next word follows."""
    over = (tokens == END) | (tokens == PAD)
    return ~over.int().cummax(1).values.bool()
