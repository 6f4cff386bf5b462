"""Families of foreign models: what is different between them, behind one small protocol.

A family says how a picture becomes the state before the first word, how pieces are read from there, and which of the
positions that its attention weighs are cells. There are two kinds. In models with cross-attention the decoder looks at
the encoder's outputs. In the others picture and text are one sequence, and the self-attention from a piece to the
picture's positions is where it looked; what it gives to the text before is off the grid.
"""

import copy
import inspect
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from captioner.errors import CheckpointError, OptionError
from captioner.geometry import Fitting
from captioner.registry import Registry


@dataclass(frozen=True)
class Parts:
    """What a folder holds beside the model.

    Attributes:
        tokenizer: a fast tokeniser of transformers.
        image_processor: of transformers.
        processor: both together, with the template of a conversation; None where there is none.
        fitting: how pictures are brought to the input.
        name: of the model, for messages.
    """

    tokenizer: Any
    image_processor: Any
    processor: Any
    fitting: Fitting
    name: str


@dataclass(frozen=True, eq=False)
class ForeignState:
    """What N captions have read; also, before the first word, B encoded pictures.

    Attributes:
        cache: keys and values of attention, a `transformers.Cache`.
        rows: further tensors by name, one row for each caption.
        length: pieces that were read.
    """

    cache: Any
    rows: dict[str, Tensor] = field(default_factory=dict)
    length: int = 0

    def __len__(self) -> int:
        return len(self.rows["mask"])

    def select(self, rows: Any, images: Any = None) -> "ForeignState":
        """See `captioner.backends.base.State.select`; each row has its picture with it."""
        mask = self.rows["mask"]
        index = torch.as_tensor(rows, dtype=torch.long, device=mask.device)
        cache = copied(self.cache)
        cache.batch_select_indices(index)
        return replace(self, cache=cache, rows={name: tensor[index] for name, tensor in self.rows.items()})


class Read(NamedTuple):
    """What a family returns for N captions of T pieces each.

    Attributes:
        logits: (N, T, V) over the model's own ids.
        weights: one of each layer, (N, H, T, K), over the K positions that it attends to.
    """

    logits: Tensor
    weights: Sequence[Tensor]


