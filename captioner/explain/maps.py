"""Which part of the picture a word came from: three ways to ask, one format of map.

- attention: where the decoder looked, read from the heads that its configuration names. Free.
- gradient: attention times the gradient of the word's log-probability by it, over all heads: where looking spoke for
  the word (after Chefer et al. 2021, "Generic attention-model explainability", eq. 5). A few times slower.
- occlusion: how much less likely the word becomes when a block of cells is blotted out in the picture (Zeiler and
  Fergus 2014). It asks the whole model, encoder included, and no other way is as faithful; one encoding a cell.

`MapReading` says which, and what is done to the maps of a caption afterwards; a model's file holds the reading that
was measured to be the best for it.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from captioner.errors import OptionError
from captioner.explain.occlusion import Pixels, blocks, blot_out, mean_colour
from captioner.image import Geometry
from captioner.model.attention import Attention
from captioner.model.caption_model import CaptionModel
from captioner.model.decoder import END, PAD, START, AnyDecoder, captions_per_picture
from captioner.model.grid import Grid
from captioner.model.preprocess import normalise

EXPLAIN = ("attention", "gradient", "occlusion")
SINKS = ("keep", "subtract", "standardise")
_ENCODED_TOGETHER = 16

Maps = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class MapReading:
    """How the maps of a caption are made.

    Attributes:
        explain: "attention", "gradient" or "occlusion"; see the module's text.
        sinks: what is done about cells that every word looks at. "keep" leaves them; "subtract" takes from each
            cell its mean over the words; "standardise" divides that by its deviation too, as Whisper does. What is
            below 0 then is 0.
        delay: of attention: 1 reads a word's map one step later, when the word itself has been read.
        block: of occlusion: the width of what is blotted out, in cells; odd.
    """

    explain: str = "attention"
    sinks: str = "keep"
    delay: int = 0
    block: int = 3

    def __post_init__(self) -> None:
        if self.explain not in EXPLAIN:
            raise OptionError(f"maps come from {', '.join(EXPLAIN)}, not from '{self.explain}'")
        if self.sinks not in SINKS:
            raise OptionError(f"sinks must be {', '.join(SINKS)}, not '{self.sinks}'")
        if self.delay not in (0, 1) or (self.delay and self.explain != "attention"):
            raise OptionError(f"the delay must be 0, or 1 for attention, not {self.delay} for {self.explain}")
        if not isinstance(self.block, int) or self.block < 1 or self.block % 2 == 0:
            raise OptionError(f"the block of occlusion must be an odd number of cells, not {self.block}")

    @property
    def plain(self) -> bool:
        """Whether the maps are those that decoding itself gives."""
        return self == MapReading(block=self.block)

    @classmethod
    def stored(cls, about: dict[str, Any], explain: str | None = None) -> "MapReading":
        """The reading that a model's file holds, of its default or of another way.

        Args:
            about: what the file says about itself; ``about["maps"]`` is what `as_stored` gave.
            explain: the way; None for the file's default.
        """
        kept = about.get("maps", {})
        way = explain or kept.get("explain", "attention")
        return cls(**{"explain": way, **kept.get(way, {})})

    @staticmethod
    def as_stored(default: "MapReading", *others: "MapReading") -> dict[str, Any]:
        """Plain values for a model's file: the default and the readings of other ways."""
        return {"explain": default.explain} | {
            reading.explain: {name: value for name, value in asdict(reading).items() if name != "explain"}
            for reading in (*others, default)
        }


def finish(steps: Maps, valid: NDArray[np.bool_], reading: MapReading) -> Maps:
    """The maps of a caption's words from those of its steps.

    Args:
        steps: (n + 1, h, w), non-negative: of each of n words, and of the end.
        valid: (h, w), the cells that hold picture.
        reading: what to do.

    Returns:
        (n, h, w), non-negative, each summing to 1 over the valid cells. A map of which nothing is left is even: of
        that word there is nothing to say.
    """
    words = len(steps) - 1
    maps = steps.astype(np.float64)
    if reading.sinks != "keep":
        maps = maps - maps.mean(0)
    if reading.sinks == "standardise":
        # Cells that hardly vary would else shout: none counts as steadier than a tenth of the typical cell.
        deviation = maps.std(0)
        maps = maps / (deviation + 0.1 * deviation[valid].mean() + 1e-12)
    maps = np.where(valid, maps.clip(min=0), 0)[reading.delay : words + reading.delay]
    total = maps.sum((1, 2), keepdims=True)
    even = valid / valid.sum()
    return np.asarray(np.where(total > 1e-12, maps / np.maximum(total, 1e-12), even), dtype=np.float32)


