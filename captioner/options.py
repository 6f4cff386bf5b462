"""Options of decoding and of maps: frozen dataclasses with validated ranges."""

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from captioner.errors import OptionError

MAX_ROWS = 1000
"""Hypotheses or samples for each picture, at most."""
MAX_WORDS = 1000
"""Words of a caption, at most."""
MAX_REQUIRED = 8
"""Words and phrases that a caption is required to hold, at most."""
MAX_FORBIDDEN = 10_000
WIDENED = 20
"""Hypotheses to which required words widen a beam, at most; what Post and Vilar (2018) use."""

EXPLAIN = ("attention", "gradient", "occlusion")
SINKS = ("keep", "subtract", "standardise")


@dataclass(frozen=True, kw_only=True)
class Greedy:
    """The likeliest word at each step.

    Attributes:
        max_length: most words of a caption.
        min_length: fewest.
        no_repeat_ngram: no sequence of so many words occurs twice in a caption; 0 allows all.
        begin: how the caption begins; the model reads these words first, and they get maps too.
        forbid_words: words and phrases that a caption does not hold, in this form ("man" does not forbid "men"). Texts,
            or one text with commas between them.
        require_words: words and phrases that it holds, 8 at most; not for `Sampling`. See `captioner.constraints`.
    """

    max_length: int = 24
    min_length: int = 1
    no_repeat_ngram: int = 0
    begin: str = ""
    forbid_words: tuple[str, ...] = ()
    require_words: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _settle_numbers(self)
        _check("max_length", self.max_length, at_least=1, at_most=MAX_WORDS)
        _check("min_length", self.min_length, at_least=0, at_most=MAX_WORDS)
        _check("no_repeat_ngram", self.no_repeat_ngram, at_least=0, at_most=MAX_WORDS)
        if self.min_length > self.max_length:
            raise OptionError(
                f"min_length {self.min_length} is above max_length {self.max_length}",
                remedy="let the fewest words (--min-words) be no more than the most (--max-words)",
            )
        if not isinstance(self.begin, str):
            raise OptionError(f"begin is a text, not {self.begin!r:.60}")
        object.__setattr__(self, "begin", " ".join(self.begin.split()))
        for name, most in (("forbid_words", MAX_FORBIDDEN), ("require_words", MAX_REQUIRED)):
            object.__setattr__(self, name, _texts(name, getattr(self, name), most))
        both = {one.lower() for one in self.forbid_words}.intersection(one.lower() for one in self.require_words)
        if both:
            raise OptionError(f"'{min(both)}' is both required and forbidden", remedy="leave one of the two out")

    @property
    def constrained(self) -> bool:
        """Whether words are given, forbidden or required."""
        return bool(self.begin or self.forbid_words or self.require_words)

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}


