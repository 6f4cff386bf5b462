"""Would another choice among the captions that the beam keeps be better than the beam's own?

    python benchmarks/rerank.py --model default --data flickr8k/ --width 5

A linear chooser: a caption's score is a weighted sum of what is known of it when the beam ends. Its features are

- the score that the beam sorts by, the log-probability, the number of words, and the log-probability for each word,
- the log-probability of the least likely word, and the weight off the grid: the mean over the words, and at the end,
- the consensus, its mean CIDEr-D against the beam's other captions as references: weighted by their probabilities
  (minimum Bayes risk), and not.

Its weights maximise the CIDEr-D that is expected if captions of training pictures are drawn by the softmax of their
scores. The captions of training pictures are not like those of new ones, because the model has learned these pictures;
--folds learns the weights on one half of dev and scores the other, and the reverse, to show what that costs.

Figures are of dev, with all references and the official tokens. Intervals are of the paired difference from the model
as it ships, by bootstrap over pictures. Document frequencies of the consensus are of the training captions.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from set_up import argument_parser

from captioner.backends.torch import TorchBackend
from captioner.checkpoint import Checkpoint
from captioner.data.readers import read
from captioner.data.records import Record, evenly_spread, of_split, usable
from captioner.decoding import Beam, Hypothesis, decode
from captioner.errors import CaptionerError
from captioner.metrics import DocumentFrequencies, Scores, cider_of, evaluate, tokenize
from captioner.metrics.description import describe
from captioner.pipeline import Captioner, load
from captioner.tokenizer.detokenize import detokenize
from captioner.training.dev import encode_records

FEATURES = {
    "as the beam sorts, log-probability and length": ("score", "total", "words", "mean"),
    "and the least likely word and the weight off the grid": ("least", "off_grid", "end_off_grid"),
    "and consensus": ("bayes", "consensus"),
}
_PENALTY = 1e-3  # on the squares of the weights, against features of no use

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Lists:
    """The captions that the beam keeps of each picture, the best first.

    Attributes:
        captions: texts, of K for each of P pictures.
        features: (P, K), by name.
        cider: (P, K), CIDEr-D against the picture's references.
    """

    captions: list[list[str]]
    features: dict[str, Floats]
    cider: Floats


def kept(model: Captioner, records: Sequence[Record], options: Beam, frequencies: DocumentFrequencies) -> Lists:
    """What the beam keeps; ``frequencies`` are for the consensus."""
    backend = TorchBackend(Checkpoint(model=model.model, vocabulary=model.vocabulary))
    found: list[list[Hypothesis]] = []
    for grid in encode_records(model.model, records, device=torch.device(model.device)):
        found += decode(backend, grid, options)
    if any(len(some) < options.width for some in found):
        raise CaptionerError("the beam kept fewer captions of a picture than its width", remedy="a narrower --width")
    captions = [[detokenize(model.vocabulary.decode(one.tokens)) for one in some] for some in found]
    words = [[tokenize(caption) for caption in some] for some in captions]
    references = [[tokenize(caption) for caption in record.captions] for record in records]
    own = DocumentFrequencies.of(references)
    flat = [caption for some in words for caption in some]
    repeated = [some for some in references for _ in range(options.width)]
    cider = cider_of(flat, repeated, document_frequencies=own)
    return Lists(
        captions=captions,
        features=_features(found, words, options, frequencies),
        cider=cider.reshape(len(records), options.width),
    )


def _features(
    found: Sequence[Sequence[Hypothesis]],
    words: Sequence[Sequence[list[str]]],
    options: Beam,
    frequencies: DocumentFrequencies,
) -> dict[str, Floats]:
    def table(of: Any) -> Floats:
        return np.array([[of(one) for one in some] for some in found], dtype=np.float64)

    steps = table(lambda one: len(one.tokens) + 1)
    score = table(lambda one: one.score)
    total = score * steps**options.length_penalty
    width = total.shape[1]
    pairs = [(one, [other]) for some in words for one in some for other in some]
    alike = cider_of([one for one, _ in pairs], [other for _, other in pairs], document_frequencies=frequencies)
    others = alike.reshape(-1, width, width) * (1 - np.eye(width))  # (P, K, K), of each against each other one
    probability = np.exp(total - total.max(1, keepdims=True))
    rest = probability.sum(1, keepdims=True) - probability
    return {
        "score": score,
        "total": total,
        "words": steps - 1,
        "mean": total / steps,
        "least": table(lambda one: np.log(max(1e-9, min(one.probabilities, default=1.0)))),
        "off_grid": table(lambda one: one.off_grid.mean() if len(one.off_grid) else 0.0),
        "end_off_grid": table(lambda one: one.end_off_grid),
        "bayes": np.einsum("pkj,pj->pk", others, probability) / np.maximum(rest, 1e-12),
        "consensus": others.sum(2) / (width - 1),
    }


def stacked(lists: Lists, names: Sequence[str]) -> Floats:
    """Features (P, K, F), less their mean over the picture's captions: only differences between them count."""
    features = np.stack([lists.features[name] for name in names], -1)
    return features - features.mean(1, keepdims=True)


