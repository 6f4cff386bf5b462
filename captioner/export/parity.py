"""Do two backends compute the same? The largest differences over pictures, captions of each and words."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from captioner.backends.arrays import to_numpy
from captioner.backends.base import Backend, HasReranker
from captioner.errors import CheckpointError, OptionError
from captioner.image import Geometry
from captioner.tokenizer.vocabulary import SPECIAL, START

SHAPES = ((1, 1), (1, 3), (2, 1), (3, 2))
"""Pictures, and captions of each."""
TOLERANCE = 1e-3
"""A larger difference of log-probabilities is an error of the export, not of rounding."""

QUANTISED_TOLERANCE = 0.5
"""Of a model in integers of 8 bits: where rounding before it puts a number on the other side of a step, what follows
moves, on noise more than on photographs."""


@dataclass(frozen=True, kw_only=True)
class Parity:
    """The largest differences.

    Attributes:
        log_p: of log-probabilities of words, in nats, and of consensus scores where the models have a reranker.
        maps: of maps and weights off the grid.
    """

    log_p: float
    maps: float


def require_parity(found: Parity, part: str, *, remedy: str, tolerance: float | None = None) -> None:
    """Refuse an export that computes something else than torch.

    Args:
        found: how far it is from torch.
        part: what the message names: the class of the decoder or of the answerer.
        remedy: what its author would mend.
        tolerance: the largest difference that is not an error; `TOLERANCE` if None.

    Raises:
        OptionError: it is further than that, or the difference is not a number.
    """
    if not max(found.log_p, found.maps) <= (TOLERANCE if tolerance is None else tolerance):
        raise OptionError(
            f"the exported {part} computes something else than torch: "
            f"log-probabilities differ by {found.log_p:.2g}, maps by {found.maps:.2g}",
            remedy=remedy,
        )


@contextmanager
def any_size(pictures: int, rows: int) -> Iterator[None]:
    """A graph that does not compute here was written just now: it is not damaged, it takes other sizes.

    Raises:
        OptionError: that it does not take so many pictures and rows of each.
    """
    try:
        yield
    except CheckpointError as error:
        what = str(error).removesuffix(f"; {error.remedy}")
        raise OptionError(
            f"the graph does not take {pictures} pictures of {rows} rows ({what})",
            remedy="in the model's code, take sizes from tensor.shape, not from len() or int()",
        ) from None


def parity(first: Backend, second: Backend, *, words: int = 4, seed: int = 0) -> Parity:
    """Step two backends through the same words on pictures of noise, let them read captions, and compare.

    Raises:
        OptionError: a backend fails, or the shapes differ: a graph does not take any number of pictures and captions.
    """
    generator = np.random.default_rng(seed)
    log_p = maps = 0.0
    words = min(words, first.max_length)
    for pictures, rows in SHAPES:
        shape = (pictures, first.side, first.side, 3)
        pixels = generator.integers(0, 256, shape, dtype=np.uint8)
        geometry = Geometry(
            size=(4 * first.side, 3 * first.side), side=first.side, grid=first.grid_shape, pad=first.pad
        )
        tokens = np.full((words, pictures * rows), START)
        tokens[1:] = generator.integers(len(SPECIAL), len(first.vocabulary), tokens[1:].shape)
        with any_size(pictures, rows):
            found = [
                _run(backend, pixels, [geometry] * pictures, tokens, rows)
                + _read(backend, pixels, [geometry] * pictures, tokens[1:].T, rows)
                for backend in (first, second)
            ]
        for ours, theirs in zip(*found, strict=True):
            if any(a.shape != b.shape for a, b in zip(ours, theirs, strict=True)):
                raise OptionError(f"the graph returns other shapes for {pictures} pictures of {rows} captions")
            log_p = max(log_p, _difference(ours[0], theirs[0]))
            maps = max(maps, _difference(ours[1], theirs[1]), _difference(ours[2], theirs[2]))
    return Parity(log_p=log_p, maps=maps)


def _run(
    backend: Backend, pixels: np.ndarray, geometries: list[Geometry], tokens: np.ndarray, rows: int
) -> list[list[np.ndarray]]:
    """Log-probabilities, maps and weights off the grid of each step; the pictures change places in between."""
    pictures = len(pixels)
    state = backend.begin(backend.encode(pixels, geometries)).select(np.repeat(np.arange(pictures), rows))
    found = []
    for column in tokens:
        step = backend.step(column, state)
        found.append([to_numpy(array) for array in (step.log_p, step.maps, step.off_grid)])
        images = np.arange(pictures)[::-1].copy()
        state = step.state.select((images[:, None] * rows + np.arange(rows)[::-1]).ravel(), images)
    return found


def _read(
    backend: Backend, pixels: np.ndarray, geometries: list[Geometry], tokens: np.ndarray, rows: int
) -> list[list[np.ndarray]]:
    """As `_run`, of captions that are read, each a word shorter than the one before."""
    encoded = backend.encode(pixels, geometries)
    captions = [row[: max(0, len(row) - i % rows)].tolist() for i, row in enumerate(tokens)]
    grouped = [captions[i : i + rows] for i in range(0, len(captions), rows)]
    found = [[one.log_p, one.maps, one.off_grid] for some in backend.score(encoded, grouped) for one in some]
    if isinstance(backend, HasReranker) and backend.reranks:
        found += [[scores, *found[0][1:]] for scores in backend.consensus(encoded, grouped)]
    return found


def _difference(first: np.ndarray, second: np.ndarray) -> float:
    finite = np.isfinite(first)
    if not np.array_equal(finite, np.isfinite(second)):
        return float("inf")
    return float(np.abs(first[finite] - second[finite]).max(initial=0.0))
