"""Pictures to captions."""

import importlib.resources
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from numpy.typing import NDArray

from captioner import checkpoint
from captioner.decoding import Beam, Greedy, Hypothesis, decode
from captioner.errors import CheckpointError, ImageError, OptionError
from captioner.explain.maps import MapReading, encode
from captioner.explain.maps import explain as _explain
from captioner.image import MAX_PIXELS, Geometry, Picture, fit, open_with_orientation
from captioner.model.transformer import TransformerConfig
from captioner.results import Alternative, Caption, Failure, Outcome, Word, path_of
from captioner.tokenizer.detokenize import detokenize
from captioner.tokenizer.ptb import tokenize
from captioner.tokenizer.vocabulary import SPECIAL

DEFAULT_MODEL = "default"


class Captioner:
    """A model that is ready to caption.

    Args:
        model: what `captioner.checkpoint.load` returned.
        name: how captions call it.
        device: where it computes; None for where its weights are.
    """

    def __init__(
        self, model: checkpoint.Checkpoint, *, name: str = "model", device: str | torch.device | None = None
    ) -> None:
        self.model = model.model.to(device) if device is not None else model.model
        self.vocabulary = model.vocabulary
        self.about = model.about
        self.name = name
        self.device = next(self.model.parameters()).device
        self.default_options = Beam(**self.about.get("decoding", {}))
        self.map_reading = MapReading.stored(self.about)

    @overload
    def caption(
        self,
        pictures: Picture,
        *,
        options: Greedy | None = None,
        explain: str | MapReading | None = None,
        batch: int = 16,
        max_pixels: int = MAX_PIXELS,
    ) -> Caption: ...
    @overload
    def caption(
        self,
        pictures: list[Picture],
        *,
        options: Greedy | None = None,
        explain: str | MapReading | None = None,
        batch: int = 16,
        max_pixels: int = MAX_PIXELS,
    ) -> list[Outcome]: ...
    def caption(
        self,
        pictures: Picture | list[Picture],
        *,
        options: Greedy | None = None,
        explain: str | MapReading | None = None,
        batch: int = 16,
        max_pixels: int = MAX_PIXELS,
    ) -> Caption | list[Outcome]:
        """Caption a picture, or a list of them.

        Args:
            pictures: a path, bytes, a PIL image or an array (see `captioner.image.open_image`), or a list of
                these, which gives a list of the same length: a `Caption` or a `Failure` for each.
            options: `Greedy`, `Beam` or `Sampling`; None for what the model was found to do best with.
            explain: what the words' maps are made of: "attention", "gradient" or "occlusion" (slow), see
                `captioner.explain.maps`; None for what was found to be truest.
            batch: pictures that go through the model together.
            max_pixels: larger pictures are refused.

        Raises:
            ImageError: the one picture does not open; the message names it.
            OptionError: the batch is not positive.
        """
        if isinstance(pictures, list):
            return list(
                self.caption_all(pictures, options=options, explain=explain, batch=batch, max_pixels=max_pixels)
            )
        prepared = self.prepare(pictures, max_pixels=max_pixels)
        return self.caption_prepared([prepared], options=options, explain=explain)[0]

    def caption_all(
        self,
        pictures: Iterable[Picture],
        *,
        options: Greedy | None = None,
        explain: str | MapReading | None = None,
        batch: int = 16,
        max_pixels: int = MAX_PIXELS,
    ) -> Iterator[Outcome]:
        """Caption any number of pictures as they come, a batch at a time; arguments as of `caption`.

        Yields:
            For each picture, in order, a `Caption`, or a `Failure` where it does not open.
        """
        if batch < 1:
            raise OptionError(f"a batch needs at least 1 picture, not {batch}")
        self._reading(explain)  # a way that there is not is told before any picture is opened
        remaining = iter(pictures)
        # Threads open the next batch while the model works on this one.
        with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:

            def submit() -> "list[tuple[Picture, Future[Prepared]]]":
                some = list(islice(remaining, batch))
                return [(picture, pool.submit(self.prepare, picture, max_pixels=max_pixels)) for picture in some]

            coming = submit()
            while coming:
                now, coming = coming, submit()
                opened = [_opened(picture, future) for picture, future in now]
                ready = [one for one in opened if isinstance(one, Prepared)]
                captions = iter(self.caption_prepared(ready, options=options, explain=explain) if ready else ())
                for one in opened:
                    yield one if isinstance(one, Failure) else next(captions)

    def prepare(self, picture: Picture, *, max_pixels: int = MAX_PIXELS, keep: int | None = None) -> "Prepared":
        """Open a picture and fit it to the model's input, for `caption_prepared`; needs no device, so threads can.

        Args:
            picture: as of `caption`.
            max_pixels: larger pictures are refused.
            keep: hold on to a copy of at most so many pixels a side, and not to what was given.

        Raises:
            ImageError: it does not open.
        """
        config = self.model.encoder.config
        image, orientation = open_with_orientation(picture, max_pixels=max_pixels)
        geometry = Geometry(
            size=image.size,
            side=config.side or 0,
            grid=self.model.encoder.grid_shape,
            pad=config.pad,
            orientation=orientation,
        )
        pixels = fit(image, geometry)
        if keep is not None:
            image.thumbnail((keep, keep), reducing_gap=3.0)  # upright and ours alone
            picture = image
        return Prepared(picture, geometry, pixels)

    @torch.inference_mode()
    def caption_prepared(
        self,
        ready: Sequence["Prepared"],
        *,
        options: Greedy | None = None,
        explain: str | MapReading | None = None,
    ) -> list[Caption]:
        """Caption pictures that `prepare` opened, all in one batch; options as of `caption`."""
        reading = self._reading(explain)
        pixels = np.stack([prepared.pixels for prepared in ready])
        geometries = [prepared.geometry for prepared in ready]
        grid = encode(self.model, pixels, geometries)
        found = decode(self.model.decoder, grid, options or self.default_options)
        if not reading.plain:
            captions = [[hypothesis.tokens for hypothesis in some] for some in found]
            told = _explain(self.model, pixels, geometries, captions, reading, grid=grid)
            found = [
                [replace(hypothesis, maps=torch.from_numpy(maps)) for hypothesis, (maps, _) in zip(*both, strict=True)]
                for both in zip(found, told, strict=True)
            ]
        return [self._finish(*both, reading) for both in zip(ready, found, strict=True)]

    def read(
        self,
        picture: Picture,
        captions: Sequence[str],
        *,
        explain: str | MapReading | None = None,
        max_pixels: int = MAX_PIXELS,
    ) -> list[Caption]:
        """Read captions that others wrote: how likely each word is, and where the model looked for it.

        Args:
            picture: as of `caption`.
            captions: sentences; they are split as the PTB tokeniser does. A word that the model does not know has
                probability 0, and words beyond the longest caption that it can read are left out.
            explain: as of `caption`.
            max_pixels: larger pictures are refused.

        Raises:
            ImageError: the picture does not open.
            OptionError: a caption without words.
        """
        split = [self.split(caption) for caption in captions]
        for caption, words in zip(captions, split, strict=True):
            if not words:
                raise OptionError(f"the caption '{caption}' has no words to read")
        prepared = self.prepare(picture, max_pixels=max_pixels)
        ids = [self.vocabulary.encode(words)[1:-1] for words in split]
        reading = self._reading(explain)
        (told,) = _explain(self.model, np.stack([prepared.pixels]), [prepared.geometry], [ids], reading)
        found = []
        for words, some, (maps, log_p) in zip(split, ids, told, strict=True):
            known = [math.exp(p) if i >= len(SPECIAL) else 0.0 for i, p in zip(some, log_p[:-1].tolist(), strict=True)]
            score = float(log_p.sum()) / len(log_p) ** self.default_options.length_penalty
            found.append(self._caption(prepared, reading, _said(words, known, maps, score=score, finished=True)))
        return found

    def split(self, caption: str) -> list[str]:
        """The words of a sentence, as `read` reads them."""
        return tokenize(caption)[: self.longest]

    @property
    def longest(self) -> int:
        """The most words of a caption that the model can read."""
        config = self.model.config.decoder
        return config.longest - 1 if isinstance(config, TransformerConfig) else 100

    def _reading(self, explain: str | MapReading | None) -> MapReading:
        if isinstance(explain, MapReading):
            return explain
        return self.map_reading if explain is None else MapReading.stored(self.about, explain)

    def _finish(self, prepared: "Prepared", found: Sequence[Hypothesis], reading: MapReading) -> Caption:
        best, *others = (
            _said(
                self.vocabulary.decode(hypothesis.tokens),
                hypothesis.probabilities,
                hypothesis.maps.numpy(),
                score=hypothesis.score,
                finished=hypothesis.finished,
            )
            for hypothesis in found
        )
        return self._caption(prepared, reading, best, others)

    def _caption(
        self, prepared: "Prepared", reading: MapReading, best: Alternative, others: Sequence[Alternative] = ()
    ) -> Caption:
        source = prepared.picture
        return Caption(
            text=best.text,
            words=best.words,
            score=best.score,
            finished=best.finished,
            image=path_of(source),
            model=self.name,
            geometry=prepared.geometry,
            explain=reading.explain,
            alternatives=tuple(others),
            source=source,
        )

    def options(self, **changes: Any) -> Beam:
        """The model's own beam options with changes; the beam is widened to ``n_best`` where no width is given.

        Raises:
            OptionError: a value out of range.
        """
        wide_enough = max(self.default_options.width, changes.get("n_best", 1))
        return replace(self.default_options, **{"width": wide_enough, **changes})


