"""Choose how a model's maps are made: which attention heads, how sinks are treated, and whether maps are delayed.

Every candidate is scored on reference captions that the model reads, against ground truth; see
`captioner.grounding.pointing`. The chosen heads go into the model's configuration, the chosen `MapOptions` into its
metadata; `Captioner` follows both. A candidate must be clearly better than the model's current heads to be chosen.

This part needs the torch modules of a model: it reads all heads of its decoder.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from captioner.backends.torch import pad_tokens
from captioner.checkpoint import Checkpoint
from captioner.data.records import Record
from captioner.errors import CaptionerError
from captioner.explain.attention import attention_heads
from captioner.explain.gradient import gradient_maps
from captioner.explain.postprocess import postprocess
from captioner.grounding.bootstrap import Estimate, bootstrap_means
from captioner.grounding.ground_truth import GroundTruth
from captioner.grounding.region import CellRegion
from captioner.grounding.run import annotated_references, check_turned
from captioner.options import SINKS, MapOptions
from captioner.pipeline import Captioner
from captioner.results import Failure

MARGIN = 0.01
"""How much higher the mean of pointing and mass must be to choose a candidate over the model's current maps.

Gradient maps must be better than attention by twice this margin. Among candidates within half of it, one without
postprocessing is preferred.
"""


@dataclass(frozen=True, eq=False, kw_only=True)
class HeadSample:
    """A caption that the model read, with the maps of all heads.

    Attributes:
        picture: the id of the picture.
        heads: (H, n + 1, h, w), the attention of each head of each layer, for n words and the end.
        gradient: (n + 1, h, w), see `captioner.explain.gradient.gradient_maps`; None where it was not computed.
        regions: by a noun's position, where its object is.
    """

    picture: str
    heads: NDArray[np.float16]
    gradient: NDArray[np.float32] | None
    regions: dict[int, CellRegion]


@dataclass(frozen=True)
class Candidate:
    """A way to make maps.

    Attributes:
        options: the postprocessing, and whether gradients are used.
        heads: the heads whose mean is the map, as ``layer * heads + head``; empty for gradients, which use all.
    """

    options: MapOptions
    heads: tuple[int, ...]

    def __str__(self) -> str:
        if self.options.explain != "attention":
            return f"{self.options.explain} (on fewer pictures), sinks {self.options.sinks}"
        return f"heads {','.join(map(str, self.heads))}, sinks {self.options.sinks}, delay {self.options.delay}"


@dataclass(frozen=True)
class CandidateScore:
    """Mean pointing and mass of a candidate, with their intervals."""

    pointing: Estimate
    mass: Estimate

    @property
    def value(self) -> float:
        """The mean of pointing and mass, by which candidates are compared."""
        return (self.pointing.value + self.mass.value) / 2

    def as_dict(self) -> dict[str, Any]:
        """Plain values for a model's metadata."""
        return {
            name: {"value": round(e.value, 4), "interval": [round(x, 4) for x in e.as_dict()["interval"] or ()] or None}
            for name, e in (("pointing", self.pointing), ("mass", self.mass))
        }


@dataclass(frozen=True, kw_only=True)
class Selection:
    """What `select` chose.

    Attributes:
        attention: the best candidate of attention.
        gradient: the best candidate of gradients; None where no sample has them.
        scores: of every candidate that was tried.
        default: "attention" or "gradient", the method that the model is to use by default.
        measured: plain values for the model's metadata.
    """

    attention: Candidate
    gradient: Candidate | None
    scores: dict[Candidate, CandidateScore]
    default: str
    measured: dict[str, Any]


def read_heads(
    model: Captioner, records: Sequence[Record], ground_truth: GroundTruth, *, captions: int, gradients: int
) -> Iterator[list[HeadSample] | Failure]:
    """Read reference captions of pictures and keep the maps of all heads.

    Args:
        model: on the torch backend.
        records: pictures that the ground truth knows.
        ground_truth: where the objects are.
        captions: the most captions of each picture.
        gradients: the number of pictures, from the first, for which gradients are computed too (slow).

    Yields:
        For each record, in order, its samples, or a `Failure` where the picture does not open.
    """
    for number, record in enumerate(records):
        try:
            yield _read_heads(model, record, ground_truth, captions, with_gradient=number < gradients)
        except CaptionerError as error:
            yield Failure.of(record.image, error)


def _read_heads(
    model: Captioner, record: Record, ground_truth: GroundTruth, captions: int, *, with_gradient: bool
) -> list[HeadSample]:
    prepared = model.prepare(record.image)
    check_turned(record, prepared, ground_truth.size_of(record))
    named = [
        (model.split(text), {noun.position: noun.region for noun in nouns if noun.region is not None})
        for text, nouns in annotated_references(model, record, ground_truth, most=captions)
    ]
    named = [(words, regions) for words, regions in named if regions]
    if not named:
        return []
    grid: Any = model.backend.encode(np.stack([prepared.pixels]), [prepared.geometry])
    decoder = model.model.decoder
    ids = [model.vocabulary.encode(words)[1:-1] for words, _ in named]
    tokens, targets = pad_tokens([ids], grid.features.device)
    heads = attention_heads(decoder, grid, tokens).half().cpu().numpy()
    gradient = gradient_maps(decoder, grid, tokens, targets)[1].cpu().numpy() if with_gradient else None
    return [
        HeadSample(
            picture=record.id,
            heads=heads[row, :, : len(words) + 1],
            gradient=None if gradient is None else gradient[row, : len(words) + 1],
            regions={
                position: CellRegion.of(region, prepared.geometry)
                for position, region in regions.items()
                if region is not None
            },
        )
        for row, (words, regions) in enumerate(named)
    ]


