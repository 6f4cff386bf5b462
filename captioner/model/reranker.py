"""Reranking: which of a beam's captions is most like what people would say of the picture?

From the mean of the encoder's grid over the cells, the mean vector of the picture's references is predicted: of n-grams
of one to four words, weighted and normalised as CIDEr has it (Vedantam et al. 2015,
https://arxiv.org/abs/1411.5726, equations 1 and 2); and so are their lengths. The consensus score of a caption is the
inner product of its own vector and the predicted one, times CIDEr-D's factor for its length: an estimate of the
caption's CIDEr-D without a reference. Devlin et al. 2015 ("Exploring nearest neighbor approaches for image
captioning", https://arxiv.org/abs/1505.04467) compare with the captions of the nearest training pictures; here a
regression is learned from them, and no caption is stored.

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
"""N-grams, dimensions, centres and data sets, of each at most."""
FARTHEST = 5.0
"""Standard deviations; a feature that is farther from its mean counts as so far."""
STEPS = 127
"""Of the integers in 8 bits that centres and directions are stored as, on either side of 0."""


@dataclass(frozen=True, kw_only=True)
class RerankerConfig:
    """The sizes of a `Reranker`.

    Attributes:
        ngrams: N, those that it knows.
        dims: D, of the space in which vectors of n-grams are predicted.
        centres: P, training pictures at which the radial basis functions are centred.
        sets: S, data sets that the training pictures are of.
    """

    ngrams: int
    dims: int
    centres: int
    sets: int = 1

    def __post_init__(self) -> None:
        for name in ("ngrams", "dims", "centres", "sets"):
            value = getattr(self, name)
            if type(value) is not int or not 1 <= value <= MOST:
                raise OptionError(f"the reranker's {name} must be a whole number from 1 to {MOST:,}, not {value!r}")


class Reranker(nn.Module):
    """The regression from pictures to vectors of n-grams and to lengths, and the table of n-grams.

    With the standardised mean feature vector x of a picture, ``k_p(x) = exp(-|x - c_p|^2 / 2 r^2)`` for centres c_p
    (radial basis functions). People describe pictures of different data sets differently. So the probabilities
    ``q(x) = clip(q_0 + Q^T k(x))`` of the data sets are predicted first, and a centre of the data set s counts
    ``g_p(x) = b + (1 - b) q_s(x)``: for two pictures of known data sets this is the kernel of multi-task regression
    (Bonilla et al. 2007, "Multi-task Gaussian process prediction"), with a covariance b between data sets.

    ``z(x) = a + W^T (g(x) * k(x))``. A caption with the vector v of n-grams and l words has the consensus score
    ``(v . (m + V z)) * (e_l + E_l^T k(x))``: m is the mean of the training pictures' vectors, V has D directions, and
    the last factor is the expected value of CIDEr-D's ``exp(-(l - l_r)^2 / 2 6^2)`` over references of l_r words.

    Args:
        config: the sizes.
        channels: C, of the vectors of the encoder's grid, with those of its fine stage.
        vocabulary_size: of the words that the n-grams are made of.

    Raises:
        OptionError: the vocabulary has more than `MOST_WORDS` words.
    """

    mean: Tensor
    deviation: Tensor
    centres: Tensor
    squares: Tensor
    radius: Tensor
    weights: Tensor
    intercept: Tensor
    sets: Tensor
    between_sets: Tensor
    set_mean: Tensor
    set_weights: Tensor
    length_mean: Tensor
    length_weights: Tensor
    ngrams: Tensor
    idf: Tensor
    common: Tensor
    directions: Tensor
    scales: Tensor

    def __init__(self, config: RerankerConfig, *, channels: int, vocabulary_size: int) -> None:
        super().__init__()
        if vocabulary_size > MOST_WORDS:
            raise OptionError(f"a reranker takes up to {MOST_WORDS} words, not {vocabulary_size}")
        self.config, self._base = config, vocabulary_size
        n, d, p, s = config.ngrams, config.dims, config.centres, config.sets
        parts = {
            "mean": torch.zeros(channels),
            "deviation": torch.ones(channels),
            # As a product takes it, in steps of FARTHEST / STEPS, and its squared lengths: no runtime keeps a copy.
            "centres": torch.zeros(channels, p, dtype=torch.int8),
            "squares": torch.zeros(p),
            "radius": torch.ones(()),
            "weights": torch.zeros(p, d),
            "intercept": torch.zeros(d),
            "sets": torch.zeros(p, s, dtype=torch.int8),  # 1 for the one that a centre is of
            "between_sets": torch.ones(()),
            "set_mean": torch.full((s,), 1 / s),
            "set_weights": torch.zeros(p, s),
            "length_mean": torch.ones(LONGEST_CAPTION + 1),
            "length_weights": torch.zeros(p, LONGEST_CAPTION + 1),
            "ngrams": torch.zeros(n, dtype=torch.long),  # as `keys_of` numbers them, in order
            # With a row more, of all other n-grams.
            "idf": torch.zeros(n + 1),
            "common": torch.zeros(n + 1),
            "directions": torch.zeros(n + 1, d, dtype=torch.int8),  # in steps of the scale of each row
            "scales": torch.zeros(n + 1),
        }
        for name, tensor in parts.items():
            self.register_buffer(name, tensor)

    def standardised(self, features: Tensor) -> Tensor:
        """Mean feature vectors (B, C) of grids, standardised."""
        return ((features.float() - self.mean) / self.deviation).clamp(-FARTHEST, FARTHEST)

    def kernel(self, standardised: Tensor) -> Tensor:
        """The radial basis functions (B, P) of standardised feature vectors (B, C)."""
        products = standardised @ self.centres.to(standardised.dtype) * (FARTHEST / STEPS)
        squares = standardised.square().sum(1, keepdim=True) + self.squares - 2 * products
        return torch.exp(-squares.clamp(min=0) / (2 * self.radius * self.radius))

    def forward(self, features: Tensor) -> Tensor:
        """Mean feature vectors (B, C) of grids -> z and the factors of lengths from 0 on, (B, D + 41)."""
        kernel = self.kernel(self.standardised(features))
        shares = (self.set_mean + kernel @ self.set_weights).clamp(0, 1)
        shares = shares / shares.sum(1, keepdim=True).clamp(min=1e-6)
        gate = self.between_sets + (1 - self.between_sets) * (shares @ self.sets.to(kernel.dtype).T)
        lengths = self.length_mean + kernel @ self.length_weights
        return torch.cat((self.intercept + (gate * kernel) @ self.weights, lengths.clamp(0, 1)), 1)

    def consensus(self, tokens: Tensor, predicted: Tensor) -> Tensor:
        """The consensus scores of captions.

        Args:
            tokens: (B, K, T) ids of words, padded with PAD, without start and end: K captions of each picture.
            predicted: (B, D + 41), of the pictures, as `forward` returns it.

        Returns:
            (B, K).
        """
        value, places = (x.unflatten(0, tokens.shape[:2]) for x in self.vectors(tokens.flatten(0, 1)))  # (B, K, 4, T)
        z, factors = predicted[:, : self.config.dims], predicted[:, self.config.dims :]
        along = (self.directions[places].float().flatten(1, 3) @ z[..., None]).reshape(value.shape)
        similarity = (value * (self.common[places] + self.scales[places] * along)).sum((2, 3))
        lengths = (tokens != PAD).sum(2).clamp(max=LONGEST_CAPTION)
        scores: Tensor = similarity * factors.gather(1, lengths)
        return scores

    def vectors(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """CIDEr's vectors of captions (K, T), of each of their n-grams.

        Returns:
            Values, and rows of the table, (K, 4, T) each: of the n-grams of n words that begin at each word. An n-gram
            that occurs c times has c places with a value of one occurrence each. The values of an order of length are
            divided by the length of its vector, and by 2, so that the inner product of two captions is the mean over
            the four orders of the cosines.
        """
        keys, exist = self._keys(tokens)
        places = torch.where(exist, self._find(keys), self.config.ngrams)
        idf = self.idf[places] * exist
        same = (keys[..., :, None] == keys[..., None, :]) & exist[..., None, :]  # (K, 4, T, T)
        squares = (same.sum(-1) * idf.square()).sum(-1, keepdim=True)  # of the sum over different n-grams
        return idf / (LONGEST_NGRAM * squares).clamp(min=1e-12).sqrt(), places

    def _keys(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """A number (K, 4, T) for the n words from each word on, and whether there are so many."""
        length = tokens.shape[1]
        padded = F.pad(tokens, (0, LONGEST_NGRAM - 1), value=PAD)
        words = torch.stack([padded[:, i : i + length] for i in range(LONGEST_NGRAM)], 1)  # (K, 4, T)
        powers = torch.tensor(self._powers, device=tokens.device)
        return (words * powers[:, None]).cumsum(1), words != PAD

    def keys_of(self, ngrams: Sequence[Sequence[int]]) -> list[int]:
        """Numbers of n-grams in ids, which are in the order of the ids."""
        return [sum(word * power for word, power in zip(ngram, self._powers, strict=False)) for ngram in ngrams]

    @property
    def _powers(self) -> list[int]:
        return [self._base**n for n in reversed(range(LONGEST_NGRAM))]

    def _find(self, keys: Tensor) -> Tensor:
        """The rows of the table of n-grams, by binary search in plain operations, which every runtime has."""
        known, count = self.ngrams, self.config.ngrams
        at = torch.zeros_like(keys)
        for step in (1 << bit for bit in reversed(range(count.bit_length()))):
            further = at + step
            is_below = (further < count) & (known[further.clamp(max=count - 1)] <= keys)
            at = torch.where(is_below, further, at)
        return torch.where(known[at] == keys, at, count)