@dataclass(frozen=True)
class Prepared:
    """A picture, and what the encoder takes of it.

    Attributes:
        picture: what the caption will show itself on; a smaller copy does as well, for the geometry holds the size.
        geometry: of the picture as it was opened.
        pixels: (side, side, 3).
    """

    picture: Picture
    geometry: Geometry
    pixels: NDArray[np.uint8]


def _opened(picture: Picture, future: "Future[Prepared]") -> "Prepared | Failure":
    try:
        return future.result()
    except ImageError as error:
        return Failure.of(picture, error)


def _said(
    texts: Sequence[str],
    probabilities: Sequence[float],
    maps: NDArray[np.float32],
    *,
    score: float,
    finished: bool,
) -> Alternative:
    words = tuple(Word(*each) for each in zip(texts, probabilities, maps, strict=True))
    return Alternative(text=detokenize(texts), words=words, score=score, finished=finished)


def load(model: str | os.PathLike[str] = DEFAULT_MODEL, *, device: str | torch.device | None = None) -> Captioner:
    """A model by name or path.

    Args:
        model: the name of a model that ships, or the path of a model file.
        device: where it computes; None for the CPU.

    Raises:
        CheckpointError: there is no such model, or its file is damaged.
        OptionError: there is no such device.
    """
    path = find_model(model)
    device = device or "cpu"
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError):  # the latter where torch was built without CUDA
        raise OptionError(f"there is no device '{device}' here: 'cpu' is everywhere") from None
    found = checkpoint.load(path, device=device)
    try:
        return Captioner(found, name=path.stem)
    except (TypeError, OptionError) as error:
        raise CheckpointError(f"{path}: damaged, or made by another version ({error})") from None


def find_model(model: str | os.PathLike[str]) -> Path:
    """The file of a model that is given by name or path.

    Raises:
        CheckpointError: there is none; the message lists the names.
    """
    text = os.fspath(model)
    if text.endswith(".safetensors") or os.sep in text:
        path = Path(text).expanduser()
        if path.is_file():
            return path
        raise CheckpointError(f"{path}: no such model file")
    models = shipped_models()
    if text in models:
        return models[text]
    names = ", ".join(models) or "none"
    raise CheckpointError(f"no model is called '{text}'; shipped: {names}. A path of a .safetensors file works too")


def shipped_models() -> dict[str, Path]:
    """The models in ``checkpoints/`` by name, the default first."""
    folder = Path(str(importlib.resources.files("captioner"))) / "checkpoints"
    if not folder.is_dir():  # a checkout: the folder stands beside the package
        folder = folder.parent.parent / "checkpoints"
    files = sorted(folder.glob("*.safetensors"), key=lambda file: (file.stem != DEFAULT_MODEL, file.stem))
    return {file.stem: file for file in files}
