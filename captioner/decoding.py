"""From encoded pictures to captions: greedy, batched beam search, sampling; over any backend.

One implementation serves numpy and the arrays of an accelerator: what is computed over the vocabulary uses the
array API, and a beam copies only the few best candidates of each step to the host. Sampling copies all
log-probabilities there, because its random numbers are numpy's: the same on every device.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from captioner.backends.arrays import like, namespace, to_numpy, top_k
from captioner.backends.base import Backend, Encoded, State
from captioner.errors import CheckpointError
from captioner.options import Beam, Greedy, Sampling
from captioner.tokenizer.vocabulary import END, START

__all__ = ["Beam", "Greedy", "Hypothesis", "Sampling", "decode"]

_DEAD = np.float32(-np.inf)
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
        score: the length-normalised log-probability; see `captioner.options.Beam`.
        finished: False where the length limit cut the caption off.
    """

    tokens: tuple[int, ...]
    probabilities: tuple[float, ...]
    maps: _Floats
    off_grid: _Floats
    score: float
    finished: bool


def decode(
    backend: Backend, encoded: Encoded, options: Greedy | None = None, *, keys: Sequence[int] | None = None
) -> list[list[Hypothesis]]:
    """Caption every picture that a backend encoded.

    Args:
        backend: what computes the model.
        encoded: B pictures, what ``backend.encode`` returned.
        options: `Greedy`, `Beam` or `Sampling`; a `Beam` of 3 if None.
        keys: a number for each picture that sampling is seeded with beside ``options.seed``, so that a picture's
            samples depend on the seed and the picture alone; its place in the batch if None.

    Returns:
        For each picture its captions, the best first. Never empty: where fewer of a beam's captions end within
        ``max_length`` than are asked for, the best that did not end are added, marked by ``finished=False``.

    Raises:
        CheckpointError: the model's numbers are not finite.
    """
    options = options or Beam()
    if isinstance(options, Sampling):
        return _sample(backend, encoded, options, list(range(len(encoded)) if keys is None else keys))
    if not isinstance(options, Beam):
        options = Beam(**vars(options), width=1, length_penalty=1.0)
    return _beam(backend, encoded, options)


def _beam(backend: Backend, encoded: Encoded, options: Beam) -> list[list[Hypothesis]]:
    rows = _Rows(backend, encoded, options)
    for _ in range(options.max_length + 1):
        log_p = rows.next_log_p()  # (N, V)
        continued = namespace(log_p).reshape(like(rows.totals, log_p)[:, None] + log_p, (rows.images, -1))  # (P, R * V)
        # With refill, as many again: up to ``width`` of them may end.
        wanted = options.width * (2 if options.refill else 1)
        total, choice = top_k(continued, min(wanted, continued.shape[1]))  # (P, K)
        _refuse_nan(total)
        row, word = np.divmod(choice, log_p.shape[1])
        if options.refill:
            total = _refilled(total, word, options.width, rows.finished)
        source = (row + np.arange(rows.images)[:, None] * rows.per_image).ravel()
        rows.finish(source, word.ravel(), total.ravel(), options.length_penalty)
        if rows.words == options.max_length:  # no room for another word: what came before counts
            rows.cut_off(options.length_penalty, at_least=options.n_best)
            break
        if not rows.follow(source, word.ravel(), total.ravel(), log_p):
            break
    return rows.best(options.n_best)


def _refilled(total: _Floats, word: _Ints, width: int, finished: _Ints) -> _Floats:
    """Continuations (P, K) in order with -inf for those that a beam whose slots are refilled drops.

    Of those that end, the ones among the ``width`` likeliest count. Of the others, the ``width`` likeliest stay alive,
    unless ``width`` hypotheses of the picture have ended; ``finished`` (P,) had ended before this step.
    """
    ends = word == END
    place = np.arange(total.shape[1])
    ended = ends & (place < width)
    alive = ~ends & (np.cumsum(~ends, axis=1) <= width)
    done = finished + (ended & np.isfinite(total)).sum(1) >= width
    return np.where(ended | (alive & ~done[:, None]), total, _DEAD)


def _sample(backend: Backend, encoded: Encoded, options: Sampling, keys: list[int]) -> list[list[Hypothesis]]:
    generators = [np.random.default_rng((options.seed, key)) for key in keys]
    rows = _Rows(backend, encoded, options)
    rows.spread(options.samples)
    for _ in range(options.max_length + 1):
        log_p = to_numpy(rows.next_log_p())  # (N, V)
        _refuse_nan(log_p)
        # From 0 for the likeliest word, so that no temperature, however low, makes it overflow.
        tempered = (log_p - log_p.max(-1, keepdims=True)).astype(np.float64) / max(options.temperature, 1e-30)
        p = _softmax(_trim(tempered, options))
        # The smallest of exponential variables with the rates p is word i with probability p[i]. Each picture draws
        # from a generator of its own, for all of its samples, also for those that have ended.
        draws = np.stack([generators[i].exponential(size=(options.samples, p.shape[1])) for i in rows.image_ids])
        drawn = draws[np.arange(rows.images)[:, None], rows.slots.reshape(rows.images, -1)].reshape(p.shape)
        word = (p / drawn).argmax(-1)
        source = np.arange(len(word))
        total = np.where(np.isfinite(rows.totals), rows.totals + log_p[source, word], _DEAD)
        if rows.words == options.max_length:
            rows.finish(source, word, total, 1.0)
            rows.cut_off(1.0, but=source[(word == END) & np.isfinite(total)])
            break
        rows.finish(source, word, total, 1.0)
        if not rows.follow(source, word, total, log_p):
            break
    return rows.best(options.samples)


