"""The pooled form: the picture in a few vectors, the question in one, both fused and classified."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from captioner.model.answering.base import ANSWERERS, Answered, Answerer, check_answerer, drop_grid
from captioner.model.answering.question import QuestionEncoder
from captioner.model.attention.base import masked_softmax
from captioner.model.attention.multihead import MultiHeadAttention
from captioner.model.grid import Grid
from captioner.model.quantised import UnquantisedLinear
from captioner.tokenizer.vocabulary import PAD


@dataclass(frozen=True, kw_only=True)
class PooledConfig:
    """Shape of a `PooledAnswerer`.

    Attributes:
        embedding: width of the words' embeddings.
        width: of the question and of what it is fused with.
        latents: learned queries that sum up the picture, whatever the question.
        heads: of their attention.
        hidden: width inside the classifier.
        map_heads: the heads, from 0, whose mean is the map; empty for all.
        max_length: the most words of a question that it is asked with.
        dropout: on embeddings, question and in the classifier.
        channel_dropout, cell_dropout: shares of the grid's channels and cells; see `drop_grid`.
    """

    embedding: int = 384
    width: int = 384
    latents: int = 16
    heads: int = 8
    hidden: int = 768
    map_heads: tuple[int, ...] = ()
    max_length: int = 32
    dropout: float = 0.3
    channel_dropout: float = 0.0
    cell_dropout: float = 0.0

    def __post_init__(self) -> None:
        check_answerer(self, sizes=("latents", "heads"), heads=self.heads, named=f"{self.heads} heads")


@ANSWERERS.register_with("pooled", PooledConfig)
class PooledAnswerer(Answerer):
    """Latent queries pool the picture once; the question weighs what they found, and the product is classified.

    The pooling is that of the Perceiver (Jaegle et al. 2021, section 3.1).

    The map of an answer is the latents' maps by their weights. The words are weighed by their products with the whole
    question, so the picture has no say in them: that is what co-attention adds.
    """

    def __init__(self, *, question_vocabulary: int, answers: int, image_width: int, config: PooledConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.question = QuestionEncoder(
            vocabulary_size=question_vocabulary,
            embedding=config.embedding,
            width=width,
            dropout=config.dropout,
            phrases=False,
        )
        self.latents = nn.Parameter(torch.randn(config.latents, width) / math.sqrt(width))
        self.pool = MultiHeadAttention(
            text_width=width,
            image_width=image_width,
            width=config.heads * -(-width // config.heads),
            heads=config.heads,
        )
        self.pooled = nn.Sequential(nn.LayerNorm(image_width), UnquantisedLinear(image_width, width), nn.Tanh())
        self.word_query = nn.Linear(width, width)
        self.asked = nn.Linear(width, width)
        self.dropout = nn.Dropout(config.dropout)
        self.hidden = nn.Linear(2 * width, config.hidden)
        self.output = nn.Linear(config.hidden, answers)

    def forward(self, grid: Grid, questions: Tensor) -> Answered:
        """See `Answerer.forward`."""
        if self.training:
            grid = drop_grid(grid, channels=self.config.channel_dropout, cells=self.config.cell_dropout)
        images, rows, length = questions.shape
        width = self.config.width
        levels, last = self.question(questions.flatten(0, 1))
        words = levels["question"].reshape(images, rows, length, width)
        whole = last.reshape(images, rows, width)
        scores = (words @ self.word_query(whole).unsqueeze(-1)).squeeze(-1) / math.sqrt(width)
        a_words = masked_softmax(scores, questions != PAD)  # (B, k, T)
        question = whole + (a_words.unsqueeze(2) @ words).squeeze(2)  # (B, k, D)
        queries = self.latents.expand(images, *self.latents.shape)
        attended = self.pool(queries, self.pool.keys_values(grid))
        pooled = self.pooled(attended.context)  # (B, latents, D)
        a_latents = masked_softmax(self.asked(question) @ pooled.transpose(1, 2) / math.sqrt(width), None)
        picture = a_latents @ pooled  # (B, k, D)
        fused = self.dropout(torch.cat((picture * question.tanh(), question), -1))
        logits = self.output(self.dropout(torch.relu(self.hidden(fused))))
        cells = a_latents.unsqueeze(1) @ attended.weights  # (B, H, k, L)
        chosen = list(self.config.map_heads or range(self.config.heads))
        return Answered(logits, grid.maps(cells[:, chosen].mean(1)), a_words, cells)
