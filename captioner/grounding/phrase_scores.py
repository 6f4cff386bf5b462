"""Whether the maps of a phrase lie in the phrase's boxes: four measures, each beside the same baselines.

The map of a phrase is that of its head, its last content word: what a reader sees who points at the word.

- pointing: whether the map's peak lies in any of the boxes; see `captioner.grounding.pointing`.
- mass: the share of the map in the union of the boxes; what went off the grid is not there.
- box: whether the box around the map's half-maximum region overlaps one of the phrase's boxes with an intersection over
  union above 0.5. The region is the cells of at least half the maximum that hang together with the strongest one.
  Zhou et al. 2019, "Grounded Video Description", count the boxes of captions that are read so (the best of the phrase's
  boxes, above 0.5); their boxes are a detector's proposals, and their mean is one over classes of words.
- correctness: the attention correctness of Liu et al. 2017, "Attention Correctness in Neural Image Captioning": the
  share of the attention that lies in the boxes, of the word of the phrase where it is largest; each word's attention
  sums to 1 over the picture, whatever went off the grid. The baseline of another word is then the largest of as many
  other words as the phrase has, on average over all such choices.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import comb

import numpy as np
from numpy.typing import NDArray

from captioner.data.readers.entities import PHRASE_TYPES
from captioner.errors import DataError
from captioner.grounding.bootstrap import Estimate, bootstrap_means
from captioner.grounding.phrases import CaptionPhrase
from captioner.grounding.pointing import BASELINES, centre_map
from captioner.grounding.region import CellRegion, Floats, Region, cell_edges
from captioner.image import Box, Geometry
from captioner.metrics.resampling import MINIMUM_PICTURES
from captioner.results import Caption
from captioner.tokenizer.function_words import is_function_word

MEASURES = ("pointing", "mass", "box", "correctness")
WORD_CLASSES = ("things", "attributes", "function words", "other words")
"""Heads of phrases with boxes; their other content words; function words; verbs and all else."""

_CORRECTNESS = MEASURES.index("correctness")
_OVERLAP = 0.5
_Map = Floats | NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class PhraseScore:
    """The scores of one phrase.

    Attributes:
        picture: the picture's id; intervals resample pictures.
        types: of the phrase, of `PHRASE_TYPES`.
        values: (`MEASURES`, 1 + `BASELINES`), of its own map, then of the baselines; NaN where there is no map.
        reachable: whether the centre of any cell lies in a box, so that a peak can hit it.
    """

    picture: str
    types: tuple[str, ...]
    values: Floats
    reachable: bool


def score_phrases(caption: Caption, phrases: Sequence[CaptionPhrase], picture: str) -> list[PhraseScore]:
    """The scores of the phrases of a caption that have boxes.

    Args:
        caption: with its maps.
        phrases: of the caption; their places count its words.
        picture: the picture's id.
    """
    geometry = caption.geometry
    maps = caption.maps
    boxes = [half_maximum_box(one, geometry) for one in maps]
    baselines = (centre_map(geometry), geometry.mask / geometry.mask.sum())
    fixed = [(map_, half_maximum_box(map_, geometry)) for map_ in baselines]
    found = []
    for phrase in phrases:
        if not phrase.boxes or phrase.head >= len(maps):
            continue
        region = CellRegion.of(Region.of_boxes(phrase.boxes), geometry)
        same = {place for other in phrases if other.entity == phrase.entity for place in other.words}
        others = [i for i in range(len(maps)) if i not in same]

        own = _values([(maps[phrase.head], boxes[phrase.head])], region, phrase.boxes)
        words = [_correctness(maps[i], region) for i in phrase.words if i < len(maps)]
        own[_CORRECTNESS] = max(words)
        another = _values([(maps[i], boxes[i]) for i in others], region, phrase.boxes)
        another[_CORRECTNESS] = expected_maximum([_correctness(maps[i], region) for i in others], len(words))
        columns = [
            own,
            another,
            *(_values([one], region, phrase.boxes) for one in fixed),
        ]
        types = tuple(type_ for type_ in phrase.types if type_ in PHRASE_TYPES) or ("other",)
        found.append(PhraseScore(picture, types, np.stack(columns, 1), region.reachable))
    return found


def _values(maps: Sequence[tuple[_Map, Box]], region: CellRegion, boxes: Sequence[Box]) -> Floats:
    """The mean of `MEASURES` over maps, each with the box around its half-maximum region; NaN without maps."""
    rows = [
        (region.pointing(map_), region.mass(map_), overlaps(box, boxes), _correctness(map_, region))
        for map_, box in maps
    ]
    return np.asarray(np.mean(rows, axis=0)) if rows else np.full(len(MEASURES), np.nan)


def _correctness(map_: _Map, region: CellRegion) -> float:
    return region.mass(map_) / max(float(map_.sum()), 1e-9)


def expected_maximum(values: Sequence[float], count: int) -> float:
    """The largest of ``count`` of the values, or of all if they are fewer, on average over all choices of so many.

    NaN without values.
    """
    n, k = len(values), min(count, len(values))
    if not n:
        return float("nan")
    return sum(value * comb(i, k - 1) for i, value in enumerate(sorted(values))) / comb(n, k)


def half_maximum_box(map_: _Map, geometry: Geometry) -> Box:
    """The box around the cells that hang together with the strongest one and have at least half its weight.

    Args:
        map_: (h, w).
        geometry: where the cells lie on the picture.

    Returns:
        (left, top, right, bottom) in fractions of the picture.
    """
    valid = geometry.mask
    most = map_.max(where=valid, initial=0)
    high = (map_ >= most / 2) & valid
    region = (map_ >= most) & valid
    region[:] &= np.arange(region.size).reshape(region.shape) == np.argmax(region)  # one of those that tie
    while True:  # neighbours by an edge
        grown = region.copy()
        grown[1:] |= region[:-1]
        grown[:-1] |= region[1:]
        grown[:, 1:] |= region[:, :-1]
        grown[:, :-1] |= region[:, 1:]
        grown &= high
        if (grown == region).all():
            break
        region = grown
    rows, columns = np.flatnonzero(region.any(1)), np.flatnonzero(region.any(0))
    x, y = cell_edges(geometry)
    return float(x[columns[0]]), float(y[rows[0]]), float(x[columns[-1] + 1]), float(y[rows[-1] + 1])


def overlaps(box: Box, boxes: Sequence[Box]) -> bool:
    """Whether the intersection over union of the box with any of the others is above 0.5."""
    return any(_iou(box, other) > _OVERLAP for other in boxes)


def _iou(a: Box, b: Box) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    both = max(width, 0.0) * max(height, 0.0)
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both
    return both / union if union > 0 else 0.0


def off_grid_by_class(caption: Caption, phrases: Sequence[CaptionPhrase]) -> list[tuple[str, float]]:
    """Each word's class, of `WORD_CLASSES`, and its weight off the grid."""
    boxed = [phrase for phrase in phrases if phrase.boxes]
    heads = {phrase.head for phrase in boxed}
    attributes = {place for phrase in boxed for place in phrase.positions} - heads
    return [
        (
            "things"
            if i in heads
            else "attributes"
            if i in attributes
            else "function words"
            if is_function_word(word.text)
            else "other words",
            word.off_grid,
        )
        for i, word in enumerate(caption.words)
    ]


