"""The tensors of a decoder's state, and which of their axes are rows, pictures or growing; found by probing.

A state of 2 pictures is compared with one of 2 pictures and 3 rows each, with one of 3 pictures, and with the one
before the last word.
"""

import copy
import dataclasses
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from captioner.errors import OptionError
from captioner.model.caption_model import CaptionModel
from captioner.model.preprocess import normalise
from captioner.tokenizer.vocabulary import START

PICTURES, ROWS = 2, 3
"""Of the state that is traced: pictures, and rows of each."""
WORDS = 5
"""In that state; the exporter takes axes of 0 and 1 for fixed ones."""


@dataclasses.dataclass(frozen=True)
class Leaf:
    """A tensor of the decoder's state.

    Attributes:
        name: its input in the graph.
        axis: what its first axis is: "row", "image", or "none" for a tensor that all share.
        grows: the axes that are longer after each word, of the flat (N, ...) tensor.
        kept: no step changes it.
    """

    name: str
    axis: str
    grows: tuple[int, ...]
    kept: bool

    def as_dict(self) -> dict[str, Any]:
        return {"name": self.name, "axis": self.axis, "kept": self.kept}


class Probe:
    """States of a decoder, and what they say about its axes.

    Attributes:
        start: the state before the first word, of 2 pictures.
        template: a state of 2 pictures with 3 rows each, after some words.
        leaves: its tensors.
    """

    def __init__(self, model: CaptionModel) -> None:
        pictures, rows = PICTURES, ROWS
        begun = _begin(model, pictures)
        other = _begin(model, pictures + 1)
        self.start = begun
        first = begun.select(torch.arange(pictures).repeat_interleave(rows))
        states = [first]
        token = torch.full((pictures * rows,), START)
        for _ in range(WORDS):
            states.append(model.decoder.step(token, states[-1]).state)
        self.template = states[-1]
        flat = [flatten(state, type(model.decoder).__name__) for state in (*states, begun, other)]
        *_, before, last, one_row, more = flat
        if len({len(some) for some in flat}) > 1:
            raise OptionError("the number of tensors in the decoder's state changes from step to step")
        self.leaves = tuple(_leaf(i, *some) for i, some in enumerate(zip(before, last, one_row, more, strict=True)))

    @property
    def changed(self) -> list[int]:
        """The tensors that a step changes."""
        return [i for i, leaf in enumerate(self.leaves) if not leaf.kept]


def _leaf(i: int, before: Tensor, after: Tensor, one_row: Tensor, more: Tensor) -> Leaf:
    pictures, rows = PICTURES, ROWS
    if after.dim() and one_row.shape[0] == pictures and after.shape[0] == pictures * rows:
        axis = "row"
    elif after.dim() and one_row.shape[0] == pictures and more.shape[0] == pictures + 1:
        axis = "image"
    elif after.shape == more.shape:
        axis = "none"
    else:
        raise OptionError(
            f"tensor {i} of the decoder's state, {tuple(after.shape)} for {pictures} pictures of {rows} rows, "
            "has neither rows nor pictures as its first axis"
        )
    grows = tuple(d for d in range(1, after.dim()) if after.shape[d] != before.shape[d])
    return Leaf(f"state_{i}", axis, grows, kept=before is after)


def _begin(model: CaptionModel, pictures: int) -> Any:
    return model.decoder.begin(model.encode(*_inputs(model, pictures)))


def _inputs(model: CaptionModel, pictures: int) -> tuple[Tensor, Tensor | None]:
    """Pixels, and a mask for models whose pictures are padded."""
    config = model.encoder.config
    pixels = probe_pixels(model, pictures)
    mask = probe_mask(model, pictures) if config.pad else None
    return normalise(pixels, config), mask


def probe_pixels(model: CaptionModel, pictures: int) -> Tensor:
    side = model.encoder.config.side
    assert side is not None
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (pictures, side, side, 3), dtype=torch.uint8, generator=generator)


def probe_mask(model: CaptionModel, pictures: int) -> Tensor:
    mask = torch.ones(pictures, *model.encoder.grid_shape, dtype=torch.bool)
    mask[::2, mask.shape[1] // 2 :] = False
    return mask


def flatten(state: Any, decoder: str) -> list[Tensor]:
    """The tensors of a state, in order.

    Raises:
        OptionError: it holds what a graph cannot keep.
    """
    if isinstance(state, Tensor):
        return [state]
    return [tensor for part in _parts(state, decoder) for tensor in flatten(part, decoder)]


def _parts(state: Any, decoder: str) -> list[Any]:
    if dataclasses.is_dataclass(state):
        return [getattr(state, field.name) for field in dataclasses.fields(state)]
    if isinstance(state, (tuple, list)):
        return list(state)
    if isinstance(state, dict):
        return list(state.values())
    if state is None or isinstance(state, (bool, int, float, str)):
        return []
    raise OptionError(
        f"the state of {decoder} holds a {type(state).__name__}, which no graph can keep",
        remedy="make states of dataclasses and tuples of tensors",
    )


def rebuild(state: Any, tensors: Iterator[Tensor]) -> Any:
    """A state with other tensors."""
    if isinstance(state, Tensor):
        return next(tensors)
    if dataclasses.is_dataclass(state) and not isinstance(state, type):
        new = copy.copy(state)  # without its checks: it may be frozen
        for field in dataclasses.fields(state):
            object.__setattr__(new, field.name, rebuild(getattr(state, field.name), tensors))
        return new
    if isinstance(state, (tuple, list)):
        parts = [rebuild(part, tensors) for part in state]
        return type(state)(*parts) if hasattr(state, "_fields") else type(state)(parts)
    if isinstance(state, dict):
        return {key: rebuild(part, tensors) for key, part in state.items()}
    return state
