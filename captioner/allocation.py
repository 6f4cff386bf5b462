"""How a beam shares out its places: among hypotheses with more or fewer required words, and among diverse groups.

Hypotheses that hold a required word early are less likely than those that do not, and a plain beam would drop them.
So the places of a step are shared out evenly among banks, one for each number of words that are still missing (dynamic
beam allocation, Post and Vilar 2018). In diverse beam search (Vijayakumar et al. 2016) groups choose one after the
other, and a word costs more the more often the groups before have just chosen it (Hamming diversity).
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from captioner.backends.arrays import picked, top_k
from captioner.constraints import Constraints
from captioner.options import Beam

_Floats = NDArray[np.float32]
_Ints = NDArray[np.int64]
_DEAD = np.float32(-np.inf)


class Allocation:
    """Chooses the continuations that a step of a beam keeps.

    Args:
        options: of the search.
        constraints: with the required words; None where there are none.
    """

    def __init__(self, options: Beam, constraints: Constraints | None) -> None:
        self.options = options
        self.constraints = constraints if constraints is not None and len(constraints.words) else None
        self.places = options.width // options.diverse_groups  # of a group

    def choose(
        self, log_p: Any, totals: _Floats, states: _Ints, groups: _Ints, images: int
    ) -> tuple[_Floats, _Ints, _Ints]:
        """The continuations of P pictures with R rows each.

        Args:
            log_p: (P * R, V) of the next words; -inf where one is forbidden.
            totals: (P * R,) of the rows; -inf for a row that has ended.
            states: (P * R,) of the constraints.
            groups: (P * R,) the diverse group of each row.
            images: P.

        Returns:
            Log-probabilities, rows and words, (P, width) each, the places of each group together; -inf where a place
            is left empty.
        """
        found, words = self._candidates(log_p)  # (P * R, C)
        value = totals[:, None] + found
        missing = np.zeros_like(words)
        if self.constraints is not None:
            missing = self.constraints.missing_after(states[:, None], words)
        rows = np.repeat(np.arange(len(totals)), words.shape[1]).reshape(images, -1)
        value, words = value.reshape(images, -1), words.reshape(images, -1)  # (P, R * C)
        missing, group = missing.reshape(images, -1), groups[rows]
        total = np.full((images, self.options.width), _DEAD, dtype=np.float32)
        source, word = (np.zeros(total.shape, dtype=np.int64) for _ in range(2))
        for image in range(images):
            for one, chosen in enumerate(self._of_image(value[image], words[image], missing[image], group[image])):
                places = slice(one * self.places, one * self.places + len(chosen))
                total[image, places] = value[image, chosen]
                source[image, places] = rows[image, chosen]
                word[image, places] = words[image, chosen]
        return total, source, word

    def _candidates(self, log_p: Any) -> tuple[_Floats, _Ints]:
        """The words of each row that may be chosen: the ``width`` likeliest, and all required ones.

        No group takes more than ``places``, and those before it make at most ``width - places`` words less likely; so
        nothing else can be among its best.
        """
        found, words = top_k(log_p, min(self.options.width, log_p.shape[1]))
        if self.constraints is None:
            return found, words
        required = np.tile(self.constraints.words, (len(words), 1))  # (N, A)
        rows = np.repeat(np.arange(len(words)), required.shape[1])
        more = picked(log_p, rows, required.ravel()).reshape(required.shape)
        there = (required[:, :, None] == words[:, None, :]).any(2)
        return np.concatenate((found, np.where(there, _DEAD, more)), 1), np.concatenate((words, required), 1)

    def _of_image(self, value: _Floats, words: _Ints, missing: _Ints, group: _Ints) -> list[_Ints]:
        """For each group, the candidates (C,) of one picture that it keeps, by their places."""
        chosen: list[_Ints] = []
        for one in range(self.options.diverse_groups):
            own = np.flatnonzero((group == one) & (value > _DEAD) | np.isnan(value))
            taken = words[np.concatenate(chosen)] if chosen else words[:0]
            often = (words[own, None] == taken[None]).sum(1)
            likeliest = own[np.argsort(-(value[own] - self.options.diversity * often), kind="stable")]
            chosen.append(share_out(likeliest, missing[likeliest], self.places))
        return chosen


def share_out(candidates: _Ints, missing: _Ints, places: int) -> _Ints:
    """The candidates that get a place.

    Each bank of candidates with as many missing words gets as many places as the others. The rest of the division, and
    the places that a bank leaves empty, go to the banks with the fewest missing words.

    Args:
        candidates: (C,), the best first.
        missing: (C,) required words that they still miss.
        places: how many.

    Returns:
        At most ``places`` of the candidates, in their order.
    """
    if len(candidates) <= places:
        return candidates
    banks, bank = np.unique(missing, return_inverse=True)
    there = np.bincount(bank)
    taken = np.minimum(there, places // len(banks))
    for i in range(len(banks)):
        taken[i] += min(there[i] - taken[i], places - taken.sum())
    by_bank = np.argsort(bank, kind="stable")
    rank = np.empty_like(by_bank)  # of each candidate within its bank
    rank[by_bank] = np.arange(len(bank)) - (np.cumsum(there) - there)[bank[by_bank]]
    kept: _Ints = candidates[rank < taken[bank]]
    return kept
