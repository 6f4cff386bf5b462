"""Reranking: which of a beam's captions is most like what people would say of the picture?

From the mean of the encoder's grid over the cells, the mean vector of the picture's references is predicted: of n-grams
of one to four words, weighted and normalised as CIDEr has it (Vedantam et al. 2015,
https://arxiv.org/abs/1411.5726, equations 1 and 2); and so are their lengths. The inner product of a caption's own
vector and the predicted one, times CIDEr-D's factor for its length, estimates its CIDEr-D without a reference. Devlin
et al. 2015 ("Exploring nearest neighbor approaches for image captioning", https://arxiv.org/abs/1505.04467) compare
with the captions of the nearest training pictures; here a regression is learned from them, and no caption is stored.

People describe pictures of different data sets differently. So each data set has a regression of its own, and the
estimates are weighted with the probabilities of the data sets, which are predicted from the picture too (Jacobs et al.
1991, "Adaptive mixtures of local experts").

To the estimate of CIDEr-D one of what the caption adds to BLEU-4 of all captions is added, linear in the n-grams that
it shares with the references (Tromble et al. 2008, "Lattice minimum Bayes-risk decoding for statistical machine
translation", https://aclanthology.org/D08-1065, equation 6). The sum is the consensus score.

`captioner.training.reranking` fits it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from captioner.errors import OptionError
from captioner.tokenizer.vocabulary import PAD

LONGEST_NGRAM = 4
LONGEST_CAPTION = 40
"""Words; a longer one counts as one of so many."""
MOST_WORDS = 55_108
"""Of a vocabulary: four of its ids fit in one integer of 64 bits."""
MOST = 100_000
"""N-grams and centres of all data sets, and dimensions, of each at most."""
MOST_SETS = 100
"""Data sets at most."""
FARTHEST = 5.0
"""Standard deviations; a feature that is farther from its mean counts as so far."""
STEPS = 127
"""Of the integers in 8 bits that centres and directions are stored as, on either side of 0."""
LEAST_IDF = 0.1
"""That of an n-gram in nine of ten pictures: what is divided by the idf of others is divided by this."""


@dataclass(frozen=True, kw_only=True)
class RerankerConfig:
    """The sizes of a `Reranker`.

    Attributes:
        ngrams: N, those that it knows, of each data set.
        dims: D, of the space in which vectors of n-grams are predicted.
        centres: P, training pictures at which the radial basis functions are centred, of each data set.
    """

    ngrams: tuple[int, ...]
    dims: int
    centres: tuple[int, ...]

    def __post_init__(self) -> None:
        for name in ("ngrams", "centres"):
            value = getattr(self, name)
            if not isinstance(value, (list, tuple)) or not 1 <= len(value) <= MOST_SETS:
                raise OptionError(f"the reranker's {name} must be 1 to {MOST_SETS} whole numbers, not {value!r:.60}")
            object.__setattr__(self, name, tuple(value))
        for name, value in (("ngrams", self.ngrams), ("dims", (self.dims,)), ("centres", self.centres)):
            for one in value:
                if type(one) is not int or not 1 <= one <= MOST:
                    raise OptionError(f"the reranker's {name} must be whole numbers from 1 to {MOST:,}, not {one!r}")
            if sum(value) > MOST:
                raise OptionError(f"the reranker's {name} are {sum(value):,}, more than {MOST:,}")
        if len(self.ngrams) != len(self.centres):
            raise OptionError(
                f"the reranker has ngrams of {len(self.ngrams)} data sets and centres of {len(self.centres)}"
            )


@dataclass(frozen=True)
class NGrams:
    """The n-grams of K captions of T words.

    Attributes:
        keys: (K, 4, T), a number for the n words from each word on; see `Reranker.keys_of`.
        exist: whether there are so many words.
        counts: how often the n-gram is in the caption.
    """

    keys: Tensor
    exist: Tensor
    counts: Tensor


class NGramRegression(nn.Module):
    """What people say of the pictures of one data set: the regression from pictures to vectors of n-grams and to
    lengths, and the table of n-grams.

    With the standardised mean feature vector x of a picture, ``k_p(x) = exp(-|x - c_p|^2 / 2 r^2)`` for centres c_p
    (radial basis functions), and ``z(x) = a + W^T k(x)``. A caption with the vector v of n-grams and l words has the
    estimate ``(v . (m + V z)) * (e_l + E_l^T k(x))`` of its CIDEr-D: m is the mean of the training pictures' vectors, V
    has D directions, and the last factor is the expected value of CIDEr-D's ``exp(-(l - l_r)^2 / 2 6^2)`` over
    references of l_r words. Divided by the idf of each n-gram, ``m + V z`` says how often references have it, in units
    of the length of a reference's vector.

    Args:
        ngrams, dims, centres: N, D, P.
        channels: C, of the feature vectors.
    """

    centres: Tensor
    squares: Tensor
    radius: Tensor
    weights: Tensor
    intercept: Tensor
    length_mean: Tensor
    length_weights: Tensor
    ngrams: Tensor
    idf: Tensor
    common: Tensor
    directions: Tensor
    scales: Tensor

    def __init__(self, *, ngrams: int, dims: int, centres: int, channels: int) -> None:
        super().__init__()
        n, d, p = ngrams, dims, centres
        parts = {
            # As a product takes it, in steps of FARTHEST / STEPS, and its squared lengths: no runtime keeps a copy.
            "centres": torch.zeros(channels, p, dtype=torch.int8),
            "squares": torch.zeros(p),
            "radius": torch.ones(()),
            "weights": torch.zeros(p, d),
            "intercept": torch.zeros(d),
            "length_mean": torch.ones(LONGEST_CAPTION + 1),
            "length_weights": torch.zeros(p, LONGEST_CAPTION + 1),
            "ngrams": torch.zeros(n, dtype=torch.long),  # as `Reranker.keys_of` numbers them, in order
            # With a row more, of all other n-grams.
            "idf": torch.zeros(n + 1),
            "common": torch.zeros(n + 1),
            "directions": torch.zeros(n + 1, d, dtype=torch.int8),  # in steps of the scale of each row
            "scales": torch.zeros(n + 1),
        }
        for name, tensor in parts.items():
            self.register_buffer(name, tensor)

    def kernel(self, standardised: Tensor) -> Tensor:
        """The radial basis functions (B, P) of standardised feature vectors (B, C)."""
        products = standardised @ self.centres.to(standardised.dtype) * (FARTHEST / STEPS)
        squares = standardised.square().sum(1, keepdim=True) + self.squares - 2 * products
        return torch.exp(-squares.clamp(min=0) / (2 * self.radius * self.radius))

    def forward(self, standardised: Tensor) -> Tensor:
        """Standardised feature vectors (B, C) -> z and the factors of lengths from 0 on, (B, D + 41)."""
        kernel = self.kernel(standardised)
        lengths = self.length_mean + kernel @ self.length_weights
        return torch.cat((self.intercept + kernel @ self.weights, lengths.clamp(0, 1)), 1)

    def estimate(self, ngrams: NGrams, lengths: Tensor, predicted: Tensor) -> tuple[Tensor, Tensor]:
        """What captions would score.

        Args:
            ngrams: of the captions, (B * K).
            lengths: (B, K), of the captions, in words.
            predicted: (B, D + 41), of the pictures, as `forward` returns it.

        Returns:
            CIDEr-D (B, K), and for each order of length how many n-grams references are expected to have too, in units
            of its own, (B, K, 4).
        """
        value, places = (x.unflatten(0, lengths.shape) for x in self.vectors(ngrams))  # (B, K, 4, T)
        dims = self.directions.shape[1]
        z, factors = predicted[:, :dims], predicted[:, dims:]
        along = (self.directions[places].float().flatten(1, 3) @ z[..., None]).reshape(value.shape)
        said = self.common[places] + self.scales[places] * along
        exist = ngrams.exist.unflatten(0, lengths.shape)
        matches = (said * exist / self.idf[places].clamp(min=LEAST_IDF)).sum(3)
        return (value * said).sum((2, 3)) * factors.gather(1, lengths), matches

    def vectors(self, ngrams: NGrams) -> tuple[Tensor, Tensor]:
        """CIDEr's vectors of captions, of each of their n-grams.

        Returns:
            Values, and rows of the table, (K, 4, T) each: of the n-grams of n words that begin at each word. An n-gram
            that occurs c times has c places with a value of one occurrence each. The values of an order of length are
            divided by the length of its vector, and by 2, so that the inner product of two captions is the mean over
            the four orders of the cosines.
        """
        places = torch.where(ngrams.exist, self._find(ngrams.keys), len(self.ngrams))
        idf = self.idf[places] * ngrams.exist
        squares = (ngrams.counts * idf.square()).sum(-1, keepdim=True)  # of the sum over different n-grams
        return idf / (LONGEST_NGRAM * squares).clamp(min=1e-12).sqrt(), places

    def _find(self, keys: Tensor) -> Tensor:
        """The rows of the table of n-grams, by binary search in plain operations, which every runtime has."""
        known, count = self.ngrams, len(self.ngrams)
        at = torch.zeros_like(keys)
        for step in (1 << bit for bit in reversed(range(count.bit_length()))):
            further = at + step
            is_below = (further < count) & (known[further.clamp(max=count - 1)] <= keys)
            at = torch.where(is_below, further, at)
        return torch.where(known[at] == keys, at, count)


class Reranker(nn.Module):
    """The consensus scores of captions: a regression for each data set, and which data set a picture is of.

    The probabilities of the data sets are ``softmax(u + U^T x)`` of the standardised mean feature vector x.

    Beside CIDEr-D an order of length n adds ``g_n`` (``match_gains``) times the n-grams that are expected in the
    references too, less ``c_n`` (``ngram_costs``) times those of the caption: with ``g_n = b / (4 M_n)`` and
    ``c_n = b / (4 T_n)``, where a mean caption has T_n n-grams, M_n of which are in the references, this is b times the
    differential of the mean logarithm of BLEU's precisions. The brevity penalty is left out. Where the estimate of
    CIDEr-D has a weight, ``g_n`` is stored divided by it, since what is expected has it too.

    Args:
        config: the sizes.
        channels: C, of the vectors of the encoder's grid, with those of its fine stage.
        vocabulary_size: of the words that the n-grams are made of.

    Raises:
        OptionError: the vocabulary has more than `MOST_WORDS` words.
    """

    mean: Tensor
    deviation: Tensor
    set_weights: Tensor
    set_bias: Tensor
    match_gains: Tensor
    ngram_costs: Tensor

    def __init__(self, config: RerankerConfig, *, channels: int, vocabulary_size: int) -> None:
        super().__init__()
        if vocabulary_size > MOST_WORDS:
            raise OptionError(f"a reranker takes up to {MOST_WORDS} words, not {vocabulary_size}")
        self.config, self._base = config, vocabulary_size
        count = len(config.ngrams)
        parts = {
            "mean": torch.zeros(channels),
            "deviation": torch.ones(channels),
            "set_weights": torch.zeros(channels, count),
            "set_bias": torch.zeros(count),
            "match_gains": torch.zeros(LONGEST_NGRAM),
            "ngram_costs": torch.zeros(LONGEST_NGRAM),
        }
        for name, tensor in parts.items():
            self.register_buffer(name, tensor)
        self.sets = nn.ModuleList(
            NGramRegression(ngrams=n, dims=config.dims, centres=p, channels=channels)
            for n, p in zip(config.ngrams, config.centres, strict=True)
        )

    def regressions(self) -> list[NGramRegression]:
        """Those of the data sets."""
        return [one for one in self.sets if isinstance(one, NGramRegression)]

    def standardised(self, features: Tensor) -> Tensor:
        """Mean feature vectors (B, C) of grids, standardised."""
        return ((features.float() - self.mean) / self.deviation).clamp(-FARTHEST, FARTHEST)

    def shares(self, standardised: Tensor) -> Tensor:
        """The probabilities (B, S) of the data sets."""
        return (self.set_bias + standardised @ self.set_weights).softmax(1)

    def forward(self, features: Tensor) -> Tensor:
        """Mean feature vectors (B, C) of grids -> the probabilities of the data sets, and what each predicts, (B, S +
        S * (D + 41))."""
        x = self.standardised(features)
        return torch.cat((self.shares(x), *(one(x) for one in self.regressions())), 1)

    def consensus(self, tokens: Tensor, predicted: Tensor) -> Tensor:
        """The consensus scores of captions.

        Args:
            tokens: (B, K, T) ids of words, padded with PAD, without start and end: K captions of each picture.
            predicted: of the pictures, as `forward` returns it.

        Returns:
            (B, K).
        """
        cider, matches = self.estimates(tokens, predicted)
        lengths = (tokens != PAD).sum(2, keepdim=True)
        ngrams = (lengths - torch.arange(LONGEST_NGRAM, device=tokens.device)).clamp(min=0)
        return cider + matches @ self.match_gains - ngrams.to(cider.dtype) @ self.ngram_costs

    def estimates(self, tokens: Tensor, predicted: Tensor) -> tuple[Tensor, Tensor]:
        """CIDEr-D (B, K) and shared n-grams (B, K, 4), as `NGramRegression.estimate`, over all data sets; arguments as
        of `consensus`."""
        ngrams = self.ngrams_of(tokens.flatten(0, 1))
        lengths = (tokens != PAD).sum(2).clamp(max=LONGEST_CAPTION)
        own = self.regressions()
        shares, *rest = predicted.split([len(own), *[self.config.dims + LONGEST_CAPTION + 1] * len(own)], 1)
        found = [one.estimate(ngrams, lengths, each) for one, each in zip(own, rest, strict=True)]
        cider = torch.stack([each for each, _ in found], 2)  # (B, K, S)
        matches = torch.stack([each for _, each in found], 3)  # (B, K, 4, S)
        return (cider * shares[:, None]).sum(2), (matches * shares[:, None, None]).sum(3)

    def ngrams_of(self, tokens: Tensor) -> NGrams:
        """The n-grams of captions (K, T)."""
        length = tokens.shape[1]
        padded = F.pad(tokens, (0, LONGEST_NGRAM - 1), value=PAD)
        words = torch.stack([padded[:, i : i + length] for i in range(LONGEST_NGRAM)], 1)  # (K, 4, T)
        powers = torch.tensor(self._powers, device=tokens.device)
        keys, exist = (words * powers[:, None]).cumsum(1), words != PAD
        same = (keys[..., :, None] == keys[..., None, :]) & exist[..., None, :]  # (K, 4, T, T)
        return NGrams(keys, exist, same.sum(-1))

    def keys_of(self, ngrams: Sequence[Sequence[int]]) -> list[int]:
        """Numbers of n-grams in ids, which are in the order of the ids."""
        return [sum(word * power for word, power in zip(ngram, self._powers, strict=False)) for ngram in ngrams]

    @property
    def _powers(self) -> list[int]:
        return [self._base**n for n in reversed(range(LONGEST_NGRAM))]