def explain(
    model: CaptionModel,
    pixels: Pixels,
    geometries: Sequence[Geometry],
    captions: Sequence[Sequence[Sequence[int]]],
    reading: MapReading,
    *,
    grid: Grid | None = None,
) -> list[list[tuple[Maps, NDArray[np.float32]]]]:
    """Read captions to the model, and ask of each word where it came from.

    Args:
        model: in evaluation mode.
        pixels: (B, side, side, 3), the inputs.
        geometries: of the B pictures.
        captions: of each picture, any number of captions in ids, without start and end.
        reading: how to ask.
        grid: the pictures encoded, where they are.

    Returns:
        For each caption of each picture its maps (n, h, w), see `finish`, and the log-probabilities of its words
        and of its end (n + 1,).
    """
    most = max(1, *map(len, captions))
    if grid is None:
        grid = encode(model, pixels, geometries)
    reads, says = pad_tokens([[*some, *[()] * (most - len(some))] for some in captions], grid.features.device)
    if reading.explain == "gradient":
        log_p, steps = gradient_steps(model.decoder, grid, reads, says)
    else:
        with torch.no_grad():
            logits, steps = model.decoder.teach(grid, reads)
        log_p = _log_p(logits, says)
    told = []
    for i, some in enumerate(captions):
        if reading.explain == "occlusion" and some:
            dropped = _occlusion_steps(model, pixels[i], geometries[i], some, reading.block)
        of_picture = []
        for j, caption in enumerate(some):
            row, words = i * most + j, len(caption)
            own = dropped[j, : words + 1] if reading.explain == "occlusion" else _array(steps[row, : words + 1])
            of_picture.append((finish(own, geometries[i].mask, reading), _array(log_p[row, : words + 1])))
        told.append(of_picture)
    return told


@torch.no_grad()
def encode(model: CaptionModel, pixels: Pixels, geometries: Sequence[Geometry]) -> Grid:
    """The grid that the decoder sees of some inputs (B, side, side, 3)."""
    device = next(model.parameters()).device
    mask = None
    if model.encoder.config.pad:
        mask = torch.from_numpy(np.stack([geometry.mask for geometry in geometries])).to(device)
    return model.encode(normalise(pixels, model.encoder.config).to(device), mask)


@torch.no_grad()
def log_probabilities(
    model: CaptionModel, variants: Sequence[Pixels], geometry: Geometry, captions: Sequence[Sequence[int]]
) -> NDArray[np.float32]:
    """How likely the words of captions are, on variants of one picture.

    Args:
        model: in evaluation mode.
        variants: V inputs (side, side, 3).
        geometry: the picture's.
        captions: k of them in ids, without start and end; at least one.

    Returns:
        (V, k, T): log-probabilities of the words and of the end, padded to the longest caption's.
    """
    found = []
    for first in range(0, len(variants), _ENCODED_TOGETHER):
        some = np.stack(variants[first : first + _ENCODED_TOGETHER])
        grid = encode(model, some, [geometry] * len(some))
        reads, says = pad_tokens([captions] * len(some), grid.features.device)
        logits, _ = model.decoder.teach(grid, reads)
        found.append(_array(_log_p(logits, says)).reshape(len(some), len(captions), -1))
    return np.concatenate(found)


def _occlusion_steps(
    model: CaptionModel, pixels: Pixels, geometry: Geometry, captions: Sequence[Sequence[int]], block: int
) -> Maps:
    """(k, T, h, w), the loss of log-probability when the block about each cell is in the picture's mean colour."""
    fill = mean_colour(pixels, geometry)
    centres, blots = blocks(geometry, block)
    variants = [pixels, *(blot_out(pixels, fill, cells) for cells in blots)]
    log_p = log_probabilities(model, variants, geometry, captions)
    steps = np.zeros((*log_p.shape[1:], *geometry.grid), dtype=np.float32)
    for (row, column), blotted in zip(centres, log_p[1:], strict=True):
        steps[:, :, row, column] = (log_p[0] - blotted).clip(min=0)
    return steps