class Family:
    """A model of one family.

    Args:
        model: of transformers, in evaluation mode, with eager attention.
        parts: its tokeniser and image processor.

    Attributes:
        classes: the names of the classes of transformers that it takes.
        grid: (h, w).
        start: the id that is read first.
        first_cell: among the positions that attention weighs, the one of the upper left cell; the others follow row by
            row.
        longest: the most pieces that the model can read after the start.
        prefix: ids that are read before the start.
        start_is_a_piece: whether the start is text, which may come again.
        ends: ids that end a caption; empty for those of the configuration.
        hidden: ids that are never emitted, beside special ones.
        size: ids that it can emit.
    """

    classes: ClassVar[tuple[str, ...]] = ()
    grid: tuple[int, int]
    start: int
    first_cell: int
    longest: int
    prefix: tuple[int, ...] = ()
    start_is_a_piece: ClassVar[bool] = False
    ends: tuple[int, ...] = ()
    hidden: tuple[int, ...] = ()

    def __init__(self, model: Any, parts: Parts) -> None:
        self.model, self.parts = model, parts
        self.size = int(model.config.get_text_config(decoder=True).vocab_size)

    def force_first(self) -> None:
        """Begin with the piece that the model's generation puts after the start (BART's "forced_bos_token_id")."""
        forced = first_of(self.model.generation_config, "forced_bos_token_id")
        if forced is not None and int(forced) != self.start:
            self.prefix, self.start = (self.start,), int(forced)
            self.longest -= 1

    def begin(self, pixels: Tensor) -> ForeignState:
        """As `encode`, with what is read before the start."""
        state = self.encode(pixels)
        if not self.prefix:
            return state
        self.read(torch.tensor([self.prefix] * len(pixels), device=pixels.device), state)
        return replace(state, length=len(self.prefix))

    def encode(self, pixels: Tensor) -> ForeignState:
        """The state of B pictures before the start, for inputs (B, 3, height, width), normalised."""
        raise NotImplementedError

    def read(self, tokens: Tensor, state: ForeignState) -> Read:
        """Read pieces (N, T), in the model's own ids; the state's cache takes them in."""
        raise NotImplementedError

    def run(self, module: Any, state: ForeignState, *, attention: str, **inputs: Any) -> Read:
        """One pass of a decoder over some pieces, with its cache.

        Args:
            module: the decoder.
            state: whose cache takes the pieces in.
            attention: the output that has the weights: "attentions" or "cross_attentions".
            inputs: of the module.

        Raises:
            OptionError: the module returns no weights: fused attention has none.
        """
        found = module(output_attentions=True, **inputs, **with_cache(module, state.cache))
        return Read(found.logits, attention_of(found, attention, self.parts.name))

    def cells(self, weights: Tensor, state: ForeignState) -> Tensor:
        """The weights (N, T, K) of positions as those of cells (N, T, h * w)."""
        h, w = self.grid
        return weights[..., self.first_cell : self.first_cell + h * w]

    def patch_grid(self, vision: Any) -> tuple[int, int]:
        """(h, w) patches of a picture, by the configuration of a vision transformer for square pictures.

        Raises:
            CheckpointError: pictures have more patches than it has positions.
        """
        fitting = self.parts.fitting
        positions = (vision.image_size // vision.patch_size) ** 2
        h, w = fitting.height // vision.patch_size, fitting.width // vision.patch_size
        if not 0 < h * w <= positions:
            raise CheckpointError(
                f"{self.parts.name}: pictures of {fitting.width} x {fitting.height} pixels make {w} x {h} cells, and "
                f"the model has {positions} positions",
                remedy="its image processor is of another model",
            )
        return h, w


FAMILIES: Registry[type[Family]] = Registry("family of foreign models")
"""By the "model_type" of their configurations."""

TILED = frozenset(
    {
        "aya_vision", "cohere2_vision", "deepseek_vl_hybrid", "fuyu", "got_ocr2", "idefics2", "idefics3", "internvl",
        "llama4", "llava_next", "llava_next_video", "llava_onevision", "mllama", "phi4_multimodal", "smolvlm",
    }
)  # fmt: skip
"""Model types that cut pictures into tiles."""


def copied(cache: Any) -> Any:
    """A cache that can grow without changing this one; keys and values are shared."""
    twin = copy.copy(cache)
    if hasattr(cache, "self_attention_cache"):
        twin.self_attention_cache = copied(cache.self_attention_cache)
        twin.cross_attention_cache = copied(cache.cross_attention_cache)
        twin.is_updated = dict(cache.is_updated)
    else:
        twin.layers = [copy.copy(layer) for layer in cache.layers]
    return twin


def with_cache(module: Any, cache: Any) -> dict[str, Any]:
    """The keyword arguments that give a module its cache; transformers 5 renamed it."""
    name = "cache" if "cache" in inspect.signature(module.forward).parameters else "past_key_values"
    return {name: cache, "use_cache": True}


def new_cache(*, cross: bool) -> Any:
    """An empty cache of self-attention, or of both kinds."""
    from transformers import DynamicCache, EncoderDecoderCache

    return EncoderDecoderCache(DynamicCache(), DynamicCache()) if cross else DynamicCache()


def outputs_of_encoder(outputs: Tensor) -> ForeignState:
    """The state of B pictures for a decoder with cross-attention over an encoder's outputs (B, L, D)."""
    return ForeignState(cache=new_cache(cross=True), rows={"outputs": outputs})


def attention_of(found: Any, kind: str, name: str) -> tuple[Tensor, ...]:
    """The attention weights of an output.

    Raises:
        OptionError: there are none: fused attention returns none.
    """
    weights = found.get(kind)
    if not weights or any(one is None for one in weights):
        raise OptionError(
            f"{name}: the model returns no attention weights, so that its words have no maps",
            remedy="use a model whose class supports eager attention",
        )
    return tuple(weights)


def first_of(config: Any, *names: str) -> Any:
    """The first of some values of a configuration that is there; None where none is."""
    return next((value for name in names if (value := getattr(config, name, None)) is not None), None)
