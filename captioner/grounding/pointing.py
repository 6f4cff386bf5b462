"""Are the maps true? How often a word's map peaks on the thing that it names, and how much of it lies there.

Two figures, for every pair of a caption and a noun in it:

- pointing: whether the map's peak falls on the thing (the pointing game of Zhang et al. 2016, "Top-down neural
  attention by excitation backprop", without their tolerance). The peak is the centre of the strongest cell, in
  original pixels; nothing is interpolated. Where cells share the maximum, the share of them that hit counts. A
  thing so small that no cell's centre lies on it cannot be hit: `Shares.reachable` says how many can.
- mass: the share of the map that lies on the thing; a cell that the thing covers in part counts in part.

Both stand beside baselines that can only be beaten by looking: an even map; the middle of the picture, where
photographers put things; and the maps of the other words of the same caption, which show whether the map is the
noun's own. Intervals are Efron's bootstrap over pictures, percentiles.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from captioner.errors import DataError, OptionError
from captioner.image import Box, Geometry
from captioner.metrics.resampling import Interval

Floats = NDArray[np.float64]

FEWEST_PICTURES = 10
"""Drawing fewer pictures anew says nothing of how sure a figure is: one picture has an interval without width."""

RIVALS = ("maps", "another word", "centre", "even")
"""What is measured: the maps, then the baselines."""


class Region:
    """A part of a picture, in fractions of it: the union of boxes, or a mask.

    Held as rectangles of which each is inside or not, between ``x`` edges and ``y`` edges.
    """

    def __init__(self, x: Floats, y: Floats, inside: NDArray[np.bool_]) -> None:
        self.x, self.y, self.inside = x, y, inside

    @classmethod
    def of_boxes(cls, boxes: Iterable[Box]) -> "Region":
        """The union of boxes (left, top, right, bottom)."""
        some = np.asarray(list(boxes), dtype=np.float64).reshape(-1, 4).clip(0, 1)
        x = np.unique(np.concatenate(([0.0, 1.0], some[:, 0], some[:, 2])))
        y = np.unique(np.concatenate(([0.0, 1.0], some[:, 1], some[:, 3])))
        across = (some[:, 0, None] <= x[:-1]) & (x[1:] <= some[:, 2, None])  # (boxes, columns)
        down = (some[:, 1, None] <= y[:-1]) & (y[1:] <= some[:, 3, None])
        return cls(x, y, np.asarray((down[:, :, None] & across[:, None]).any(0)))

    @classmethod
    def of_mask(cls, mask: NDArray[np.bool_]) -> "Region":
        """True pixels of a mask (height, width) of the whole picture, at any size."""
        height, width = mask.shape
        return cls(np.linspace(0, 1, width + 1), np.linspace(0, 1, height + 1), np.asarray(mask, dtype=np.bool_))

    @property
    def area(self) -> float:
        """The share of the picture that it covers."""
        return float(np.diff(self.y) @ self.inside @ np.diff(self.x))

    def contains(self, x: Floats, y: Floats) -> NDArray[np.bool_]:
        """Whether points, in fractions of the picture, lie in it, (len(y), len(x)); edges belong to it."""
        bordered = np.pad(self.inside, 1)  # so that -1 and one too many are outside
        columns = [np.searchsorted(self.x, x, side) for side in ("left", "right")]
        rows = [np.searchsorted(self.y, y, side) for side in ("left", "right")]
        found = [bordered[row[:, None], column] for row in rows for column in columns]
        return np.asarray(np.logical_or.reduce(found))

    def shares(self, geometry: Geometry) -> Floats:
        """How much of each cell's piece of picture it covers, (h, w); 0 where a cell holds no picture."""
        x, y = _edges(geometry)
        total = np.zeros((len(self.y), len(self.x)))
        total[1:, 1:] = (np.diff(self.y)[:, None] * self.inside * np.diff(self.x)).cumsum(0).cumsum(1)
        # The area left of and above each corner of a cell; between edges it grows linearly along each axis.
        along = np.stack([np.interp(x, self.x, row) for row in total])
        corner = np.stack([np.interp(y, self.y, column) for column in along.T], axis=1)
        covered = np.diff(np.diff(corner, axis=0), axis=1)
        whole = np.diff(y)[:, None] * np.diff(x)
        return np.divide(covered, whole, out=np.zeros_like(covered), where=whole > 0)


