"""The official COCO caption scores without Java and without torch.

>>> from captioner.metrics import evaluate
>>> scores = evaluate({1: "a dog runs"}, {1: ["a dog is running", "the dog runs"]})  # doctest: +SKIP
>>> scores.cider, scores.signature  # doctest: +SKIP
"""

from captioner.metrics.cider import DocumentFrequencies, cider_of
from captioner.metrics.evaluate import FewPicturesWarning, Scores, evaluate
from captioner.metrics.references import References
from captioner.tokenizer.ptb import tokenize

__all__ = [
    "DocumentFrequencies",
    "FewPicturesWarning",
    "References",
    "Scores",
    "cider_of",
    "evaluate",
    "tokenize",
]
