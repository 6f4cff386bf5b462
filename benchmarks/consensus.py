"""How much better is the caption of a beam that is most like what people would say of such a picture?

    python benchmarks/consensus.py --model best --data flickr8k/ --width 10
    python benchmarks/consensus.py --model default --data flickr8k/ --train coco/ coco2/

The captions that a beam keeps are ordered by the beam's own score and, with a weight, by one of these:

- minimum Bayes risk: the mean CIDEr-D against the beam's other captions, weighted by their probabilities,
- the nearest pictures: CIDEr-D against the captions of the training pictures whose mean feature vectors are nearest
  (consensus of nearest neighbours, Devlin et al. 2015, "Exploring nearest neighbor approaches for image captioning"),
- ridge and kernel ridge regression (radial basis functions): from the mean feature vector the mean vector of the
  picture's references is predicted, of n-grams of one to four words, weighted and normalised as CIDEr has it (Vedantam
  et al. 2015). The score of a caption is the inner product of its vector and the predicted one.

The feature vector of a picture is the mean of the encoder's grid over the cells. The weight is chosen on one half of
dev and scored on the other, both ways. Intervals are as in rerank.py.
"""

import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rerank import Lists, kept, report
from set_up import argument_parser
from torch import Tensor

from captioner.data.readers import read
from captioner.data.records import Record, of_split, refuse_leaks, usable
from captioner.decoding import Beam
from captioner.errors import CaptionerError
from captioner.metrics import DocumentFrequencies, cider_of, tokenize
from captioner.pipeline import Captioner, load
from captioner.training.images import ImageDataset, encode_images
from captioner.training.views import View

Floats = NDArray[np.float64]
Words = Sequence[str]
_WEIGHTS = (0.0, 0.02, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4)
_BATCH = 32


def mean_vectors(model: Captioner, records: Sequence[Record]) -> Tensor:
    """The mean of the encoder's grid over the cells of each picture, (P, C); the encoder pads no pictures."""
    images = ImageDataset([record.image for record in records], model.model.encoder)
    keys = [[(i, View()) for i in range(a, min(a + _BATCH, len(records)))] for a in range(0, len(records), _BATCH)]
    grids = encode_images(model.model.encoder, images, keys, device=torch.device(model.device))
    return torch.cat([grid.features.float().mean(1).cpu() for grid in grids])


@dataclass(frozen=True)
class NGrams:
    """The n-grams of captions of training pictures, and their inverse document frequencies.

    Attributes:
        places: of each n-gram that is known, its column.
        idf: of all n-grams of the captions.
        unseen: that of n-grams of no caption.
    """

    places: dict[tuple[str, ...], int]
    idf: dict[tuple[str, ...], float]
    unseen: float

    @classmethod
    def of(cls, captions: Sequence[Sequence[Words]], least: int) -> "NGrams":
        """Those that are in the captions of ``least`` pictures or more have a column."""
        found = Counter[tuple[str, ...]]()
        for some in captions:
            found.update({ngram for words in some for ngram in _ngrams(words)})
        known = [ngram for ngram, count in found.items() if count >= least]
        pictures = len(captions)
        idf = {ngram: float(np.log(pictures / count)) for ngram, count in found.items()}
        return cls({ngram: i for i, ngram in enumerate(known)}, idf, float(np.log(pictures)))

    def vector(self, words: Words) -> dict[int, float]:
        """CIDEr's vector of a caption: of each order of length 1, divided by the number of orders."""
        counts, squares = _ngrams(words), [0.0] * 5
        for ngram, count in counts.items():
            squares[len(ngram)] += (count * self.idf.get(ngram, self.unseen)) ** 2
        return {
            self.places[ngram]: count * self.idf[ngram] / (4 * squares[len(ngram)] ** 0.5)
            for ngram, count in counts.items()
            if ngram in self.places and squares[len(ngram)]
        }

    def matrix(self, captions: Sequence[Sequence[Words]]) -> Tensor:
        """The mean vector of each picture's captions, (P, N), sparse."""
        rows: list[int] = []
        columns: list[int] = []
        values: list[float] = []
        for i, some in enumerate(captions):
            for words in some:
                for place, value in self.vector(words).items():
                    rows.append(i)
                    columns.append(place)
                    values.append(value / len(some))
        size = (len(captions), len(self.places))
        return torch.sparse_coo_tensor(torch.tensor([rows, columns]), torch.tensor(values), size).coalesce()


