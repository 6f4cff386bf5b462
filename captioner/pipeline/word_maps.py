"""The maps of the words of given captions (teacher forcing): from attention, gradients or occlusion."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from captioner.backends.base import Backend, Encoded, HasFineMaps, Pixels, Scored
from captioner.decoding import Hypothesis
from captioner.explain.occlusion import occlusion_maps
from captioner.explain.postprocess import postprocess
from captioner.image import Geometry
from captioner.options import MapOptions
from captioner.prepared import Prepared
from captioner.tokenizer.subwords import Subwords

_BATCH = 16


AT_ONCE = 64
"""Captions that are read in one pass: what is computed for them is in memory together."""


class WordMaps(NamedTuple):
    """Of a caption of n words: maps (n, h, w), their weight off the grid (n,), and the log-probabilities of the words
    and of the end (n + 1,)."""

    maps: NDArray[np.float32]
    off_grid: NDArray[np.float32]
    log_p: NDArray[np.float32]


def encode(backend: Backend, ready: Sequence[Prepared]) -> Encoded:
    """Encode prepared pictures in one batch."""
    return backend.encode(np.stack([one.pixels for one in ready]), [one.geometry for one in ready])


def with_maps(
    backend: Backend,
    ready: Sequence[Prepared],
    encoded: Encoded,
    found: Sequence[Sequence[Hypothesis]],
    options: MapOptions,
    *,
    gradient_backend: Callable[[], Backend],
) -> list[list[Hypothesis]]:
    """Captions that decoding found, with maps by the options.

    They are read once more where decoding did not compute what the maps take: for gradients, for occlusion, and for the
    attention of words of several pieces.

    Args:
        backend, ready, encoded, options, gradient_backend: as of `word_maps`.
        found: for each picture, its captions.
    """
    if options.explain == "attention" and all(one.end_map is not None for some in found for one in some):
        return [
            [_from_steps(one, prepared.geometry, options) for one in some]
            for prepared, some in zip(ready, found, strict=True)
        ]
    captions = [[hypothesis.tokens for hypothesis in some] for some in found]
    explained = word_maps(backend, ready, encoded, captions, options, gradient_backend=gradient_backend)
    return [
        [replace(one, maps=maps, off_grid=off_grid) for one, (maps, off_grid, _) in zip(*both, strict=True)]
        for both in zip(found, explained, strict=True)
    ]


def steps_of(hypothesis: Hypothesis) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The attention of the n + 1 steps of a caption of n words, (n + 1, h, w), and its weight off the grid (n + 1,)."""
    assert hypothesis.end_map is not None
    maps = np.concatenate((hypothesis.maps, hypothesis.end_map[None]))
    return maps, np.append(hypothesis.off_grid, np.float32(hypothesis.end_off_grid))


def _from_steps(hypothesis: Hypothesis, geometry: Geometry, options: MapOptions) -> Hypothesis:
    steps, off_grid = steps_of(hypothesis)
    maps, off_grid = postprocess(steps, geometry.mask, options, off_grid)
    return replace(hypothesis, maps=maps, off_grid=off_grid)


def word_maps(
    backend: Backend,
    ready: Sequence[Prepared],
    encoded: Encoded,
    captions: Sequence[Sequence[Sequence[int]]],
    options: MapOptions,
    *,
    gradient_backend: Callable[[], Backend],
) -> list[list[WordMaps]]:
    """The maps of captions.

    Args:
        backend: what encoded the pictures.
        ready: B pictures.
        encoded: the same pictures.
        captions: for each picture, captions in ids, without start and end.
        options: what the maps are computed from, and how they are cleaned.
        gradient_backend: returns the backend that computes gradients; called only for those.

    Returns:
        For each picture, one for each of its captions.
    """
    if options.explain == "gradient":
        on = gradient_backend()
        scored = on.gradients(encoded if on is backend else encode(on, ready), captions)
    else:
        scored = backend.score(encoded, captions)
    found = []
    for prepared, some, scored_captions in zip(ready, captions, scored, strict=True):
        if options.explain == "occlusion" and some:
            scored_captions = _occlude(backend, prepared, some, scored_captions, options)
        valid = prepared.geometry.mask
        found.append(
            [WordMaps(*postprocess(one.maps, valid, options, one.off_grid), one.log_p) for one in scored_captions]
        )
    return found


def _occlude(
    backend: Backend,
    prepared: Prepared,
    captions: Sequence[Sequence[int]],
    scored: Sequence[Scored],
    options: MapOptions,
) -> list[Scored]:
    def score_variants(variants: Sequence[Pixels]) -> NDArray[np.float32]:
        return log_probabilities(backend, variants, prepared.geometry, captions)

    scale = backend.map_scale if isinstance(backend, HasFineMaps) else 1
    rows, columns = prepared.geometry.grid
    cells = replace(prepared.geometry, grid=(rows // scale, columns // scale))  # a block is of the grid's cells
    maps = occlusion_maps(prepared.pixels, cells, options.block, score_variants).repeat(scale, 2).repeat(scale, 3)
    return [
        replace(one, maps=ours[: len(one.log_p)], off_grid=np.zeros_like(one.log_p))
        for one, ours in zip(scored, maps, strict=True)
    ]


def log_probabilities(
    backend: Backend, variants: Sequence[Pixels], geometry: Geometry, captions: Sequence[Sequence[int]]
) -> NDArray[np.float32]:
    """Log-probabilities of the words of captions on variants of one picture (teacher forcing).

    Args:
        backend: computes them.
        variants: V inputs (side, side, 3).
        geometry: the picture's.
        captions: k of them in ids, without start and end; at least one.

    Returns:
        (V, k, T): log-probabilities of the words and of the end, 0 beyond it, padded to the longest caption's.
    """
    found = np.zeros((len(variants), len(captions), max(map(len, captions)) + 1), dtype=np.float32)
    for first in range(0, len(variants), _BATCH):
        some = np.stack(variants[first : first + _BATCH])
        encoded = backend.encode(some, [geometry] * len(some))
        for i, scored in enumerate(backend.score(encoded, [captions] * len(some)), first):
            for j, one in enumerate(scored):
                found[i, j, : len(one.log_p)] = one.log_p
    return found


def of_whole_words(hypothesis: Hypothesis, vocabulary: Subwords) -> Hypothesis:
    """A hypothesis of pieces as one of words.

    A word's probability is the product of its pieces' (its log-probability their sum); its map and its weight off the
    grid are their means.
    """
    words = vocabulary.whole_words(hypothesis.tokens)
    spans = [slice(word.start, word.stop) for word in words]
    shape = hypothesis.maps.shape[1:]
    return replace(
        hypothesis,
        tokens=tuple(word.word for word in words),
        probabilities=tuple(math.prod(hypothesis.probabilities[span]) for span in spans),
        maps=np.array([hypothesis.maps[span].mean(0) for span in spans], dtype=np.float32).reshape(-1, *shape),
        off_grid=np.array([hypothesis.off_grid[span].mean() for span in spans], dtype=np.float32),
        end_map=None,  # of pieces, whose steps are no words'
        given=sum(word.stop <= hypothesis.given for word in words),
    )
