"""What a reranker predicts: kernel ridge regression from training pictures to what people say of them, for each data
set; see `captioner.model.reranker`."""

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from torch import Tensor

from captioner.backends.base import padded_words
from captioner.errors import DataError
from captioner.model.reranker import (
    FARTHEST,
    LONGEST_CAPTION,
    LONGEST_NGRAM,
    MOST,
    STEPS,
    NGramRegression,
    Reranker,
    RerankerConfig,
)
from captioner.tokenizer.vocabulary import UNKNOWN

WIDTH = 2.0
"""The radius of the basis functions, as a share of the median length of a standardised feature vector."""
LENGTH_RIDGE = 0.1
_SIGMA = 6.0  # of CIDEr-D, words
_SET_RIDGE = 30.0  # of the probabilities of data sets: a Gaussian prior on the weights, over all pictures
_SET_STEPS = 100  # of L-BFGS
_JITTER = 1e-10  # of the diagonal of a matrix that rounding leaves not quite positive definite
_MORE = 32  # dimensions in which the randomised decomposition looks for directions, beside those that are kept
_ROUNDS = 2  # of its power iteration
_AT_ONCE = 4096  # captions whose vectors are computed at a time

Floats = NDArray[np.float64]
Captions = Sequence[Sequence[Sequence[int]]]
"""Of each picture, in ids."""


@dataclass(frozen=True, kw_only=True)
class RerankingOptions:
    """How a reranker is fitted.

    Attributes:
        dims: as of `captioner.model.reranker.RerankerConfig`.
        centres: of each data set; all pictures of one that has fewer.
        ridge: what is added to the kernel of a picture with five captions and itself; of fewer captions more.
        minimum_count: pictures of the data set in whose captions an n-gram occurs, at least.
        bleu_weight: of a point of BLEU-4 beside a point of CIDEr-D, where weights are chosen on dev.
    """

    dims: int = 512
    centres: int = 6000
    ridge: float = 0.01
    minimum_count: int = 5
    bleu_weight: float = 0.0