def _edges(geometry: Geometry) -> tuple[Floats, Floats]:
    """The edges of columns and of rows, in fractions of the picture; cells beyond it have no width."""
    rows, columns = geometry.grid
    width, height = geometry.content
    x = np.minimum(np.arange(columns + 1) * geometry.side / (columns * width), 1.0)
    y = np.minimum(np.arange(rows + 1) * geometry.side / (rows * height), 1.0)
    return x, y


@dataclass(frozen=True, eq=False)
class Mention:
    """A noun of a caption, with its map and the thing that it names.

    Attributes:
        picture: names the picture; intervals come from drawing pictures anew.
        category: the class of the thing.
        map: (h, w), the noun's.
        others: (k, h, w), of the caption's words that name nothing of that class.
        geometry: where the cells lie.
        region: where the things of that class are.
    """

    picture: str
    category: str
    map: NDArray[np.float32]
    others: NDArray[np.float32]
    geometry: Geometry
    region: Region


@dataclass(frozen=True)
class Aim:
    """What one mention scored: (pointing, mass) of each of `RIVALS`, NaN where there is no other word."""

    pointing: tuple[float, ...]
    mass: tuple[float, ...]
    reachable: bool


@dataclass(frozen=True, eq=False)
class Target:
    """A region as the cells of a grid see it.

    Attributes:
        hits: (h, w), whether the centre of each cell's piece of picture lies in the region.
        shares: (h, w), how much of that piece the region covers.
        valid: (h, w), which cells hold picture.
    """

    hits: NDArray[np.bool_]
    shares: Floats
    valid: NDArray[np.bool_]

    @classmethod
    def of(cls, region: Region, geometry: Geometry) -> "Target":
        """The region under a geometry."""
        x, y = _edges(geometry)
        hits = region.contains((x[1:] + x[:-1]) / 2, (y[1:] + y[:-1]) / 2) & geometry.mask
        return cls(hits, region.shares(geometry), geometry.mask)

    def pointing(self, map_: NDArray[np.floating[Any]]) -> float:
        """Whether the peak of a map (h, w) hits; where cells share the maximum, the share of them that do."""
        peak = (map_ == map_.max(where=self.valid, initial=-np.inf)) & self.valid
        return float(self.hits[peak].mean())

    def mass(self, map_: NDArray[np.floating[Any]]) -> float:
        """The share of a map (h, w) that lies in the region."""
        return float((map_ * self.shares).sum())


def aim(mention: Mention) -> Aim:
    """Score one mention, and the baselines beside it."""
    target = Target.of(mention.region, mention.geometry)
    even = target.valid / target.valid.sum()
    rivals = [mention.map[None], mention.others, _centre(mention.geometry)[None], even[None]]
    return Aim(
        tuple(float(np.mean([target.pointing(m) for m in maps])) if len(maps) else np.nan for maps in rivals),
        tuple(float(np.mean([target.mass(m) for m in maps])) if len(maps) else np.nan for maps in rivals),
        bool(target.hits.any()),
    )


def _centre(geometry: Geometry) -> Floats:
    """The map that looks at the middle of the picture: at one cell, or evenly at the two or four that meet there."""
    x, y = _edges(geometry)
    near = 1e-9
    across = (x[:-1] <= 0.5 + near) & (x[1:] >= 0.5 - near)
    down = (y[:-1] <= 0.5 + near) & (y[1:] >= 0.5 - near)
    cells = (down[:, None] & across).astype(np.float64)
    return np.asarray(cells / cells.sum())


@dataclass(frozen=True)
class Figure:
    """A mean and its 95% interval."""

    value: float
    interval: Interval


