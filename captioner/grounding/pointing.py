"""Whether a noun's map lies on the object that the noun names: the pointing game and attention mass.

Two scores for each grounded noun of a caption:

- pointing: whether the peak of the map lies in the object's region (the pointing game of Zhang et al. 2016,
  "Top-down neural attention by excitation backprop", without their tolerance of 15 pixels). The peak is
  the centre of the strongest cell, in pixels of the original picture; nothing is interpolated. Where cells tie for
  the maximum, the share of them that hit counts. An object so small that no cell's centre lies on it cannot be hit;
  `PointingScore.reachable` tells.
- mass: the share of the map inside the region (the attention correctness of Liu et al. 2017, "Attention correctness
  in neural image captioning"). A cell that the region covers in part counts in part.

Each score stands beside baselines that only a map of the noun itself can beat: the maps of the other words of the
caption, the centre of the picture, where photographers place objects, and an even map.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from captioner.grounding.region import CellRegion, Floats, Region, cell_edges
from captioner.image import Geometry

BASELINES = ("another word", "centre", "even")
"""What the maps of nouns are compared with."""


@dataclass(frozen=True, eq=False, kw_only=True)
class GroundedNoun:
    """A noun of a caption, its map, and the region of the object that it names.

    Attributes:
        picture: the id of the picture; intervals resample pictures.
        category: the class of the object.
        position: of the noun among the caption's words.
        map: (h, w), the noun's.
        others: (k, h, w), the maps of the caption's words that name no object of that class.
        geometry: where the cells lie on the picture.
        region: where the objects of that class are.
    """

    picture: str
    category: str
    position: int
    map: NDArray[np.float32]
    others: NDArray[np.float32]
    geometry: Geometry
    region: Region


@dataclass(frozen=True)
class MapScore:
    """The scores of one map, or the means of several: both between 0 and 1; NaN where there is no map."""

    pointing: float
    mass: float


@dataclass(frozen=True)
class PointingScore:
    """The scores of one grounded noun.

    Attributes:
        map: of the noun's own map.
        baselines: by the names of `BASELINES`; NaN for "another word" where the caption has no other word.
        reachable: whether the centre of any cell lies in the region, so that a peak can hit it.
    """

    map: MapScore
    baselines: dict[str, MapScore]
    reachable: bool


def score_pointing(noun: GroundedNoun) -> PointingScore:
    """Score a noun's map and the baselines beside it."""
    region = CellRegion.of(noun.region, noun.geometry)
    even = region.valid / region.valid.sum()
    baselines = (noun.others, centre_map(noun.geometry)[None], even[None])
    return PointingScore(
        map=_mean_score(region, noun.map[None]),
        baselines={name: _mean_score(region, maps) for name, maps in zip(BASELINES, baselines, strict=True)},
        reachable=region.reachable,
    )


def _mean_score(region: CellRegion, maps: NDArray[np.float32] | Floats) -> MapScore:
    if not len(maps):
        return MapScore(np.nan, np.nan)
    return MapScore(
        float(np.mean([region.pointing(map_) for map_ in maps])), float(np.mean([region.mass(map_) for map_ in maps]))
    )


def centre_map(geometry: Geometry) -> Floats:
    """The map (h, w) of the picture's centre: one cell, or evenly the two or four cells that meet there."""
    x, y = cell_edges(geometry)
    tolerance = 1e-9
    across = (x[:-1] <= 0.5 + tolerance) & (x[1:] >= 0.5 - tolerance)
    down = (y[:-1] <= 0.5 + tolerance) & (y[1:] >= 0.5 - tolerance)
    cells = (down[:, None] & across).astype(np.float64)
    return np.asarray(cells / cells.sum())
