"""Fit a reranker: kernel ridge regression from training pictures to what people say of them; see
`captioner.model.reranker`."""

import itertools
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from torch import Tensor

from captioner.backends.base import padded_words
from captioner.backends.torch import TorchBackend
from captioner.checkpoint import Checkpoint
from captioner.data.records import Record
from captioner.decoding import Beam, Hypothesis, decode
from captioner.errors import DataError, OptionError
from captioner.metadata import can_store
from captioner.metrics import cider_of, tokenize
from captioner.model.reranker import (
    FARTHEST,
    LONGEST_CAPTION,
    LONGEST_NGRAM,
    MOST,
    STEPS,
    Reranker,
    RerankerConfig,
)
from captioner.tokenizer.detokenize import detokenize
from captioner.tokenizer.vocabulary import UNKNOWN, Vocabulary
from captioner.training.dev import counted, encode_raw, frequencies_of
from captioner.training.export import device_of
from captioner.training.provenance import Member, about_of

WEIGHTS = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
"""Of the consensus score, which estimates CIDEr-D from 0 to 10, beside the beam's score: powers of two, so that what is
rounded to 16 bits stays so."""
WIDTH = 2.0
"""The radius of the basis functions, as a share of the median length of a standardised feature vector."""
LENGTH_RIDGE = 0.1
_SIGMA = 6.0  # of CIDEr-D, words
_JITTER = 1e-10  # of the diagonal of a matrix that rounding leaves not quite positive definite
_MORE = 32  # dimensions in which the randomised decomposition looks for directions, beside those that are kept
_ROUNDS = 2  # of its power iteration
_AT_ONCE = 4096  # captions whose vectors are computed at a time

Floats = NDArray[np.float64]
Captions = Sequence[Sequence[Sequence[int]]]
"""Of each picture, in ids."""


@dataclass(frozen=True)
class Fitted:
    """A model with a reranker, and what came of it.

    Attributes:
        model: with it.
        pictures: that it was fitted to.
        ngrams: that it knows.
        weight: of the consensus score.
        before, after: the mean CIDEr-D of the dev sets, by their own document frequencies.
    """

    model: Checkpoint
    pictures: int
    ngrams: int
    weight: float
    before: float
    after: float


@dataclass(frozen=True, kw_only=True)
class RerankingOptions:
    """How a reranker is fitted.

    Attributes:
        dims, centres: as of `captioner.model.reranker.RerankerConfig`; fewer centres where there are fewer pictures.
        ridge: what is added to the kernel of a picture with five captions and itself; of fewer captions more.
        between_sets: b of `captioner.model.reranker.Reranker`, from 0 to 1.
        minimum_count: pictures in whose captions an n-gram occurs, at least.
    """

    dims: int = 512
    centres: int = 6000
    ridge: float = 0.01
    between_sets: float = 0.25
    minimum_count: int = 5


def with_beam(model: Checkpoint, width: int | None) -> Checkpoint:
    """The model with another width of its beam; None for its own. Raises OptionError for one that no file may hold."""
    if width is None:
        return model
    beam = replace(Beam(**model.about.get("decoding", {})), width=width)
    if not can_store(beam):
        raise OptionError(f"a beam of {width} is wider than a model file may ask for")
    return replace(model, about={**model.about, "decoding": {**model.about.get("decoding", {}), "width": width}})