def fit(
    features: Tensor, captions: Captions, sets: Tensor, *, vocabulary_size: int, options: RerankingOptions
) -> Reranker:
    """Kernel ridge regression with a subset of the pictures as centres, and of reduced rank, for each data set; and
    logistic regression of the data set.

    The subset is the one of Nyström's approximation (Williams and Seeger 2001). The directions are the first principal
    ones of the fitted vectors (reduced-rank regression, Izenman 1975), by randomised decomposition (Halko et al. 2011).

    Args:
        features: (P, C), the mean feature vectors of the pictures.
        captions: of each picture, in ids.
        sets: (P,), the number of the data set of each picture, from 0 on.
        vocabulary_size: as of `Reranker`.
        options: see there.

    Returns:
        A reranker whose consensus score is the estimate of CIDEr-D alone, from 0 to 10.

    Raises:
        DataError: no n-gram is frequent enough, or the regression has no solution.
    """
    rows = _rows(sets)
    parts = [[captions[i] for i in own.tolist()] for own in rows]
    tables = _tables(captions, rows, options.minimum_count)
    config = RerankerConfig(
        ngrams=tuple(len(known) for known, _ in tables),
        dims=options.dims,
        centres=tuple(min(options.centres, len(own), MOST // len(rows)) for own in rows),
    )
    reranker = Reranker(config, channels=features.shape[1], vocabulary_size=vocabulary_size)
    reranker.mean.copy_(features.mean(0))
    reranker.deviation.copy_(features.std(0, correction=0) + 1e-3)
    known = reranker.standardised(features)
    for own, some, (table, idf), regression in zip(rows, parts, tables, reranker.regressions(), strict=True):
        regression.ngrams.copy_(torch.tensor(reranker.keys_of(table)))
        regression.idf.copy_(torch.tensor(idf))
        _fit_one(regression, known[own], some, _vectors(reranker, regression, some), options.ridge)
    if len(rows) > 1:
        _fit_sets(reranker, known, sets)
    return reranker


def check_ngrams(captions: Captions, sets: Tensor, minimum_count: int) -> None:
    """Raises DataError where no n-gram of a data set is frequent enough, as `fit` does."""
    _tables(captions, _rows(sets), minimum_count)


def _rows(sets: Tensor) -> list[Tensor]:
    """The places of the pictures of each data set."""
    return [torch.nonzero(sets == number)[:, 0] for number in range(int(sets.max()) + 1)]


def _tables(
    captions: Captions, rows: Sequence[Tensor], minimum_count: int
) -> list[tuple[list[tuple[int, ...]], list[float]]]:
    """As `_table`, of each data set, which has the same share of `MOST`. Raises DataError."""
    found = []
    for number, own in enumerate(rows, start=1):
        found.append(_table([captions[i] for i in own.tolist()], minimum_count, MOST // len(rows)))
        if not found[-1][0]:
            raise DataError(
                f"no n-gram is in the captions of {minimum_count} training pictures of data set {number}, which has "
                f"{len(own)}",
                remedy="give more captions, or lower --minimum-count",
            )
    return found


def _fit_one(regression: NGramRegression, known: Tensor, captions: Captions, vectors: csr_matrix, ridge: float) -> None:
    """The regression of one data set from standardised features (P, C) to vectors (P, N) and to lengths."""
    chosen = _centres(len(known), regression.centres.shape[1])
    regression.radius.copy_(WIDTH * known.square().sum(1).median().sqrt().clamp(min=1e-3))
    steps = (known[chosen] * (STEPS / FARTHEST)).round()
    regression.centres.copy_(steps.T)
    regression.squares.copy_((steps * (FARTHEST / STEPS)).square().sum(1))
    kernel = regression.kernel(known.double())  # (P, centres); in 32 bits it is not positive definite
    noise = torch.tensor([5 / len(some) for some in captions], dtype=torch.float64)

    lengths = _length_factors(captions)
    plain = _Ridge(kernel, chosen, noise * LENGTH_RIDGE)
    rounded, intercept = _in_half(plain.solve(lengths - lengths.mean(0)), kernel)
    regression.length_weights.copy_(rounded)
    regression.length_mean.copy_(lengths.mean(0) + intercept)
    del plain  # matrices of the size of the kernel
    regularised = _Ridge(kernel, chosen, noise * ridge)
    mean = np.asarray(vectors.mean(0)).ravel()
    directions = _directions(vectors, mean, regularised, regression.weights.shape[1])  # (N, D)
    targets = torch.from_numpy(vectors @ directions - mean @ directions)
    weights, intercept = _in_half(10 * regularised.solve(targets), kernel)  # CIDEr-D goes to 10
    regression.weights.copy_(weights)
    regression.intercept.copy_(intercept)
    regression.common[:-1] = 10 * torch.from_numpy(mean)
    scale = np.abs(directions).max(1) / STEPS
    regression.scales[:-1] = torch.from_numpy(scale)
    regression.directions[:-1] = torch.from_numpy((directions / np.maximum(scale, 1e-12)[:, None]).round())


@torch.enable_grad()
def _fit_sets(reranker: Reranker, known: Tensor, sets: Tensor) -> None:
    """Logistic regression of the data sets (P,) on standardised features (P, C), each data set counting the same."""
    count = len(reranker.config.ngrams)
    weights = torch.zeros(known.shape[1], count, requires_grad=True)
    bias = torch.zeros(count, requires_grad=True)
    balance = 1 / torch.bincount(sets, minlength=count).float()
    optimiser = torch.optim.LBFGS([weights, bias], max_iter=_SET_STEPS, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimiser.zero_grad()
        error = torch.nn.functional.cross_entropy(bias + known @ weights, sets, weight=balance)
        total = error + _SET_RIDGE / len(known) * weights.square().sum()
        total.backward()
        return total

    optimiser.step(loss)
    reranker.set_weights.copy_(weights.detach().half())
    reranker.set_bias.copy_(bias.detach())


def _centres(pictures: int, count: int) -> Tensor:
    """The places of ``count`` pictures, evenly spread over all."""
    return torch.arange(count) * pictures // count


def _in_half(weights: Tensor, kernel: Tensor) -> tuple[Tensor, Tensor]:
    """Weights (centres, D) of a kernel (P, centres) as a file holds them, in 16 bits, and what makes up for the mean of
    the error, (D,): weights are large, of both signs, and nearly cancel."""
    rounded = weights.half().double()
    return rounded, kernel.mean(0) @ (weights - rounded)


class _Ridge:
    """Regression on a kernel (P, centres), of which some pictures are the centres; ``noise`` (P,) is added to the
    kernel of each picture with itself."""

    def __init__(self, kernel: Tensor, chosen: Tensor, noise: Tensor) -> None:
        self.kernel = kernel
        self.weighted = kernel.T / noise
        own = kernel[chosen]
        squares = self.weighted @ kernel + (own + own.T) / 2  # not quite symmetric: centres are rounded
        squares.diagonal().add_(_JITTER * float(squares.diagonal().mean()))
        try:
            self.factor = torch.linalg.cholesky(squares)
        except RuntimeError:  # torch.linalg.LinAlgError is one, and torch does not declare it
            raise DataError(
                "the regression has no solution: too many of the pictures are alike",
                remedy="raise --ridge, or lower --centres",
            ) from None

    def solve(self, targets: Tensor) -> Tensor:
        """The weights (centres, D) for targets (P, D)."""
        return torch.cholesky_solve(self.weighted @ targets.double(), self.factor)

    def fitted(self, targets: Floats) -> Floats:
        """What is predicted for the pictures themselves, (P, D)."""
        return (self.kernel @ self.solve(torch.from_numpy(targets))).numpy()


def _table(captions: Captions, minimum_count: int, most: int) -> tuple[list[tuple[int, ...]], list[float]]:
    """The n-grams that are known, the most frequent where there are more than ``most``, in order; and the idf of each
    and of all others."""
    found: Counter[tuple[int, ...]] = Counter()
    for some in captions:
        found.update({ngram for caption in some for ngram in _ngrams(caption)})
    frequent = (ngram for ngram, count in found.most_common() if count >= minimum_count and UNKNOWN not in ngram)
    known = sorted(itertools.islice(frequent, most))
    counts = [*(found[ngram] for ngram in known), max(1, minimum_count / 2)]
    return known, np.log(len(captions) / np.array(counts)).tolist()


def _ngrams(caption: Sequence[int]) -> set[tuple[int, ...]]:
    return {tuple(caption[i : i + n]) for n in range(1, LONGEST_NGRAM + 1) for i in range(len(caption) - n + 1)}


def _vectors(reranker: Reranker, regression: NGramRegression, captions: Captions) -> csr_matrix:
    """The mean vector of each picture's captions, (P, N)."""
    count = len(regression.ngrams)
    rows = np.repeat(np.arange(len(captions)), [len(some) for some in captions])
    shares = np.repeat([1 / len(some) for some in captions], [len(some) for some in captions])
    flat = [caption for some in captions for caption in some]
    parts: list[tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.int64]]] = []
    for a in range(0, len(flat), _AT_ONCE):
        ngrams = reranker.ngrams_of(torch.from_numpy(padded_words(flat[a : a + _AT_ONCE])))
        value, places = regression.vectors(ngrams)
        kept = places < count
        caption = a + kept.nonzero()[:, 0].numpy()
        parts.append((value[kept].numpy() * shares[caption], rows[caption], places[kept].numpy()))
    values, row, column = (np.concatenate(some) for some in zip(*parts, strict=True))
    matrix = csr_matrix((values.astype(np.float32), (row, column)), shape=(len(captions), count))
    matrix.sum_duplicates()
    return matrix


def _length_factors(captions: Captions) -> Tensor:
    """CIDEr-D's factor for captions of each length from 0 on, the mean over the references, (P, 41)."""
    lengths = np.arange(LONGEST_CAPTION + 1)
    factors = np.exp(-((lengths[:, None] - lengths[None]) ** 2) / (2 * _SIGMA**2))
    rows = [factors[np.minimum([len(caption) for caption in some], LONGEST_CAPTION)].mean(0) for some in captions]
    return torch.from_numpy(np.array(rows))


def _directions(vectors: csr_matrix, mean: Floats, ridge: _Ridge, dims: int) -> Floats:
    """The first principal directions of the fitted vectors, (N, D), orthonormal columns."""
    transposed = vectors.T.tocsr()
    generator = np.random.default_rng(0)
    fitted: Floats = generator.standard_normal((vectors.shape[0], dims + _MORE))
    basis: Floats = np.zeros((vectors.shape[1], 0))
    for _ in range(_ROUNDS):
        seen = ridge.fitted(fitted)
        basis, _ = np.linalg.qr(transposed @ seen - np.outer(mean, seen.sum(0)))
        fitted = ridge.fitted(vectors @ basis - mean @ basis)
    _, _, turned = np.linalg.svd(fitted, full_matrices=False)
    found = np.zeros((vectors.shape[1], dims))
    kept = basis @ turned[:dims].T  # fewer where there are few pictures or n-grams
    found[:, : kept.shape[1]] = kept
    return found
