"""The captions of encoded pictures: decoded, or read."""

import zlib
from collections.abc import Callable, Sequence

from captioner.backends.base import Backend, Encoded
from captioner.decoding import decode
from captioner.options import Greedy, MapOptions
from captioner.pipeline.assembly import caption_of, decoded_alternative, read_alternative
from captioner.pipeline.word_maps import AT_ONCE, encode, of_whole_words, with_maps, word_maps
from captioner.prepared import Prepared
from captioner.results import Caption
from captioner.tokenizer.subwords import Subwords


def decoded_captions(
    backend: Backend,
    ready: Sequence[Prepared],
    encoded: Encoded | None,
    options: Greedy,
    map_options: MapOptions,
    *,
    gradient_backend: Callable[[], Backend],
    model: str,
) -> list[Caption]:
    """The captions that a search finds, with their alternatives.

    Args:
        backend: what computes the model.
        ready: B pictures.
        encoded: the same pictures; None to encode them.
        options: of the search.
        map_options: of the words' maps.
        gradient_backend: opens the backend that computes gradients.
        model: its name.

    Raises:
        CheckpointError: the model's numbers are not finite.
        OptionError: the backend cannot compute such maps, or no caption can meet the constraints.
    """
    encoded = encode(backend, ready) if encoded is None else encoded
    keys = [zlib.crc32(prepared.pixels.tobytes()) for prepared in ready]
    found = decode(backend, encoded, options, keys=keys)
    if isinstance(backend.vocabulary, Subwords):
        found = [[of_whole_words(one, backend.vocabulary) for one in some] for some in found]
    if not map_options.plain:
        found = with_maps(backend, ready, encoded, found, map_options, gradient_backend=gradient_backend)
    finished = []
    for prepared, some in zip(ready, found, strict=True):
        best, *others = (decoded_alternative(one, backend.vocabulary) for one in some)
        finished.append(caption_of(prepared, best, others, model=model, explain=map_options.explain))
    return finished


def read_captions(
    backend: Backend,
    prepared: Prepared,
    encoded: Encoded | None,
    captions: Sequence[Sequence[str]],
    map_options: MapOptions,
    *,
    length_penalty: float,
    gradient_backend: Callable[[], Backend],
    model: str,
) -> list[Caption]:
    """Given captions of one picture, read by the model (teacher forcing).

    Args:
        captions: the words of each, as `captioner.pipeline.assembly.split_captions` returns them; at least one.
        length_penalty: of their scores; see `captioner.options.Beam`.
        backend, encoded, map_options, gradient_backend, model: as of `decoded_captions`; of one picture.

    Raises:
        CheckpointError: the model's numbers are not finite.
        OptionError: the backend cannot compute such maps.
    """
    vocabulary = backend.vocabulary
    ids = [vocabulary.encode(words)[1:-1] for words in captions]
    encoded = encode(backend, [prepared]) if encoded is None else encoded
    found = []
    for i in range(0, len(ids), AT_ONCE):
        some = [ids[i : i + AT_ONCE]]
        found += word_maps(backend, [prepared], encoded, some, map_options, gradient_backend=gradient_backend)[0]
    return [
        caption_of(
            prepared,
            read_alternative(*one, vocabulary, length_penalty=length_penalty),
            model=model,
            explain=map_options.explain,
        )
        for one in zip(captions, ids, found, strict=True)
    ]
