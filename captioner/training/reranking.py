"""Fit a reranker to training pictures, and choose its weights on dev; see `captioner.model.reranker`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from captioner.backends.base import padded_words
from captioner.backends.torch import TorchBackend
from captioner.checkpoint import Checkpoint
from captioner.data.records import Record
from captioner.decoding import Beam, Hypothesis, decode
from captioner.errors import OptionError
from captioner.metadata import can_store
from captioner.metrics import DocumentFrequencies, cider_of, tokenize
from captioner.metrics.bleu import bleu, bleu_table_of
from captioner.model.reranker import LONGEST_NGRAM, Reranker
from captioner.tokenizer.detokenize import detokenize
from captioner.tokenizer.vocabulary import Vocabulary
from captioner.training.dev import counted, encode_raw, frequencies_of
from captioner.training.export import device_of
from captioner.training.ngram_regression import RerankingOptions, check_ngrams, fit
from captioner.training.provenance import Member, about_of

WEIGHTS = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
"""Of the estimate of CIDEr-D, from 0 to 10, beside the beam's score: powers of two, so that what is rounded to 16 bits
stays so."""
BLEU_STRENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0)
"""The b of `captioner.model.reranker.Reranker` that are tried, in units of the beam's score."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Scores:
    """Of the dev sets, the mean, in points: CIDEr-D by their own document frequencies, and BLEU-4."""

    cider: float
    bleu: float


@dataclass(frozen=True)
class Fitted:
    """A model with a reranker, and what came of it.

    Attributes:
        model: with it.
        pictures: that it was fitted to.
        ngrams: that it knows, of each data set.
        weight: of the estimate of CIDEr-D.
        bleu_strength: of that of BLEU-4, the b of `captioner.model.reranker.Reranker`.
        before, after: the scores of dev.
    """

    model: Checkpoint
    pictures: int
    ngrams: tuple[int, ...]
    weight: float
    bleu_strength: float
    before: Scores
    after: Scores


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

    The weights of the estimates of CIDEr-D and of BLEU-4 beside the beam's score are those with the best scores on dev,
    and are part of the reranker.

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
    sets = torch.tensor([number for number, one in enumerate(train) for _ in one])
    captions = [[_ids(caption, model.vocabulary) for caption in record.captions] for record in records]
    check_ngrams(captions, sets, options.minimum_count)
    grids = counted(encode_raw(model.model, records, device=device), advance)
    features = torch.cat([grid.mean().float().cpu() for grid in grids])
    reranker = fit(features, captions, sets, vocabulary_size=len(model.vocabulary), options=options)
    lists = [_lists(model, reranker, one, replace(beam, n_best=beam.width), advance) for one in dev]
    weight, strength, before, after = choose_weights(reranker, lists, options.bleu_weight)
    model.model.set_reranker(reranker.config)
    assert model.model.reranker is not None
    model.model.reranker.to(device).load_state_dict(reranker.state_dict())
    chosen = {"weight": weight, "bleu_strength": strength}
    more = {"pictures": len(records), "sets": len(train), **chosen, **vars(options)}
    found = replace(model, about=about_of("train_reranker", [Member(file, model.about, more)]))
    return Fitted(found, len(records), reranker.config.ngrams, weight, strength, before, after)


@dataclass(frozen=True)
class Lists:
    """The beam's captions of P dev pictures, K of each at most: scores, minus infinity for captions that did not end,
    what the reranker estimates, and what they are worth.

    Attributes:
        score, estimate, cider: (P, K), the beam's score, the estimate of CIDEr-D and CIDEr-D itself, from 0 to 10.
        matches: (P, K, 4), as of `captioner.model.reranker.Reranker.estimates`.
        ngrams: (P, K, 4), of each order of length, in the caption.
        bleu: (P, K, 10), as of `captioner.metrics.bleu.BleuCounts.table`.
    """

    score: Floats
    estimate: Floats
    cider: Floats
    matches: Floats
    ngrams: Floats
    bleu: Floats

    @classmethod
    def of(cls, pictures: int, width: int) -> "Lists":
        """Of captions that are not known yet."""
        shape = (pictures, width)
        score, zeros = np.full(shape, -np.inf), np.zeros(shape)
        orders, table = np.zeros((*shape, LONGEST_NGRAM)), np.zeros((*shape, 2 * LONGEST_NGRAM + 2))
        return cls(score, zeros, zeros.copy(), orders, orders.copy(), table)

    def fill(
        self, i: int, tokens: Sequence[Sequence[int]], texts: Sequence[Sequence[str]], scores: Sequence[float],
        references: Sequence[Sequence[str]], reranker: Reranker, predicted: Tensor, frequencies: DocumentFrequencies,
    ) -> None:  # fmt: skip
        """The captions of picture i: in ids, in words, their scores; and what is predicted for it."""
        count = len(tokens)
        estimate, matches = reranker.estimates(torch.from_numpy(padded_words(tokens))[None], predicted[None])
        self.score[i, :count] = scores
        self.estimate[i, :count] = estimate[0].numpy()
        self.matches[i, :count] = matches[0].numpy()
        for n in range(LONGEST_NGRAM):
            self.ngrams[i, :count, n] = [max(0, len(one) - n) for one in tokens]
        theirs = [references] * count
        self.cider[i, :count] = cider_of(texts, theirs, document_frequencies=frequencies)
        self.bleu[i, :count] = bleu_table_of(texts, theirs)

    def scores_of(self, chosen: NDArray[np.int64]) -> Scores:
        """Of one caption of each picture, given by places (P,)."""
        rows = np.arange(len(chosen))
        table = self.bleu[rows, chosen].sum(0)
        return Scores(100 * float(self.cider[rows, chosen].mean()), 100 * float(bleu(table)[LONGEST_NGRAM - 1]))