@torch.no_grad()
def fit_reranker(
    model: Checkpoint,
    train: Sequence[Sequence[Record]],
    dev: Sequence[Sequence[Record]],
    *,
    options: RerankingOptions,
    file: str,
    advance: Callable[[int], None] = lambda count: None,
) -> Fitted:
    """A model that orders the captions of its beam by what is predicted from the picture.

    The weight of the consensus score is the one with the best CIDEr-D on dev, and is part of the reranker.

    Args:
        model: it is changed in place: it gets the reranker, and loses the one that it has.
        train: training pictures with captions, of each data set.
        dev: dev pictures with captions, of each data set; their captions are made as the model's file says.
        options: see there.
        file: the model's file, for what the new one says of itself.
        advance: called with the number of pictures that were encoded since the last call.

    Raises:
        OptionError: the model's beam keeps one caption alone, or its vocabulary is too large.
        DataError: no n-gram is frequent enough, or the regression has no solution.
        ImageError: a picture does not open.
    """
    beam = replace(Beam(**model.about.get("decoding", {})), rerank=0.0)
    if beam.width == 1 or beam.diverse_groups > 1:
        raise OptionError(
            f"{file}: its beam of {beam.width} leaves nothing to order", remedy="give a wider one with --beam"
        )
    about = {**model.about, "decoding": {k: v for k, v in model.about.get("decoding", {}).items() if k != "rerank"}}
    model = replace(model, about=about)
    model.model.set_reranker(None)
    device = device_of(model)
    records = [record for one in train for record in one]
    grids = counted(encode_raw(model.model, records, device=device), advance)
    features = torch.cat([grid.mean().float().cpu() for grid in grids])
    sets = torch.tensor([number for number, one in enumerate(train) for _ in one])
    captions = [[_ids(caption, model.vocabulary) for caption in record.captions] for record in records]
    reranker = fit(features, captions, sets, vocabulary_size=len(model.vocabulary), options=options)
    lists = [_lists(model, reranker, one, replace(beam, n_best=beam.width), advance) for one in dev]
    weight, before, after = _choose_weight(lists)
    for part in (reranker.weights, reranker.intercept, reranker.common):
        part *= weight
    model.model.set_reranker(reranker.config)
    assert model.model.reranker is not None
    model.model.reranker.to(device).load_state_dict(reranker.state_dict())
    more = {"pictures": len(records), "sets": len(train), "weight": weight, **vars(options)}
    found = replace(model, about=about_of("train_reranker", [Member(file, model.about, more)]))
    return Fitted(found, len(records), reranker.config.ngrams, weight, before, after)


def fit(
    features: Tensor, captions: Captions, sets: Tensor, *, vocabulary_size: int, options: RerankingOptions
) -> Reranker:
    """Kernel ridge regression with a subset of the pictures as centres, and of reduced rank.

    The subset is the one of Nyström's approximation (Williams and Seeger 2001). The directions are the first principal
    ones of the fitted vectors (reduced-rank regression, Izenman 1975), by randomised decomposition (Halko et al. 2011).

    Args:
        features: (P, C), the mean feature vectors of the pictures.
        captions: of each picture, in ids.
        sets: (P,), the number of the data set of each picture.
        vocabulary_size: as of `Reranker`.
        options: see there.

    Returns:
        A reranker whose consensus score estimates CIDEr-D, from 0 to 10.

    Raises:
        DataError: no n-gram is frequent enough, or the regression has no solution.
    """
    table, idf = _table(captions, options.minimum_count)
    chosen = _centres(sets, options.centres)
    count, number = len(chosen), int(sets.max()) + 1
    config = RerankerConfig(ngrams=len(table), dims=options.dims, centres=count, sets=number)
    reranker = Reranker(config, channels=features.shape[1], vocabulary_size=vocabulary_size)
    reranker.ngrams.copy_(torch.tensor(reranker.keys_of(table)))
    reranker.idf.copy_(torch.tensor(idf))
    reranker.mean.copy_(features.mean(0))
    reranker.deviation.copy_(features.std(0, correction=0) + 1e-3)
    known = reranker.standardised(features)
    reranker.radius.copy_(WIDTH * known.square().sum(1).median().sqrt().clamp(min=1e-3))
    steps = (known[chosen] * (STEPS / FARTHEST)).round()
    reranker.centres.copy_(steps.T)
    reranker.squares.copy_((steps * (FARTHEST / STEPS)).square().sum(1))
    one_hot = torch.nn.functional.one_hot(sets, number)
    reranker.sets.copy_(one_hot[chosen])
    reranker.between_sets.fill_(options.between_sets)
    kernel = reranker.kernel(known.double())  # (P, centres); in 32 bits it is not positive definite
    noise = torch.tensor([5 / len(some) for some in captions], dtype=torch.float64)

    plain = _Ridge(kernel, chosen, noise * LENGTH_RIDGE)
    lengths = _length_factors(captions)
    for own_mean, own_weights, asked in (
        (reranker.set_mean, reranker.set_weights, one_hot.double()),
        (reranker.length_mean, reranker.length_weights, lengths),
    ):
        rounded, intercept = _in_half(plain.solve(asked - asked.mean(0)), kernel)
        own_weights.copy_(rounded)
        own_mean.copy_(asked.mean(0) + intercept)
    del plain  # matrices of the size of the kernel
    kernel[sets[:, None] != sets[chosen]] *= options.between_sets
    ridge = _Ridge(kernel, chosen, noise * options.ridge)
    vectors = _vectors(reranker, captions)  # (P, N)
    mean = np.asarray(vectors.mean(0)).ravel()
    shares = one_hot.double() @ (len(sets) / number / one_hot.sum(0).double())  # each data set counts the same
    directions = _directions(vectors, mean, ridge, shares.numpy(), options.dims)  # (N, D)
    targets = torch.from_numpy(vectors @ directions - mean @ directions)
    weights, intercept = _in_half(10 * ridge.solve(targets), kernel)  # CIDEr-D goes to 10
    reranker.weights.copy_(weights)
    reranker.intercept.copy_(intercept)
    reranker.common[:-1] = 10 * torch.from_numpy(mean)
    scale = np.abs(directions).max(1) / STEPS
    reranker.scales[:-1] = torch.from_numpy(scale)
    reranker.directions[:-1] = torch.from_numpy((directions / np.maximum(scale, 1e-12)[:, None]).round())
    return reranker


