"""Caption pictures, read their reference captions, and score the maps of both: the part that runs the model.

The scores are described in `captioner.grounding.pointing` and `captioner.grounding.deletion`.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice

from captioner.data.records import Record
from captioner.errors import CaptionerError, ImageError, OptionError
from captioner.grounding.ground_truth import GroundTruth, NounAnnotation
from captioner.grounding.grounded import SOURCES, GroundedCaption, GroundedPicture, score_caption
from captioner.options import Greedy, MapOptions
from captioner.pipeline import Captioner
from captioner.prepared import Prepared
from captioner.results import Failure


def ground(
    model: Captioner,
    records: Iterable[Record],
    ground_truth: GroundTruth,
    *,
    sources: Sequence[str] = SOURCES,
    explain: str | MapOptions | None = None,
    options: Greedy | None = None,
    batch: int = 16,
) -> Iterator[GroundedPicture | Failure]:
    """Score the maps of pictures' generated captions and of their reference captions.

    Each picture is decoded once for all its captions; threads decode the next batch meanwhile.

    Args:
        model: the model.
        records: pictures that the ground truth knows.
        ground_truth: where the objects are.
        sources: of the captions: some of `SOURCES`.
        explain: how maps are made, as of `Captioner.caption`.
        options: of decoding, as of `Captioner.caption`.
        batch: pictures that are captioned together.

    Yields:
        For each record, in order, a `GroundedPicture`, or a `Failure` where the picture does not open.

    Raises:
        OptionError: an unknown source, or a batch below 1.
    """
    for source in sources:
        if source not in SOURCES:
            raise OptionError(f"there is no source of captions '{source}'", remedy=f"use {' or '.join(SOURCES)}")
    if batch < 1:
        raise OptionError(f"a batch needs at least 1 picture, not {batch}")
    return _ground(model, records, ground_truth, sources, explain, options, batch)


def _ground(
    model: Captioner,
    records: Iterable[Record],
    ground_truth: GroundTruth,
    sources: Sequence[str],
    explain: str | MapOptions | None,
    options: Greedy | None,
    batch: int,
) -> Iterator[GroundedPicture | Failure]:
    for some in prepared_batches(model, records, batch, ground_truth.size_of):
        ready = [(record, prepared) for record, prepared in some if not isinstance(prepared, Failure)]
        generated: Iterator[GroundedCaption] = iter(())
        if "generated" in sources and ready:
            captions = model.caption_prepared([prepared for _, prepared in ready], options=options, explain=explain)
            generated = iter(
                [
                    score_caption(
                        caption, record, ground_truth.annotate(record, [w.text for w in caption.words]), "generated"
                    )
                    for (record, _), caption in zip(ready, captions, strict=True)
                ]
            )
        for record, prepared in some:
            if isinstance(prepared, Failure):
                yield prepared
                continue
            found = [next(generated)] if "generated" in sources else []
            if "references" in sources:
                found += _read_references(model, record, prepared, ground_truth, explain)
            yield GroundedPicture(record, tuple(found))


def _read_references(
    model: Captioner,
    record: Record,
    prepared: Prepared,
    ground_truth: GroundTruth,
    explain: str | MapOptions | None,
) -> list[GroundedCaption]:
    """The grounded references of a picture, those that name annotated objects, read in one batch."""
    named = annotated_references(model, record, ground_truth)
    if not named:
        return []
    captions = model.read_prepared(prepared, [text for text, _ in named], explain=explain)
    return [
        score_caption(caption, record, nouns, "references") for caption, (_, nouns) in zip(captions, named, strict=True)
    ]


def annotated_references(
    model: Captioner, record: Record, ground_truth: GroundTruth, *, most: int | None = None
) -> list[tuple[str, list[NounAnnotation]]]:
    """The first ``most`` references of a picture that name annotated objects, each with these nouns."""
    annotated = [(text, ground_truth.annotate(record, model.split(text))) for text in record.captions[:most]]
    return [(text, nouns) for text, nouns in annotated if nouns]


def prepared_batches(
    model: Captioner,
    records: Iterable[Record],
    batch: int,
    size_of: Callable[[Record], tuple[int, int] | None],
) -> Iterator[list[tuple[Record, Prepared | Failure]]]:
    """Batches of records with their pictures, which threads open while the model works on the batch before.

    A picture that was annotated before EXIF turned it, as far as ``size_of`` shows that, is a `Failure`.
    """
    remaining = iter(records)
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:

        def submit() -> list[tuple[Record, Future[Prepared]]]:
            return [(record, pool.submit(model.prepare, record.image)) for record in islice(remaining, batch)]

        coming = submit()
        while coming:
            now, coming = coming, submit()
            yield [(record, _outcome(record, future, size_of(record))) for record, future in now]


def _outcome(record: Record, future: "Future[Prepared]", annotated: tuple[int, int] | None) -> Prepared | Failure:
    try:
        prepared = future.result()
        check_turned(record, prepared, annotated)
    except CaptionerError as error:
        return Failure.of(record.image, error)
    return prepared


def check_turned(record: Record, prepared: Prepared, annotated: tuple[int, int] | None) -> None:
    """Make sure that boxes fit a picture that EXIF turns: some tools annotate the pixels as the file has them.

    Args:
        record, prepared: of the picture.
        annotated: (width, height) in pixels of what was annotated; None where that is not known.

    Raises:
        ImageError: a quarter turn makes it upright, and it was annotated as wide where it is high, or the reverse.
    """
    geometry = prepared.geometry
    if annotated is None or geometry.orientation < 5:
        return
    (width, height), upright = annotated, geometry.size
    if (width - height) * (upright[0] - upright[1]) < 0:
        raise ImageError(
            f"{record.image}: annotated at {width} x {height} pixels, and upright it has {upright[0]} x {upright[1]}",
            remedy="annotate the upright picture",
        )
