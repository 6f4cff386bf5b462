"""The reward of self-critical training: CIDEr-D with the end token in the caption, and what is added and subtracted."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from captioner.data.records import Record
from captioner.grounding.objects import classes_in, name_objects
from captioner.metrics.bleu import smoothed_bleu_of
from captioner.metrics.cider import DocumentFrequencies, cider_of
from captioner.metrics.description import FUNCTION_WORDS
from captioner.model.decoder import Decoder
from captioner.model.grid import Grid
from captioner.tokenizer.ptb import tokenize
from captioner.tokenizer.vocabulary import END, PAD, START, UNKNOWN, Vocabulary
from captioner.training.similar_pictures import most_similar

NEVER_GENERATED = (PAD, START, UNKNOWN)
_END = "<end>"
_SIMILAR = 5  # pictures for CIDErBtw, as in its paper


class CaptionReward:
    """CIDEr-D of sampled captions against the references of their pictures, plus BLEU, less two penalties.

    The end token is a word of every caption; without it, a caption that stops after "with a" would lose nothing.
    Document frequencies are those of the training split.

    Args:
        records: of the training split.
        vocabulary: of the model.
        bleu, bleu_1: weights of BLEU-4 and BLEU-1 as of `smoothed_bleu_of`.
        between: weight of CIDErBtw, which is subtracted: CIDEr-D against the captions of the five most similar
            pictures (Wang et al. 2020, "Compare and Reweight"; there a retrieval model finds them, here `most_similar`
            does). Captions that fit many pictures lose by it.
        absent_objects: subtracted for each of COCO's classes that a caption names, as of `name_objects`, and that is
            in no reference of its picture. What is in the picture and in no reference counts too, and so does a word of
            several meanings ("a remote beach").
    """

    def __init__(
        self,
        records: Sequence[Record],
        vocabulary: Vocabulary,
        *,
        bleu: float = 0.0,
        bleu_1: float = 0.0,
        between: float = 0.0,
        absent_objects: float = 0.0,
    ) -> None:
        self.vocabulary = vocabulary
        self.bleu = np.array([bleu_1, 0.0, 0.0, bleu])
        self.between, self.absent_objects = between, absent_objects
        self.references = [[[*tokenize(caption), _END] for caption in record.captions] for record in records]
        self.document_frequencies = DocumentFrequencies.of(self.references)
        self.similar = most_similar(self.references, _SIMILAR) if between else None

    def words(self, tokens: Tensor) -> list[list[str]]:
        """The words of each row (N, T), with the end token where it was reached."""
        return [[_END if i == END else self.vocabulary.words[i] for i in row if i != PAD] for row in tokens.tolist()]

    def __call__(self, captions: Sequence[Sequence[str]], pictures: Sequence[int]) -> NDArray[np.float64]:
        """The rewards (N,), at most 10 + ``bleu`` + ``bleu_1``.

        Caption ``n`` is of the picture at ``pictures[n // (N / B)]``.
        """
        copies = len(captions) // len(pictures)
        of = [picture for picture in pictures for _ in range(copies)]
        references = [self.references[picture] for picture in of]
        rewards = self._cider(captions, references)
        if self.bleu.any():
            rewards = rewards + smoothed_bleu_of(captions, references) @ self.bleu
        if self.similar is not None and self.similar.shape[1]:
            others = [[words for other in self.similar[picture] for words in self.references[other]] for picture in of]
            rewards = rewards - self.between * self._cider(captions, others)
        if self.absent_objects:
            absent = [
                len(_objects(caption).difference(*map(classes_in, references[n]))) for n, caption in enumerate(captions)
            ]
            rewards = rewards - self.absent_objects * np.array(absent)
        return rewards

    def _cider(self, captions: Sequence[Sequence[str]], references: list[list[list[str]]]) -> NDArray[np.float64]:
        return cider_of(captions, references, document_frequencies=self.document_frequencies)


def _objects(caption: Sequence[str]) -> set[str]:
    return {found.category for found in name_objects(caption)}


def breaks_off(caption: Sequence[str]) -> bool:
    """Whether a caption of `CaptionReward.words` ends in a function word, or has no end token."""
    return len(caption) < 2 or caption[-1] != _END or caption[-2] in FUNCTION_WORDS


@torch.no_grad()
def draw_captions(decoder: Decoder, grid: Grid, *, count: int, max_length: int, greedy: bool = False) -> Tensor:
    """Captions sampled from the model's distribution, without maps and scores.

    Args:
        decoder: any.
        grid: of B pictures, refined.
        count: k captions for each picture.
        max_length: words; a longer caption is truncated and has no end token.
        greedy: take the likeliest words instead.

    Returns:
        (B * k, T), words and end tokens, padded with PAD.
    """
    rows = len(grid) * count
    copies = torch.arange(len(grid), device=grid.features.device).repeat_interleave(count)
    state = decoder.begin(grid).select(copies)
    word = copies.new_full((rows,), START)
    ended = torch.zeros_like(word, dtype=torch.bool)
    drawn: list[Tensor] = []
    for _ in range(max_length + 1):
        step = decoder.step(word, state)
        state = step.state
        logits = step.logits.float().index_fill(-1, copies.new_tensor(NEVER_GENERATED), float("-inf"))
        word = logits.argmax(-1) if greedy else torch.multinomial(logits.softmax(-1), 1)[:, 0]
        word = word.masked_fill(ended, PAD)
        drawn.append(word)
        ended = ended | (word == END)
        if ended.all():
            break
    tokens = torch.stack(drawn, 1)
    if tokens.shape[1] > max_length:  # a caption that has not ended by now has one word too many
        tokens[:, max_length] = tokens[:, max_length].where(tokens[:, max_length] == END, PAD)
    return tokens
