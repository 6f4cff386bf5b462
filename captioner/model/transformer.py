"""A pre-norm Transformer decoder with cached keys and values; its maps come from its cross-attention.

Vaswani et al. 2017 (https://arxiv.org/abs/1706.03762), with the norm before each block as in GPT-2.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from captioner.errors import OptionError
from captioner.model.attention.base import Attended, AttentionCache, build_attention
from captioner.model.decoder import DECODERS, Decoded, Decoder, Step, captions_per_picture, still_reading
from captioner.model.fine_maps import FineMaps, maps_of_parts
from captioner.model.grid import Grid
from captioner.model.quantised import TiedEmbedding

_KeysValues = tuple[Tensor, Tensor]


@dataclass(frozen=True, kw_only=True)
class TransformerConfig:
    """Shape of a `TransformerDecoder`.

    Attributes:
        width: of the residual stream.
        layers, heads: blocks, and heads of each attention in them.
        hidden: width inside the feed-forward blocks.
        max_length: number of positions; START takes one, so a caption has fewer words.
        attention: of the cross-attention, a name of `captioner.model.attention.ATTENTIONS`. One with a single head
            needs ``heads`` 1; "local_previous" and "hard" are for decoders that go word by word.
        attention_options: of that mechanism alone, by name; see its class.
        map_heads: pairs (layer, head), from 0, whose mean is the map, or what fine maps are made of; empty for all
            heads of the last layer.
        fine_width, fine_dropout: as of `captioner.model.lstm.LSTMConfig`.
        dropout: on embeddings and on what each block adds.
    """

    width: int = 384
    layers: int = 3
    heads: int = 6
    hidden: int = 1536
    max_length: int = 64
    attention: str = "multihead"
    attention_options: dict[str, Any] = field(default_factory=dict)
    map_heads: tuple[tuple[int, int], ...] = ()
    fine_width: int = 0
    fine_dropout: float = 0.4
    dropout: float = 0.1

    def __post_init__(self) -> None:
        object.__setattr__(self, "map_heads", tuple((int(a), int(b)) for a, b in self.map_heads))
        for name in ("width", "layers", "heads", "hidden", "max_length"):
            if getattr(self, name) < 1:
                raise OptionError(f"the decoder's {name} must be positive, not {getattr(self, name)}")
        if type(self.fine_width) is not int or self.fine_width < 0:
            raise OptionError(f"the decoder's fine_width must be a whole number from 0, not {self.fine_width!r}")
        if self.width % self.heads:
            raise OptionError(f"the decoder's width {self.width} is not a multiple of its {self.heads} heads")
        for name in ("dropout", "fine_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise OptionError(f"{name} must be in [0, 1), not {getattr(self, name)}")
        for layer, head in self.map_heads:
            if not (0 <= layer < self.layers and 0 <= head < self.heads):
                raise OptionError(f"map head ({layer}, {head}) is not in {self.layers} layers of {self.heads} heads")


@dataclass(frozen=True)
class TransformerState:
    """Cached keys and values of the words so far, one pair a layer, each layer's cache of B grids, and the hidden units
    of fine maps where there are such."""

    words: tuple[_KeysValues, ...]  # each (N, H, t, width / H)
    grids: tuple[AttentionCache, ...]
    fine: Tensor | None = None  # (B, L * 4, fine_width)

    @property
    def length(self) -> int:
        """t, the words so far."""
        return self.words[0][0].shape[2]

    def select(self, rows: Tensor, images: Tensor | None = None) -> "TransformerState":
        """See `captioner.model.decoder.DecoderState.select`."""
        grids = self.grids if images is None else tuple(cache.select(images) for cache in self.grids)
        fine = self.fine if self.fine is None or images is None else self.fine[images]
        words = tuple((keys[rows], values[rows]) for keys, values in self.words)
        return replace(self, words=words, grids=grids, fine=fine)


class TransformerBlock(nn.Module):
    """Self-attention over the words, cross-attention over the grid, feed-forward; each after a LayerNorm."""

    def __init__(self, *, image_width: int, config: TransformerConfig) -> None:
        super().__init__()
        width = config.width
        self.heads = config.heads
        self.self_norm = nn.LayerNorm(width)
        self.self_qkv = nn.Linear(width, 3 * width)
        self.self_output = nn.Linear(width, width)
        self.cross_norm = nn.LayerNorm(width)
        self.cross_attention = build_attention(
            config.attention,
            text_width=width,
            image_width=image_width,
            width=width,
            heads=config.heads,
            options=config.attention_options,
        )
        if self.cross_attention.needs_steps:
            raise OptionError(
                f"the attention '{config.attention}' goes word by word, and a Transformer reads all words at once",
                remedy="use the decoder lstm",
            )
        self.cross_output = nn.Identity() if image_width == width else nn.Linear(image_width, width)
        self.feed_forward_norm = nn.LayerNorm(width)
        self.feed_forward = nn.Sequential(
            nn.Linear(width, config.hidden),
            nn.GELU(),
            nn.Dropout(config.dropout),
            nn.Linear(config.hidden, width),
        )
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self, x: Tensor, grid: AttentionCache, words: _KeysValues | None, *, attention: bool
    ) -> tuple[Tensor, Attended | None, _KeysValues]:
        """x (N, T, width) -> x, what each head attended to if wanted, keys and values with T more words."""
        q, k, v = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (N, H, T, width / H)
            for part in self.self_qkv(self.self_norm(x)).chunk(3, -1)
        )
        if words is not None:
            k, v = torch.cat((words[0], k), 2), torch.cat((words[1], v), 2)
        read = _self_attention(q, k, v, causal=words is None)  # with a cache the one query may read all words
        x = x + self.dropout(self.self_output(read.transpose(1, 2).flatten(2)))

        rows, steps, _ = x.shape
        query = self.cross_norm(x).reshape(grid.keys.shape[0], -1, x.shape[-1])  # (B, k * T, width)
        attended: Attended | None = self.cross_attention(query, grid) if attention else None
        context = self.cross_attention.context(query, grid) if attended is None else attended.context
        x = x + self.dropout(self.cross_output(context).reshape(rows, steps, -1))
        return x + self.dropout(self.feed_forward(self.feed_forward_norm(x))), attended, (k, v)


def _self_attention(q: Tensor, k: Tensor, v: Tensor, *, causal: bool) -> Tensor:
    """softmax(q k^T / sqrt(d)) v, d the width of a head; all (N, H, T, d)."""
    if not (q.requires_grad and q.device.type == "cpu"):
        return F.scaled_dot_product_attention(q, k, v, is_causal=causal)
    # On processors the fused kernel's backward pass takes several times as long as these products of a few words.
    scores = q @ k.mT / q.shape[-1] ** 0.5  # (N, H, T, T)
    if causal:
        later = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).triu(1)
        scores = scores.masked_fill(later, -torch.inf)
    read: Tensor = scores.softmax(-1) @ v
    return read


@DECODERS.register_with("transformer", TransformerConfig)
class TransformerDecoder(Decoder):
    """Words attend to the words before them and to the grid; input and output embeddings are shared."""

    config: TransformerConfig

    def __init__(
        self, *, vocabulary_size: int, image_width: int, config: TransformerConfig, fine_channels: int = 0
    ) -> None:
        super().__init__()
        self.config = config
        self.layers, self.heads = config.layers, config.heads
        self.embed = TiedEmbedding(vocabulary_size, config.width)
        self.positions = nn.Embedding(config.max_length, config.width)
        self.blocks = nn.ModuleList(
            TransformerBlock(image_width=image_width, config=config) for _ in range(config.layers)
        )
        self.fine = FineMaps.of_width(
            config.fine_width,
            query=2 * config.width,
            image_width=image_width,
            fine_channels=fine_channels,
            dropout=config.fine_dropout,
        )
        self.norm = nn.LayerNorm(config.width)
        self.bias = nn.Parameter(torch.zeros(vocabulary_size))
        self.dropout = nn.Dropout(config.dropout)
        nn.init.normal_(self.embed.weight, std=config.width**-0.5)
        nn.init.normal_(self.positions.weight, std=config.width**-0.5)

    @property
    def max_length(self) -> int:
        """One position is that of START."""
        return self.config.max_length - 1

    @property
    def map_heads(self) -> tuple[int, ...]:
        """All heads of the last layer where the configuration names none."""
        pairs = self.config.map_heads or tuple((self.layers - 1, head) for head in range(self.heads))
        return tuple(layer * self.heads + head for layer, head in pairs)

    def config_with_map_heads(self, heads: Sequence[int]) -> TransformerConfig:
        """See `captioner.model.decoder.Decoder.config_with_map_heads`."""
        return replace(self.config, map_heads=tuple(divmod(head, self.heads) for head in heads))

    def begin(self, grid: Grid) -> TransformerState:
        """No words yet; each layer's keys and values of the grid."""
        empty = grid.features.new_zeros(grid.features.shape[0], self.heads, 0, self.config.width // self.heads)
        fine = None if self.fine is None else self.fine.hidden_units(grid)
        return TransformerState(words=((empty, empty),) * self.layers, grids=self._grids(grid), fine=fine)

    def step(self, token: Tensor, state: TransformerState) -> Step:
        """See `captioner.model.decoder.Decoder.step`."""
        x = self._embed(token[:, None], state.length)
        x, attended, words = self._run(x, state.grids, state.words, self._map_layers())
        weights, off_grid = self._map(attended, token.shape[0], 1)
        return Step(
            logits=self._output(x)[:, 0],
            map=self._maps(weights, x, token[:, None], state.fine, state.grids[0])[:, 0],
            off_grid=off_grid[:, 0],
            state=replace(state, words=words),
            attention=tuple(one.weights for one in attended.values()),
            others={name: value.flatten(0, 1) for name, value in _last(attended).others.items()},
        )

    def read(self, tokens: Tensor, state: TransformerState, places: Tensor) -> Step:
        """See `captioner.model.decoder.Decoder.read`."""
        x, attended, _ = self._run(self._embed(tokens, 0), state.grids, None, self._map_layers())
        weights, off_grid = self._map(attended, *tokens.shape)
        return Step(
            logits=self._output(x.flatten(0, 1)[places]),
            map=self._maps(weights, x, tokens, state.fine, state.grids[0]).flatten(0, 1)[places],
            off_grid=off_grid.flatten()[places],
            state=None,
        )

    def forward(self, grid: Grid, tokens: Tensor, *, attention: bool = False) -> Decoded:
        """See `captioner.model.decoder.Decoder.forward`."""
        captions_per_picture(len(tokens), len(grid))
        wanted = set(range(self.layers)) if attention else self._map_layers()
        grids, fine = self._grids(grid), None if self.fine is None else self.fine.hidden_units(grid)
        x, attended, _ = self._run(self._embed(tokens, 0), grids, None, wanted)
        # Captions differ in length, and half of a batch is padding: it gets no logits.
        reading = still_reading(tokens)
        logits = self._output(x[reading])  # (P, V)
        weights, off_grid = self._map(attended, *tokens.shape)
        return Decoded(
            logits=logits.new_zeros(*tokens.shape, logits.shape[1]).index_put((reading,), logits),
            maps=self._maps(weights, x, tokens, fine, grids[0]),
            off_grid=off_grid,
            attention=tuple(one.weights for one in attended.values()) if attention else (),
            others={
                name: value.reshape(*tokens.shape, *value.shape[2:]) for name, value in _last(attended).others.items()
            },
        )

    def _grids(self, grid: Grid) -> tuple[AttentionCache, ...]:
        return tuple(block.cross_attention.keys_values(grid) for block in self._blocks())

    def _blocks(self) -> list[TransformerBlock]:
        return [block for block in self.blocks if isinstance(block, TransformerBlock)]

    def _map_layers(self) -> set[int]:
        """Layers whose weights the map needs: the fused kernel of the others returns none."""
        return {head // self.heads for head in self.map_heads}

    def _embed(self, tokens: Tensor, start: int) -> Tensor:
        end = start + tokens.shape[1]
        if end > self.config.max_length:
            raise OptionError(
                f"{end} tokens are more than the {self.config.max_length} positions of this decoder",
                remedy=f"max_length can be {self.max_length} at most",
            )
        embedded: Tensor = self.dropout(self.embed(tokens) + self.positions.weight[start:end])
        return embedded

    def _run(
        self, x: Tensor, grids: tuple[AttentionCache, ...], words: tuple[_KeysValues, ...] | None, wanted: set[int]
    ) -> tuple[Tensor, dict[int, Attended], tuple[_KeysValues, ...]]:
        """All blocks: x, what the wanted layers attended to, keys and values of the words."""
        attended: dict[int, Attended] = {}
        new_words = []
        for layer, block in enumerate(self._blocks()):
            own = None if words is None else words[layer]
            x, found, keys_values = block(x, grids[layer], own, attention=layer in wanted)
            if found is not None:
                attended[layer] = found
            new_words.append(keys_values)
        return x, attended, tuple(new_words)

    def _map(self, attended: dict[int, Attended], rows: int, steps: int) -> tuple[Tensor, Tensor]:
        """The map (N, T, L) and the weight off the grid (N, T): the mean over the map's heads."""
        places = [divmod(head, self.heads) for head in self.map_heads]
        weights = torch.stack([attended[layer].weights[:, head] for layer, head in places]).mean(0)  # (B, k * T, L)
        off_grid = torch.stack([attended[layer].off_grid[:, head] for layer, head in places]).mean(0)
        return weights.reshape(rows, steps, -1), off_grid.reshape(rows, steps)

    def _maps(self, weights: Tensor, x: Tensor, tokens: Tensor, keys: Tensor | None, cache: AttentionCache) -> Tensor:
        """The maps (N, T, h, w) of weights (N, T, L), or fine ones of twice the size, of what the blocks made of tokens
        (N, T), x (N, T, width)."""
        if self.fine is None or keys is None:
            return cache.maps(weights)
        query = torch.cat((self.norm(x), self.embed(tokens)), 2)
        query, cells = (one.reshape(keys.shape[0], -1, one.shape[2]) for one in (query, weights))
        return maps_of_parts(self.fine(query, keys, cells).reshape(*tokens.shape, -1), cache.shape, frames=cache.frames)

    def _output(self, x: Tensor) -> Tensor:
        """Logits (..., V)."""
        logits: Tensor = self.embed.logits(self.norm(x), self.bias)
        return logits


def _last(attended: dict[int, Attended]) -> Attended:
    """What the last of the layers attended to."""
    return attended[max(attended)]
