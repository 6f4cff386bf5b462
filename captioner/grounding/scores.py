"""Mean pointing and mass over many nouns, with 95% intervals, over all classes and for each."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from captioner.errors import DataError
from captioner.grounding.bootstrap import Estimate, bootstrap_means
from captioner.grounding.pointing import BASELINES, GroundedNoun, PointingScore
from captioner.metrics.resampling import MINIMUM_PICTURES


@dataclass(frozen=True)
class ScoreEstimate:
    """Mean pointing and mass, with their intervals."""

    pointing: Estimate
    mass: Estimate


@dataclass(frozen=True)
class GroundingScores:
    """What a set of grounded nouns scores on average; each noun has the same weight.

    Attributes:
        nouns, pictures: how many there are.
        maps: of the nouns' own maps.
        baselines: by the names of `captioner.grounding.pointing.BASELINES`; NaN for "another word" where no caption
            has another word.
        reachable: the share of nouns whose region contains the centre of a cell: the highest possible pointing.
    """

    nouns: int
    pictures: int
    maps: ScoreEstimate
    baselines: dict[str, ScoreEstimate]
    reachable: float

    @cached_property
    def best_baseline(self) -> str:
        """The baseline that points best."""
        return max(BASELINES, key=lambda name: np.nan_to_num(self.baselines[name].pointing.value, nan=-1.0))

    @property
    def beats_baselines(self) -> bool:
        """Whether the interval of the maps' pointing lies above those of all baselines.

        False for fewer than `captioner.metrics.resampling.MINIMUM_PICTURES` pictures.
        """
        if self.pictures < MINIMUM_PICTURES:
            return False
        low = self.maps.pointing.interval.low
        pointing = [baseline.pointing for baseline in self.baselines.values()]
        return all(low > baseline.interval.high for baseline in pointing if baseline.value >= 0)


def average_scores(
    nouns: Sequence[GroundedNoun], scores: Sequence[PointingScore], *, resamples: int = 1000, seed: int = 0
) -> tuple[GroundingScores, dict[str, GroundingScores]]:
    """The mean scores of all nouns, and of each class, the most frequent class first.

    Args:
        nouns: the nouns.
        scores: of each noun.
        resamples, seed: of the bootstrap; see `captioner.grounding.bootstrap.bootstrap_means`.

    Raises:
        DataError: there is no noun.
        OptionError: ``resamples`` below 1.
    """
    if not nouns:
        raise DataError(
            "no caption names an object that is annotated in its picture: there is nothing to measure",
            remedy="use more pictures, or annotations of more classes",
        )
    by_class: dict[str, list[int]] = {}
    for i, noun in enumerate(nouns):
        by_class.setdefault(noun.category, []).append(i)
    order = sorted(by_class, key=lambda category: -len(by_class[category]))

    def mean_of(indices: Sequence[int]) -> GroundingScores:
        return _average([nouns[i].picture for i in indices], [scores[i] for i in indices], resamples, seed)

    return mean_of(range(len(nouns))), {category: mean_of(by_class[category]) for category in order}


def _average(pictures: list[str], scores: list[PointingScore], resamples: int, seed: int) -> GroundingScores:
    by_map = [[score.map, *(score.baselines[name] for name in BASELINES)] for score in scores]
    pointing = np.array([[score.pointing for score in row] for row in by_map])  # (nouns, 1 + baselines)
    mass = np.array([[score.mass for score in row] for row in by_map])
    maps, *baselines = (
        ScoreEstimate(*both)
        for both in zip(
            bootstrap_means(pointing, pictures, resamples, seed),
            bootstrap_means(mass, pictures, resamples, seed),
            strict=True,
        )
    )
    return GroundingScores(
        nouns=len(scores),
        pictures=len(set(pictures)),
        maps=maps,
        baselines=dict(zip(BASELINES, baselines, strict=True)),
        reachable=float(np.mean([score.reachable for score in scores])),
    )
