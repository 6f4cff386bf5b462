"""The soft-attention LSTM of Show, Attend and Tell (Xu et al. 2015, https://arxiv.org/abs/1502.03044)."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from captioner.errors import OptionError
from captioner.model.attention import Seen, build_attention
from captioner.model.decoder import captions_per_picture, still_reading
from captioner.model.grid import Grid


@dataclass(frozen=True, kw_only=True)
class LSTMConfig:
    """Shape of an `LSTMDecoder`.

    Attributes:
        width: of the hidden state.
        embedding: of a word; reading and saying share it.
        output_hidden: width inside the output's feed-forward layer.
        attention: a name of `captioner.model.attention.ATTENTIONS`.
        attention_width: of the space in which query and cells are compared.
        heads: of the attention; 1 but for "multihead".
        map_heads: the heads, from 0, whose mean is the map; empty for all.
        look_after_reading: ask where to look with the state that has read the last word (as the visual
            attention of Lu et al. 2017, "Knowing When to Look", figure 2b) rather than with the one before
            it (as the paper does, eq. 4): the map then knows the word it follows.
        dropout: on embeddings and in the output.
    """

    width: int = 512
    embedding: int = 384
    output_hidden: int = 768
    attention: str = "multihead"
    attention_width: int = 512
    heads: int = 8
    map_heads: tuple[int, ...] = ()
    look_after_reading: bool = True
    dropout: float = 0.3

    def __post_init__(self) -> None:
        object.__setattr__(self, "map_heads", tuple(int(head) for head in self.map_heads))
        for name in ("width", "embedding", "output_hidden", "attention_width", "heads"):
            if getattr(self, name) < 1:
                raise OptionError(f"the decoder's {name} must be positive, not {getattr(self, name)}")
        if not 0 <= self.dropout < 1:
            raise OptionError(f"dropout must be in [0, 1), not {self.dropout}")
        for head in self.map_heads:
            if not 0 <= head < self.heads:
                raise OptionError(f"map head {head} is not among {self.heads} heads")

    def read_heads(self) -> tuple[int, ...]:
        """The heads that make the map, the default spelled out."""
        return self.map_heads or tuple(range(self.heads))


@dataclass(frozen=True)
class LSTMState:
    """Hidden state and cell of N rows, the context they last saw, and what the attention keeps of B grids."""

    hidden: Tensor  # (N, width)
    cell: Tensor  # (N, width)
    context: Tensor  # (N, D)
    seen: Seen
    shape: tuple[int, int]

    def select(self, index: Tensor) -> "LSTMState":
        return LSTMState(self.hidden[index], self.cell[index], self.context[index], self.seen, self.shape)


class LSTMDecoder(nn.Module):
    """Reads a word, looks at the grid, says the next word.

    At each step, in the paper's order: a map from the hidden state; the context, gated by ``beta = sigmoid(W h)``
    (section 4.2.1); the LSTM over word and context; the deep output over word, hidden state and context (eq. 7).
    With ``look_after_reading`` the LSTM comes first, over the word and the context of the step before.

    Two things differ from the paper, for without them the attention did not learn to look on drawn scenes: the
    query is normalised, and the deep output is a residual feed-forward layer between normalisations rather
    than a ``tanh``. Its last matrix is the embedding (Press and Wolf 2017).
    """

    def __init__(self, *, vocabulary_size: int, image_width: int, config: LSTMConfig) -> None:
        super().__init__()
        self.config = config
        self.embed = nn.Embedding(vocabulary_size, config.embedding)
        self.attention = build_attention(
            config.attention,
            text_width=config.width,
            image_width=image_width,
            width=config.attention_width,
            heads=config.heads,
        )
        self.initial_hidden = nn.Linear(image_width, config.width)
        self.initial_cell = nn.Linear(image_width, config.width)
        self.gate = nn.Linear(config.width, 1)
        self.lstm = nn.LSTMCell(config.embedding + image_width, config.width)
        self.query_norm = nn.LayerNorm(config.width)
        self.from_hidden = nn.Linear(config.width, config.embedding)
        self.from_context = nn.Linear(image_width, config.embedding, bias=False)
        self.deep = nn.Sequential(
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
            seen=self.attention.look_at(grid),
            shape=grid.shape,
        )

    def step(self, token: Tensor, state: LSTMState) -> tuple[Tensor, Tensor, LSTMState]:
        """See `captioner.model.decoder.Decoder.step`."""
        word = self.dropout(self.embed(token))
        weights, state = self._advance(word, state)
        return self._say(word, state.hidden, state.context), weights.unflatten(-1, state.shape), state

    def teach(self, grid: Grid, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """See `captioner.model.decoder.Decoder.teach`."""
        state = self.begin(grid)
        copies = captions_per_picture(len(tokens), len(grid))
        state = state.select(torch.arange(len(grid), device=tokens.device).repeat_interleave(copies))
        # Captions differ in length, and half of a batch is padding: a row that has ended goes no further.
        reading = still_reading(tokens)
        place = reading.t().nonzero(as_tuple=True)[::-1]  # rows and steps, step by step
        counts = [count for count in reading.sum(0).tolist() if count]
        words = self.dropout(self.embed(tokens[place]))  # (P, E), the words of all steps
        hidden, contexts, maps = [], [], []
        for t, word in enumerate(words.split(counts)):
            if t and counts[t] < counts[t - 1]:
                state = state.select(reading[reading[:, t - 1], t])
            weights, state = self._advance(word, state, reading[:, t] if counts[t] < len(tokens) else None)
            hidden.append(state.hidden)
            contexts.append(state.context)
            maps.append(weights)
        # The output layer, most of the arithmetic, is done once for all steps.
        logits, weights = self._say(words, torch.cat(hidden), torch.cat(contexts)), torch.cat(maps)
        all_logits = logits.new_zeros(*tokens.shape, logits.shape[1]).index_put(place, logits)
        all_maps = weights.new_zeros(*tokens.shape, weights.shape[1]).index_put(place, weights)
        return all_logits, all_maps.unflatten(-1, state.shape)

    def _advance(self, word: Tensor, state: LSTMState, rows: Tensor | None = None) -> tuple[Tensor, LSTMState]:
        """One step of attention and LSTM over embedded words (N, E); weights are (N, L).

        ``rows`` (M,) is True for the N rows of a batch that these are; None where they are all of it.
        """
        if self.config.look_after_reading:
            hidden, cell = self.lstm(torch.cat((word, state.context), 1), (state.hidden, state.cell))
            context, weights = self._look(hidden, state.seen, rows)
        else:
            context, weights = self._look(state.hidden, state.seen, rows)
            hidden, cell = self.lstm(torch.cat((word, context), 1), (state.hidden, state.cell))
        return weights, LSTMState(hidden, cell, context, state.seen, state.shape)

    def _look(self, hidden: Tensor, seen: Seen, rows: Tensor | None) -> tuple[Tensor, Tensor]:
        query = self.query_norm(hidden)
        if rows is not None:  # the attention wants as many rows of every picture
            query = query.new_zeros(len(rows), query.shape[1]).masked_scatter(rows[:, None], query)
        # (B, k, width): the rows of a picture share its grid
        context, by_head = self.attention.forward_heads(query.unflatten(0, (seen.keys.shape[0], -1)), seen)
        context, weights = context.flatten(0, 1), by_head[:, list(self.config.read_heads())].mean(1).flatten(0, 1)
        if rows is not None:
            context, weights = context[rows], weights[rows]
        gate = self.gate(hidden).sigmoid()  # beta, (N, 1)
        return gate * context, weights

    def _say(self, word: Tensor, hidden: Tensor, context: Tensor) -> Tensor:
        x = word + self.from_hidden(self.dropout(hidden)) + self.from_context(context)
        x = x + self.deep(x)
        return F.linear(self.dropout(self.output_norm(x)), self.embed.weight, self.bias)  # (..., V)
