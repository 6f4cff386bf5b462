"""From encoded pictures to captions: greedy, batched beam search, sampling; over any backend.

One implementation serves numpy and the arrays of an accelerator: what is computed over the vocabulary uses the
array API, and a beam copies only the few best candidates of each step to the host. Sampling copies all
log-probabilities there, because its random numbers are numpy's: the same on every device.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from captioner.allocation import Allocation
from captioner.backends.arrays import like, namespace, to_numpy, top_k
from captioner.backends.base import Backend, Encoded, HasReranker
from captioner.hypotheses import DEAD, Hypothesis, Rows, not_finite
from captioner.options import Beam, Greedy, Sampling
from captioner.tokenizer.vocabulary import END

__all__ = ["Beam", "Greedy", "Hypothesis", "Sampling", "decode"]

_Floats = NDArray[np.float32]
_Ints = NDArray[np.int64]


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
        OptionError: no caption can meet the constraints.
    """
    options = options or Beam()
    if isinstance(options, Sampling):
        return _sample(backend, encoded, options, list(range(len(encoded)) if keys is None else keys))
    if not isinstance(options, Beam):
        options = Beam(**vars(options), width=1, length_penalty=1.0)
    return _beam(backend, encoded, options)


def _beam(backend: Backend, encoded: Encoded, options: Beam) -> list[list[Hypothesis]]:
    rows = Rows(backend, encoded, options, per_image=options.diverse_groups)
    reranker = _reranker(backend, options)
    kept = options.n_best if reranker is None else options.width
    allocation = Allocation(options, rows.constraints) if options.allocated else None
    while True:
        log_p = rows.next_log_p()  # (N, V)
        if allocation is None:
            total, source, word = _likeliest(rows, log_p, options)
        else:
            total, source, word = allocation.choose(log_p, rows.totals, rows.states, rows.slots, rows.images)
        _refuse_nan(total)
        rows.finish(source.ravel(), word.ravel(), total.ravel(), options.length_penalty)
        if options.stops_early or (options.require_words and options.diverse_groups == 1):
            total = rows.worth_going_on(total, options, kept)
        if rows.words == options.max_length:  # no room for another word: what came before counts
            rows.cut_off(options.length_penalty, at_least=options.n_best)
            break
        if not rows.follow(source.ravel(), word.ravel(), total.ravel()):
            break
    found = rows.best(kept)
    if reranker is not None:
        consensus = reranker.consensus(encoded, [[one.tokens for one in some] for some in found])
        found = [_by_both(some, scores, options) for some, scores in zip(found, consensus, strict=True)]
    return found


def _reranker(backend: Backend, options: Beam) -> HasReranker | None:
    """What orders a beam's captions; None where they keep their order."""
    asked = options.rerank > 0 and options.width > 1 and options.diverse_groups == 1
    return backend if asked and isinstance(backend, HasReranker) and backend.reranks else None


def _by_both(found: list[Hypothesis], consensus: _Floats, options: Beam) -> list[Hypothesis]:
    """The best captions of a picture by their scores and consensus scores. Raises CheckpointError."""
    if not np.isfinite(consensus).all():
        raise not_finite()
    totals = [one.score + options.rerank * more for one, more in zip(found, consensus.tolist(), strict=True)]
    order = sorted(range(len(found)), key=lambda i: (not found[i].finished, -totals[i]))
    return [found[i] for i in order[: options.n_best]]


def _likeliest(rows: Rows, log_p: Any, options: Beam) -> tuple[_Floats, _Ints, _Ints]:
    """The likeliest continuations of each picture, (P, K) each: log-probabilities, rows, and words."""
    continued = namespace(log_p).reshape(like(rows.totals, log_p)[:, None] + log_p, (rows.images, -1))  # (P, R * V)
    # With refill, as many again: up to ``width`` of them may end.
    wanted = options.width * (2 if options.refill else 1)
    total, choice = top_k(continued, min(wanted, continued.shape[1]))  # (P, K)
    row, word = np.divmod(choice, log_p.shape[1])
    if options.refill:
        _refuse_nan(total)
        total = _refilled(total, word, options.width, rows.finished)
    return total, row + np.arange(rows.images)[:, None] * rows.per_image, word


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
    return np.where(ended | (alive & ~done[:, None]), total, DEAD)


def _sample(backend: Backend, encoded: Encoded, options: Sampling, keys: list[int]) -> list[list[Hypothesis]]:
    generators = [np.random.default_rng((options.seed, key)) for key in keys]
    rows = Rows(backend, encoded, options, per_image=options.samples)
    while True:
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
        total = np.where(np.isfinite(rows.totals), rows.totals + log_p[source, word], DEAD)
        if rows.words == options.max_length:
            rows.finish(source, word, total, 1.0)
            rows.cut_off(1.0, but=source[(word == END) & np.isfinite(total)])
            break
        rows.finish(source, word, total, 1.0)
        if not rows.follow(source, word, total):
            break
    return rows.best(options.samples)


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
        raise not_finite()
