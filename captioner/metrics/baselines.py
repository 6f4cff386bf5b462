"""What a score lies between: one caption for all pictures below, people above."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from captioner.metrics.cider import DocumentFrequencies
from captioner.metrics.evaluate import Scores, evaluate
from captioner.metrics.ngrams import number_words
from captioner.tokenizer.ptb import tokenize_all

# With fewer references left the human figure says more about their number than about people.
FEWEST_FOR_HUMAN = 5


def constant_caption(references: Mapping[Any, Sequence[str]]) -> str:
    """The reference that is most like the others: of usual length, made of the commonest words and pairs.

    It is chosen with the references in hand, and so flatters the floor a little.
    """
    captions = [caption for group in references.values() for caption in group]
    ngrams = number_words([()] * len(captions), [[words] for words in tokenize_all(captions)])
    length = ngrams.reference_length
    commonness = np.zeros(len(captions))
    for order in ngrams.orders(highest=2):
        entries = order.references
        frequency = np.bincount(entries.gram, minlength=order.size)
        commonness += np.bincount(entries.caption, weights=frequency[entries.gram], minlength=len(captions))
    usual = np.abs(length - np.median(length)) <= 1
    return captions[int(np.argmax(np.where(usual, commonness / np.maximum(1, length), -1.0)))]


def constant_scores(
    references: Mapping[Any, Sequence[str]],
    *,
    document_frequencies: DocumentFrequencies | None = None,
) -> tuple[str, Scores]:
    """The constant caption and what it scores."""
    caption = constant_caption(references)
    hypotheses = dict.fromkeys(references, caption)
    return caption, evaluate(hypotheses, references, document_frequencies=document_frequencies)


def human_scores(
    references: Mapping[Any, Sequence[str]],
    *,
    document_frequencies: DocumentFrequencies | None = None,
) -> Scores | None:
    """What each picture's first reference scores against its others; None unless all have five or more."""
    if min(map(len, references.values()), default=0) < FEWEST_FOR_HUMAN:
        return None
    return evaluate(
        {key: group[0] for key, group in references.items()},
        {key: group[1:] for key, group in references.items()},
        document_frequencies=document_frequencies,
    )