def _ngrams(words: Words) -> Counter[tuple[str, ...]]:
    return Counter(tuple(words[i : i + n]) for n in range(1, 5) for i in range(len(words) - n + 1))


class Regression:
    """Which shares of the training pictures' vectors a new picture's prediction is made of: linear, of inner products
    or of a radial basis function."""

    def __init__(self, vectors: Tensor, *, width: float | None, ridge: float) -> None:
        self.mean, self.deviation = vectors.mean(0), vectors.std(0) + 1e-3
        self.width = width
        self.known = self._standardised(vectors)
        self.middle = float(self.known.square().sum(1).median())
        kernel = self._kernel(self.known)
        self.factor = torch.linalg.cholesky(kernel.double() + ridge * torch.eye(len(kernel), dtype=torch.float64))

    def _standardised(self, vectors: Tensor) -> Tensor:
        return ((vectors - self.mean) / self.deviation).clamp(-5, 5)

    def _kernel(self, vectors: Tensor) -> Tensor:
        products = vectors @ self.known.T
        if self.width is None:
            return products / self.middle
        squares = vectors.square().sum(1)[:, None] + self.known.square().sum(1) - 2 * products
        return torch.exp(-squares / (2 * self.width * self.middle))

    def shares(self, vectors: Tensor) -> Tensor:
        """(P, training pictures)."""
        products = self._kernel(self._standardised(vectors)).double()
        return torch.cholesky_solve(products.T, self.factor).T.float()


def predicted(shares: Tensor, references: Tensor, candidates: Tensor, width: int) -> Floats:
    """The inner products (P, K) of captions' vectors, (P * K, N), with those predicted for their pictures."""
    constant = torch.sparse.sum(references, 0).to_dense() / references.shape[0]
    outside = 1 - shares.sum(1)  # of the mean, which is no part of what is predicted
    found = []
    for i, some in enumerate(_rows(candidates, width)):
        vector = torch.mv(references.T, shares[i]) + outside[i] * constant
        found.append(torch.mv(some, vector).tolist())
    return np.array(found)


def _rows(matrix: Tensor, count: int) -> Iterator[Tensor]:
    """So many rows of a sparse matrix at a time."""
    at, values = matrix.indices(), matrix.values()
    bounds = torch.searchsorted(at[0].contiguous(), torch.arange(0, matrix.shape[0] + 1, count))
    for i, (a, b) in enumerate(zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True)):
        place = torch.stack((at[0, a:b] - i * count, at[1, a:b]))
        yield torch.sparse_coo_tensor(place, values[a:b], (count, matrix.shape[1]))


def nearest(
    known: Tensor, new: Tensor, references: Sequence[Sequence[Words]], lists: Lists, frequencies: DocumentFrequencies
) -> Floats:
    """CIDEr-D (P, K) against the captions of the 30 nearest training pictures, by the cosine of standardised
    vectors."""
    mean, deviation = known.mean(0), known.std(0) + 1e-3
    a, b = (torch.nn.functional.normalize((x - mean) / deviation, dim=1) for x in (new, known))
    captions = [[tokenize(caption) for caption in some] for some in lists.captions]
    found = []
    for some, row in zip(captions, (a @ b.T).topk(min(30, len(known)), dim=1).indices.tolist(), strict=True):
        theirs = [words for place in row for words in references[place]]
        found.append(cider_of(some, [theirs] * len(some), document_frequencies=frequencies))
    return np.array(found)


