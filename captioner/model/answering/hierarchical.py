"""Hierarchical co-attention over words, phrases and question (Lu et al. 2016, sections 3.2 to 3.4)."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from captioner.errors import OptionError
from captioner.model.answering.attributes import Attributes
from captioner.model.answering.base import ANSWERERS, Answered, Answerer, check_answerer, drop_grid
from captioner.model.answering.question import QuestionEncoder
from captioner.model.co_attention import CO_ATTENTIONS, CoAttention
from captioner.model.fine_maps import FINER, maps_of_parts
from captioner.model.grid import Grid
from captioner.model.quantised import UnquantisedLinear
from captioner.tokenizer.vocabulary import PAD

LEVELS = ("word", "phrase", "question")
_MOST_ATTRIBUTES = 1000


@dataclass(frozen=True, kw_only=True)
class HierarchicalConfig:
    """Shape of a `HierarchicalAnswerer`.

    Attributes:
        embedding: width of the words' embeddings.
        width: of the levels and of the co-attention.
        levels: of `LEVELS`, from the words up, with "question".
        shared: one co-attention for all levels, whose keys are then computed once; else each level has its own.
        co_attention: a name of `captioner.model.co_attention.CO_ATTENTIONS`.
        heads: of the co-attention; 1 but for "multihead".
        hidden: width inside the classifier.
        attributes: words, by their ids, whose presence in the picture is predicted before a question is read; see
            `captioner.model.answering.attributes`. Empty for none.
        attribute_map: share of the map, in [0, 1], that is the mean of the attributes' maps under the weights of the
            question (and see attribute_answers); the rest is that of the map heads. Without attributes all of it is.
        attribute_answers: of each attribute, the number of the answer that it is, or -1. The map of such an attribute
            is mixed in with the probability of that answer, and that mean with the remaining probability. Empty if none
            is an answer.
        fine_width: of queries and keys of `captioner.model.fine_maps.FineMaps`, which gives the attributes' maps, and
            so the answer's, twice the grid's resolution; 0 for maps of the cells. The encoder then needs a fine stage.
        products: fuse what was seen and what was asked by their product beside their sum. The sum is the paper's.
        map_heads: the heads, as ``level * heads + head`` with the places of ``levels``, whose mean is the map; empty
            for those of the question level.
        max_length: the most words of a question that it is asked with.
        dropout: on embeddings, levels and in the classifier.
        channel_dropout, cell_dropout: shares of the grid's channels and cells; see `drop_grid`.
    """

    embedding: int = 384
    width: int = 384
    levels: tuple[str, ...] = LEVELS
    shared: bool = False
    co_attention: str = "multihead"
    heads: int = 8
    hidden: int = 768
    attributes: tuple[int, ...] = ()
    attribute_map: float = 0.0
    attribute_answers: tuple[int, ...] = ()
    fine_width: int = 0
    products: bool = True
    map_heads: tuple[int, ...] = ()
    max_length: int = 32
    dropout: float = 0.3
    channel_dropout: float = 0.0
    cell_dropout: float = 0.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "levels", tuple(self.levels))
        object.__setattr__(self, "attributes", tuple(int(word) for word in self.attributes))
        if self.levels != tuple(one for one in LEVELS if one in self.levels) or "question" not in self.levels:
            raise OptionError(
                f"the levels are {', '.join(LEVELS)} in this order, with question, not {self.levels!r:.60}"
            )
        if len(self.attributes) > _MOST_ATTRIBUTES:  # as a model file may hold
            raise OptionError(f"there may be {_MOST_ATTRIBUTES:,} attributes, not {len(self.attributes):,}")
        object.__setattr__(self, "attribute_answers", tuple(int(answer) for answer in self.attribute_answers))
        if self.attribute_answers and len(self.attribute_answers) != len(self.attributes):
            count, attributes = len(self.attribute_answers), len(self.attributes)
            raise OptionError(f"the answerer's attribute_answers are {count} for {attributes} attributes")
        for name in ("shared", "products"):
            if type(getattr(self, name)) is not bool:
                raise OptionError(f"the answerer's {name} must be true or false, not {getattr(self, name)!r:.60}")
        if type(self.fine_width) is not int or self.fine_width < 0:
            raise OptionError(f"the answerer's fine_width must be a whole number from 0, not {self.fine_width!r:.60}")
        if self.fine_width and not self.attributes:
            raise OptionError(
                f"fine_width is {self.fine_width}, and fine maps are of attributes, of which there are none",
                remedy="give attributes, or leave out fine_width",
            )
        named = f"{len(self.levels)} levels of {self.heads} heads"
        if not 0 <= self.attribute_map <= 1:
            raise OptionError(f"the answerer's attribute_map must be in [0, 1], not {self.attribute_map}")
        check_answerer(self, sizes=("heads",), heads=len(self.levels) * self.heads, named=named)


@ANSWERERS.register_with("hierarchical", HierarchicalConfig)
class HierarchicalAnswerer(Answerer):
    """Co-attention at each level, and what it found fused from the words up to the question.

    ``h_l = tanh(norm(W_l [v_l + q_l, v_l * q_l, h_(l-1)]))`` for the levels l, then a classifier (eq. 7 and 8 of the
    paper, which has neither product nor layer norm). The attributes, if there are any, are read with the words, and
    what the question finds among them is added to the last.
    """

    def __init__(
        self,
        *,
        question_vocabulary: int,
        answers: int,
        image_width: int,
        config: HierarchicalConfig,
        fine_channels: int = 0,
    ) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.question = QuestionEncoder(
            vocabulary_size=question_vocabulary,
            embedding=config.embedding,
            width=width,
            dropout=config.dropout,
            phrases="phrase" in config.levels,
        )
        self.cells = UnquantisedLinear(image_width, width)
        build, count = CO_ATTENTIONS[config.co_attention], len(config.levels)
        self.co_attention = nn.ModuleList(
            build(width=width, heads=config.heads) for _ in range(1 if config.shared else count)
        )
        parts = 2 if config.products else 1
        self.attributes = (
            Attributes(
                config.attributes,
                vocabulary_size=question_vocabulary,
                embedding=config.embedding,
                image_width=image_width,
                width=width,
                fine_width=config.fine_width,
                fine_channels=fine_channels,
            )
            if config.attributes
            else None
        )
        self.fuse = nn.ModuleList(nn.Linear((parts + min(i, 1)) * width, width) for i in range(count))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(count))
        self.final = nn.Linear(width, width)
        self.attribute_output = nn.Linear(width, width) if config.attributes else None
        self.dropout = nn.Dropout(config.dropout)
        named = [answer for answer in config.attribute_answers if answer != -1]
        if len(set(named)) != len(named) or not all(0 <= answer < answers for answer in named):
            raise OptionError(f"the answerer's attribute_answers are numbers of {answers} answers, each once, or -1")
        self.hidden = nn.Linear(width, config.hidden)
        self.output = nn.Linear(config.hidden, answers)

    def forward(self, grid: Grid, questions: Tensor) -> Answered:
        """See `Answerer.forward`."""
        if self.training:
            grid = drop_grid(grid, channels=self.config.channel_dropout, cells=self.config.cell_dropout)
        images, rows, length = questions.shape
        config, mask = self.config, questions != PAD
        shown, attribute_cells, added = None, None, None
        if self.attributes is not None:
            shown, attribute_cells = self.attributes(grid)
            added = self.attributes.word_features(shown, questions).flatten(0, 1)
        levels, last = self.question(questions.flatten(0, 1), added)
        seen = grid.with_features(self.cells(grid.features))
        mechanisms = [one for one in self.co_attention if isinstance(one, CoAttention)]  # all of them
        prepared = [attend.prepare(seen) for attend in mechanisms]
        found: Tensor | None = None
        cells, words = [], []
        for i, (name, fuse) in enumerate(zip(config.levels, self.fuse, strict=True)):
            place = 0 if config.shared else i
            level = levels[name].reshape(images, rows, length, config.width)
            attended = mechanisms[place](level, mask, prepared[place])
            both = [attended.picture + attended.question]
            if config.products:
                both.append(attended.picture * attended.question)
            if found is not None:
                both.append(found)
            found = self.norms[i](fuse(self.dropout(torch.cat(both, -1)))).tanh()
            cells.append(attended.cells)
            words.append(attended.words)
        assert found is not None
        all_cells = torch.cat(cells, 1)  # (B, levels * H, k, L)
        top = (len(config.levels) - 1) * config.heads
        map_cells = all_cells[:, list(config.map_heads or range(top, top + config.heads))].mean(1)  # (B, k, L)
        asked, attribute_weights = last.reshape(images, rows, config.width), None
        if self.attributes is not None and self.attribute_output is not None:
            assert shown is not None and attribute_cells is not None
            context, attribute_weights = self.attributes.attend(shown, asked, self.question.embed.weight)
            found = found + self.attribute_output(context)
        h = found * (1 + self.final(asked).tanh())  # gated by the whole question
        logits = self.output(self.dropout(torch.relu(self.hidden(self.dropout(h)))))
        to_maps: Callable[[Tensor], Tensor] = grid.maps
        if config.fine_width and self.attributes is not None and attribute_cells is not None:
            to_maps = partial(maps_of_parts, shape=grid.shape, frames=grid.frames)
            attribute_cells = self.attributes.divide(grid, attribute_cells)
            map_cells = map_cells.repeat_interleave(FINER**2, 2) / FINER**2
        attribute_maps = None if attribute_cells is None else to_maps(attribute_cells)
        if attribute_cells is not None and attribute_weights is not None and (share := config.attribute_map):
            map_cells = (1 - share) * map_cells + share * (
                self._with_answers(attribute_weights, logits) @ attribute_cells
            )
        return Answered(logits, to_maps(map_cells), words[-1].mean(1), all_cells, shown, attribute_maps)

    def _with_answers(self, weights: Tensor, logits: Tensor) -> Tensor:
        """Weights over the attributes (B, k, N), of which those that are likely answers take their probability."""
        answers = self.config.attribute_answers
        if not answers:
            return weights
        numbers = torch.tensor(answers, device=logits.device)
        probable = logits.detach().softmax(-1)[..., numbers.clamp(min=0)] * (numbers >= 0)
        return weights * (1 - probable.sum(-1, keepdim=True)) + probable