@dataclass(frozen=True)
class PhraseScores:
    """The mean scores of phrases; each phrase has the same weight.

    Attributes:
        phrases, pictures: how many there are.
        measures: by the names of `MEASURES`, the estimates of "maps" and of `BASELINES`.
        reachable: the share of phrases whose boxes contain the centre of a cell: the highest possible pointing.
    """

    phrases: int
    pictures: int
    measures: Mapping[str, Mapping[str, Estimate]]
    reachable: float

    @cached_property
    def beats_baselines(self) -> bool:
        """Whether the interval of the maps' pointing lies above those of all baselines; False for few pictures."""
        pointing = self.measures["pointing"]
        return self.pictures >= MINIMUM_PICTURES and all(
            pointing["maps"].interval.low > pointing[name].interval.high
            for name in BASELINES
            if pointing[name].value >= 0
        )


def average_phrases(
    scores: Sequence[PhraseScore], *, resamples: int = 1000, seed: int = 0
) -> tuple[PhraseScores, dict[str, PhraseScores]]:
    """The mean scores of all phrases and of each type; a phrase of two types counts in both.

    Raises:
        DataError: there is no phrase.
        OptionError: ``resamples`` below 1.
    """
    if not scores:
        raise DataError("no caption has a phrase with boxes: there is nothing to measure", remedy="use other pictures")
    by_type = {name: [score for score in scores if name in score.types] for name in PHRASE_TYPES}
    return _average(scores, resamples, seed), {
        name: _average(some, resamples, seed) for name, some in by_type.items() if some
    }


def _average(scores: Sequence[PhraseScore], resamples: int, seed: int) -> PhraseScores:
    pictures = [score.picture for score in scores]
    values = np.stack([score.values for score in scores])  # (phrases, measures, maps)
    estimates = iter(bootstrap_means(values.reshape(len(values), -1), pictures, resamples, seed))
    measures = {name: {map_: next(estimates) for map_ in ("maps", *BASELINES)} for name in MEASURES}
    reachable = float(np.mean([score.reachable for score in scores]))
    return PhraseScores(len(scores), len(set(pictures)), measures, reachable)


def average_off_grid(
    words: Sequence[tuple[str, str, float]], *, resamples: int = 1000, seed: int = 0
) -> dict[str, tuple[int, int, Estimate]]:
    """The number of words of each class, the number of their pictures, and their mean weight off the grid.

    Args:
        words: picture, class and weight of each.
        resamples, seed: of the bootstrap.
    """
    found = {}
    for name in WORD_CLASSES:
        some = [(picture, weight) for picture, class_, weight in words if class_ == name]
        if some:
            values = np.array([[weight] for _, weight in some])
            pictures = [picture for picture, _ in some]
            found[name] = len(some), len(set(pictures)), bootstrap_means(values, pictures, resamples, seed)[0]
    return found