def _centres(sets: Tensor, count: int) -> Tensor:
    """The places of so many pictures, as many of each data set where it has them, evenly spread over it; all where
    there are no more."""
    found: list[Tensor] = []
    places = sorted((torch.nonzero(sets == number)[:, 0] for number in sets.unique()), key=len)
    for done, own in enumerate(places):
        share = min(len(own), (count - sum(map(len, found))) // (len(places) - done))
        found.append(own[torch.arange(share) * len(own) // max(1, share)])
    return torch.cat(found).sort().values


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


def _table(captions: Captions, minimum_count: int) -> tuple[list[tuple[int, ...]], list[float]]:
    """The n-grams that are known, the most frequent where there are too many, in order; and the idf of each and of all
    others. Raises DataError."""
    found: Counter[tuple[int, ...]] = Counter()
    for some in captions:
        found.update({ngram for caption in some for ngram in _ngrams(caption)})
    frequent = (ngram for ngram, count in found.most_common() if count >= minimum_count and UNKNOWN not in ngram)
    known = sorted(itertools.islice(frequent, MOST))
    if not known:
        raise DataError("no n-gram is frequent enough", remedy="give more captions, or lower --minimum-count")
    counts = [*(found[ngram] for ngram in known), max(1, minimum_count / 2)]
    return known, np.log(len(captions) / np.array(counts)).tolist()


def _ngrams(caption: Sequence[int]) -> set[tuple[int, ...]]:
    return {tuple(caption[i : i + n]) for n in range(1, LONGEST_NGRAM + 1) for i in range(len(caption) - n + 1)}


def _ids(caption: str, vocabulary: Vocabulary) -> list[int]:
    return vocabulary.encode(tokenize(caption))[1:-1]  # without start and end


def _vectors(reranker: Reranker, captions: Captions) -> csr_matrix:
    """The mean vector of each picture's captions, (P, N)."""
    rows = np.repeat(np.arange(len(captions)), [len(some) for some in captions])
    shares = np.repeat([1 / len(some) for some in captions], [len(some) for some in captions])
    flat = [caption for some in captions for caption in some]
    parts: list[tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.int64]]] = []
    for a in range(0, len(flat), _AT_ONCE):
        value, places = reranker.vectors(torch.from_numpy(padded_words(flat[a : a + _AT_ONCE])))
        kept = places < reranker.config.ngrams
        caption = a + kept.nonzero()[:, 0].numpy()
        parts.append((value[kept].numpy() * shares[caption], rows[caption], places[kept].numpy()))
    values, row, column = (np.concatenate(some) for some in zip(*parts, strict=True))
    matrix = csr_matrix((values.astype(np.float32), (row, column)), shape=(len(captions), reranker.config.ngrams))
    matrix.sum_duplicates()
    return matrix


def _length_factors(captions: Captions) -> Tensor:
    """CIDEr-D's factor for captions of each length from 0 on, the mean over the references, (P, 41)."""
    lengths = np.arange(LONGEST_CAPTION + 1)
    factors = np.exp(-((lengths[:, None] - lengths[None]) ** 2) / (2 * _SIGMA**2))
    rows = [factors[np.minimum([len(caption) for caption in some], LONGEST_CAPTION)].mean(0) for some in captions]
    return torch.from_numpy(np.array(rows))


def _directions(vectors: csr_matrix, mean: Floats, ridge: _Ridge, shares: Floats, dims: int) -> Floats:
    """The first principal directions of the fitted vectors, which have ``shares`` (P,); (N, D), orthonormal columns."""
    transposed = vectors.T.tocsr()
    generator = np.random.default_rng(0)
    fitted: Floats = generator.standard_normal((vectors.shape[0], dims + _MORE))
    basis: Floats = np.zeros((vectors.shape[1], 0))
    for _ in range(_ROUNDS):
        seen = ridge.fitted(shares[:, None] * fitted)
        basis, _ = np.linalg.qr(transposed @ seen - np.outer(mean, seen.sum(0)))
        fitted = ridge.fitted(vectors @ basis - mean @ basis)
    _, _, turned = np.linalg.svd(shares[:, None] ** 0.5 * fitted, full_matrices=False)
    found = np.zeros((vectors.shape[1], dims))
    kept = basis @ turned[:dims].T  # fewer where there are few pictures or n-grams
    found[:, : kept.shape[1]] = kept
    return found


@dataclass(frozen=True)
class _Lists:
    """The beam's captions of dev pictures: scores, consensus scores and CIDEr-D, (P, K) each, minus infinity for
    captions that did not end."""

    score: Floats
    consensus: Floats
    cider: Floats


def _lists(
    model: Checkpoint, reranker: Reranker, records: Sequence[Record], beam: Beam, advance: Callable[[int], None]
) -> _Lists:
    backend = TorchBackend(model)
    found: list[list[Hypothesis]] = []
    predicted: list[Tensor] = []
    for grid in counted(encode_raw(model.model, records, device=device_of(model)), advance):
        predicted += reranker(grid.mean().float().cpu())
        found += decode(backend, model.model.refine(grid), beam)
    shape = (len(records), beam.width)
    score, consensus, cider = np.full(shape, -np.inf), np.zeros(shape), np.zeros(shape)
    frequencies = frequencies_of(records)
    for i, (some, own, record) in enumerate(zip(found, predicted, records, strict=True)):
        ended = [one for one in some if one.finished] or some
        tokens = [one.tokens for one in ended]
        references = [tokenize(caption) for caption in record.captions]
        texts = [tokenize(detokenize(model.vocabulary.decode(one))) for one in tokens]
        score[i, : len(ended)] = [one.score for one in ended]
        (scores,) = reranker.consensus(torch.from_numpy(padded_words(tokens))[None], own[None])
        consensus[i, : len(ended)] = scores.numpy()
        cider[i, : len(ended)] = cider_of(texts, [references] * len(texts), document_frequencies=frequencies)
    return _Lists(score, consensus, cider)


def _choose_weight(lists: Sequence[_Lists]) -> tuple[float, float, float]:
    """The weight that is best on dev, and the mean CIDEr-D over the data sets without it and with it."""

    def mean(weight: float) -> float:
        chosen = [(one.score + weight * one.consensus).argmax(1) for one in lists]
        return float(
            np.mean([one.cider[np.arange(len(best)), best].mean() for one, best in zip(lists, chosen, strict=True)])
        )

    best = max(WEIGHTS, key=mean)
    return best, mean(0.0), mean(best)
