"""Does the model need what the map shows? Deletion and insertion curves (Petsiuk et al. 2018, "RISE").

Deletion: the cells of a picture are blotted out, those first on which the word's map is strongest, and the word's
probability falls; the sooner, the more the model needed them. Insertion: from a blurred picture, the same cells are
brought back first. Each beside the same with cells in random order, on the same pictures and words.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from captioner.errors import DataError
from captioner.grounding.pointing import Figure, bootstrap_means

Floats = NDArray[np.float64]

LEVELS = (0.0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.6, 0.8, 1.0)
"""Shares of the picture's cells that are blotted out, or brought back."""


@dataclass(frozen=True, eq=False)
class Trial:
    """What became of one word: its probability at each of `LEVELS`.

    Attributes:
        picture: names the picture.
        deletion, insertion: cells in the order of the word's map.
        random_deletion, random_insertion: in random orders, the mean over them.
    """

    picture: str
    deletion: Floats
    random_deletion: Floats
    insertion: Floats
    random_insertion: Floats


@dataclass(frozen=True)
class Faithfulness:
    """Areas under the mean curves: the mean probability of the word on the way.

    Attributes:
        words, pictures: how many were tried.
        curves: the mean probability at each level, by the names of `Trial`'s curves.
        deletion, random_deletion: lower is better.
        insertion, random_insertion: higher is better.
        deletion_gain, insertion_gain: how much better than random order, word by word; above 0 is better.
    """

    words: int
    pictures: int
    curves: dict[str, list[float]]
    deletion: Figure
    random_deletion: Figure
    insertion: Figure
    random_insertion: Figure
    deletion_gain: Figure
    insertion_gain: Figure


def area(curve: Floats) -> float:
    """The area under a curve over `LEVELS`: its mean, by the trapezoid rule."""
    return float((curve[1:] + curve[:-1]) / 2 @ np.diff(LEVELS))


def summarise(trials: Sequence[Trial], *, resamples: int = 1000, seed: int = 0) -> Faithfulness:
    """The areas with their 95% intervals, from drawing pictures anew.

    Raises:
        DataError: no trials.
    """
    if not trials:
        raise DataError("no word was tried: no caption names a thing that is annotated in its picture")
    names = ("deletion", "random_deletion", "insertion", "random_insertion")
    areas = np.array([[area(getattr(trial, name)) for name in names] for trial in trials])
    gains = np.stack([areas[:, 1] - areas[:, 0], areas[:, 2] - areas[:, 3]], axis=1)
    pictures = [trial.picture for trial in trials]
    figures = bootstrap_means(np.concatenate([areas, gains], axis=1), pictures, resamples, seed)
    curves = {name: np.mean([getattr(trial, name) for trial in trials], axis=0).tolist() for name in names}
    return Faithfulness(len(trials), len(set(pictures)), curves, *figures)