def score_candidate(samples: Sequence[HeadSample], candidate: Candidate, *, resamples: int = 200) -> CandidateScore:
    """What a candidate scores on the samples that have what it needs; at least one must have."""
    rows, pictures = [], []
    for sample in samples:
        valid = next(iter(sample.regions.values())).valid
        off_grid = None
        if candidate.options.explain == "gradient":
            if sample.gradient is None:
                continue
            steps = sample.gradient
        else:
            steps = sample.heads[list(candidate.heads)].astype(np.float32).mean(0)
            off_grid = 1 - np.where(valid, steps, 0).sum((1, 2))
        maps, _ = postprocess(steps, valid, candidate.options, off_grid)
        for position, region in sample.regions.items():
            rows.append((region.pointing(maps[position]), region.mass(maps[position])))
            pictures.append(sample.picture)
    return CandidateScore(*bootstrap_means(np.array(rows), pictures, resamples))


def candidate_heads(
    samples: Sequence[HeadSample], current: tuple[int, ...], heads_per_layer: int
) -> list[tuple[int, ...]]:
    """Sets of heads to try: the current ones, all, each layer, and the best few by their scores alone."""
    count = len(samples[0].heads)
    alone = {i: score_candidate(samples, Candidate(MapOptions(), (i,)), resamples=1) for i in range(count)}
    order = sorted(alone, key=lambda i: -alone[i].value)
    sets = [current, tuple(range(count))]
    sets += [tuple(range(first, first + heads_per_layer)) for first in range(0, count, heads_per_layer)]
    sets += [tuple(sorted(order[:most])) for most in (1, 2, 3, 4, count // 2) if most]
    return list(dict.fromkeys(sets))


def select(
    samples: Sequence[HeadSample], current: tuple[int, ...], heads_per_layer: int, *, delay: int = 0, data: str = ""
) -> Selection:
    """Choose the best maps of attention, those of gradients where there are any, and the default method.

    Heads and postprocessing are chosen together. Gradients are compared on the samples that have them.

    Args:
        samples: at least one.
        current: the model's heads for the map, as ``layer * heads + head``.
        heads_per_layer: of the decoder.
        delay: of the model's maps today.
        data: the name of the data set and its split, for the metadata.
    """
    scores: dict[Candidate, CandidateScore] = {}
    today = MapOptions(delay=delay)
    before = Candidate(today, current)
    for heads in candidate_heads(samples, current, heads_per_layer):
        for sinks in SINKS:
            for later in (0, 1):
                candidate = Candidate(MapOptions(sinks=sinks, delay=later), heads)
                scores[candidate] = score_candidate(samples, candidate)
    highest = max(score.value for score in scores.values())
    near = [candidate for candidate, score in scores.items() if score.value >= highest - MARGIN / 2]
    # Other options than today's are not worth a difference that may be chance.
    best = max(near, key=lambda candidate: (candidate.options == today, scores[candidate].value))
    if scores[best].value < scores[before].value + MARGIN:
        best = before
    measured: dict[str, Any] = {
        "on": f"{data}, references read",
        "pictures": len({sample.picture for sample in samples}),
        "nouns": sum(len(sample.regions) for sample in samples),
        "plain": scores[before].as_dict(),
        "attention": {"heads": list(best.heads), **asdict(best.options), **scores[best].as_dict()},
    }
    default, gradient = "attention", None
    with_gradient = [sample for sample in samples if sample.gradient is not None]
    if with_gradient:
        tried = [Candidate(MapOptions(explain="gradient", sinks=sinks), ()) for sinks in SINKS]
        scores |= {candidate: score_candidate(with_gradient, candidate) for candidate in tried}
        gradient = max(tried, key=lambda candidate: scores[candidate].value)
        attention_there = score_candidate(with_gradient, best)
        if scores[gradient].value > attention_there.value + 2 * MARGIN:
            default = "gradient"
        measured["gradient"] = {
            "pictures": len({sample.picture for sample in with_gradient}),
            **asdict(gradient.options),
            **scores[gradient].as_dict(),
            "attention_there": attention_there.as_dict(),
        }
    measured["default"] = default
    return Selection(attention=best, gradient=gradient, scores=scores, default=default, measured=measured)


def with_selection(model: Checkpoint, selection: Selection) -> Checkpoint:
    """The model with the selected heads in its configuration and the selected options in its metadata."""
    model.model.set_map_heads(selection.attention.heads)
    options = {"attention": selection.attention.options}
    if selection.gradient:
        options["gradient"] = selection.gradient.options
    stored = MapOptions.as_stored(options[selection.default], *options.values())
    return replace(model, about={**model.about, "maps": stored, "maps_measured": selection.measured})