@dataclass(frozen=True)
class Shares:
    """What some mentions score on average.

    Attributes:
        mentions, pictures: how many there are.
        pointing, mass: by the names of `RIVALS`; NaN for "another word" where no caption has one.
        reachable: the share of mentions whose thing has a cell's centre on it: the highest possible pointing.
    """

    mentions: int
    pictures: int
    pointing: dict[str, Figure]
    mass: dict[str, Figure]
    reachable: float

    @cached_property
    def best_baseline(self) -> str:
        """The baseline that points best."""
        return max(RIVALS[1:], key=lambda name: np.nan_to_num(self.pointing[name].value, nan=-1.0))

    @property
    def beats_baselines(self) -> bool:
        """Whether the interval of the maps' pointing lies above those of all baselines, on enough pictures to say."""
        if self.pictures < FEWEST_PICTURES:
            return False
        low = self.pointing["maps"].interval.low
        return all(low > self.pointing[name].interval.high for name in RIVALS[1:] if self.pointing[name].value >= 0)


def average(
    mentions: Sequence[Mention], aims: Sequence[Aim], *, resamples: int = 1000, seed: int = 0
) -> tuple[Shares, dict[str, Shares]]:
    """The figures of all mentions, and those of each class, the most frequent first.

    Each mention weighs the same; pictures are drawn anew with all their mentions.

    Raises:
        DataError: no mentions.
        OptionError: resamples below 1.
    """
    if resamples < 1:
        raise OptionError(f"resamples must be at least 1, not {resamples}")
    if not mentions:
        raise DataError("no caption names a thing that is annotated in its picture: there is nothing to measure")
    by_class: dict[str, list[int]] = {}
    for i, mention in enumerate(mentions):
        by_class.setdefault(mention.category, []).append(i)
    order = sorted(by_class, key=lambda category: -len(by_class[category]))

    def of(places: Sequence[int]) -> Shares:
        pictures = [mentions[i].picture for i in places]
        pointing = bootstrap_means(np.array([aims[i].pointing for i in places]), pictures, resamples, seed)
        mass = bootstrap_means(np.array([aims[i].mass for i in places]), pictures, resamples, seed)
        return Shares(
            mentions=len(places),
            pictures=len(set(pictures)),
            pointing=dict(zip(RIVALS, pointing, strict=True)),
            mass=dict(zip(RIVALS, mass, strict=True)),
            reachable=float(np.mean([aims[i].reachable for i in places])),
        )

    return of(range(len(mentions))), {category: of(by_class[category]) for category in order}


def bootstrap_means(values: Floats, pictures: Sequence[str], resamples: int = 1000, seed: int = 0) -> list[Figure]:
    """The mean of each column of (M, K) with its 95% interval; NaN are left out.

    Args:
        values: a row for each mention.
        pictures: of which picture each row is; rows of a picture are drawn together.
        resamples: how often pictures are drawn anew.
        seed: of the drawing.
    """
    _, place = np.unique(np.asarray(pictures), return_inverse=True)
    known = np.isfinite(values)
    groups = place.max() + 1
    sums, counts = np.zeros((groups, values.shape[1])), np.zeros((groups, values.shape[1]))
    np.add.at(sums, place, np.where(known, values, 0))
    np.add.at(counts, place, known)
    random = np.random.default_rng(seed)
    times = np.stack([np.bincount(random.integers(groups, size=groups), minlength=groups) for _ in range(resamples)])
    with np.errstate(invalid="ignore"):
        means = sums.sum(0) / counts.sum(0)
        drawn = (times @ sums) / (times @ counts)  # (resamples, K)
    figures = []
    for value, column in zip(means.tolist(), drawn.T, strict=True):
        there = column[np.isfinite(column)]
        low, high = np.quantile(there, [0.025, 0.975]).tolist() if len(there) else (np.nan, np.nan)
        figures.append(Figure(value, Interval(low, high)))
    return figures
