"""Attributes: the words of a fixed list that a picture shows, predicted from its grid before any question is asked.

Wu et al. 2016, "What Value Do Explicit High Level Concepts Have in Vision to Language Problems?", predict them as a
multi-label classification and give the probabilities to the decoder. Here they are attended to under the question, as
in You et al. 2016, "Image Captioning with Semantic Attention", section 3.2; and each word of the question that is an
attribute is read with its own probability.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from captioner.errors import OptionError
from captioner.model.attention.base import masked_softmax
from captioner.model.fine_maps import FineMaps
from captioner.model.grid import Grid
from captioner.model.quantised import UnquantisedLinear
from captioner.tokenizer.vocabulary import SPECIAL

_RARE = -4.0  # the first logit: most attributes are in few pictures
_LOGIT_SCALE = 0.25  # logits are mostly within -8 and 8


class Attributes(nn.Module):
    """Logits of N attributes, and what a question makes of them.

    Each attribute has a query of its own, attends to the grid with it, and is scored by what it finds:
    ``s_n = w_n . (softmax(q_n . h) h) + u_n . mean(h) + b_n`` with ``h = relu(W norm(cells))``.
    Where there are fine maps, each has a query of its own there too; see `captioner.model.fine_maps`.

    Args:
        words: the attributes, as ids of the questions' vocabulary.
        vocabulary_size: of the questions' words.
        embedding: width of their embeddings, E.
        image_width: of the refined grid.
        width: D, of the questions.
        fine_width, fine_channels: of fine maps; 0 for none.

    Raises:
        OptionError: a word is there twice, or is none of the vocabulary's words.
    """

    def __init__(
        self,
        words: Sequence[int],
        *,
        vocabulary_size: int,
        embedding: int,
        image_width: int,
        width: int,
        fine_width: int = 0,
        fine_channels: int = 0,
    ) -> None:
        super().__init__()
        for i, word in enumerate(words):
            if not len(SPECIAL) <= word < vocabulary_size or word in words[:i]:
                raise OptionError(
                    f"attribute {word} is there twice, or none of the questions' words {len(SPECIAL)} to "
                    f"{vocabulary_size - 1}",
                    remedy="give each word once",
                )
        self.words, count = list(words), len(words)
        places = {word: number for number, word in enumerate(words)}
        self._numbers = [places.get(word, count) for word in range(vocabulary_size)]  # count for no attribute
        self.norm, self.cells = nn.LayerNorm(image_width), UnquantisedLinear(image_width, width)
        self.query = nn.Parameter(torch.randn(count, width) / math.sqrt(width))
        self.found, self.whole = UnquantisedLinear(width, count), nn.Linear(width, count, bias=False)
        nn.init.zeros_(self.found.weight)
        nn.init.constant_(self.found.bias, _RARE)
        nn.init.zeros_(self.whole.weight)
        self.presence = nn.Linear(3, embedding, bias=False)
        self.query_of_question = nn.Linear(width, width)
        self.key, self.value = nn.Linear(embedding, width), nn.Linear(embedding, width)
        self.context_norm = nn.LayerNorm(width)
        self.fine = FineMaps.of_width(fine_width, query=0, image_width=image_width, fine_channels=fine_channels)
        self.fine_query = nn.Parameter(torch.zeros(count, fine_width)) if fine_width else None

    def learn_fine_maps(self, learn: bool) -> None:
        """Whether the fine maps, if there are any, are trained."""
        if self.fine is not None and self.fine_query is not None:
            self.fine.requires_grad_(learn)
            self.fine_query.requires_grad_(learn)

    def divide(self, grid: Grid, weights: Tensor) -> Tensor:
        """The weights of the cells (B, N, L) as those of their parts, (B, N, L * 4), where there are fine maps."""
        if self.fine is None or self.fine_query is None:
            return weights
        query = self.fine_query.expand(weights.shape[0], -1, -1)
        found: Tensor = self.fine(query, self.fine.hidden_units(grid), weights)
        return found

    def forward(self, grid: Grid) -> tuple[Tensor, Tensor]:
        """The logits of the attributes, (B, N), and the weights of the cells where each was looked for, (B, N, L)."""
        h = torch.relu(self.cells(self.norm(grid.features)))  # (B, L, D)
        mask = None if grid.mask is None else grid.mask.unsqueeze(1)
        weights = masked_softmax(self.query @ h.transpose(1, 2), mask)  # (B, N, L)
        found = (weights @ h * self.found.weight).sum(-1) + self.found.bias
        if grid.mask is None:
            mean = h.mean(1)
        else:
            real = grid.mask.unsqueeze(-1)
            mean = (h * real).sum(1) / real.sum(1).clamp(min=1)
        logits: Tensor = found + self.whole(mean)
        return logits, weights

    def word_features(self, logits: Tensor, questions: Tensor) -> Tensor:
        """What is added to the embeddings of questions (B, k, T): (B, k, T, E), 0 for words that are no attributes."""
        numbers = torch.tensor(self._numbers, device=questions.device)[questions]  # (B, k, T)
        own = F.pad(logits, (0, 1)).gather(1, numbers.flatten(1)).reshape(questions.shape)
        features = torch.stack((own.sigmoid(), own * _LOGIT_SCALE, torch.ones_like(own)), -1)
        is_one = (numbers < len(self.words)).unsqueeze(-1)
        added: Tensor = self.presence(features * is_one)
        return added

    def attend(self, logits: Tensor, questions: Tensor, embed: Tensor) -> tuple[Tensor, Tensor]:
        """The attributes that matter to questions.

        Their weights are ``softmax_n(p . e_n + log P(n))``: what is asked for, among what the picture shows.

        Args:
            logits: (B, N).
            questions: (B, k, D).
            embed: (V, E), the embeddings of the questions' words.

        Returns:
            What was found, (B, k, D), and the weights, (B, k, N).
        """
        embedded = embed[torch.tensor(self.words, device=embed.device)]  # (N, E)
        scores = self.query_of_question(questions) / math.sqrt(questions.shape[-1]) @ self.key(embedded).T
        weights = masked_softmax(scores + F.logsigmoid(logits).unsqueeze(1), None)  # (B, k, N)
        context: Tensor = self.context_norm(weights @ self.value(embedded))
        return context, weights
