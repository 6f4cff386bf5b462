"""A pre-norm Transformer decoder with cached keys and values; its maps are read from its cross-attention.

Vaswani et al. 2017 (https://arxiv.org/abs/1706.03762), normalised before each block as in GPT-2.
"""

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from captioner.errors import OptionError
from captioner.model.attention import MultiHeadAttention, Seen
from captioner.model.decoder import captions_per_picture, still_reading
from captioner.model.grid import Grid


@dataclass(frozen=True, kw_only=True)
class TransformerConfig:
    """Shape of a `TransformerDecoder`.

    Attributes:
        width: of the residual stream.
        layers, heads: blocks, and heads of each attention in them.
        hidden: width inside the feed-forward blocks.
        longest: positions that can be told apart; START takes one, so a caption has fewer words.
        map_heads: pairs (layer, head), from 0, whose mean is the map; empty for all heads of the last layer.
        dropout: on embeddings and on what each block adds.
    """

    width: int = 384
    layers: int = 3
    heads: int = 6
    hidden: int = 1536
    longest: int = 64
    map_heads: tuple[tuple[int, int], ...] = ()
    dropout: float = 0.1

    def __post_init__(self) -> None:
        object.__setattr__(self, "map_heads", tuple((int(a), int(b)) for a, b in self.map_heads))
        for name in ("width", "layers", "heads", "hidden", "longest"):
            if getattr(self, name) < 1:
                raise OptionError(f"the decoder's {name} must be positive, not {getattr(self, name)}")
        if self.width % self.heads:
            raise OptionError(f"the decoder's width {self.width} is not a multiple of its {self.heads} heads")
        if not 0 <= self.dropout < 1:
            raise OptionError(f"dropout must be in [0, 1), not {self.dropout}")
        for layer, head in self.map_heads:
            if not (0 <= layer < self.layers and 0 <= head < self.heads):
                raise OptionError(f"map head ({layer}, {head}) is not in {self.layers} layers of {self.heads} heads")

    def read_heads(self) -> tuple[tuple[int, int], ...]:
        """The heads that make the map, the default spelled out."""
        return self.map_heads or tuple((self.layers - 1, head) for head in range(self.heads))


@dataclass(frozen=True)
class TransformerState:
    """Cached keys and values of the words so far, one pair a layer, and what the layers keep of B grids."""

    caches: tuple[tuple[Tensor, Tensor], ...]  # each (N, H, t, width / H)
    seen: tuple[Seen, ...]
    shape: tuple[int, int]
    length: int

    def select(self, index: Tensor) -> "TransformerState":
        return replace(self, caches=tuple((keys[index], values[index]) for keys, values in self.caches))


class TransformerBlock(nn.Module):
    """Self-attention over the words, cross-attention over the grid, feed-forward; each after a LayerNorm."""

    def __init__(self, *, image_width: int, config: TransformerConfig) -> None:
        super().__init__()
        width = config.width
        self.heads = config.heads
        self.norm_words = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.join = nn.Linear(width, width)
        self.norm_look = nn.LayerNorm(width)
        self.look = MultiHeadAttention(text_width=width, image_width=image_width, width=width, heads=config.heads)
        self.from_image = nn.Identity() if image_width == width else nn.Linear(image_width, width)
        self.norm_think = nn.LayerNorm(width)
        self.think = nn.Sequential(
            nn.Linear(width, config.hidden),
            nn.GELU(),
            nn.Dropout(config.dropout),
            nn.Linear(config.hidden, width),
        )
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self, x: Tensor, seen: Seen, cache: tuple[Tensor, Tensor] | None, *, weights_wanted: bool
    ) -> tuple[Tensor, Tensor | None, tuple[Tensor, Tensor]]:
        """x (N, T, width) -> x, each head's weights (N, H, T, L) if wanted, the cache with T more words."""
        q, k, v = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (N, H, T, width / H)
            for part in self.qkv(self.norm_words(x)).chunk(3, -1)
        )
        if cache is not None:
            k, v = torch.cat((cache[0], k), 2), torch.cat((cache[1], v), 2)
        # With a cache there is one query, the newest, and it may read all words.
        said = F.scaled_dot_product_attention(q, k, v, is_causal=cache is None)
        x = x + self.dropout(self.join(said.transpose(1, 2).flatten(2)))

        rows, steps, _ = x.shape
        pictures = seen.keys.shape[0]
        query = self.norm_look(x).reshape(pictures, -1, x.shape[-1])  # (B, k * T, width)
        weights = None
        if weights_wanted:
            context, by_head = self.look.forward_heads(query, seen)
            weights = by_head.unflatten(2, (-1, steps)).transpose(1, 2).flatten(0, 1)  # (N, H, T, L)
        else:
            context = self.look.forward_fused(query, seen)
        x = x + self.dropout(self.from_image(context).reshape(rows, steps, -1))
        return x + self.dropout(self.think(self.norm_think(x))), weights, (k, v)