def by_halves(score: Floats, more: Floats, cider: Floats) -> NDArray[np.int64]:
    """The captions (P,) that are chosen with the weight that is best on the other half of the pictures."""
    more = (more - more.mean()) / more.std() * score.std(1).mean()
    half = np.random.default_rng(0).permutation(len(score)) % 2
    chosen = np.zeros(len(score), dtype=np.int64)
    for own in (0, 1):
        other = half != own
        rows = np.arange(int(other.sum()))
        means = [cider[other][rows, (score + weight * more)[other].argmax(1)].mean() for weight in _WEIGHTS]
        best = _WEIGHTS[int(np.argmax(means))]
        chosen[half == own] = (score + best * more)[half == own].argmax(1)
    return chosen


def main() -> int:
    parser = argument_parser(__doc__)
    parser.add_argument("--model", default="default", help="the name or path of a model")
    parser.add_argument("--data", type=Path, required=True, help="captions with the splits train and dev")
    parser.add_argument("--train", type=Path, nargs="*", default=[], help="more captions, of which train is taken")
    parser.add_argument("--width", type=int, default=10, help="of the beam, all of whose captions are kept")
    parser.add_argument("--least", type=int, default=3, help="pictures that an n-gram is known from")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    try:
        model = load(arguments.model, backend="torch")
        records = read(arguments.data)
        train = usable([one for path in (arguments.data, *arguments.train) for one in of_split(read(path), "train")])[0]
        dev = usable([one for one in of_split(records, "dev") if len(one.captions) >= 5])[0]
        refuse_leaks(dev, train)
        references = [[tokenize(caption) for caption in one.captions] for one in train]
        frequencies = DocumentFrequencies.of(references)
        ships = replace(Beam(), **{name: getattr(model.default_options, name) for name in Beam().as_dict()})
        shipped = kept(model, dev, replace(ships, n_best=ships.width), frequencies)
        options = replace(ships, width=arguments.width, n_best=arguments.width)
        lists = kept(model, dev, options, frequencies)
        known, new = (mean_vectors(model, some) for some in (train, dev))
    except CaptionerError as error:
        print(f"consensus: {error}", file=sys.stderr)
        return 2
    print(f"{model.name}, {len(dev)} dev pictures, {len(train)} training pictures", flush=True)
    first = report(f"beam {ships.width}, as it ships", [some[0] for some in shipped.captions], dev, None)

    def choice(title: str, chosen: NDArray[np.int64]) -> None:
        report(title, [some[i] for some, i in zip(lists.captions, chosen, strict=True)], dev, first)

    score = lists.features["score"]
    choice(f"beam {options.width}, the first", np.zeros(len(dev), dtype=np.int64))
    choice("the best, by references", lists.cider.argmax(1))
    choice("minimum Bayes risk", by_halves(score, lists.features["bayes"], lists.cider))
    choice("30 nearest pictures", by_halves(score, nearest(known, new, references, lists, frequencies), lists.cider))
    ngrams = NGrams.of(references, arguments.least)
    theirs = ngrams.matrix(references)
    ours = ngrams.matrix([[tokenize(caption)] for some in lists.captions for caption in some])
    for title, width, ridge in (
        ("ridge regression, 0.01", None, 0.01),
        ("ridge regression, 0.1", None, 0.1),
        ("kernel ridge regression, width 4, 0.01", 4.0, 0.01),
        ("kernel ridge regression, width 4, 0.03", 4.0, 0.03),
        ("kernel ridge regression, width 16, 0.003", 16.0, 0.003),
    ):
        shares = Regression(known, width=width, ridge=ridge).shares(new)
        choice(title, by_halves(score, predicted(shares, theirs, ours, options.width), lists.cider))
    return 0


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    sys.exit(main())