@contextmanager
def _listening(decoder: AnyDecoder) -> Iterator[list[Tensor]]:
    """What the decoder's attentions make while this is open: the weights (B, H, T, L) of each call, in order."""
    heard: list[Tensor] = []
    attentions = [part for part in decoder.modules() if isinstance(part, Attention)]  # type: ignore[attr-defined]
    for attention in attentions:
        attention.listener = heard.append
    try:
        yield heard
    finally:
        for attention in attentions:
            attention.listener = None


def _by_step(heard: Sequence[Tensor], copies: int, steps: int) -> Tensor:
    """One tensor (N, heads of all layers, T, L) of calls for all steps (Transformer), or for one each (LSTM)."""
    each = heard[0].shape[2] // copies
    rows = [weights.unflatten(2, (copies, each)).transpose(1, 2).flatten(0, 1) for weights in heard]  # (N, H, each, L)
    return torch.cat(rows, 1) if each == steps else torch.cat(rows, 2)


@torch.no_grad()
def attention_heads(decoder: AnyDecoder, grid: Grid, reads: Tensor) -> Tensor:
    """The weights of every head at every step: (N, heads of all layers, T, h, w).

    Args:
        decoder: any.
        grid: of B pictures.
        reads: (N, T), see `captioner.model.decoder.Decoder.teach`.
    """
    copies = captions_per_picture(len(reads), len(grid))
    with _listening(decoder) as heard:
        decoder.teach(grid, reads)
    by_step: Tensor = _by_step(heard, copies, reads.shape[1]).unflatten(-1, grid.shape)
    return by_step


def gradient_steps(decoder: AnyDecoder, grid: Grid, reads: Tensor, says: Tensor) -> tuple[Tensor, Tensor]:
    """Attention times the gradient of what is said by it, where that is positive, summed over all heads.

    A step's map has the gradient by the weights of that step alone, not by what earlier ones passed on.

    Args:
        decoder: any.
        grid: of B pictures.
        reads: (N, T), see `captioner.model.decoder.Decoder.teach`.
        says: (N, T), the word asked about at each step.

    Returns:
        log-probabilities (N, T) and maps (N, T, h, w), which sum to nothing in particular.
    """
    copies, steps = captions_per_picture(len(reads), len(grid)), reads.shape[1]
    # Decoding is done in inference mode, whose tensors gradients cannot pass: copies can.
    with torch.inference_mode(False), torch.enable_grad():
        features = grid.features.clone().requires_grad_()
        mask = None if grid.mask is None else grid.mask.clone()
        with _listening(decoder) as heard:
            logits, _ = decoder.teach(Grid(features, grid.shape, mask), reads.clone())
        log_p = _log_p(logits, says.clone())
        at_once = heard[0].shape[2] == copies * steps
        maps = []
        for step in range(steps):
            asked = heard if at_once else heard[step : step + 1]
            gradients = torch.autograd.grad(log_p[:, step].sum(), asked, retain_graph=True)
            spoke = [(weights * gradient).clamp(min=0) for weights, gradient in zip(asked, gradients, strict=True)]
            by_step = _by_step(spoke, copies, steps if at_once else 1)  # (N, heads, T or 1, L)
            maps.append(by_step[:, :, step if at_once else 0].sum(1))
    return log_p.detach(), torch.stack(maps, 1).detach().unflatten(-1, grid.shape)


def pad_tokens(captions: Sequence[Sequence[Sequence[int]]], device: torch.device) -> tuple[Tensor, Tensor]:
    """What the decoder reads and what it says, (N, T) each: start and words, words and end; padded."""
    rows = [caption for some in captions for caption in some]
    steps = max(map(len, rows)) + 1
    reads = [[START, *caption, *[PAD] * (steps - 1 - len(caption))] for caption in rows]
    says = [[*caption, END, *[PAD] * (steps - 1 - len(caption))] for caption in rows]
    return torch.tensor(reads, device=device), torch.tensor(says, device=device)


def _log_p(logits: Tensor, says: Tensor) -> Tensor:
    log_p: Tensor = logits.float().log_softmax(-1).gather(2, says[:, :, None])[:, :, 0]
    return log_p


def _array(tensor: Tensor) -> NDArray[np.float32]:
    return np.asarray(tensor.detach().float().cpu().numpy(), dtype=np.float32)
