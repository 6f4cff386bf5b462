"""From a grid to captions: greedy, batched beam search, sampling. None knows which decoder it drives."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from captioner.errors import OptionError
from captioner.model.decoder import END, PAD, START, UNKNOWN, AnyDecoder
from captioner.model.grid import Grid


@dataclass(frozen=True, kw_only=True)
class Greedy:
    """The likeliest word at each step.

    Attributes:
        max_length: most words of a caption.
        min_length: fewest.
        no_repeat_ngram: no sequence of so many words stands twice in a caption; 0 allows all.
    """

    max_length: int = 24
    min_length: int = 1
    no_repeat_ngram: int = 0

    def __post_init__(self) -> None:
        _check("max_length", self.max_length, at_least=1)
        _check("min_length", self.min_length, at_least=0)
        _check("no_repeat_ngram", self.no_repeat_ngram, at_least=0)
        if self.min_length > self.max_length:
            raise OptionError(f"min_length {self.min_length} is above max_length {self.max_length}")


@dataclass(frozen=True, kw_only=True)
class Beam(Greedy):
    """The best of several captions that grow side by side.

    A caption's score is ``sum(log p(word)) / n ** length_penalty`` over its n tokens, the end token counted.
    With 0 it is the likelihood, which favours short captions; with 1 the mean over tokens.

    Each step keeps the ``width`` likeliest continuations of all; one that ends is put aside with its score
    and its place stays empty. So a width of 1 is greedy.

    Attributes:
        width: captions kept side by side.
        length_penalty: see above.
        n_best: captions returned for each picture, the best first; at most ``width``.
    """

    width: int = 3
    length_penalty: float = 0.7
    n_best: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        _check("beam width", self.width, at_least=1)
        _check("n_best", self.n_best, at_least=1)
        if self.n_best > self.width:
            raise OptionError(f"{self.n_best} captions are asked of a beam of {self.width}: widen the beam")
        if not 0 <= self.length_penalty <= 5:
            raise OptionError(f"length_penalty must be from 0 to 5, not {self.length_penalty}")


@dataclass(frozen=True, kw_only=True)
class Sampling(Greedy):
    """Words drawn at random from the model's distribution; scored as `Beam` with length_penalty 1.

    Attributes:
        temperature: below 1 sharpens the distribution, above 1 flattens it.
        top_k: draw from the k likeliest words; 0 for all.
        top_p: draw from the likeliest words that together reach this probability; 1 for all.
        seed: the same seed gives a picture the same captions, whatever pictures are with it in the batch.
        samples: captions for each picture, the best first.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0
    samples: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        _check("top_k", self.top_k, at_least=0)
        _check("samples", self.samples, at_least=1)
        _check("seed", self.seed, at_least=0)
        if self.seed >= 2**63:
            raise OptionError(f"seed must be below 2 ** 63, not {self.seed}")
        if not 0 < self.temperature < math.inf:
            raise OptionError(f"temperature must be a number above 0, not {self.temperature}")
        if not 0 < self.top_p <= 1:
            raise OptionError(f"top_p must be above 0 and at most 1, not {self.top_p}")


@dataclass(frozen=True)
class Hypothesis:
    """A caption in ids, and where each of its words looked.

    Attributes:
        tokens: the words' ids, without start and end.
        probabilities: of each word, given those before it.
        maps: (len(tokens), h, w) float32; each sums to 1 over the cells that hold picture.
        score: the length-normalised log-probability; see `Beam`.
        finished: False where the length limit cut the caption off.
    """

    tokens: tuple[int, ...]
    probabilities: tuple[float, ...]
    maps: Tensor
    score: float
    finished: bool


@torch.inference_mode()
def decode(decoder: AnyDecoder, grid: Grid, options: Greedy | None = None) -> list[list[Hypothesis]]:
    """Caption every picture of a grid.

    Args:
        decoder: any.
        grid: of B pictures, refined for that decoder.
        options: `Greedy`, `Beam` or `Sampling`; a `Beam` of 3 if None.

    Returns:
        For each picture its captions, the best first. Never empty: where fewer of a beam's captions end within
        ``max_length`` than are asked for, the best that did not follow, marked by ``finished=False``.
    """
    options = options or Beam()
    if isinstance(options, Beam):
        return _Search(decoder, grid, options, rows=options.width).beam()
    if isinstance(options, Sampling):
        return _Search(decoder, grid, options, rows=options.samples).sample()
    greedy = Beam(**vars(options), width=1, length_penalty=1.0)
    return _Search(decoder, grid, greedy, rows=1).beam()


