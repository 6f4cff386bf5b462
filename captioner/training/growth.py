"""A trained model that gets further words."""

from collections.abc import Iterable

import torch

from captioner.checkpoint import Checkpoint
from captioner.errors import DataError
from captioner.model.caption_model import CaptionModel
from captioner.tokenizer.ptb import tokenize
from captioner.tokenizer.vocabulary import SPECIAL, Vocabulary

_RARE = 0.1  # the share of the words, the rarest, that a new word's first values are of


def grow(start: Checkpoint, captions: Iterable[str], *, minimum_count: int) -> tuple[CaptionModel, Vocabulary]:
    """The model with the words of captions added to its vocabulary; what it knew stays as it was.

    The words that it has keep their ids. The embedding of a new word is the mean of the embeddings that are there, with
    a tenth of a new word's own random values, so that new words differ; its bias is the mean of the rarest tenth of the
    words, so that it is not chosen before it was learned.

    Args:
        start: the model; it is not changed.
        captions: as their authors wrote them.
        minimum_count: rarer words are not added.
    """
    known = set(start.vocabulary.words)
    try:
        found = Vocabulary.build((tokenize(caption) for caption in captions), minimum_count=minimum_count)
    except DataError:  # no word is frequent enough
        return start.model, start.vocabulary
    new = tuple(word for word in found.words if word not in known)
    if not new:
        return start.model, start.vocabulary
    vocabulary = Vocabulary(start.vocabulary.words + new)
    model = CaptionModel(start.model.config, vocabulary_size=len(vocabulary))
    before = start.model.state_dict()
    size = len(start.vocabulary)
    rare = max(len(SPECIAL), int(size * (1 - _RARE)))  # words are sorted by their counts
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            old = before[name]
            if tensor.shape == old.shape:
                tensor.copy_(old)
                continue
            tensor[:size] = old  # (V, ...)
            if tensor.dim() > 1:
                tensor[size:] = old[len(SPECIAL) :].mean(0) + 0.1 * tensor[size:]
            else:
                tensor[size:] = old[rare:].mean()
    return model.train(start.model.training), vocabulary
