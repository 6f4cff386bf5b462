"""Logit adjustment: a model says each word nearer to as often as people do.

Self-critical training makes frequent words more frequent, and others vanish. A constant for each word that is added to
its logit takes part of that back, without training and without time in use (Menon et al. 2021, "Long-tail learning via
logit adjustment", section 4.1, there for classes of pictures).
"""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from captioner.checkpoint import Checkpoint
from captioner.data.records import Record
from captioner.decoding import Beam
from captioner.errors import DataError, OptionError
from captioner.metrics import tokenize
from captioner.metrics.description import describe
from captioner.model.decoder import Decoder
from captioner.tokenizer.vocabulary import SPECIAL
from captioner.training.dev import counted, encode_records, generate_captions
from captioner.training.export import device_of
from captioner.training.provenance import Member, about_of

SMOOTHING = 5e-5
"""Added to the shares of all words: a word that occurs once in 20,000 counts double."""

MOST = 1.5
"""The largest logarithm of a ratio that counts, either way."""


@dataclass(frozen=True)
class Adjusted:
    """An adjusted model, and what its adjustment was computed from.

    Attributes:
        model: with the new biases.
        pictures: whose captions were counted.
        vocabulary: different words in the captions that the model generated for them, before it was adjusted.
        references: different words in all their references that the model knows.
    """

    model: Checkpoint
    pictures: int
    vocabulary: int
    references: int


def adjustment(generated: Counter[str], references: Counter[str], words: Sequence[str]) -> Tensor:
    """What is added to each word's logit at a strength of 1, (V,).

    ``log((r + s) / (g + s))`` with r and g the word's share of all words of the references and of the generated
    captions, and s `SMOOTHING`; not beyond `MOST` either way. It is 0 for special words, and for words of no reference:
    a model that knows the words of other data too keeps them as likely as they are.

    Raises:
        DataError: there are no words on one side.
    """
    own, people = generated.total(), references.total()
    if not own or not people:
        raise DataError(f"the {'references' if own else 'generated captions'} have no words")
    values = torch.zeros(len(words))
    for i, word in enumerate(words):
        if i >= len(SPECIAL) and references[word]:
            ratio = (references[word] / people + SMOOTHING) / (generated[word] / own + SMOOTHING)
            values[i] = min(max(math.log(ratio), -MOST), MOST)
    return values


def adjust_logits(
    model: Checkpoint,
    records: Sequence[Record],
    *,
    strength: float,
    file: str,
    advance: Callable[[int], None] = lambda count: None,
) -> Adjusted:
    """A model whose output biases are adjusted, by the captions that it generates as its file says.

    Args:
        model: its weights change in place.
        records: training pictures with references.
        strength: what the `adjustment` is multiplied by: 0 for nothing, 1 for all of it.
        file: the model's file, for what the new one says of itself.
        advance: called with the number of pictures that were encoded since the last call.

    Raises:
        OptionError: the strength is not above 0, or a decoder has no bias in its output.
        DataError: the captions or the references have no words.
        ImageError: a picture does not open.
    """
    if not (strength > 0 and math.isfinite(strength)):
        raise OptionError(f"a strength of {strength}: it must be a number above 0")
    records = [replace(record, id=str(i)) for i, record in enumerate(records)]  # two data sets may have the same ids
    biases = [output_bias(one, len(model.vocabulary)) for one in model.model.decoder.averaged]
    options = Beam(**model.about.get("decoding", {}))
    grids = counted(encode_records(model.model, records, device=device_of(model)), advance)
    captions = generate_captions(model.model, model.vocabulary, records, grids, options=options)
    generated = [tokenize(caption) for caption in captions.values()]
    references = Counter(word for record in records for caption in record.captions for word in tokenize(caption))
    more = adjustment(Counter(word for words in generated for word in words), references, model.vocabulary.words)
    with torch.no_grad():
        for bias in biases:
            bias += strength * more.to(bias)
    about = about_of("adjust_logits", [Member(file, model.about, {"strength": strength, "pictures": len(records)})])
    return Adjusted(
        model=replace(model, about=about),
        pictures=len(records),
        vocabulary=describe(generated).vocabulary,
        references=len(references.keys() & set(model.vocabulary.words[len(SPECIAL) :])),
    )


def output_bias(decoder: Decoder, words: int) -> Tensor:
    """The bias (V,) of a decoder's output layer, for V ``words``. Raises OptionError if it has none."""
    bias = getattr(decoder, "bias", None)
    if not isinstance(bias, Tensor) or bias.shape != (words,):
        raise OptionError(
            f"{type(decoder).__name__} has no bias in its output", remedy="give it a parameter 'bias', of all words"
        )
    return bias