def _ids(caption: str, vocabulary: Vocabulary) -> list[int]:
    return vocabulary.encode(tokenize(caption))[1:-1]  # without start and end


def _lists(
    model: Checkpoint, reranker: Reranker, records: Sequence[Record], beam: Beam, advance: Callable[[int], None]
) -> Lists:
    backend = TorchBackend(model)
    found: list[list[Hypothesis]] = []
    predicted: list[Tensor] = []
    for grid in counted(encode_raw(model.model, records, device=device_of(model)), advance):
        predicted += reranker(grid.mean().float().cpu())
        found += decode(backend, model.model.refine(grid), beam)
    lists, frequencies = Lists.of(len(records), beam.width), frequencies_of(records)
    for i, (some, own, record) in enumerate(zip(found, predicted, records, strict=True)):
        ended = [one for one in some if one.finished] or some
        tokens = [one.tokens for one in ended]
        texts = [tokenize(detokenize(model.vocabulary.decode(one))) for one in tokens]
        references = [tokenize(caption) for caption in record.captions]
        lists.fill(i, tokens, texts, [one.score for one in ended], references, reranker, own, frequencies)
    return lists


def choose_weights(
    reranker: Reranker, lists: Sequence[Lists], bleu_weight: float
) -> tuple[float, float, Scores, Scores]:
    """Give the reranker the weights that are best on dev, by CIDEr-D and ``bleu_weight`` times BLEU-4.

    Args:
        reranker: its consensus score estimates CIDEr-D alone; it is changed in place.
        lists: the captions of each dev set.
        bleu_weight: 0 or more; with 0 the estimate of BLEU is left out.

    Returns:
        The weight of the estimate of CIDEr-D, the strength of that of BLEU, and the scores of dev without both and with
        both, means over the data sets.
    """
    first = [one.score.argmax(1) for one in lists]

    def mean(values: Sequence[Floats]) -> Floats:
        means = [each[np.arange(len(best)), best].mean(0) for each, best in zip(values, first, strict=True)]
        found: Floats = np.maximum(np.mean(means, 0), 1e-3)
        return found

    gains = 1 / (LONGEST_NGRAM * mean([one.matches for one in lists]))
    costs = 1 / (LONGEST_NGRAM * mean([one.ngrams for one in lists]))

    def scores(weight: float, strength: float) -> Scores:
        found = []
        for one in lists:
            total = one.score + weight * one.estimate + strength * (one.matches @ gains - one.ngrams @ costs)
            found.append(one.scores_of(total.argmax(1)))
        return Scores(float(np.mean([one.cider for one in found])), float(np.mean([one.bleu for one in found])))

    tried = {
        (weight, strength): scores(weight, strength)
        for strength in (BLEU_STRENGTHS if bleu_weight else (0.0,))
        for weight in WEIGHTS
    }
    weight, strength = max(tried, key=lambda pair: tried[pair].cider + bleu_weight * tried[pair].bleu)
    for regression in reranker.regressions():
        for part in (regression.weights, regression.intercept, regression.common):
            part *= weight
    reranker.match_gains.copy_(torch.from_numpy(strength * gains / weight))  # matches are of what has the weight
    reranker.ngram_costs.copy_(torch.from_numpy(strength * costs))
    return weight, strength, scores(0.0, 0.0), tried[weight, strength]
