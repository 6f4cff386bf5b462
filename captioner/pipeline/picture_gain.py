"""How much the picture mattered for each word: its log-probability with the picture, less that without.

A model cannot leave its picture out, so it reads the caption once more with an even grid: that of a picture of one
colour. The difference estimates the pointwise mutual information of word and picture, given the words before: about 0
for a word that follows from the language ("of" after "in front"), high for what the model took from the picture, and
negative where the picture speaks against a word.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace

from PIL import Image

from captioner.backends.base import Backend, Encoded
from captioner.errors import OptionError
from captioner.pipeline.word_maps import encode
from captioner.prepared import prepare
from captioner.results import Caption, Outcome, Word

_GREY = (124, 116, 104)  # the mean of photographs


def even_grid(backend: Backend) -> Encoded:
    """The grid of a picture of one colour."""
    return encode(backend, [prepare(Image.new("RGB", (backend.side, backend.side), _GREY), backend)])


def list_of_outcomes(captions: object) -> list[Outcome]:
    """Captions and failures in a list. Raises OptionError where it is one of them, or a text."""
    if not isinstance(captions, Iterable) or isinstance(captions, (str, bytes)):
        raise OptionError(f"captions are a list, not {type(captions).__name__}", remedy="put it into a list")
    return list(captions)


def with_gains(backend: Backend, even: Encoded, captions: Sequence[Caption]) -> list[Caption]:
    """Captions whose words, also those of their alternatives, have their ``gain``.

    A word that the model does not know has none.

    Args:
        backend: of the model that made or read the captions.
        even: of `even_grid`.
        captions: any number.
    """
    all_words: list[tuple[Word, ...]] = []
    for caption in captions:
        all_words += [caption.words, *(other.words for other in caption.alternatives)]
    if not all_words:
        return []
    tokens = [backend.vocabulary.encode_made([word.text for word in words]) for words in all_words]
    scored = backend.score(even, [tokens])[0]
    gained = iter([_gained(words, one.log_p.tolist()) for words, one in zip(all_words, scored, strict=True)])
    return [
        replace(
            caption,
            words=next(gained),
            alternatives=tuple(replace(other, words=next(gained)) for other in caption.alternatives),
        )
        for caption in captions
    ]


def _gained(words: Sequence[Word], without: Sequence[float]) -> tuple[Word, ...]:
    return tuple(
        replace(word, gain=None if word.unknown or word.probability <= 0 else math.log(word.probability) - log_p)
        for word, log_p in zip(words, without, strict=False)  # the end comes last
    )
