"""Baselines of a score: one caption for all pictures, and people."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from captioner.metrics.cider import DocumentFrequencies
from captioner.metrics.evaluate import Scores, evaluate
from captioner.metrics.ngrams import number_words
from captioner.metrics.references import References

# With fewer references the human figure depends more on their number than on people.
FEWEST_FOR_HUMAN = 5


def constant_caption(references: Mapping[Any, Sequence[str]], *, tokenized: References | None = None) -> str:
    """The reference that is most like the others: of usual length, made of the commonest words and pairs.

    It is chosen with knowledge of the references, so that its score is a little too high for a lower bound.
    """
    tokenized = References(references) if tokenized is None else tokenized
    captions = [caption for group in references.values() for caption in group]
    ngrams = number_words([()] * len(captions), [[words] for words in tokenized.tokenize(captions)])
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
    tokenized: References | None = None,
) -> tuple[str, Scores]:
    """The constant caption and its scores. Pass ``tokenized``, the same references, to tokenise them only once."""
    tokenized = References(references) if tokenized is None else tokenized
    caption = constant_caption(references, tokenized=tokenized)
    hypotheses = dict.fromkeys(references, caption)
    return caption, evaluate(hypotheses, tokenized, document_frequencies=document_frequencies)


def human_scores(
    references: Mapping[Any, Sequence[str]],
    *,
    document_frequencies: DocumentFrequencies | None = None,
    tokenized: References | None = None,
) -> Scores | None:
    """The scores of each picture's first reference against its others; None unless all have five or more."""
    if min(map(len, references.values()), default=0) < FEWEST_FOR_HUMAN:
        return None
    return evaluate(
        {key: group[0] for key, group in references.items()},
        References({key: group[1:] for key, group in references.items()}, known=tokenized),
        document_frequencies=document_frequencies,
    )
