"""Further views of a word, computed on torch: what every head looked at, and why this word and not another."""

from collections.abc import Callable
from typing import Any

import numpy as np

from captioner.backends.base import Backend
from captioner.errors import OptionError
from captioner.image import MAX_PIXELS
from captioner.pipeline.word_maps import encode
from captioner.prepared import Prepared, prepare
from captioner.results import Caption, Contrast, Heads, place_of
from captioner.tokenizer.vocabulary import SPECIAL


def word_heads(
    caption: Caption, word: str | int, *, delay: int, backend: Backend, open_torch: Callable[[], Any]
) -> Heads:
    """See `Captioner.heads`; ``open_torch`` returns the model on torch, a `captioner.backends.base.HasHeads`, and
    ``delay`` is that of the model's maps."""
    place = place_of(caption, word)
    prepared, ids = _prepared(caption, backend), _ids(caption, backend)
    on_torch = open_torch()
    maps = on_torch.heads(encode(on_torch, [prepared]), ids)[:, :, place + delay]  # (layers, heads, h, w)
    return Heads(caption=caption, place=place, maps=maps, chosen=tuple(on_torch.map_heads))


def word_contrast(
    caption: Caption, word: str | int, other: str, *, backend: Backend, open_torch: Callable[[], Any], model: str
) -> Contrast:
    """See `Captioner.contrast`; ``model`` is the model's name, and ``open_torch`` is as of `word_heads`."""
    place = place_of(caption, word)
    other_id = backend.vocabulary.encode([*(one.text for one in caption.words[:place]), other])[-2]
    if other_id < len(SPECIAL):
        raise OptionError(f"the model '{model}' does not know the word '{other}'", remedy="name another word")
    prepared, ids = _prepared(caption, backend), _ids(caption, backend)
    on_torch = open_torch()
    log_p, maps = on_torch.word_gradients(encode(on_torch, [prepared]), ids, place, (ids[place], other_id))
    valid = prepared.geometry.mask
    ours, theirs = (np.where(valid, map_, 0.0) for map_ in maps)
    difference = ours - theirs
    difference = difference / max(float(np.abs(difference).sum()), 1e-12)
    probabilities = (float(np.exp(log_p[0])), float(np.exp(log_p[1])))
    return Contrast(
        caption=caption, place=place, other=other, probabilities=probabilities, map=difference.astype(np.float32)
    )


def _prepared(caption: Caption, backend: Backend) -> Prepared:
    """The caption's picture once more, whatever its size."""
    width, height = caption.geometry.size
    return prepare(caption.source, backend, max_pixels=max(width * height, MAX_PIXELS))


def _ids(caption: Caption, backend: Backend) -> list[int]:
    return backend.vocabulary.encode_made([word.text for word in caption.words])
