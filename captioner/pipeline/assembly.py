"""Results out of what was decoded or read."""

import math
from collections.abc import Iterable, Sequence

import numpy as np

from captioner.decoding import Hypothesis
from captioner.errors import CheckpointError, OptionError
from captioner.pipeline.word_maps import WordMaps
from captioner.prepared import Prepared
from captioner.results import Alternative, Caption
from captioner.tokenizer.vocabulary import SPECIAL, Vocabulary


def list_of_texts(captions: Iterable[str]) -> list[str]:
    """Captions to read, as a list; an iterator is read once. Raises OptionError for what is none of texts."""
    is_list = isinstance(captions, Iterable) and not isinstance(captions, (str, bytes, bytearray))
    texts = list(captions) if is_list else []
    if not is_list or not all(isinstance(caption, str) for caption in texts):
        raise OptionError(f"captions to read are a list of texts, not {captions!r:.60}", remedy="put it into a list")
    return texts


def split_captions(captions: Iterable[str], vocabulary: Vocabulary, *, max_length: int) -> list[list[str]]:
    """The words of captions that are to be read, as the tokeniser splits them, at most ``max_length`` of each.

    Raises:
        OptionError: a text where a list of them is due, or a caption without words.
    """
    texts = list_of_texts(captions)
    split = [vocabulary.split(caption, max_length) for caption in texts]
    for caption, words in zip(texts, split, strict=True):
        if not words:
            raise OptionError(f"the caption '{caption}' has no words to read")
    return split


def read_alternative(
    words: Sequence[str], ids: Sequence[int], found: WordMaps, vocabulary: Vocabulary, *, length_penalty: float
) -> Alternative:
    """A caption that was read.

    Args:
        words: of the caption, as `split_captions` returns them.
        ids: of the words.
        found: its maps, the weight off the grid, and the log-probabilities of the words and of the end, (words + 1,).
        vocabulary: of the model.
        length_penalty: see `captioner.options.Beam`.

    Raises:
        CheckpointError: the log-probabilities are not finite.
    """
    maps, off_grid, log_p = found
    if not np.isfinite(log_p).all():
        raise CheckpointError("the model's numbers are not finite: its training diverged, or it is damaged")
    unknown = [i < len(SPECIAL) for i in ids]
    p = [0.0 if lost else math.exp(one) for lost, one in zip(unknown, log_p[:-1].tolist(), strict=True)]
    score = float(log_p.sum()) / len(log_p) ** length_penalty
    text = vocabulary.sentence(words)
    return Alternative.of(words, p, maps, off_grid, score=score, unknown=unknown, text=text)


def decoded_alternative(hypothesis: Hypothesis, vocabulary: Vocabulary) -> Alternative:
    """A hypothesis in words."""
    return Alternative.of(
        vocabulary.decode(hypothesis.tokens),
        hypothesis.probabilities,
        hypothesis.maps,
        hypothesis.off_grid,
        score=hypothesis.score,
        finished=hypothesis.finished,
        given=hypothesis.given,
        text=vocabulary.text(hypothesis.tokens),
    )


def caption_of(
    prepared: Prepared, best: Alternative, others: Sequence[Alternative] = (), *, model: str, explain: str
) -> Caption:
    """The caption of a picture.

    Args:
        prepared: the picture.
        best, others: what was decoded or read of it.
        model: its name.
        explain: what the maps were computed from.
    """
    return Caption(
        text=best.text,
        words=best.words,
        score=best.score,
        finished=best.finished,
        image=prepared.image,
        model=model,
        geometry=prepared.geometry,
        explain=explain,
        alternatives=tuple(others),
        source=prepared.picture,
    )
