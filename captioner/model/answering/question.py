"""A question at three levels: its words, its phrases, and the whole (Lu et al. 2016, section 3.2)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from captioner.tokenizer.vocabulary import PAD


class SharedDropout(nn.Module):
    """Dropout of the same units at every word of a question (Gal and Ghahramani 2016)."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def forward(self, x: Tensor) -> Tensor:
        """(N, T, D) -> (N, T, D)."""
        if not self.training or not self.share:
            return x
        return x * F.dropout(x.new_ones(x.shape[0], 1, x.shape[-1]), self.share)


class QuestionEncoder(nn.Module):
    """Words are embedded; phrases are the strongest of uni-, bi- and trigram convolutions at each word; an LSTM reads
    the phrases.

    Args:
        vocabulary_size: of the questions' words.
        embedding: width of the embeddings.
        width: D, of the three levels.
        dropout: on the embeddings and the levels.
    """

    def __init__(self, *, vocabulary_size: int, embedding: int, width: int, dropout: float) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocabulary_size, embedding, padding_idx=PAD)
        self.word = nn.Linear(embedding, width)
        self.phrase = nn.ModuleList(nn.Linear(size * embedding, width) for size in (1, 2, 3))
        self.lstm = nn.LSTM(width, width, batch_first=True)
        self.dropout = SharedDropout(dropout)

    def forward(self, tokens: Tensor) -> tuple[tuple[Tensor, Tensor, Tensor], Tensor, Tensor]:
        """Read questions.

        Args:
            tokens: (N, T), padded with PAD at the end.

        Returns:
            The levels word, phrase and question, (N, T, D) each; the mask (N, T), True where there is a word; and the
            LSTM's output at the last word, (N, D).
        """
        mask = tokens != PAD
        embedded = self.dropout(self.embed(tokens)) * mask.unsqueeze(-1)  # (N, T, E), 0 after the last word
        word = self.word(embedded).tanh()
        before, after = F.pad(embedded, (0, 0, 1, 0))[:, :-1], F.pad(embedded, (0, 0, 0, 1))[:, 1:]
        uni, bi, tri = self.phrase
        grams = (
            uni(embedded),
            bi(torch.cat((before, embedded), -1)),
            tri(torch.cat((before, embedded, after), -1)),
        )
        phrase = torch.maximum(torch.maximum(grams[0], grams[1]), grams[2]).tanh()  # (N, T, D)
        question, _ = self.lstm(self.dropout(phrase))
        last = (mask.sum(1) - 1).clamp(min=0)
        final = question.gather(1, last[:, None, None].expand(-1, 1, question.shape[-1])).squeeze(1)
        return (word, phrase, self.dropout(question)), mask, final