@dataclass(frozen=True)
class _Said:
    """What N rows have said so far."""

    tokens: Tensor  # (N, t)
    log_p: Tensor  # (N, t), of each token
    maps: Tensor  # (N, t, h, w)
    total: Tensor  # (N,), the log-probability of the whole; -inf for a row that is dead

    @property
    def words(self) -> int:
        return self.tokens.shape[1]

    def hypothesis(self, row: int, length_penalty: float, *, finished: bool) -> Hypothesis:
        words = self.words - 1 if finished else self.words  # the end is no word
        return Hypothesis(
            tokens=tuple(self.tokens[row, :words].tolist()),
            probabilities=tuple(self.log_p[row, :words].exp().tolist()),
            maps=self.maps[row, :words].to("cpu", copy=True),  # a view would keep the whole batch's maps alive
            score=self.total[row].item() / self.words**length_penalty,
            finished=finished,
        )


class _Search:
    """B pictures with K captions each, growing word by word."""

    def __init__(self, decoder: AnyDecoder, grid: Grid, options: Greedy, *, rows: int) -> None:
        self.decoder = decoder
        self.options = options
        self.pictures, self.rows = len(grid), rows
        self.device = grid.features.device
        # Row r of the flat tensors is caption r % K of picture r // K.
        copies = torch.arange(self.pictures, device=self.device).repeat_interleave(rows)
        self.state = decoder.begin(grid).select(copies)
        self.last = torch.full((self.pictures * rows,), START, device=self.device)
        empty = grid.features.new_zeros(self.pictures * rows, 0, dtype=torch.float32)
        self.said = _Said(
            tokens=empty.long(),
            log_p=empty,
            maps=empty[:, :, None, None].expand(-1, -1, *grid.shape),
            total=torch.zeros(self.pictures * rows, device=self.device),
        )
        self.done: list[list[Hypothesis]] = [[] for _ in range(self.pictures)]

    def beam(self) -> list[list[Hypothesis]]:
        assert isinstance(self.options, Beam)
        options, dead = self.options, float("-inf")
        self.said.total.view(self.pictures, self.rows)[:, 1:] = (
            dead  # all rows are alike at first: one of them stands for all
        )
        first = torch.arange(self.pictures, device=self.device)[:, None] * self.rows
        for _ in range(options.max_length + 1):
            log_p = self._next_words()  # (B, K, V)
            continued = (self.said.total.view(self.pictures, self.rows, 1) + log_p).flatten(1)  # (B, K * V)
            total, choice = continued.topk(min(self.rows, continued.shape[1]), 1)
            spare = (0, self.rows - total.shape[1])  # fewer continuations than places: the rest stay empty
            total, choice = F.pad(total, spare, value=dead), F.pad(choice, spare)
            source = (first + choice // log_p.shape[-1]).flatten()
            word = (choice % log_p.shape[-1]).flatten()
            before = self.said
            self._follow(source, word, total.flatten(), log_p.flatten(0, 1)[source, word])
            self._collect(word == END, options.length_penalty)
            if self.said.words > options.max_length:  # no room for the last word: what came before counts
                for picture, hypotheses in enumerate(self.done):
                    if len(hypotheses) < options.n_best:
                        self._add_unfinished(picture, before, options.length_penalty)
            if not self.said.total.isfinite().any():
                break
        return self._best(options.n_best)

    def sample(self) -> list[list[Hypothesis]]:
        assert isinstance(self.options, Sampling)
        options = self.options
        generator = torch.Generator().manual_seed(options.seed)
        everything = torch.arange(self.pictures * self.rows, device=self.device)
        for _ in range(options.max_length + 1):
            log_p = self._next_words().flatten(0, 1)  # (B * K, V)
            # From 0 for the likeliest word, so that no temperature, however low, makes it overflow.
            tempered = (log_p - log_p.amax(-1, keepdim=True)) / max(options.temperature, 1e-30)
            p = _trim(tempered, options).softmax(-1).view(self.pictures, self.rows, -1)
            # The smallest of exponential variables with the rates p is word i with probability p[i]. All pictures
            # share the draws of their k-th captions: none depends on its place in the batch.
            draws = torch.empty(p.shape[1:]).exponential_(generator=generator).to(self.device)  # (K, V)
            word = (p / draws).argmax(-1).flatten()
            gained = log_p[everything, word]
            before = self.said
            self._follow(everything, word, self.said.total + gained, gained)
            self._collect(word == END, 1.0)
            if self.said.words > options.max_length:
                for row in self.said.total.isfinite().nonzero()[:, 0].tolist():
                    self.done[row // self.rows].append(before.hypothesis(row, 1.0, finished=False))
            if not self.said.total.isfinite().any():
                break
        return self._best(options.samples)

    def _next_words(self) -> Tensor:
        """Log-probabilities (B, K, V) of the next words that may be said; keeps their maps and the state."""
        logits, self.next_maps, self.state = self.decoder.step(self.last, self.state)
        logits = logits.float().clone()
        logits[:, [PAD, START, UNKNOWN]] = float("-inf")
        if self.said.words < self.options.min_length:
            logits[:, END] = float("-inf")
        if self.options.no_repeat_ngram:
            _forbid_repeats(logits, self.said.tokens, self.options.no_repeat_ngram)
        stuck = logits.isneginf().all(1)
        logits[stuck, END] = 0.0  # where nothing may follow, the end does
        return logits.log_softmax(-1).view(self.pictures, self.rows, -1)

    def _follow(self, source: Tensor, word: Tensor, total: Tensor, log_p: Tensor) -> None:
        """Carry everything over to the chosen rows and append the chosen words."""
        self.state = self.state.select(source)
        self.last = word
        self.said = _Said(
            tokens=torch.cat((self.said.tokens[source], word[:, None]), 1),
            log_p=torch.cat((self.said.log_p[source], log_p[:, None]), 1),
            maps=torch.cat((self.said.maps[source], self.next_maps.float()[source, None]), 1),
            total=total,
        )

    def _collect(self, ended: Tensor, length_penalty: float) -> None:
        """Put the captions that have just ended aside; their rows are dead from here on."""
        ended = ended & self.said.total.isfinite()
        for row in ended.nonzero()[:, 0].tolist():
            hypothesis = self.said.hypothesis(row, length_penalty, finished=True)
            self.done[row // self.rows].append(hypothesis)
        self.said.total[ended] = float("-inf")

    def _add_unfinished(self, picture: int, said: _Said, length_penalty: float) -> None:
        """Put a picture's captions that are cut off beside those that ended, but for those that end as they are."""
        ended = {hypothesis.tokens for hypothesis in self.done[picture]}
        for row in range(picture * self.rows, (picture + 1) * self.rows):
            if said.total[row].isfinite():
                hypothesis = said.hypothesis(row, length_penalty, finished=False)
                if hypothesis.tokens not in ended:
                    self.done[picture].append(hypothesis)

    def _best(self, count: int) -> list[list[Hypothesis]]:
        return [sorted(found, key=lambda h: (not h.finished, -h.score))[:count] for found in self.done]


def _trim(logits: Tensor, options: Sampling) -> Tensor:
    """Everything but the likeliest words set to -inf: top-k, then top-p (Holtzman et al. 2020)."""
    lowest = float("-inf")
    if 0 < options.top_k < logits.shape[-1]:
        bar = logits.topk(options.top_k, -1).values[:, -1:]
        logits = logits.masked_fill(logits < bar, lowest)
    if options.top_p < 1:
        ordered, order = logits.sort(-1, descending=True)
        p = ordered.softmax(-1)
        beyond = p.cumsum(-1) - p >= options.top_p  # the word that crosses the bar is kept
        logits = logits.masked_fill(torch.zeros_like(beyond).scatter(-1, order, beyond), lowest)
    return logits


def _forbid_repeats(logits: Tensor, tokens: Tensor, n: int) -> None:
    """Set to -inf each word that would complete an n-gram that the row already holds."""
    length = tokens.shape[1]
    if length < n:
        return
    windows = tokens.unfold(1, n, 1)  # (N, length - n + 1, n)
    begun = tokens[:, length - n + 1 :]  # (N, n - 1), what the next word would complete
    repeats = (windows[:, :, :-1] == begun[:, None]).all(2)  # (N, length - n + 1)
    row, place = repeats.nonzero(as_tuple=True)
    logits[row, windows[row, place, -1]] = float("-inf")


def _check(name: str, value: int, *, at_least: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < at_least:
        raise OptionError(f"{name} must be a whole number of at least {at_least}, not {value}")