class TransformerDecoder(nn.Module):
    """Words attend to the words before them and to the grid; input and output embeddings are shared."""

    def __init__(self, *, vocabulary_size: int, image_width: int, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        self.embed = nn.Embedding(vocabulary_size, config.width)
        self.positions = nn.Embedding(config.longest, config.width)
        self.blocks = nn.ModuleList(
            TransformerBlock(image_width=image_width, config=config) for _ in range(config.layers)
        )
        self.norm = nn.LayerNorm(config.width)
        self.bias = nn.Parameter(torch.zeros(vocabulary_size))
        self.dropout = nn.Dropout(config.dropout)
        nn.init.normal_(self.embed.weight, std=config.width**-0.5)
        nn.init.normal_(self.positions.weight, std=config.width**-0.5)

    def begin(self, grid: Grid) -> TransformerState:
        """No words yet; each layer's keys and values of the grid."""
        head_width = self.config.width // self.config.heads
        empty = grid.features.new_zeros(len(grid), self.config.heads, 0, head_width)
        return TransformerState(
            caches=((empty, empty),) * self.config.layers,
            seen=tuple(block.look.look_at(grid) for block in self._blocks()),
            shape=grid.shape,
            length=0,
        )

    def step(self, token: Tensor, state: TransformerState) -> tuple[Tensor, Tensor, TransformerState]:
        """See `captioner.model.decoder.Decoder.step`."""
        x = self._embed(token[:, None], state.length)
        x, weights, caches = self._run(x, state.seen, state.caches)
        state = replace(state, caches=caches, length=state.length + 1)
        return self._say(x)[:, 0], self._map(weights)[:, 0].unflatten(-1, state.shape), state

    def teach(self, grid: Grid, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """See `captioner.model.decoder.Decoder.teach`."""
        captions_per_picture(len(tokens), len(grid))
        seen = tuple(block.look.look_at(grid) for block in self._blocks())
        x, weights, _ = self._run(self._embed(tokens, 0), seen, None)
        # Captions differ in length, and half of a batch is padding: of it, nothing is said.
        reading = still_reading(tokens)
        said = self._say(x[reading])  # (P, V)
        logits = said.new_zeros(*tokens.shape, said.shape[1]).index_put((reading,), said)
        return logits, self._map(weights).unflatten(-1, grid.shape)

    def _blocks(self) -> list[TransformerBlock]:
        return [block for block in self.blocks if isinstance(block, TransformerBlock)]

    def _embed(self, tokens: Tensor, start: int) -> Tensor:
        end = start + tokens.shape[1]
        if end > self.config.longest:
            raise OptionError(
                f"{end} tokens are more than the {self.config.longest} that this decoder can place: "
                f"max_length can be {self.config.longest - 1} at most"
            )
        place = self.positions.weight[start:end]
        embedded: Tensor = self.dropout(self.embed(tokens) + place)
        return embedded

    def _run(
        self,
        x: Tensor,
        seen: tuple[Seen, ...],
        caches: tuple[tuple[Tensor, Tensor], ...] | None,
    ) -> tuple[Tensor, dict[int, Tensor], tuple[tuple[Tensor, Tensor], ...]]:
        read = {layer for layer, _ in self.config.read_heads()}
        weights: dict[int, Tensor] = {}
        new_caches = []
        for layer, block in enumerate(self._blocks()):
            cache = None if caches is None else caches[layer]
            wanted = layer in read or block.look.listener is not None  # the fused kernel gives none
            x, by_head, cache = block(x, seen[layer], cache, weights_wanted=wanted)
            if by_head is not None:
                weights[layer] = by_head
            new_caches.append(cache)
        return x, weights, tuple(new_caches)

    def _map(self, weights: dict[int, Tensor]) -> Tensor:
        heads = [weights[layer][:, head] for layer, head in self.config.read_heads()]  # each (N, T, L)
        return torch.stack(heads).mean(0)

    def _say(self, x: Tensor) -> Tensor:
        return F.linear(self.norm(x), self.embed.weight, self.bias)  # (..., V)
