"""How much the picture mattered for each word: its log-probability with the picture, less that without.

A model cannot leave its picture out, so it reads the caption once more with an even grid: that of a picture of one
colour. The difference estimates the pointwise mutual information of word and picture, given the words before: about 0
for a word that follows from the language ("of" after "in front"), high for what the model took from the picture, and
negative where the picture speaks against a word.
"""

import math
import threading
from collections.abc import Iterable, Sequence
from dataclasses import replace

from PIL import Image

from captioner.backends.base import Backend, Encoded
from captioner.errors import OptionError
from captioner.pipeline.word_maps import AT_ONCE, encode
from captioner.prepared import prepare
from captioner.results import Caption, Failure, Outcome, Word

_GREY = (124, 116, 104)  # the mean of photographs


class Gains:
    """The gains of words, by the backend of the model that made or read the captions."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._lock = threading.Lock()
        self._even: Encoded | None = None

    def of(self, outcomes: object) -> list[Outcome]:
        """Captions whose words, also those of their alternatives, have their ``gain``; failures as they are.

        A word that the model does not know has none.

        Raises:
            OptionError: it is no list, or holds something else.
        """
        if not isinstance(outcomes, Iterable) or isinstance(outcomes, (str, bytes)):
            raise OptionError(f"captions are a list, not {type(outcomes).__name__}", remedy="put it into a list")
        found = list(outcomes)
        for one in found:
            if not isinstance(one, (Caption, Failure)):
                raise OptionError(f"{one!r:.60} is no Caption, and no Failure", remedy="give what the model returned")
        gained = iter(_with_gains(self._backend, self._even_grid(), [one for one in found if isinstance(one, Caption)]))
        return [next(gained) if isinstance(one, Caption) else one for one in found]

    def _even_grid(self) -> Encoded:
        """The grid of a picture of one colour."""
        with self._lock:
            if self._even is None:
                grey = Image.new("RGB", (self._backend.side, self._backend.side), _GREY)
                self._even = encode(self._backend, [prepare(grey, self._backend)])
            return self._even


def _with_gains(backend: Backend, even: Encoded, captions: Sequence[Caption]) -> list[Caption]:
    all_words: list[tuple[Word, ...]] = []
    for caption in captions:
        all_words += [caption.words, *(other.words for other in caption.alternatives)]
    if not all_words:
        return []
    tokens = [backend.vocabulary.encode_made([word.text for word in words]) for words in all_words]
    scored = [one for i in range(0, len(tokens), AT_ONCE) for one in backend.score(even, [tokens[i : i + AT_ONCE]])[0]]
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
