"""`Captioner` opens pictures, lets any backend encode and decode them, and makes results of what comes out."""

import os
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast, overload

import numpy as np
from numpy.typing import NDArray

import captioner.show.drawings  # noqa: F401  (registers what draws the results)
from captioner.backends.base import Backend, Encoded, EncodesBeside, Pixels
from captioner.backends.choice import OnTorch
from captioner.constraints import check_options
from captioner.image import MAX_PIXELS, Geometry, Picture
from captioner.options import Beam, Greedy, MapOptions
from captioner.pipeline.assembly import list_of_texts, split_captions
from captioner.pipeline.captions import decoded_captions, read_captions
from captioner.pipeline.word_maps import encode, log_probabilities
from captioner.prepared import KeptPicture, Prepared, check_numbers, prepare, prepared_or_kept
from captioner.results import Answer, Caption, ClipCaption, Contrast, Heads, Outcome
from captioner.tokenizer.vocabulary import Vocabulary

if TYPE_CHECKING:  # what one picture does not need is imported where it is used
    from captioner.asking import Asker, EncodedPicture
    from captioner.pipeline.picture_gain import Gains

    Askable = Picture | EncodedPicture | KeptPicture

Made = TypeVar("Made", bound=Outcome)
_BATCH = 16


class Captioner:
    """A model that is ready to caption.

    Args:
        backend: what computes the model; see `captioner.backends.base.Backend`. `load` makes one of a file.
        name: of the model, as `Caption.model` has it.
        file: the model file, for what only torch computes where the backend is another; None where there is none.
        threads: that open pictures while the model works; None for the machine's cores, 8 at most.
    """

    def __init__(
        self, backend: Backend, *, name: str = "model", file: Path | None = None, threads: int | None = None
    ) -> None:
        self.backend = backend
        self.name = name
        self.file = file
        self._threads = min(8, threads or os.cpu_count() or 1)
        self._on_torch = OnTorch(backend, name=name, file=file)
        self._lock = threading.Lock()
        self._asker: Asker | None = None
        self._gains: Gains | None = None
        self.default_options = Beam(**self.about.get("decoding", {}))
        self._check_options(self.default_options)
        self.map_options = MapOptions.stored(dict(self.about))
        self._delay = MapOptions.stored(dict(self.about), "attention").delay

    @property
    def vocabulary(self) -> Vocabulary:
        """The model's words."""
        return self.backend.vocabulary

    @property
    def about(self) -> Mapping[str, Any]:
        """What the model's file holds beside weights and words: training, scores, decoding and map options."""
        return self.backend.about

    @property
    def device(self) -> str:
        """Where it computes: "cpu", "cuda:0"."""
        return self.backend.device

    @property
    def max_length(self) -> int:
        """The most words of a caption that the model can read."""
        return self.backend.max_length

    @property
    def model(self) -> Any:
        """The torch module, of transformers for a foreign model.

        Where captions come from another backend, it is loaded when it is first asked for, and what is done to it
        changes no caption: load the model with ``backend="torch"`` for that.

        Raises:
            OptionError: torch is not installed, or the model came from no model file.
        """
        return getattr(self.torch_backend(), "model")  # noqa: B009

    def torch_backend(self) -> Backend:
        """The model on torch, which computes gradients; loaded when it is first asked for.

        Raises:
            OptionError: torch is not installed, or the model came from no model file.
        """
        return self._on_torch.open()

    @overload
    def caption(
        self,
        pictures: Picture | KeptPicture,
        *,
        options: Greedy | None = None,
        explain: str | MapOptions | None = None,
        batch: int = _BATCH,
        max_pixels: int = MAX_PIXELS,
    ) -> Caption: ...
    @overload
    def caption(
        self,
        pictures: list[Picture] | list[KeptPicture] | list[Picture | KeptPicture],
        *,
        options: Greedy | None = None,
        explain: str | MapOptions | None = None,
        batch: int = _BATCH,
        max_pixels: int = MAX_PIXELS,
    ) -> list[Outcome]: ...
    def caption(
        self,
        pictures: Picture | KeptPicture | list[Picture] | list[KeptPicture] | list[Picture | KeptPicture],
        *,
        options: Greedy | None = None,
        explain: str | MapOptions | None = None,
        batch: int = _BATCH,
        max_pixels: int = MAX_PIXELS,
    ) -> Caption | list[Outcome]:
        """Caption a picture, or a list of them.

        Args:
            pictures: a path, bytes, a PIL image or an array (see `captioner.image.open_image`); what `encode` returned;
                or a list of these, which returns a list of the same length: a `Caption` or a `Failure` for each.
            options: `Greedy`, `Beam` or `Sampling`; None for those that the model's file holds.
            explain: what the words' maps are computed from: "attention", "gradient" or "occlusion" (slow), see
                `captioner.explain`; None for the model's default.
            batch: pictures that go through the model together.
            max_pixels: larger pictures are refused.

        Raises:
            ImageError: the one picture does not open; the message names it.
            CheckpointError: the model's numbers are not finite, or another model encoded the picture.
            OptionError: a number is not positive, the options are of another type or ask for more words than the
                model can read, or the backend cannot compute such maps.
        """
        if isinstance(pictures, list):
            return list(
                self.caption_all(pictures, options=options, explain=explain, batch=batch, max_pixels=max_pixels)
            )
        check_numbers(batch=batch)
        self._check_options(options)
        map_options = self._map_options(explain)  # an unknown method is refused before the picture is opened
        prepared, encoded = self._encoded(pictures, max_pixels=max_pixels)
        return self.caption_prepared([prepared], options=options, explain=map_options, encoded=encoded)[0]

    def caption_all(
        self,
        pictures: Iterable[Picture | KeptPicture],
        *,
        options: Greedy | None = None,
        explain: str | MapOptions | None = None,
        batch: int = _BATCH,
        max_pixels: int = MAX_PIXELS,
        keep: int | None = None,
    ) -> Iterator[Outcome]:
        """Caption any number of pictures as they come, a batch at a time; arguments as of `caption`.

        Args:
            pictures: those that `encode` returned are not encoded again, and are decoded one by one.
            keep: let each caption hold a copy of its picture of at most so many pixels a side, so that figure and
                page do not open the file again.

        Yields:
            For each picture, in order, a `Caption`, or a `Failure` where it does not open. What the iterator of the
            pictures raises comes after the outcomes of the pictures before.

        Raises:
            OptionError: as of `caption`, or one picture in place of several.
            CaptionerError: the iterator goes on in a process that was forked since.
        """
        from captioner.pipeline.prefetch import caption_each, iterator_of

        check_numbers(batch=batch, max_pixels=max_pixels, keep=keep)
        self._check_options(options)
        pictures = iterator_of(pictures)
        prepare = partial(self.prepare, max_pixels=max_pixels, keep=keep)
        ready = partial(prepared_or_kept, backend=self.backend, prepare=prepare)
        caption = partial(self.caption_prepared, options=options, explain=self._map_options(explain))
        return caption_each(
            pictures,
            ready,
            partial(encode, self.backend),
            caption,
            batch=batch,
            threads=self._threads,
            beside=isinstance(self.backend, EncodesBeside) and self.backend.encodes_beside,
        )

    def prepare(self, picture: Picture, *, max_pixels: int = MAX_PIXELS, keep: int | None = None) -> Prepared:
        """Open a picture and fit it to the model's input, for `caption_prepared`; needs no device, so threads can.

        Args:
            picture: as of `caption`.
            max_pixels: larger pictures are refused.
            keep: keep an upright copy of at most so many pixels a side, and not what was given.

        Raises:
            ImageError: it does not open.
        """
        return prepare(picture, self.backend, max_pixels=max_pixels, keep=keep)

    def caption_prepared(
        self,
        ready: Sequence[Prepared],
        *,
        options: Greedy | None = None,
        explain: str | MapOptions | None = None,
        encoded: Encoded | None = None,
    ) -> list[Caption]:
        """Caption pictures that `prepare` opened, all in one batch; options as of `caption`. ``encoded`` are the same
        pictures, where the backend has encoded them already."""
        self._check_options(options)
        map_options = self._map_options(explain)
        if not ready:
            return []
        return decoded_captions(
            self.backend,
            ready,
            encoded,
            options or self.default_options,
            map_options,
            gradient_backend=self.torch_backend,
            model=self.name,
        )

    @overload
    def ask(self, picture: "Askable", question: str, *, n_best: int = 1) -> Answer: ...
    @overload
    def ask(self, picture: "Askable", question: list[str], *, n_best: int = 1) -> list[Answer]: ...
    def ask(self, picture: "Askable", question: str | list[str], *, n_best: int = 1) -> Answer | list[Answer]:
        """Answer questions about a picture, or about what `encode` returned, by the answering model that ships; see
        `captioner.asking.Asker.ask`."""
        asker = self.asker()
        if isinstance(picture, KeptPicture):
            picture.require(self.backend)
            picture = picture.for_answers(asker.backend, asker.encode_prepared)
        return asker.ask(picture, question, n_best=n_best)

    def asker(self) -> "Asker":
        """The answering model that ships, on this model's device; loaded when it is first asked for."""
        from captioner.asking import load_answering

        with self._lock:
            if self._asker is None:
                self._asker = load_answering(device=self.device)
            return self._asker

    def encode(self, picture: Picture, *, max_pixels: int = MAX_PIXELS) -> KeptPicture:
        """Encode a picture once, for any number of later `caption`, `read` and `ask`; the answering model encodes it at
        the first question.

        Raises:
            ImageError: it does not open.
        """
        prepared = self.prepare(picture, max_pixels=max_pixels)
        return KeptPicture(prepared, encode(self.backend, [prepared]), self.backend, max_pixels=max_pixels)

    def _encoded(self, picture: Picture | KeptPicture, *, max_pixels: int) -> tuple[Prepared, Encoded | None]:
        """A picture that is prepared, and encoded where it was kept."""
        ready = prepared_or_kept(picture, self.backend, partial(self.prepare, max_pixels=max_pixels))
        return (ready.prepared, ready.encoded) if isinstance(ready, KeptPicture) else (ready, None)

    def read(
        self,
        picture: Picture | KeptPicture,
        captions: Sequence[str],
        *,
        explain: str | MapOptions | None = None,
        max_pixels: int = MAX_PIXELS,
    ) -> list[Caption]:
        """Read given captions: how likely each word is, and where the model attends for it (teacher forcing).

        Args:
            picture: as of `caption`.
            captions: a list of sentences; the PTB tokeniser splits them. A word that the model does not know is marked
                ``unknown`` and has probability 0; words beyond the longest caption that it can read are left out.
            explain: as of `caption`.
            max_pixels: larger pictures are refused.

        Raises:
            ImageError: the picture does not open.
            OptionError: a text where a list of them is due, or a caption without words.
        """
        captions = list_of_texts(captions)  # an iterator is read once
        split_captions(captions, self.vocabulary, max_length=self.max_length)  # refused before the picture is opened
        prepared, encoded = self._encoded(picture, max_pixels=max_pixels)
        return self.read_prepared(prepared, captions, explain=explain, encoded=encoded)

    def read_prepared(
        self,
        prepared: Prepared,
        captions: Sequence[str],
        *,
        explain: str | MapOptions | None = None,
        encoded: Encoded | None = None,
    ) -> list[Caption]:
        """As `read`, of a picture that `prepare` opened; ``encoded`` as of `caption_prepared`."""
        split = split_captions(captions, self.vocabulary, max_length=self.max_length)
        if not split:
            return []
        return read_captions(
            self.backend,
            prepared,
            encoded,
            split,
            self._map_options(explain),
            length_penalty=self.default_options.length_penalty,
            gradient_backend=self.torch_backend,
            model=self.name,
        )

    def with_gains(self, captions: Sequence[Made]) -> list[Made]:
        """Captions of this model whose words have their ``gain``, how much the picture mattered; see
        `captioner.pipeline.picture_gain`. A `Failure` stays in its place.

        Raises:
            OptionError: it is no list of captions.
        """
        from captioner.pipeline.picture_gain import Gains

        self._gains = self._gains or Gains(self.backend)
        return cast("list[Made]", self._gains.of(captions))

    def heads(self, caption: Caption, word: str | int) -> Heads:
        """What every attention head looked at for a word of a caption that this model made or read; needs torch.

        Args:
            caption: with its picture.
            word: its text, or its place from 0.

        Raises:
            ImageError: the caption's picture is gone.
            OptionError: the caption has no such word, or torch is not installed.
        """
        from captioner.pipeline.word_views import word_heads

        return word_heads(caption, word, delay=self._delay, backend=self.backend, open_torch=self.torch_backend)

    def contrast(self, caption: Caption, word: str | int, other: str) -> Contrast:
        """Why a word and not another: the difference of both words' gradient maps; needs torch.

        Args:
            caption: with its picture.
            word: its text, or its place from 0.
            other: a word of the vocabulary.

        Raises:
            ImageError: the caption's picture is gone.
            OptionError: the caption has no such word, the model does not know the other, or torch is not installed.
        """
        from captioner.pipeline.word_views import word_contrast

        return word_contrast(caption, word, other, backend=self.backend, open_torch=self.torch_backend, model=self.name)

    def caption_clip(
        self, frames: Iterable[Picture], *, options: Greedy | None = None, max_pixels: int = MAX_PIXELS
    ) -> ClipCaption:
        """One caption of a clip, over the cells of all its frames; needs torch.

        The frames are encoded a few at a time and their cells are joined. A model that was trained on pictures attends
        to them as to one large picture; one with the attention "temporal" weighs the frames as well.

        Args:
            frames: pictures of one size, in order; `captioner.data.clips.frames_of` reads them from a file. Of each a
                small copy is kept.
            options: as of `caption`.
            max_pixels: larger frames are refused.

        Raises:
            ImageError: a frame does not open.
            OptionError: no frames, frames of several sizes, or torch is not installed.
        """
        from captioner.pipeline.clips import caption_clip

        self._check_options(options)
        return caption_clip(
            frames,
            options or self.default_options,
            delay=self._delay,
            backend=self.backend,
            open_torch=self.torch_backend,
            model=self.name,
            max_pixels=max_pixels,
        )

    def split(self, caption: str) -> list[str]:
        """The words of a sentence, as `read` reads them."""
        return self.vocabulary.split(caption, self.max_length)

    def log_probabilities(
        self, variants: Sequence[Pixels], geometry: Geometry, captions: Sequence[Sequence[int]]
    ) -> NDArray[np.float32]:
        """Log-probabilities of captions on variants of one picture; see `captioner.pipeline.word_maps`."""
        return log_probabilities(self.backend, variants, geometry, captions)

    def options(self, **changes: Any) -> Beam:
        """The model's own beam options with changes; see `captioner.options.Beam.changed`.

        Raises:
            OptionError: a value out of range, more words than the model can read, or words that it does not know.
        """
        options = self.default_options.changed(**changes)
        self._check_options(options)
        return options

    def _check_options(self, options: object) -> None:
        if options is not None:
            check_options(options, self.vocabulary, max_length=self.max_length, model=self.name)

    def _map_options(self, explain: str | MapOptions | None) -> MapOptions:
        return self.map_options if explain is None else MapOptions.chosen(explain, dict(self.about))
