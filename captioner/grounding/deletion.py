"""Whether the model needs what the map shows: deletion and insertion curves (Petsiuk et al. 2018, "RISE").

Deletion: the cells of a picture are occluded, those first where the word's map is strongest, and the probability of
the word falls; the faster, the better the map shows what the model uses. Insertion: the same cells are restored first
on a blurred picture. Each stands beside the same curve for cells in random order, on the same pictures and words.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from captioner.backends.base import HasFineMaps
from captioner.errors import DataError
from captioner.explain.occlusion import blurred, mean_colour, occlude, orders_of
from captioner.grounding.bootstrap import Estimate, bootstrap_means
from captioner.tokenizer.vocabulary import SPECIAL

if TYPE_CHECKING:
    from captioner.grounding.grounded import GroundedCaption
    from captioner.pipeline import Captioner

Floats = NDArray[np.float64]

LEVELS = (0.0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.6, 0.8, 1.0)
"""Shares of the picture's cells that are occluded or restored: L levels."""

_RANDOM_ORDERS = 2


@dataclass(frozen=True, eq=False, kw_only=True)
class DeletionCurves:
    """The probability of one word at each of `LEVELS`, (L,) each.

    Attributes:
        picture: the id of the picture.
        deletion, insertion: cells in the order of the word's map.
        random_deletion, random_insertion: cells in random order, the mean over several orders.
    """

    picture: str
    deletion: Floats
    random_deletion: Floats
    insertion: Floats
    random_insertion: Floats


@dataclass(frozen=True, kw_only=True)
class Faithfulness:
    """Mean areas under the curves of many words: the mean probability of the word along the curve.

    Attributes:
        words, pictures: how many were measured.
        curves: the mean probability at each level, by the names of `DeletionCurves`.
        deletion, random_deletion: lower is better.
        insertion, random_insertion: higher is better.
        deletion_gain, insertion_gain: the improvement over random order, paired by word; above 0 is better.
    """

    words: int
    pictures: int
    curves: dict[str, list[float]]
    deletion: Estimate
    random_deletion: Estimate
    insertion: Estimate
    random_insertion: Estimate
    deletion_gain: Estimate
    insertion_gain: Estimate


def deletion_curves(model: "Captioner", grounded: "GroundedCaption", *, seed: int = 0) -> list[DeletionCurves]:
    """The curves of the grounded nouns of a caption; words that the model does not know are left out.

    Args:
        model: that generated or read the caption.
        grounded: the caption; its picture is opened again.
        seed: of the random orders, which the words of a caption share.

    Raises:
        ImageError: the picture does not open.
    """
    if not grounded.nouns:
        return []
    prepared = model.prepare(grounded.caption.source)
    # What is covered are the grid's cells: less than one would hide nothing from the encoder.
    scale = model.backend.map_scale if isinstance(model.backend, HasFineMaps) else 1
    rows, columns = (side // scale for side in prepared.geometry.grid)
    pixels, geometry = prepared.pixels, replace(prepared.geometry, grid=(rows, columns))
    random = np.random.default_rng((seed, *grounded.record.id.encode("utf-8", "surrogateescape")))
    counts = [round(level * int(geometry.mask.sum())) for level in LEVELS]
    orders: list[Floats] = [random.random(geometry.grid) for _ in range(_RANDOM_ORDERS)]
    for noun in grounded.nouns:
        # Ties are broken at random, or an uninformative map would begin at the top left.
        of_cells = noun.map.astype(np.float64).reshape(rows, scale, columns, scale).sum((1, 3))
        orders.append(of_cells + 1e-12 * random.random(geometry.grid))
    filled, blurry = mean_colour(pixels, geometry), blurred(pixels, geometry)
    # The first and the last level are the same in every order: each is encoded once.
    variants = [pixels, filled, blurry]
    for order in orders:
        levels = orders_of(np.where(geometry.mask, order, -np.inf), counts)[1:-1]
        variants += [occlude(pixels, filled, cells) for cells in levels]
        variants += [occlude(blurry, pixels, cells) for cells in levels]
    ids = model.vocabulary.encode_made([word.text for word in grounded.caption.words])
    log_p = model.log_probabilities(variants, geometry, [ids])  # (V, 1, words + 1), the last of the end
    probabilities = np.exp(log_p[:, 0, :-1].astype(np.float64))
    p = np.empty((2, len(orders), len(LEVELS), len(ids)))  # deletion and insertion, order, level, word
    p[0, :, 0], p[0, :, -1] = probabilities[0], probabilities[1]
    p[1, :, 0], p[1, :, -1] = probabilities[2], probabilities[0]
    p[:, :, 1:-1] = probabilities[3:].reshape(len(orders), 2, -1, len(ids)).swapaxes(0, 1)
    by_chance = p[:, :_RANDOM_ORDERS].mean(1)  # (2, L, words)
    return [
        DeletionCurves(
            picture=grounded.record.id,
            deletion=p[0, _RANDOM_ORDERS + i, :, noun.position],
            random_deletion=by_chance[0, :, noun.position],
            insertion=p[1, _RANDOM_ORDERS + i, :, noun.position],
            random_insertion=by_chance[1, :, noun.position],
        )
        for i, noun in enumerate(grounded.nouns)
        if ids[noun.position] >= len(SPECIAL)  # a word outside the vocabulary has no probability
    ]


def area_under(curve: Floats) -> float:
    """The area under a curve (L,) over `LEVELS`, by the trapezoid rule; of a constant curve its value."""
    return float((curve[1:] + curve[:-1]) / 2 @ np.diff(LEVELS))


def summarise(curves: Sequence[DeletionCurves], *, resamples: int = 1000, seed: int = 0) -> Faithfulness:
    """The mean areas of many words with 95% intervals; see `captioner.grounding.bootstrap.bootstrap_means`.

    Raises:
        DataError: there is no curve.
        OptionError: ``resamples`` below 1.
    """
    if not curves:
        raise DataError(
            "no caption has a noun that the model knows and whose object is annotated: there is no curve",
            remedy="use more pictures",
        )
    names = ("deletion", "random_deletion", "insertion", "random_insertion")
    areas = np.array([[area_under(getattr(each, name)) for name in names] for each in curves])
    gains = np.stack([areas[:, 1] - areas[:, 0], areas[:, 2] - areas[:, 3]], axis=1)
    pictures = [each.picture for each in curves]
    estimates = bootstrap_means(np.concatenate([areas, gains], axis=1), pictures, resamples, seed)
    return Faithfulness(
        words=len(curves),
        pictures=len(set(pictures)),
        curves={name: np.mean([getattr(each, name) for each in curves], axis=0).tolist() for name in names},
        **dict(zip((*names, "deletion_gain", "insertion_gain"), estimates, strict=True)),
    )
