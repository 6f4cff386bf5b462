"""The maps of the words of given captions (teacher forcing): attention, gradients or occlusion; further views of a
word; and the words of clips."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from captioner.backends.base import Backend, Encoded, Pixels, Scored
from captioner.decoding import Hypothesis, decode
from captioner.errors import OptionError
from captioner.explain.occlusion import occlusion_maps
from captioner.explain.postprocess import postprocess
from captioner.image import Geometry, open_image
from captioner.options import Greedy, MapOptions
from captioner.prepared import Prepared
from captioner.results import Caption, across_strip, strip_layout
from captioner.tokenizer.subwords import Subwords

if TYPE_CHECKING:
    from captioner.show.views import Contrast, Heads

_BATCH = 16


class WordMaps(NamedTuple):
    """Of a caption of n words: maps (n, h, w), their weight off the grid (n,), and the log-probabilities of the words
    and of the end (n + 1,)."""

    maps: NDArray[np.float32]
    off_grid: NDArray[np.float32]
    log_p: NDArray[np.float32]


def encode(backend: Backend, ready: Sequence[Prepared]) -> Encoded:
    """Encode prepared pictures in one batch."""
    return backend.encode(np.stack([one.pixels for one in ready]), [one.geometry for one in ready])


def word_maps(
    backend: Backend,
    ready: Sequence[Prepared],
    encoded: Encoded,
    captions: Sequence[Sequence[Sequence[int]]],
    options: MapOptions,
    *,
    gradient_backend: Callable[[], Backend],
) -> list[list[WordMaps]]:
    """The maps of captions.

    Args:
        backend: what encoded the pictures.
        ready: B pictures.
        encoded: the same pictures.
        captions: for each picture, captions in ids, without start and end.
        options: what the maps are computed from, and how they are cleaned.
        gradient_backend: returns the backend that computes gradients; called only for those.

    Returns:
        For each picture, one for each of its captions.
    """
    if options.explain == "gradient":
        on = gradient_backend()
        scored = on.gradients(encoded if on is backend else encode(on, ready), captions)
    else:
        scored = backend.score(encoded, captions)
    found = []
    for prepared, some, scored_captions in zip(ready, captions, scored, strict=True):
        if options.explain == "occlusion" and some:
            scored_captions = _occlude(backend, prepared, some, scored_captions, options)
        valid = prepared.geometry.mask
        found.append(
            [WordMaps(*postprocess(one.maps, valid, options, one.off_grid), one.log_p) for one in scored_captions]
        )
    return found


def _occlude(
    backend: Backend,
    prepared: Prepared,
    captions: Sequence[Sequence[int]],
    scored: Sequence[Scored],
    options: MapOptions,
) -> list[Scored]:
    def score_variants(variants: Sequence[Pixels]) -> NDArray[np.float32]:
        return log_probabilities(backend, variants, prepared.geometry, captions)

    maps = occlusion_maps(prepared.pixels, prepared.geometry, options.block, score_variants)
    return [
        replace(one, maps=ours[: len(one.log_p)], off_grid=np.zeros_like(one.log_p))
        for one, ours in zip(scored, maps, strict=True)
    ]


def log_probabilities(
    backend: Backend, variants: Sequence[Pixels], geometry: Geometry, captions: Sequence[Sequence[int]]
) -> NDArray[np.float32]:
    """Log-probabilities of the words of captions on variants of one picture (teacher forcing).

    Args:
        backend: computes them.
        variants: V inputs (side, side, 3).
        geometry: the picture's.
        captions: k of them in ids, without start and end; at least one.

    Returns:
        (V, k, T): log-probabilities of the words and of the end, 0 beyond it, padded to the longest caption's.
    """
    found = np.zeros((len(variants), len(captions), max(map(len, captions)) + 1), dtype=np.float32)
    for first in range(0, len(variants), _BATCH):
        some = np.stack(variants[first : first + _BATCH])
        encoded = backend.encode(some, [geometry] * len(some))
        for i, scored in enumerate(backend.score(encoded, [captions] * len(some)), first):
            for j, one in enumerate(scored):
                found[i, j, : len(one.log_p)] = one.log_p
    return found


def of_whole_words(hypothesis: Hypothesis, vocabulary: Subwords) -> Hypothesis:
    """A hypothesis of pieces as one of words.

    A word's probability is the product of its pieces' (its log-probability their sum); its map and its weight off the
    grid are their means.
    """
    words = vocabulary.whole_words(hypothesis.tokens)
    spans = [slice(word.start, word.stop) for word in words]
    shape = hypothesis.maps.shape[1:]
    return replace(
        hypothesis,
        tokens=tuple(word.word for word in words),
        probabilities=tuple(math.prod(hypothesis.probabilities[span]) for span in spans),
        maps=np.array([hypothesis.maps[span].mean(0) for span in spans], dtype=np.float32).reshape(-1, *shape),
        off_grid=np.array([hypothesis.off_grid[span].mean() for span in spans], dtype=np.float32),
        given=sum(word.stop <= hypothesis.given for word in words),
    )


def place_of(caption: Caption, word: str | int) -> int:
    """See `captioner.show.views.place_of`."""
    from captioner.show.views import place_of as find

    return find(caption, word)


def word_heads(on_torch: Any, prepared: Prepared, caption: Caption, ids: Sequence[int], place: int) -> "Heads":
    """Every head's map of a word.

    Args:
        on_torch: a `captioner.backends.base.HasHeads`.
        prepared: the caption's picture.
        caption: and ``ids``, its words.
        place: of the word.
    """
    from captioner.show.views import Heads

    maps = on_torch.heads(encode(on_torch, [prepared]), ids)[:, :, place]  # (layers, heads, h, w)
    return Heads(caption=caption, place=place, maps=maps, chosen=tuple(on_torch.map_heads))


def word_contrast(
    on_torch: Any, prepared: Prepared, caption: Caption, ids: Sequence[int], place: int, other: tuple[str, int]
) -> "Contrast":
    """The difference of the gradient maps of a word and another, its text and id; see `word_heads`."""
    from captioner.show.views import Contrast

    log_p, maps = on_torch.word_gradients(encode(on_torch, [prepared]), ids, place, (ids[place], other[1]))
    valid = prepared.geometry.mask
    ours, theirs = (np.where(valid, map_, 0.0) for map_ in maps)
    difference = ours - theirs
    difference = difference / max(float(np.abs(difference).sum()), 1e-12)
    probabilities = (float(np.exp(log_p[0])), float(np.exp(log_p[1])))
    return Contrast(
        caption=caption, place=place, other=other[0], probabilities=probabilities, map=difference.astype(np.float32)
    )


def caption_frames(
    on_torch: Any, ready: Sequence[Prepared], options: Greedy
) -> tuple[list[Hypothesis], Geometry, Image.Image]:
    """Caption the frames of a clip together.

    Returns:
        The hypotheses, whose maps lie on the frames side by side; the geometry of that strip; and the strip itself.

    Raises:
        OptionError: there are no frames, or they differ in size.
    """
    sizes = {one.geometry.size for one in ready}
    if len(sizes) != 1:
        what = "no frames" if not sizes else f"frames of {len(sizes)} sizes"
        raise OptionError(f"a clip has one size, and these are {what}", remedy="give frames of one clip")
    clip = on_torch.join(encode(on_torch, ready))
    (found,) = decode(on_torch, clip, options)
    layout, grid = strip_layout(len(ready)), ready[0].geometry.grid
    rows, columns = layout
    maps = [np.asarray(one.maps, np.float32).reshape(-1, len(ready), *grid) for one in found]
    found = [replace(one, maps=across_strip(own, layout)) for one, own in zip(found, maps, strict=True)]
    tiles = [_tile(one) for one in ready]
    width, height = tiles[0].size
    strip = Image.new("RGB", (columns * width, rows * height))
    for i, tile in enumerate(tiles):
        strip.paste(tile, (i % columns * width, i // columns * height))
    geometry = Geometry(size=strip.size, side=ready[0].geometry.side, grid=(rows * grid[0], columns * grid[1]))
    return found, geometry, strip


def _tile(prepared: Prepared) -> Image.Image:
    """A frame as the cells tile it: padded to a square where the model pads."""
    picture = open_image(prepared.picture)
    if not prepared.geometry.pad:
        return picture
    square = Image.new("RGB", (max(picture.size),) * 2, (128, 128, 128))
    square.paste(picture)
    return square