@dataclass(frozen=True, kw_only=True)
class Beam(Greedy):
    """Beam search: the best of several hypotheses that grow side by side.

    A caption's score is ``sum(log p(word)) / n ** length_penalty`` over its n tokens, the end token counted.
    With 0 it is the likelihood, which favours short captions; with 1 the mean over tokens.

    Each step keeps the ``width`` likeliest continuations of all hypotheses. Those that end are set aside with their
    scores, and the next step continues the others, of which it keeps ``width`` again. With ``early_stopping`` it drops
    those that would not score above the best that have ended if they ended with the next token, with probability 1.
    The search ends when a step keeps none to continue, or at ``max_length``. A width of 1 is greedy decoding. With
    ``refill`` a continuation that ends takes no place of one that goes on: each step keeps ``width`` that go on, until
    as many have ended (as in fairseq, Ott et al. 2019).

    Attributes:
        width: hypotheses kept side by side, 1000 at most.
        length_penalty: see above.
        n_best: captions returned for each picture, the best first; at most ``width``.
        refill: see above.
        early_stopping: see above; the best that have ended are ``n_best``, and with a reranker ``width``. It applies
            only where the length penalty is at most 1 and the beam has no required words, refill or groups. There it
            saves a quarter to a half of the steps, and the captions are nearly always the same. (transformers ends a
            whole beam by this bound with its ``early_stopping=False``.)
        diverse_groups: the beam is divided into so many groups, each of which avoids the words that those before it
            have just chosen (diverse beam search, Vijayakumar et al. 2016). ``width`` is a multiple of it. The first
            captions of ``n_best`` are the best of each group; a caption that several groups find is returned once.
        diversity: by how much the log-probability of a word sinks for each hypothesis of an earlier group that chose
            it at this step. Scores do not contain it.
        rerank: of a model with a reranker (see `captioner.model.reranker`), the weight of the consensus scores by which
            it orders what the beam has found, from 0 to 100: by ``score + rerank * consensus``, captions that ended
            first. 1 is the weight that was best on dev, 0 leaves the order of the beam. Diverse groups keep theirs.
    """

    width: int = 3
    length_penalty: float = 0.7
    n_best: int = 1
    refill: bool = False
    early_stopping: bool = True
    diverse_groups: int = 1
    diversity: float = 0.5
    rerank: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        _check("beam width", self.width, at_least=1, at_most=MAX_ROWS)
        _check("n_best", self.n_best, at_least=1, at_most=MAX_ROWS)
        if self.n_best > self.width:
            raise OptionError(
                f"n_best {self.n_best} is more than the beam width {self.width}", remedy="widen the beam (--beam)"
            )
        for name in ("refill", "early_stopping"):
            if type(getattr(self, name)) is not bool:
                raise OptionError(f"{name} must be true or false, not {getattr(self, name)!r}")
        if not _is_number(self.length_penalty) or not 0 <= self.length_penalty <= 5:
            raise OptionError(f"length_penalty must be from 0 to 5, not {self.length_penalty!r}")
        _check("diverse_groups", self.diverse_groups, at_least=1, at_most=MAX_ROWS)
        if not _is_number(self.diversity) or not 0 <= self.diversity <= 100:
            raise OptionError(f"diversity must be from 0 to 100, not {self.diversity!r}")
        if not _is_number(self.rerank) or not 0 <= self.rerank <= 100:
            raise OptionError(f"rerank must be from 0 to 100, not {self.rerank!r}")
        if self.width % self.diverse_groups:
            wider = -(-self.width // self.diverse_groups) * self.diverse_groups
            raise OptionError(
                f"{self.diverse_groups} diverse groups cannot share a beam of {self.width} evenly",
                remedy=f"let the beam be {wider} wide (--beam {wider})",
            )
        if self.refill and (self.require_words or self.diverse_groups > 1):
            raise OptionError("refill goes with neither required words nor diverse groups", remedy="leave refill out")

    @property
    def stops_early(self) -> bool:
        """Whether ``early_stopping`` applies."""
        plain = not self.refill and not self.allocated
        return self.early_stopping and plain and self.length_penalty <= 1

    @property
    def allocated(self) -> bool:
        """Whether the places of the beam are shared out; see `captioner.allocation`."""
        return self.diverse_groups > 1 or bool(self.require_words)

    def changed(self, **changes: Any) -> "Beam":
        """These options with changes.

        Where they give no width, the beam is widened to what they need: to ``n_best``, to a multiple of
        ``diverse_groups``, and with n required words to n + 1 times its width, but not above 20: its places are shared
        out among so many banks. The fewest words are no more than the most that are given.

        Args:
            changes: options by name; "max_words" and "min_words" are other names of "max_length" and "min_length".

        Raises:
            OptionError: a value out of its range, or values that exclude each other.
        """
        for name in ("max", "min"):
            if f"{name}_words" in changes:
                changes[f"{name}_length"] = changes.pop(f"{name}_words")
        if unknown := sorted(changes.keys() - {option.name for option in fields(self)}):
            names = ", ".join(option.name for option in fields(self))
            raise OptionError(f"there is no option of decoding '{unknown[0]}'", remedy=f"there are {names}")
        changes = {name: plain_number(value) for name, value in changes.items()}
        most = changes.get("max_length")
        if type(most) is int and most > 0 and "min_length" not in changes:
            changes["min_length"] = min(self.min_length, most)
        if "width" not in changes:
            width, n_best, groups = self.width, changes.get("n_best", 1), changes.get("diverse_groups", 1)
            required = _texts("require_words", changes.get("require_words", ()), MAX_REQUIRED)
            width = max(width, min(width * (1 + sum(len(text.split()) for text in required)), WIDENED))
            if type(n_best) is int:
                width = max(width, n_best)
            if type(groups) is int and groups > 0:
                width = -(-width // groups) * groups
            changes["width"] = min(width, MAX_ROWS)
        return replace(self, **changes)


@dataclass(frozen=True, kw_only=True)
class Sampling(Greedy):
    """Words drawn at random from the model's distribution; scored as `Beam` with length_penalty 1.

    Attributes:
        temperature: below 1 sharpens the distribution, above 1 flattens it.
        top_k: draw from the k likeliest words; 0 for all.
        top_p: draw from the likeliest words that together reach this probability; 1 for all.
        seed: a picture's captions depend on the seed and the picture alone, not on its neighbours in a batch.
        samples: captions for each picture, the best first.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0
    samples: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.require_words:
            raise OptionError("words cannot be required of sampling", remedy="leave out sampling (--sample)")
        _check("top_k", self.top_k, at_least=0, at_most=2**31)
        _check("samples", self.samples, at_least=1, at_most=MAX_ROWS)
        _check("seed", self.seed, at_least=0, at_most=2**63 - 1)
        if not _is_number(self.temperature) or not 0 < self.temperature < math.inf:
            raise OptionError(f"temperature must be a number above 0, not {self.temperature!r}")
        if not _is_number(self.top_p) or not 0 < self.top_p <= 1:
            raise OptionError(f"top_p must be above 0 and at most 1, not {self.top_p!r}")


@dataclass(frozen=True, kw_only=True)
class MapOptions:
    """How the maps of a caption are computed; see `captioner.explain`.

    Attributes:
        explain: "attention", "gradient" or "occlusion".
        sinks: what is done about attention sinks, cells that every word attends to. "keep" leaves them; "subtract"
            subtracts each cell's mean over the words and the end; "standardise" also divides by its standard deviation,
            as Whisper does. Negative values become 0.
        delay: of attention: 1 takes a word's map from the next step, when the word itself has been read.
        block: of occlusion: the width of the occluded block, in cells; odd.
    """

    explain: str = "attention"
    sinks: str = "keep"
    delay: int = 0
    block: int = 3

    def __post_init__(self) -> None:
        _settle_numbers(self)
        if not isinstance(self.explain, str) or self.explain not in EXPLAIN:
            raise OptionError(f"maps come from {', '.join(EXPLAIN)}, not from '{self.explain}'")
        if not isinstance(self.sinks, str) or self.sinks not in SINKS:
            raise OptionError(f"sinks must be {', '.join(SINKS)}, not '{self.sinks}'")
        if type(self.delay) is not int or self.delay not in (0, 1) or (self.delay and self.explain != "attention"):
            raise OptionError(f"the delay must be 0, or 1 for attention, not {self.delay} for {self.explain}")
        if type(self.block) is not int or not 1 <= self.block <= 99 or self.block % 2 == 0:
            raise OptionError(f"the block of occlusion must be an odd number of cells from 1 to 99, not {self.block!r}")

    @property
    def plain(self) -> bool:
        """Whether the maps are those that decoding itself returns."""
        return self == MapOptions(block=self.block)

    @classmethod
    def stored(cls, about: dict[str, Any], explain: str | None = None) -> "MapOptions":
        """The options that a model's file holds.

        Args:
            about: the file's metadata; ``about["maps"]`` is what `as_stored` returned.
            explain: the method; None for the file's default.
        """
        stored = about.get("maps", {})
        method = stored.get("explain", "attention") if explain is None else explain
        if method not in EXPLAIN:
            return cls(explain=method)  # raises
        return cls(**{"explain": method, **stored.get(method, {})})

    @classmethod
    def chosen(cls, explain: "str | MapOptions", about: dict[str, Any]) -> "MapOptions":
        """The options that a caller asks for: as they are, or a method's as the model's file holds them.

        Raises:
            OptionError: there is no such method.
        """
        if isinstance(explain, MapOptions):
            return explain
        if not isinstance(explain, str):
            raise OptionError(f"explain is a text or MapOptions, not {explain!r:.40}")
        return cls.stored(about, explain)

    @staticmethod
    def as_stored(default: "MapOptions", *others: "MapOptions") -> dict[str, Any]:
        """Plain values for a model's file: the default method, and the options of others."""
        return {"explain": default.explain} | {
            options.explain: {name: value for name, value in asdict(options).items() if name != "explain"}
            for options in (*others, default)
        }


def plain_number(value: Any) -> Any:
    """A number of numpy as Python's own, which JSON can hold; anything else as it is."""
    is_numpy = type(value).__module__ == "numpy" and getattr(value, "ndim", None) == 0
    return value.item() if is_numpy else value


def _settle_numbers(options: "Greedy | MapOptions") -> None:
    for each in fields(options):
        object.__setattr__(options, each.name, plain_number(getattr(options, each.name)))


def _check(name: str, value: int, *, at_least: int, at_most: int) -> None:
    if type(value) is not int or not at_least <= value <= at_most:
        raise OptionError(f"{name} must be a whole number from {at_least} to {at_most}, not {value!r}")


def _texts(name: str, value: object, most: int) -> tuple[str, ...]:
    """Words and phrases, each once, from a list of texts or from one text with commas between them."""
    option = f"--{name.replace('_', '-')}"
    parts = value.split(",") if isinstance(value, str) else list(value) if isinstance(value, Iterable) else [value]
    found = {}
    for part in parts:
        if not isinstance(part, str):
            raise OptionError(f"{name} is a list of texts, not {value!r:.60}")
        if text := " ".join(part.split()):
            found[text.lower()] = text
    if parts and not found:
        raise OptionError(f"{name}: {value!r:.60} has no words", remedy=f"name some, or leave out {option}")
    if len(found) > most:
        raise OptionError(f"{name} holds {len(found)} words and phrases, and {most:,} is the most", remedy="name fewer")
    return tuple(found.values())


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
