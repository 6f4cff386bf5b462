"""The pictures whose captions are the most alike: what a distinctive caption must not fit as well."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from captioner.metrics.ngrams import number_words

_AT_ONCE = 20_000_000  # similarities that are in memory at a time
_SAME = 0.9999  # a cosine above it: the same captions, and so the same picture, of another data set


def most_similar(captions: Sequence[Sequence[Sequence[str]]], count: int) -> NDArray[np.int64]:
    """The most similar other pictures of each, by the cosine of the tf-idf vectors of their captions' words.

    A picture with the same captions is not another one. Every picture is compared with every other: 17,000 take some
    seconds, 110,000 some minutes.

    Args:
        captions: of P pictures, each a list of words.
        count: k, how many to find; fewer where there are not as many others.

    Returns:
        (P, k), the most similar first.
    """
    pictures, count = len(captions), min(count, max(0, len(captions) - 1))
    if count == 0:
        return np.empty((pictures, 0), dtype=np.int64)
    joined = [[word for caption in group for word in caption] for group in captions]
    entries = next(number_words(joined, [[] for _ in joined]).orders(highest=1))
    ours = entries.hypotheses
    frequency = np.bincount(ours.gram, minlength=entries.size)
    values = ours.count * np.log(pictures / frequency)[ours.gram]
    norms = np.sqrt(np.bincount(ours.caption, weights=values**2, minlength=pictures))
    values = np.divide(values, norms[ours.caption], out=np.zeros_like(values), where=norms[ours.caption] > 0)
    vectors = csr_matrix((values.astype(np.float32), (ours.caption, ours.gram)), shape=(pictures, entries.size))
    vectors.eliminate_zeros()  # what all captions have
    found = np.empty((pictures, count), dtype=np.int64)
    rows = max(1, _AT_ONCE // pictures)
    for start in range(0, pictures, rows):
        similarity = (vectors[start : start + rows] @ vectors.T).toarray()
        similarity[similarity > _SAME] = -1
        own = np.arange(len(similarity))
        similarity[own, start + own] = -1  # where all words are in all captions, too
        largest = np.sort(np.argpartition(-similarity, count - 1, axis=1)[:, :count], axis=1)
        order = np.argsort(-np.take_along_axis(similarity, largest, axis=1), axis=1, kind="stable")
        found[start : start + rows] = np.take_along_axis(largest, order, axis=1)
    return found
