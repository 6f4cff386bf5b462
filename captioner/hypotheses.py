"""Hypotheses that grow word by word, for any search: their rows, their records, and what is read back from them."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from captioner.backends.arrays import picked, to_numpy
from captioner.backends.base import Backend, Encoded, State
from captioner.constraints import Constraints, forbid
from captioner.errors import CheckpointError
from captioner.options import Beam, Greedy
from captioner.tokenizer.vocabulary import END, START

DEAD = np.float32(-np.inf)
"""The log-probability of a row that has ended."""
_MOST_COPIED = 0.75
"""Pictures that have ended leave a batch once at most this share of it goes on: copying the grids of those that go on
costs more than some steps of those that have ended."""
_Floats = NDArray[np.float32]
_Ints = NDArray[np.int64]
_NONE: _Ints = np.zeros(0, dtype=np.int64)


@dataclass(frozen=True, eq=False)
class Hypothesis:
    """A caption in ids, and where each of its words attended.

    Attributes:
        tokens: the words' ids, without start and end.
        probabilities: of each word, given those before it.
        maps: (n, h, w) float32 for n words; with ``off_grid`` each sums to 1.
        off_grid: (n,) float32, the weight off the grid.
        score: the length-normalised log-probability of the words that were chosen; see `captioner.options.Beam`.
        finished: False where the length limit cut the caption off.
        given: how many words at its beginning were given and not chosen; their log-probabilities are not in the score.
        end_map: (h, w), where the step after the last word attended, and ``end_off_grid`` its weight off the grid; None
            where the words are of several pieces.
    """

    tokens: tuple[int, ...]
    probabilities: tuple[float, ...]
    maps: _Floats
    off_grid: _Floats
    score: float
    finished: bool
    given: int = 0
    end_map: _Floats | None = None
    end_off_grid: float = 0.0


class Rows:
    """Hypotheses of P pictures, R rows each, that grow word by word.

    What has been decoded is kept as one record a step, with the row of the step before that each row continues; a
    hypothesis is read backwards through them. Pictures whose hypotheses have all ended leave the batch, some at a
    time, and so do rows that no picture needs.

    Attributes:
        images, per_image: P and R; row r is of picture r // R.
        image_ids: (P,) the place of each picture in the result.
        totals: (N,) float32, the log-probability of each row; -inf for a row that has ended.
        slots: (N,) which of a picture's samples, or of its diverse groups, a row is of.
        states: (N,) of the constraints.
        words: words so far.
        tokens: (N, words), of each row.
    """

    def __init__(self, backend: Backend, encoded: Encoded, options: Greedy, *, per_image: int = 1) -> None:
        self.backend, self.options = backend, options
        self.images, self.per_image = len(encoded), 1
        self.image_ids = np.arange(self.images)
        self.state: State = backend.begin(encoded)
        self.last = np.full(self.images, START, dtype=np.int64)
        self.totals: _Floats = np.zeros(self.images, dtype=np.float32)
        self.slots = np.zeros(self.images, dtype=np.int64)
        self.words = 0
        self.tokens = np.zeros((self.images, 0), dtype=np.int64)
        self.steps: list[_StepRecord] = []
        self._model_log_p: Any = None  # (N, V) of the step, before anything is forbidden
        self.maps: list[tuple[Any, Any]] = []  # of each step, by the rows before it
        self.done: list[list[_Ended]] = [[] for _ in range(self.images)]
        self.constraints = Constraints.of(options, backend.vocabulary) if options.constrained else None
        self.states = np.zeros(self.images, dtype=np.int64)
        self.given = 0  # words
        if per_image > 1:
            self._spread(per_image)
        if self.constraints is not None:
            self.states[:] = self.constraints.start
            self._read_begin(self.constraints.begin)

    def _read_begin(self, begin: Sequence[int]) -> None:
        """Let each row begin with given words, whatever their probabilities."""
        rows = np.arange(len(self.last))
        for word in begin:
            step = self.backend.step(self.last, self.state)
            self.maps.append((step.maps, step.off_grid))
            self.last = np.full(len(rows), word, dtype=np.int64)
            self.steps.append(_StepRecord(rows, self.last, picked(step.log_p, rows, self.last)))
            self.state = step.state
        self.given = self.words = len(begin)
        self.tokens = np.tile(np.asarray(begin, dtype=np.int64), (len(rows), 1))

    def _spread(self, per_image: int) -> None:
        """Give each picture so many rows that are alike."""
        source = np.repeat(np.arange(self.images), per_image)
        self.state = self.state.select(source)
        self.per_image = per_image
        self.last, self.totals, self.tokens = self.last[source], self.totals[source], self.tokens[source]
        self.states = self.states[source]
        self.slots = np.tile(np.arange(per_image), self.images)

    def next_log_p(self) -> Any:
        """Log-probabilities (N, V) of the next words that are allowed; keeps their maps and the state."""
        step = self.backend.step(self.last, self.state)
        self.state = step.state
        self.maps.append((step.maps, step.off_grid))
        self._model_log_p = step.log_p
        log_p = forbid(step.log_p, self._banned())
        if self.constraints is None or not self.constraints.restricts:
            return log_p
        return self.constraints.mask(log_p, self.states, self.options.max_length - self.words)

    def follow(self, source: _Ints, word: _Ints, total: _Floats) -> bool:
        """Continue the chosen rows with the chosen words; False where no row is left.

        Args:
            source: (P * K,) the row that each continues.
            word: (P * K,)
            total: (P * K,) log-probabilities with the word; -inf where it is none.
        """
        columns = source.reshape(self.images, -1).shape[1]
        alive = (np.isfinite(total) & (word != END)).reshape(self.images, columns)
        most = int(alive.sum(1).max(initial=0))
        if most == 0:
            return False
        kept_images = np.flatnonzero(alive.any(1))
        if len(kept_images) > _MOST_COPIED * self.images:
            kept_images = np.arange(self.images)
        # Living rows first, in their order.
        order = np.argsort(~alive, axis=1, kind="stable")[kept_images, :most]
        flat = (order + kept_images[:, None] * columns).ravel()
        dead = ~alive.ravel()[flat]
        source, word = source[flat], word[flat]
        dropped = len(kept_images) < self.images
        # What is forbidden raises the others in the search. A word's probability is the model's own.
        self.steps.append(_StepRecord(source, word, picked(self._model_log_p, source, word)))
        self.state = self.state.select(source, kept_images if dropped else None)
        self.last, self.totals = word, np.where(dead, DEAD, total[flat]).astype(np.float32)
        self.slots = self.slots[source]
        if self.constraints is not None:
            self.states = self.constraints.read(self.states[source], word)
        self.tokens = np.concatenate((self.tokens[source], word[:, None]), 1)
        self.images, self.per_image, self.image_ids = len(kept_images), most, self.image_ids[kept_images]
        self.words += 1
        return True

    def finish(self, source: _Ints, word: _Ints, total: _Floats, length_penalty: float) -> None:
        """Set the hypotheses that end with this step aside."""
        columns = len(source) // self.images
        for i in np.flatnonzero((word == END) & np.isfinite(total)).tolist():
            score = float(total[i]) / (self.words - self.given + 1) ** length_penalty
            self.done[self.image_ids[i // columns]].append(self._trace(int(source[i]), score, finished=True))

    def worth_going_on(self, total: _Floats, options: Beam, kept: int) -> _Floats:
        """Totals (P, K) with -inf for those that do not score above the ``kept`` best that have ended: with
        ``early_stopping`` if they ended with the next word, with probability 1; else however long they became."""
        if all(len(self.done[i]) < kept for i in self.image_ids):
            return total
        bars = [sorted((one.score for one in self.done[i]), reverse=True)[:kept] for i in self.image_ids]
        bar = np.array([some[-1] if len(some) == kept else -np.inf for some in bars])  # (P,)
        last = min(self.words + 1, options.max_length) if options.stops_early else options.max_length  # words
        scores = total.astype(np.float64) / (last - self.given + 1) ** options.length_penalty
        return np.where(scores > bar[:, None], total, DEAD)

    def cut_off(self, length_penalty: float, *, at_least: int | None = None, but: _Ints | None = None) -> None:
        """Set the living rows aside as they are: where a picture has fewer hypotheses than ``at_least``, or all rows
        ``but`` some."""
        finished = self.finished
        for row in np.flatnonzero(np.isfinite(self.totals)).tolist():
            image = row // self.per_image
            if at_least is not None and finished[image] >= at_least:
                continue
            if but is not None and row in but:
                continue
            score = float(self.totals[row]) / max(1, self.words - self.given) ** length_penalty
            ended = self._trace(row, score, finished=False)
            if at_least is None or ended.tokens not in {one.tokens for one in self.done[self.image_ids[image]]}:
                self.done[self.image_ids[image]].append(ended)

    def best(self, count: int) -> list[list[Hypothesis]]:
        """The captions of each picture, the best first."""
        if not all(self.done):
            if self.constraints is not None and self.constraints.restricts:
                raise self.constraints.unmet(self.options.max_length)
            raise not_finite()
        maps = [(to_numpy(maps), to_numpy(off_grid)) for maps, off_grid in self.maps]
        found = [sorted(ended, key=lambda one: (not one.finished, -one.score)) for ended in self.done]
        if isinstance(self.options, Beam) and self.options.diverse_groups > 1:
            found = [_group_by_group(some) for some in found]
        return [[one.hypothesis(maps, self.backend.grid_shape, self.given) for one in some[:count]] for some in found]

    @property
    def finished(self) -> _Ints:
        """How many hypotheses of each picture have ended, (P,)."""
        return np.array([sum(one.finished for one in self.done[i]) for i in self.image_ids], dtype=np.int64)

    def _trace(self, row: int, score: float, *, finished: bool) -> "_Ended":
        """The hypothesis that a row holds, read backwards."""
        tokens, log_p, rows, slot, end = [], [], [], int(self.slots[row]), row
        for step in reversed(self.steps):
            tokens.append(int(step.word[row]))
            log_p.append(float(step.log_p[row]))
            row = int(step.source[row])
            rows.append(row)
        return _Ended(
            tuple(reversed(tokens)), tuple(reversed(log_p)), tuple(reversed(rows)), score, finished, slot, end
        )

    def _banned(self) -> tuple[_Ints, _Ints]:
        """Rows and words: the pairs that may not follow."""
        rows, words = [_NONE], [_NONE]
        if self.words < self.options.min_length:
            rows.append(np.arange(len(self.last)))
            words.append(np.full(len(self.last), END))
        n = self.options.no_repeat_ngram
        if n and self.words >= n:
            windows = np.lib.stride_tricks.sliding_window_view(self.tokens, n, axis=1)  # (N, words - n + 1, n)
            begun = self.tokens[:, self.words - n + 1 :]  # (N, n - 1), what the next word would complete
            row, place = np.nonzero((windows[:, :, :-1] == begun[:, None]).all(2))
            rows.append(row)
            words.append(windows[row, place, -1])
        return np.concatenate(rows), np.concatenate(words)


@dataclass(frozen=True, eq=False)
class _StepRecord:
    source: _Ints  # (N,) the row of the step before
    word: _Ints  # (N,)
    log_p: _Floats  # (N,) of the word


@dataclass(frozen=True, eq=False)
class _Ended:
    """A hypothesis that has ended: its words, and at each step and at the end the row whose map is its own."""

    tokens: tuple[int, ...]
    log_p: tuple[float, ...]
    rows: tuple[int, ...]
    score: float
    finished: bool
    slot: int
    end: int

    def hypothesis(self, maps: list[tuple[_Floats, _Floats]], shape: tuple[int, int], given: int) -> Hypothesis:
        own = [maps[step][0][row] for step, row in enumerate(self.rows)]
        off_grid = [maps[step][1][row] for step, row in enumerate(self.rows)]
        end_maps, end_off_grid = maps[len(self.rows)]
        return Hypothesis(
            tokens=self.tokens,
            probabilities=tuple(np.exp(np.asarray(self.log_p, dtype=np.float32)).tolist()),
            maps=np.stack(own).astype(np.float32) if own else np.zeros((0, *shape), dtype=np.float32),
            off_grid=np.asarray(off_grid, dtype=np.float32),
            score=self.score,
            finished=self.finished,
            given=given,
            end_map=np.asarray(end_maps[self.end], dtype=np.float32),
            end_off_grid=float(end_off_grid[self.end]),
        )


def _group_by_group(ended: list[_Ended]) -> list[_Ended]:
    """The best of each diverse group, then the second of each, and so on; a caption of several groups once."""
    ranks: Counter[int] = Counter()
    found: dict[tuple[int, ...], tuple[int, _Ended]] = {}
    for one in ended:
        if one.tokens not in found:
            found[one.tokens] = ranks[one.slot], one
            ranks[one.slot] += 1
    return [one for _, one in sorted(found.values(), key=lambda ranked: ranked[0])]


def not_finite() -> CheckpointError:
    """The error of a model whose numbers are not finite."""
    return CheckpointError("the model's numbers are not finite: its training diverged, or its file is damaged")
