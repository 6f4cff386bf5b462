"""A question at three levels: its words, its phrases, and the whole (Lu et al. 2016, section 3.2)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from captioner.tokenizer.vocabulary import PAD

_EMBEDDING_SCALE = 0.4  # from 1 on, the hyperbolic tangents after it are saturated at first


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

    Without the level of phrases the LSTM reads the words.

    Args:
        vocabulary_size: of the questions' words.
        embedding: width of the embeddings.
        width: D, of the three levels.
        dropout: on the embeddings and the levels.
        phrases: whether there is their level.
    """

    def __init__(self, *, vocabulary_size: int, embedding: int, width: int, dropout: float, phrases: bool) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocabulary_size, embedding, padding_idx=PAD)
        nn.init.normal_(self.embed.weight, std=_EMBEDDING_SCALE)
        with torch.no_grad():
            self.embed.weight[PAD] = 0
        self.word = nn.Linear(embedding, width)
        self.phrase = nn.ModuleList(nn.Linear(size * embedding, width) for size in (1, 2, 3) if phrases)
        self.lstm = nn.LSTM(width, width, batch_first=True)
        self.dropout = SharedDropout(dropout)

    def forward(self, tokens: Tensor, added: Tensor | None = None) -> tuple[dict[str, Tensor], Tensor]:
        """Read questions.

        Args:
            tokens: (N, T), padded with PAD at the end.
            added: (N, T, E), to the words' embeddings.

        Returns:
            The levels "word", "phrase" if there is one, and "question", (N, T, D) each; and the LSTM's output at the
            last word, (N, D).
        """
        mask = tokens != PAD
        embedded = self.embed(tokens) if added is None else self.embed(tokens) + added
        embedded = self.dropout(embedded) * mask.unsqueeze(-1)  # (N, T, E), 0 after the last word
        levels = {"word": self.word(embedded).tanh()}
        if self.phrase:
            levels["phrase"] = self._phrases(embedded)
        read, _ = self.lstm(self.dropout(levels["phrase" if self.phrase else "word"]))
        last = (mask.sum(1) - 1).clamp(min=0)
        final = read.gather(1, last[:, None, None].expand(-1, 1, read.shape[-1])).squeeze(1)
        return {**levels, "question": self.dropout(read)}, final

    def _phrases(self, embedded: Tensor) -> Tensor:
        """(N, T, E) -> (N, T, D), the strongest n-gram at each word (eq. 1 and 2 of the paper)."""
        before, after = F.pad(embedded, (0, 0, 1, 0))[:, :-1], F.pad(embedded, (0, 0, 0, 1))[:, 1:]
        uni, bi, tri = self.phrase
        one, two = uni(embedded), bi(torch.cat((before, embedded), -1))
        three = tri(torch.cat((before, embedded, after), -1))
        return torch.maximum(torch.maximum(one, two), three).tanh()
