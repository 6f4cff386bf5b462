"""What every answerer takes and returns. It chooses among the answers that it was trained with."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from captioner.model.answering.question import QuestionEncoder
from captioner.model.grid import Grid
from captioner.registry import ConfiguredRegistry


@dataclass(frozen=True)
class Answered:
    """What an answerer returns for ``k`` questions on each of ``B`` pictures.

    Attributes:
        logits: (B, k, A), of the answers.
        maps: (B, k, h, w), where it looked: the mean of the map heads, which sums to 1.
        words: (B, k, T), the weight of each word of the question, which sums to 1 over the real ones.
        cells: (B, S, k, L), the weights of all heads of all steps, in their order.
    """

    logits: Tensor
    maps: Tensor
    words: Tensor
    cells: Tensor


class Answerer(nn.Module):
    """The interface of every answerer.

    The constructor takes ``question_vocabulary`` and ``answers`` (their sizes), ``image_width`` (of the refined grid)
    and ``config``, by keyword. Every configuration has ``map_heads`` and ``max_length`` (of questions, in words).

    Attributes:
        config: its configuration.
        question: what reads the questions.
    """

    config: Any
    question: QuestionEncoder

    def forward(self, grid: Grid, questions: Tensor) -> Answered:
        """Answer.

        Args:
            grid: the refined grid of B pictures.
            questions: (B, k, T), the ids of the words, padded with PAD at the end; at least one word each.
        """
        raise NotImplementedError


ANSWERERS: ConfiguredRegistry[type[Answerer]] = ConfiguredRegistry("answerer")