@torch.enable_grad()
def learn(features: Floats, cider: Floats) -> Floats:
    """Weights (F,) that maximise the expected CIDEr-D."""
    deviation = features.reshape(-1, features.shape[-1]).std(0) + 1e-6
    x, gain = torch.from_numpy(features / deviation), torch.from_numpy(cider - cider.mean(1, keepdims=True))
    weights = torch.zeros(x.shape[-1], dtype=x.dtype, requires_grad=True)
    optimiser = torch.optim.LBFGS([weights], max_iter=60, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimiser.zero_grad()
        expected = ((x @ weights).softmax(1) * gain).sum(1).mean()
        value = _PENALTY * weights.square().sum() - expected
        value.backward()  # type: ignore[no-untyped-call]
        return value

    optimiser.step(loss)  # type: ignore[no-untyped-call]
    return np.asarray(weights.detach().numpy() / deviation)


def by_halves(features: Floats, cider: Floats) -> NDArray[np.int64]:
    """The captions (P,) that weights choose which were learned on the other half of the pictures."""
    half = np.random.default_rng(0).permutation(len(features)) % 2
    chosen = np.zeros(len(features), dtype=np.int64)
    for own in (0, 1):
        weights = learn(features[half != own], cider[half != own])
        chosen[half == own] = (features[half == own] @ weights).argmax(1)
    return chosen


def report(title: str, captions: Sequence[str], records: Sequence[Record], first: Scores | None) -> Scores:
    """Print scores, and how they differ from the first ones."""
    texts = {record.id: caption for record, caption in zip(records, captions, strict=True)}
    scores = evaluate(texts, {record.id: list(record.captions) for record in records})
    looks = describe([tokenize(caption) for caption in captions])
    line = (
        f"{title:<58} BLEU-4 {100 * scores.bleu[3]:5.2f}   CIDEr-D {100 * scores.cider:6.2f}   "
        f"{looks.distinct:.0%} distinct, {looks.vocabulary} words"
    )
    if first is not None:
        difference = 100 * (scores.cider_per_picture - first.cider_per_picture)
        drawn = np.random.default_rng(0).integers(len(difference), size=(1000, len(difference)))
        low, high = np.quantile(difference[drawn].mean(1), (0.025, 0.975))
        line += f"   CIDEr-D {difference.mean():+.2f} ({low:+.2f} to {high:+.2f})"
    print(line, flush=True)
    return scores


def main() -> int:
    parser = argument_parser(__doc__)
    parser.add_argument("--model", default="default", help="the name or path of a model")
    parser.add_argument("--data", type=Path, required=True, help="captions with the splits train and dev")
    parser.add_argument("--width", type=int, default=5, help="of the beam, all of whose captions are kept")
    parser.add_argument("--pictures", type=int, default=6000, help="training pictures, at most")
    parser.add_argument("--folds", action="store_true", help="learn on halves of dev as well")
    arguments = parser.parse_args()
    try:
        model = load(arguments.model)
        records = read(arguments.data)
        train = usable(evenly_spread(of_split(records, "train"), arguments.pictures))[0]
        dev = usable(of_split(records, "dev"))[0]
        frequencies = DocumentFrequencies.of([[tokenize(caption) for caption in one.captions] for one in train])
        ships = replace(Beam(), **{name: getattr(model.default_options, name) for name in Beam().as_dict()})
        options = replace(ships, width=arguments.width, n_best=arguments.width)
        new, learned = (kept(model, some, options, frequencies) for some in (dev, train))
        shipped = kept(model, dev, replace(ships, n_best=ships.width), frequencies)
    except CaptionerError as error:
        print(f"rerank: {error}", file=sys.stderr)
        return 2
    print(f"{arguments.model}, {len(dev)} dev pictures, weights learned on {len(train)} training pictures")
    first = report(f"beam {ships.width}, as it ships", [some[0] for some in shipped.captions], dev, None)

    def choice(title: str, chosen: Sequence[int] | NDArray[np.int64]) -> None:
        report(title, [some[i] for some, i in zip(new.captions, chosen, strict=True)], dev, first)

    choice(f"beam {options.width}, the first", [0] * len(dev))
    choice("the best, by references", new.cider.argmax(1))
    names: tuple[str, ...] = ()
    for title, more in FEATURES.items():
        names += more
        weights = learn(stacked(learned, names), learned.cider)
        choice(title, (stacked(new, names) @ weights).argmax(1))
        if arguments.folds:
            choice("  the same, learned on halves of dev", by_halves(stacked(new, names), new.cider))
    at_first, at_best = 100 * learned.cider[:, 0].mean(), 100 * learned.cider.max(1).mean()
    print(f"the training pictures: the first {at_first:.1f}, the best by references {at_best:.1f}")
    print("weights: " + ", ".join(f"{name} {weight:.3g}" for name, weight in zip(names, weights, strict=True)))
    return 0


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    sys.exit(main())
