"""What every decoder can do, and the registry of decoders.

A decoder is a subclass of `Decoder` with an entry in `DECODERS`, made by
``@DECODERS.register_with("name", ConfigClass)``.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, Self

import torch
from torch import Tensor, nn

from captioner.model.grid import Grid
from captioner.registry import ConfiguredRegistry
from captioner.tokenizer.vocabulary import END, PAD

UNLIMITED = 100
"""Words that a decoder without a limit of its own is asked to read."""


class DecoderState(Protocol):
    """Where ``N`` captions of ``B`` pictures stand. Rows are grouped by picture: row r is of r // (N / B)."""

    def select(self, rows: Tensor, images: Tensor | None = None) -> Self:
        """Some of the rows, in a new order.

        Args:
            rows: (M,) indices of rows; M may differ from N. Rows of one picture stay together.
            images: (B',) the pictures that the rows are of, in order; None where they are all B. The grids are
                not copied then.
        """


@dataclass(frozen=True)
class Step:
    """What one step returns for ``N`` captions of ``B`` pictures.

    Attributes:
        logits: (N, V), of the next word.
        map: (N, h, w), where the decoder looked for it; with ``off_grid`` it sums to 1.
        off_grid: (N,).
        state: after the step.
        attention: the weights of every head that was computed, each (B, H, N / B, L); one tensor for each layer.
        others: `captioner.model.attention.Attended.others` of the last layer, each (N, ...).
    """

    logits: Tensor
    map: Tensor
    off_grid: Tensor
    state: Any
    attention: tuple[Tensor, ...] = ()
    others: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Decoded:
    """What teacher forcing returns for ``N`` captions of ``B`` pictures and ``T`` steps.

    Attributes:
        logits: (N, T, V); after an END or PAD they mean nothing and may be 0.
        maps: (N, T, h, w).
        off_grid: (N, T).
        attention: where it was asked for, the weights of every head, each tensor (B, H, k * t, L) with k = N / B. They
            are the tensors that the contexts were computed from. One for each layer, with t = T; or, of a decoder that
            steps, one for each step and layer, with t = 1, the layers of a step in a row.
        others: as of `Step`, each (N, T, ...).
    """

    logits: Tensor
    maps: Tensor
    off_grid: Tensor
    attention: tuple[Tensor, ...] = ()
    others: Mapping[str, Tensor] = field(default_factory=dict)


class Decoder(nn.Module):
    """One word at a time, and where it looked.

    The constructor takes ``vocabulary_size`` (V), ``image_width`` (D, of the grid's cells) and ``config`` by keyword.
    A subclass defines `begin` and `step`; it may override `forward` by something faster that returns the same.

    Attributes:
        config: the configuration that it was built from, a frozen dataclass.
        layers, heads: attention layers, and heads of each.
    """

    config: Any
    layers: int = 1
    heads: int = 1

    @property
    def max_length(self) -> int:
        """The most words of a caption that it can read."""
        return UNLIMITED

    @property
    def map_heads(self) -> tuple[int, ...]:
        """The heads whose mean is the map, or what fine maps are made of, as ``layer * heads + head``; all where the
        configuration names none."""
        return tuple(self.config.map_heads) or tuple(range(self.layers * self.heads))

    def config_with_map_heads(self, heads: Sequence[int]) -> Any:
        """The configuration with these heads for the map, in the form of `map_heads`; empty for the default."""
        return replace(self.config, map_heads=tuple(heads))

    @property
    def map_decoder(self) -> "Decoder":
        """The decoder that makes the maps: itself, but of an ensemble."""
        return self

    @property
    def averaged(self) -> tuple["Decoder", ...]:
        """The decoders whose probabilities of words are averaged: itself alone, but of an ensemble."""
        return (self,)

    def set_map_heads(self, heads: Sequence[int]) -> None:
        """Make maps of these heads from now on; see `config_with_map_heads`."""
        self.config = self.config_with_map_heads(heads)

    def member_grids(self, grid: Grid) -> Mapping[int, Grid]:
        """`captioner.model.grid.Grid.members` of the encoder's grid; none but of an ensemble."""
        return {}

    def begin(self, grid: Grid) -> Any:
        """The state before the first word, one row per picture."""
        raise NotImplementedError

    def step(self, token: Tensor, state: Any) -> Step:
        """Read one token per row, predict the next.

        Args:
            token: (N,), the token read; START at first.
            state: what `begin`, `step` or ``select`` returned.
        """
        raise NotImplementedError

    def read(self, tokens: Tensor, state: Any, places: Tensor) -> Step:
        """Some steps of `forward`, from a state instead of a grid, for a decoder that computes all steps side by side.

        Exported graphs are made of it. Of a decoder that does not override it, they repeat `step`.

        Args:
            tokens: (N, T), each row beginning with START.
            state: what `begin` returned, for N rows.
            places: (P,) of the wanted steps: ``row * T + step``.

        Returns:
            As `step`, P rows, without a state.
        """
        raise NotImplementedError

    def forward(self, grid: Grid, tokens: Tensor, *, attention: bool = False) -> Decoded:
        """All steps at once (teacher forcing): what `step` returns after each prefix of ``tokens``.

        Args:
            grid: of B pictures.
            tokens: (B * k, T), k captions of each picture in a row, each beginning with START.
            attention: return the weights of every head as well.
        """
        state = self.begin(grid)
        copies = captions_per_picture(len(tokens), len(grid))
        state = state.select(torch.arange(len(grid), device=tokens.device).repeat_interleave(copies))
        steps = []
        for column in tokens.t():
            steps.append(self.step(column, state))
            state = steps[-1].state
        return Decoded(
            logits=torch.stack([step.logits for step in steps], 1),
            maps=torch.stack([step.map for step in steps], 1),
            off_grid=torch.stack([step.off_grid for step in steps], 1),
            attention=tuple(weights for step in steps for weights in step.attention) if attention else (),
            others={name: torch.stack([step.others[name] for step in steps], 1) for name in steps[0].others},
        )


DECODERS: ConfiguredRegistry[type[Decoder]] = ConfiguredRegistry("decoder")


def captions_per_picture(rows: int, pictures: int) -> int:
    """How many rows each picture has.

    Raises:
        ValueError: not every picture can have the same number.
    """
    if rows == 0 or rows % pictures:
        raise ValueError(f"{rows} captions are not the same number for each of {pictures} pictures")
    return rows // pictures


def still_reading(tokens: Tensor) -> Tensor:
    """True for the tokens of captions (N, T) before their first END or PAD: those that a next word follows."""
    over = (tokens == END) | (tokens == PAD)
    return ~over.int().cummax(1).values.bool()