class _Rows:
    """Hypotheses of P pictures, R rows each, that grow word by word.

    What has been decoded is kept as one record a step, with the row of the step before that each row continues; a
    hypothesis is read backwards through them. Pictures whose hypotheses have all ended leave the batch, and so do rows
    that no picture needs.

    Attributes:
        images, per_image: P and R; row r is of picture r // R.
        image_ids: (P,) the place of each picture in the result.
        totals: (N,) float32, the log-probability of each row; -inf for a row that has ended.
        slots: (N,) which of a picture's hypotheses a row is, for sampling.
        words: words so far.
        tokens: (N, words), of each row.
    """

    def __init__(self, backend: Backend, encoded: Encoded, options: Greedy) -> None:
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
        self.maps: list[tuple[Any, Any]] = []  # of each step, by the rows before it
        self.done: list[list[_Ended]] = [[] for _ in range(self.images)]

    def spread(self, per_image: int) -> None:
        """Give each picture so many rows that are alike."""
        source = np.repeat(np.arange(self.images), per_image)
        self.state = self.state.select(source)
        self.per_image = per_image
        self.last, self.totals, self.tokens = self.last[source], self.totals[source], self.tokens[source]
        self.slots = np.tile(np.arange(per_image), self.images)

    def next_log_p(self) -> Any:
        """Log-probabilities (N, V) of the next words that are allowed; keeps their maps and the state."""
        step = self.backend.step(self.last, self.state)
        self.state = step.state
        self.maps.append((step.maps, step.off_grid))
        return _forbid(step.log_p, self._banned())

    def follow(self, source: _Ints, word: _Ints, total: _Floats, log_p: Any) -> bool:
        """Continue the chosen rows with the chosen words; False where no row is left.

        Args:
            source: (P * K,) the row that each continues.
            word: (P * K,)
            total: (P * K,) log-probabilities with the word; -inf where it is none.
            log_p: (N, V) of the step.
        """
        columns = source.reshape(self.images, -1).shape[1]
        alive = (np.isfinite(total) & (word != END)).reshape(self.images, columns)
        most = int(alive.sum(1).max(initial=0))
        if most == 0:
            return False
        kept_images = np.flatnonzero(alive.any(1))
        # Living rows first, in their order.
        order = np.argsort(~alive, axis=1, kind="stable")[kept_images, :most]
        flat = (order + kept_images[:, None] * columns).ravel()
        dead = ~alive.ravel()[flat]
        source, word = source[flat], word[flat]
        dropped = len(kept_images) < self.images
        self.steps.append(_StepRecord(source, word, _picked(log_p, source, word)))
        self.state = self.state.select(source, kept_images if dropped else None)
        self.last, self.totals = word, np.where(dead, _DEAD, total[flat]).astype(np.float32)
        self.slots = self.slots[source]
        self.tokens = np.concatenate((self.tokens[source], word[:, None]), 1)
        self.images, self.per_image, self.image_ids = len(kept_images), most, self.image_ids[kept_images]
        self.words += 1
        return True

    def finish(self, source: _Ints, word: _Ints, total: _Floats, length_penalty: float) -> None:
        """Set the hypotheses that end with this step aside."""
        columns = len(source) // self.images
        for i in np.flatnonzero((word == END) & np.isfinite(total)).tolist():
            score = float(total[i]) / (self.words + 1) ** length_penalty
            self._set_aside(i // columns, int(source[i]), score, finished=True)

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
            score = float(self.totals[row]) / max(1, self.words) ** length_penalty
            ended = self._trace(row, score, finished=False)
            if at_least is None or ended.tokens not in {one.tokens for one in self.done[self.image_ids[image]]}:
                self.done[self.image_ids[image]].append(ended)

    def best(self, count: int) -> list[list[Hypothesis]]:
        """The captions of each picture, the best first."""
        if not all(self.done):
            raise _not_finite()
        maps = [(to_numpy(maps), to_numpy(off_grid)) for maps, off_grid in self.maps]
        found = [sorted(ended, key=lambda one: (not one.finished, -one.score))[:count] for ended in self.done]
        return [[one.hypothesis(maps, self.backend.grid_shape) for one in some] for some in found]

    @property
    def finished(self) -> _Ints:
        """How many hypotheses of each picture have ended, (P,)."""
        return np.array([sum(one.finished for one in self.done[i]) for i in self.image_ids], dtype=np.int64)

    def _set_aside(self, image: int, row: int, score: float, *, finished: bool) -> None:
        self.done[self.image_ids[image]].append(self._trace(row, score, finished=finished))

    def _trace(self, row: int, score: float, *, finished: bool) -> "_Ended":
        """The hypothesis that a row holds, read backwards."""
        tokens, log_p, rows = [], [], []
        for step in reversed(self.steps):
            tokens.append(int(step.word[row]))
            log_p.append(float(step.log_p[row]))
            row = int(step.source[row])
            rows.append(row)
        return _Ended(tuple(reversed(tokens)), tuple(reversed(log_p)), tuple(reversed(rows)), score, finished)

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
    """A hypothesis that has ended: its words, and at each step the row whose map is its own."""

    tokens: tuple[int, ...]
    log_p: tuple[float, ...]
    rows: tuple[int, ...]
    score: float
    finished: bool

    def hypothesis(self, maps: list[tuple[_Floats, _Floats]], shape: tuple[int, int]) -> Hypothesis:
        own = [maps[step][0][row] for step, row in enumerate(self.rows)]
        off_grid = [maps[step][1][row] for step, row in enumerate(self.rows)]
        return Hypothesis(
            tokens=self.tokens,
            probabilities=tuple(np.exp(np.asarray(self.log_p, dtype=np.float32)).tolist()),
            maps=np.stack(own).astype(np.float32) if own else np.zeros((0, *shape), dtype=np.float32),
            off_grid=np.asarray(off_grid, dtype=np.float32),
            score=self.score,
            finished=self.finished,
        )


def _forbid(log_p: Any, banned: tuple[_Ints, _Ints]) -> Any:
    """Log-probabilities (N, V) with pairs (row, word) at -inf and the rest of their rows summing to 1 again."""
    rows, words = banned
    if not len(rows):
        return log_p
    touched, place = np.unique(rows, return_inverse=True)
    xp = namespace(log_p)
    forbidden = np.zeros((len(touched), log_p.shape[1]), dtype=np.bool_)
    forbidden[place, words] = True
    own = xp.take(log_p, like(touched, log_p), axis=0)
    allowed = xp.where(like(forbidden, log_p), like(np.asarray(_DEAD), log_p), own)
    highest = xp.max(allowed, axis=-1, keepdims=True)
    stuck = highest == _DEAD
    shifted = allowed - xp.where(stuck, xp.zeros_like(highest), highest)
    total = xp.sum(xp.exp(shifted), axis=-1, keepdims=True)
    total = xp.log(xp.where(stuck, xp.ones_like(total), total))
    # Where nothing may follow, the end does.
    end = np.full(log_p.shape[1], _DEAD)
    end[END] = 0.0
    mended = xp.where(stuck, like(end, log_p)[None], shifted - total)
    source = np.arange(log_p.shape[0])
    source[touched] = len(source) + np.arange(len(touched))
    return xp.take(xp.concat((log_p, mended)), like(source, log_p), axis=0)


def _picked(log_p: Any, rows: _Ints, words: _Ints) -> _Floats:
    """The log-probability of a word of each row, in the host's memory."""
    if isinstance(log_p, np.ndarray):
        return np.asarray(log_p[rows, words])
    xp = namespace(log_p)
    places = like(rows * log_p.shape[1] + words, log_p)
    return to_numpy(xp.take(xp.reshape(log_p, (-1,)), places, axis=0))


def _softmax(x: NDArray[np.float64]) -> NDArray[np.float64]:
    p = np.exp(x - x.max(-1, keepdims=True))
    return np.asarray(p / p.sum(-1, keepdims=True))


def _trim(logits: NDArray[np.float64], options: Sampling) -> NDArray[np.float64]:
    """Everything but the likeliest words set to -inf: top-k, then top-p (Holtzman et al. 2020)."""
    if 0 < options.top_k < logits.shape[-1]:
        bar = np.partition(logits, -options.top_k, axis=-1)[:, -options.top_k, None]
        logits = np.where(logits < bar, -np.inf, logits)
    if options.top_p < 1:
        order = np.argsort(-logits, axis=-1, kind="stable")
        p = _softmax(np.take_along_axis(logits, order, axis=-1))
        beyond = p.cumsum(-1) - p >= options.top_p  # the word that crosses the bar is kept
        mask = np.zeros_like(beyond)
        np.put_along_axis(mask, order, beyond, axis=-1)
        logits = np.where(mask, -np.inf, logits)
    return logits


def _refuse_nan(values: NDArray[np.floating]) -> None:
    if np.isnan(values).any():
        raise _not_finite()


def _not_finite() -> CheckpointError:
    return CheckpointError("the model's numbers are not finite: its training diverged, or its file is damaged")
