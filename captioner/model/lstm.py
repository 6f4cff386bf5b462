"""The soft-attention LSTM of Show, Attend and Tell (Xu et al. 2015, https://arxiv.org/abs/1502.03044)."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from captioner.errors import OptionError
from captioner.model.attention.adaptive import VisualSentinel
from captioner.model.attention.base import Attended, AttentionCache, build_attention
from captioner.model.decoder import DECODERS, Decoded, Decoder, Step, captions_per_picture, still_reading
from captioner.model.fine_maps import FineMaps, maps_of_parts
from captioner.model.grid import Grid
from captioner.model.quantised import TiedEmbedding, UnquantisedLinear


@dataclass(frozen=True, kw_only=True)
class LSTMConfig:
    """Shape of an `LSTMDecoder`.

    Attributes:
        width: of the hidden state.
        embedding: width of word embeddings; input and output share them.
        output_hidden: width inside the output's feed-forward layer.
        attention: a name of `captioner.model.attention.ATTENTIONS`.
        attention_width: of the space in which query and cells are compared.
        attention_options: of that mechanism alone, by name: ``{"window": 4}``; see its class.
        heads: of the attention; 1 but for "multihead", "memory" and "attention_on_attention".
        map_heads: the heads, from 0, whose mean is the map, or what fine maps are made of; empty for all.
        attend_after_lstm: query with the hidden state that has read the last word (the visual attention of Lu et al.
            2017, "Knowing When to Look", figure 2b) rather than with the one before it (Xu et al. 2015, eq. 4). The
            map then knows the word it follows. Without it, a visual sentinel ("adaptive") is gated from the memory cell
            of the step before: there is no newer one yet, which departs from equation 10 of Lu et al. 2017.
        fine_width: of queries and keys of `captioner.model.fine_maps.FineMaps`, which gives maps of twice the grid's
            resolution; 0 for maps of the cells. The encoder then needs a fine stage.
        fine_dropout: on their queries; half of it on channels of the fine stage.
        dropout: on embeddings and in the output.
    """

    width: int = 512
    embedding: int = 384
    output_hidden: int = 768
    attention: str = "multihead"
    attention_width: int = 512
    attention_options: dict[str, Any] = field(default_factory=dict)
    heads: int = 8
    map_heads: tuple[int, ...] = ()
    attend_after_lstm: bool = True
    fine_width: int = 0
    fine_dropout: float = 0.4
    dropout: float = 0.3

    def __post_init__(self) -> None:
        object.__setattr__(self, "map_heads", tuple(int(head) for head in self.map_heads))
        for name in ("width", "embedding", "output_hidden", "attention_width", "heads"):
            if getattr(self, name) < 1:
                raise OptionError(f"the decoder's {name} must be positive, not {getattr(self, name)}")
        if type(self.fine_width) is not int or self.fine_width < 0:
            raise OptionError(f"the decoder's fine_width must be a whole number from 0, not {self.fine_width!r}")
        if self.fine_width and self.attention == "hard":
            raise OptionError("hard attention draws one cell, and has no fine maps", remedy="leave out fine_width")
        for name in ("dropout", "fine_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise OptionError(f"{name} must be in [0, 1), not {getattr(self, name)}")
        for head in self.map_heads:
            if not 0 <= head < self.heads:
                raise OptionError(f"map head {head} is not among {self.heads} heads")


@dataclass(frozen=True)
class LSTMState:
    """Hidden state and cell of N rows, their last context, the attention's cache of B grids, the weights of the step
    before where the attention takes them, and the hidden units of fine maps where there are such."""

    hidden: Tensor  # (N, width)
    cell: Tensor  # (N, width)
    context: Tensor  # (N, D)
    cache: AttentionCache
    previous: Tensor | None = None  # (N, L)
    fine: Tensor | None = None  # (B, L * 4, fine_width)

    def select(self, rows: Tensor, images: Tensor | None = None) -> "LSTMState":
        """See `captioner.model.decoder.DecoderState.select`."""
        cache = self.cache if images is None else self.cache.select(images)
        previous = None if self.previous is None else self.previous[rows]
        fine = self.fine if self.fine is None or images is None else self.fine[images]
        return LSTMState(self.hidden[rows], self.cell[rows], self.context[rows], cache, previous, fine)


@DECODERS.register_with("lstm", LSTMConfig)
class LSTMDecoder(Decoder):
    """Reads a word, attends to the grid, predicts the next word.

    Each step, in the paper's order: attention with the hidden state as query; the context, gated by
    ``beta = sigmoid(W h)`` (section 4.2.1); the LSTM over word and context; the deep output over word, hidden state
    and context (eq. 7). With ``attend_after_lstm`` the LSTM comes first, over the word and the previous context.

    Two things differ from the paper, because without them the attention did not learn to point on drawn scenes: the
    query is normalised, and the deep output is a residual feed-forward layer between normalisations rather
    than a ``tanh``. Its last matrix is the embedding (Press and Wolf 2017).
    """

    config: LSTMConfig

    def __init__(self, *, vocabulary_size: int, image_width: int, config: LSTMConfig, fine_channels: int = 0) -> None:
        super().__init__()
        self.config = config
        self.heads = config.heads
        self.embed = TiedEmbedding(vocabulary_size, config.embedding)
        self.attention = build_attention(
            config.attention,
            text_width=config.width,
            image_width=image_width,
            width=config.attention_width,
            heads=config.heads,
            options=config.attention_options,
        )
        input_width = config.embedding + image_width
        # The gate of the visual sentinel, of what the LSTM reads.
        self.sentinel = (
            VisualSentinel(input_width=input_width, width=config.width) if "sentinel" in self.attention.takes else None
        )
        self._takes_previous = "previous" in self.attention.takes
        self.fine = FineMaps.of_width(
            config.fine_width,
            query=config.width + config.embedding,
            image_width=image_width,
            fine_channels=fine_channels,
            dropout=config.fine_dropout,
        )
        self.initial_hidden = UnquantisedLinear(image_width, config.width)
        self.initial_cell = UnquantisedLinear(image_width, config.width)
        self.gate = nn.Linear(config.width, 1)
        self.lstm = nn.LSTMCell(input_width, config.width)
        self.query_norm = nn.LayerNorm(config.width)
        self.hidden_to_embedding = nn.Linear(config.width, config.embedding)
        self.context_to_embedding = nn.Linear(image_width, config.embedding, bias=False)
        self.deep_output = nn.Sequential(
            nn.LayerNorm(config.embedding),
            nn.Linear(config.embedding, config.output_hidden),
            nn.GELU(),
            nn.Dropout(config.dropout),
            nn.Linear(config.output_hidden, config.embedding),
        )
        self.output_norm = nn.LayerNorm(config.embedding)
        self.bias = nn.Parameter(torch.zeros(vocabulary_size))
        self.dropout = nn.Dropout(config.dropout)
        nn.init.normal_(self.embed.weight, std=config.embedding**-0.5)

    def begin(self, grid: Grid) -> LSTMState:
        """Hidden state and cell from the mean of the grid (section 3.1.2)."""
        mean = grid.mean()
        return LSTMState(
            hidden=self.initial_hidden(mean).tanh(),
            cell=self.initial_cell(mean).tanh(),
            context=torch.zeros_like(mean),
            cache=self.attention.keys_values(grid),
            previous=_even(grid) if self._takes_previous else None,
            fine=None if self.fine is None else self.fine.hidden_units(grid),
        )

    def step(self, token: Tensor, state: LSTMState) -> Step:
        """See `captioner.model.decoder.Decoder.step`."""
        word = self.dropout(self.embed(token))
        attended, state = self._advance(word, state)
        weights, off_grid = self._map(attended)
        return Step(
            logits=self._output(word, state.hidden, state.context),
            map=self._maps(self._of_parts(weights, word, state), state.cache),
            off_grid=off_grid,
            state=state,
            attention=(attended.weights,),
            others={name: value.flatten(0, 1) for name, value in attended.others.items()},
        )

    def forward(self, grid: Grid, tokens: Tensor, *, attention: bool = False) -> Decoded:
        """See `captioner.model.decoder.Decoder.forward`."""
        state = self.begin(grid)
        copies = captions_per_picture(len(tokens), len(grid))
        state = state.select(torch.arange(len(grid), device=tokens.device).repeat_interleave(copies))
        # Captions differ in length, and half of a batch is padding: a row that has ended goes no further.
        reading = still_reading(tokens)
        place = reading.t().nonzero(as_tuple=True)[::-1]  # rows and steps, step by step
        counts = [count for count in reading.sum(0).tolist() if count]
        words = self.dropout(self.embed(tokens[place]))  # (P, E), the words of all steps
        hidden, contexts, maps, off_grid, heads = [], [], [], [], []
        others: dict[str, list[Tensor]] = {}
        for t, word in enumerate(words.split(counts)):
            if t and counts[t] < counts[t - 1]:
                state = state.select(reading[reading[:, t - 1], t])
            rows = reading[:, t] if counts[t] < len(tokens) else None
            attended, state = self._advance(word, state, rows)
            weights, off = self._map(attended, rows)
            hidden.append(state.hidden)
            contexts.append(state.context)
            maps.append(self._of_parts(weights, word, state, rows))
            off_grid.append(off)
            heads.append(attended.weights)
            for name, value in attended.others.items():
                each = value.flatten(0, 1)
                others.setdefault(name, []).append(each if rows is None else each[rows])
        # The output layer, most of the arithmetic, is computed once for all steps.
        logits = self._output(words, torch.cat(hidden), torch.cat(contexts))
        return Decoded(
            logits=_at(place, logits, tokens),
            maps=self._maps(_at(place, torch.cat(maps), tokens), state.cache),
            off_grid=_at(place, torch.cat(off_grid), tokens),
            attention=tuple(heads) if attention else (),
            others={name: _at(place, torch.cat(values), tokens) for name, values in others.items()},
        )

    def _advance(self, word: Tensor, state: LSTMState, rows: Tensor | None = None) -> tuple[Attended, LSTMState]:
        """One step of attention and LSTM over embedded words (N, E).

        ``rows`` (M,) is True for the N rows of a batch that these are; None where they are all of it.
        """
        after = self.config.attend_after_lstm
        hidden, cell, context = state.hidden, state.cell, state.context
        inputs = torch.cat((word, context), 1)  # (N, E + D)
        if after:
            hidden, cell = self.lstm(inputs, (hidden, cell))
        taken = {} if state.previous is None else {"previous": state.previous}
        if self.sentinel is not None:
            taken["sentinel"] = self.sentinel(inputs, state.hidden, cell)
        context, attended = self._attend(hidden, state.cache, rows, taken)
        if not after:
            hidden, cell = self.lstm(torch.cat((word, context), 1), (hidden, cell))
        previous = state.previous
        if previous is not None:
            weights = attended.weights.mean(1).flatten(0, 1)
            previous = weights if rows is None else weights[rows]
        return attended, replace(state, hidden=hidden, cell=cell, context=context, previous=previous)

    def _attend(
        self, hidden: Tensor, cache: AttentionCache, rows: Tensor | None, taken: Mapping[str, Tensor]
    ) -> tuple[Tensor, Attended]:
        """The gated context (N, D) of hidden states (N, width), and what all rows of the batch attended to.

        The gate of Xu et al. 2015, section 4.2.1, scales the context of every mechanism, that of "adaptive" with its
        sentinel too, which Lu et al. 2017 do without.

        ``taken`` is what the attention takes beside the query, each (N, ...).
        """

        pictures = cache.keys.shape[0]
        query = _per_picture(self.query_norm(hidden), pictures, rows)
        others = {name: _per_picture(x, pictures, rows) for name, x in taken.items()}
        attended: Attended = self.attention(query, cache, **others)
        context = attended.context.flatten(0, 1)
        if rows is not None:
            context = context[rows]
        return self.gate(hidden).sigmoid() * context, attended  # beta, (N, 1)

    def _map(self, attended: Attended, rows: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The map (N, L) and the weight off the grid (N,): the mean over the map's heads."""
        heads = list(self.map_heads)
        weights = attended.weights[:, heads].mean(1).flatten(0, 1)
        off_grid = attended.off_grid[:, heads].mean(1).flatten(0, 1)
        return (weights, off_grid) if rows is None else (weights[rows], off_grid[rows])

    def _of_parts(self, weights: Tensor, word: Tensor, state: LSTMState, rows: Tensor | None = None) -> Tensor:
        """The weights (N, L) of the cells as those of their parts, (N, L * 4), where there are fine maps."""
        if self.fine is None or state.fine is None:
            return weights
        pictures = state.fine.shape[0]
        query = torch.cat((self.query_norm(state.hidden), word), 1)
        query, weights = (_per_picture(x, pictures, rows) for x in (query, weights))
        found: Tensor = self.fine(query, state.fine, weights).flatten(0, 1)
        return found if rows is None else found[rows]

    def _maps(self, weights: Tensor, cache: AttentionCache) -> Tensor:
        """What `_of_parts` returned, (N, ..., L) or (N, ..., L * 4), as maps (N, ..., h, w) or of twice the size."""
        if self.fine is None:
            return cache.maps(weights)
        return maps_of_parts(weights, cache.shape, frames=cache.frames)

    def _output(self, word: Tensor, hidden: Tensor, context: Tensor) -> Tensor:
        """Logits (..., V) from word embedding, hidden state and context."""
        x = word + self.hidden_to_embedding(self.dropout(hidden)) + self.context_to_embedding(context)
        x = x + self.deep_output(x)
        logits: Tensor = self.embed.logits(self.dropout(self.output_norm(x)), self.bias)
        return logits


def _at(place: tuple[Tensor, ...], values: Tensor, tokens: Tensor) -> Tensor:
    """Values (P, ...) at their rows and steps, (N, T, ...), 0 elsewhere."""
    return values.new_zeros(*tokens.shape, *values.shape[1:]).index_put(place, values)


def _per_picture(x: Tensor, pictures: int, rows: Tensor | None) -> Tensor:
    """Values (N, ...) of the rows of B pictures, (B, k, ...): the attention takes as many rows of every picture.

    ``rows`` (M,) is True for the N rows of a batch that these are; None where they are all of it.
    """
    if rows is not None:
        x = x.new_zeros(len(rows), x.shape[1]).masked_scatter(rows[:, None], x)
    shaped: Tensor = x.unflatten(0, (pictures, -1))
    return shaped


def _even(grid: Grid) -> Tensor:
    """Even weights over the cells that hold picture, (B, L)."""
    if grid.mask is None:
        return grid.features.new_ones(grid.features.shape[:2]) / grid.features.shape[1]
    held = grid.mask.to(grid.features.dtype)
    return held / held.sum(1, keepdim=True).clamp(min=1)
