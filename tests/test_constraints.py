"""Given, forbidden and required words, and diverse groups: against the enumeration of all captions of a toy whose
arrays are numpy's or torch's."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from captioner.allocation import share_out
from captioner.backends.base import Step
from captioner.constraints import Constraints
from captioner.decoding import Beam, Greedy, Hypothesis, Sampling, decode
from captioner.errors import OptionError
from captioner.hypotheses import _Ended, _group_by_group
from captioner.options import MAX_REQUIRED
from captioner.tokenizer.vocabulary import END, SPECIAL, START, Vocabulary

VOCABULARY = Vocabulary((*SPECIAL, "red", "dog", "cat", "ball"))
WORDS = range(len(SPECIAL), len(VOCABULARY))
LONGEST = 4


@dataclass(frozen=True)
class ToyState:
    images: NDArray[np.int64]  # of each row

    def select(self, rows: NDArray[np.int64], images: NDArray[np.int64] | None = None) -> "ToyState":
        return ToyState(self.images[rows])


class Toy:
    """A Markov chain for a backend, whose arrays are numpy's or torch's; the map of a word is its id."""

    grid_shape = (1, 1)
    vocabulary = VOCABULARY

    def __init__(self, pictures: int = 4, seed: int = 0, *, library: Any = np.asarray) -> None:
        size = len(VOCABULARY)
        logits = np.random.default_rng(seed).normal(size=(pictures, size, size)).astype(np.float32) * 2
        logits[..., [0, 1, 3]] = -np.inf
        self.log_p = (logits - np.log(np.exp(logits).sum(-1, keepdims=True))).astype(np.float32)
        self.library = library

    def __len__(self) -> int:
        return len(self.log_p)

    def begin(self, encoded: "Toy") -> ToyState:
        return ToyState(np.arange(len(self)))

    def step(self, tokens: NDArray[np.int64], state: ToyState) -> Step:
        maps = self.log_p[state.images, tokens].argmax(-1).reshape(-1, 1, 1).astype(np.float32)
        arrays = self.log_p[state.images, tokens], maps, np.zeros(len(tokens), dtype=np.float32)
        return Step(*map(self.library, arrays), state)

    def score(self, picture: int, words: tuple[int, ...], given: int, length_penalty: float) -> float:
        """Of a whole caption, its first words given."""
        tokens = (START, *words, END)
        log_p = [float(self.log_p[picture, a, b]) for a, b in itertools.pairwise(tokens)][given:]
        return sum(log_p) / len(log_p) ** length_penalty


def ids(*texts: str) -> list[tuple[int, ...]]:
    return [tuple(VOCABULARY.ids[word] for word in text.split()) for text in texts]


def holds(words: tuple[int, ...], phrase: tuple[int, ...]) -> bool:
    return any(words[i : i + len(phrase)] == phrase for i in range(len(words)))


def all_captions(options: Beam) -> Iterator[tuple[int, ...]]:
    """All captions that options allow, by going through them."""
    (begin,) = ids(options.begin)
    for length in range(len(begin), options.max_length + 1):
        for words in itertools.product(WORDS, repeat=length):
            if (
                words[: len(begin)] == begin
                and all(holds(words, one) for one in ids(*options.require_words))
                and not any(holds(words, one) for one in ids(*options.forbid_words))
            ):
                yield words


CASES: dict[str, dict[str, Any]] = {
    "begin": {"begin": "red dog"},
    "begin with all": {"begin": "red dog cat ball"},
    "a forbidden word": {"forbid_words": ("dog",)},
    "a forbidden phrase": {"forbid_words": ("red dog", "cat")},
    "a phrase in a phrase": {"forbid_words": ("dog cat", "cat dog cat"), "require_words": ("dog", "cat")},
    "a required word": {"require_words": ("dog",)},
    "two required words": {"require_words": ("dog", "ball")},
    "a required phrase": {"require_words": ("dog red",)},
    "phrases that overlap": {"require_words": ("dog red dog", "red dog cat")},
    "a phrase and its word": {"require_words": ("red dog", "dog", "cat")},
    "as many as fit": {"require_words": ("red", "dog", "cat", "ball")},
    "a word twice in a phrase": {"require_words": ("dog dog", "cat")},
    "all at once": {"begin": "cat", "require_words": ("ball", "red"), "forbid_words": ("cat red", "dog")},
    "what begin holds already": {"begin": "cat dog", "require_words": ("cat dog",)},
}


@pytest.mark.parametrize("library", [np.asarray, torch.from_numpy], ids=["numpy", "torch"])
@pytest.mark.parametrize("asked", CASES.values(), ids=CASES)
def test_a_wide_beam_finds_the_best_caption_that_is_allowed(asked: dict[str, Any], library: Any) -> None:
    toy = Toy(library=library)
    options = Beam(width=400, max_length=LONGEST, min_length=0, length_penalty=0.7, **asked)
    given = len(options.begin.split())
    found = decode(toy, toy, options)
    for picture, (best,) in enumerate(found):
        scores = {words: toy.score(picture, words, given, 0.7) for words in all_captions(options)}
        wanted = max(scores, key=scores.__getitem__)
        assert best.tokens == wanted
        assert best.score == pytest.approx(scores[wanted], abs=1e-4)
        assert best.given == given
        p = [np.exp(toy.log_p[picture, a, b]) for a, b in itertools.pairwise((START, *wanted))]
        np.testing.assert_allclose(best.probabilities, p, rtol=1e-4)  # the model's own, also of words that are given
        looked = [toy.log_p[picture, token].argmax() for token in (START, *wanted)][:-1]
        assert best.maps[:, 0, 0].tolist() == looked  # each word its own map


@pytest.mark.parametrize("width", [1, 2, 3, 8])
@pytest.mark.parametrize("asked", CASES.values(), ids=CASES)
def test_a_beam_of_any_width_meets_what_is_asked(asked: dict[str, Any], width: int) -> None:
    toy = Toy(12, seed=width)
    options = Beam(width=width, n_best=min(width, 2), max_length=LONGEST, min_length=0, **asked)
    allowed = set(all_captions(options))
    for hypotheses in decode(toy, toy, options):
        assert hypotheses
        assert all(one.tokens in allowed for one in hypotheses)


def test_the_n_best_are_the_best_of_all_captions() -> None:
    toy = Toy()
    options = Beam(width=400, n_best=5, max_length=LONGEST, min_length=0, require_words=("dog", "cat"))
    for picture, found in enumerate(decode(toy, toy, options)):
        scores = {words: toy.score(picture, words, 0, 0.7) for words in all_captions(options)}
        assert [one.tokens for one in found] == sorted(scores, key=scores.__getitem__, reverse=True)[:5]


def test_required_words_cost_less_in_a_shared_beam_than_by_force() -> None:
    toy = Toy(40, seed=5)
    asked: dict[str, Any] = {"max_length": LONGEST, "require_words": ("dog", "ball")}
    wide = decode(toy, toy, Beam(width=6, length_penalty=0.0, **asked))
    narrow = decode(toy, toy, Greedy(**asked))
    gain = [a.score - b.score * (len(b.tokens) + 1) for (a,), (b,) in zip(wide, narrow, strict=True)]
    assert np.mean(gain) > 1.0


def test_samples_hold_what_is_given_and_nothing_forbidden() -> None:
    toy = Toy(3)
    options = Sampling(samples=50, max_length=LONGEST, begin="red", forbid_words="dog, cat ball", seed=2)
    for hypotheses in decode(toy, toy, options):
        assert len(hypotheses) == 50
        for one in hypotheses:
            assert one.tokens[:1] == ids("red")[0]
            assert not holds(one.tokens, ids("dog")[0])
            assert not holds(one.tokens, ids("cat ball")[0])
        assert len({one.tokens for one in hypotheses}) > 3


def test_where_everything_is_forbidden_the_caption_ends() -> None:
    toy = Toy(2)
    for options in (Greedy(forbid_words="red, dog, cat, ball"), Sampling(forbid_words="red, dog, cat, ball")):
        for (one,) in decode(toy, toy, options):
            assert one.tokens == ()
            assert one.finished


def plain_diverse_beam(toy: Toy, picture: int, options: Beam) -> list[tuple[int, ...]]:
    """All that ends in diverse beam search, as algorithm 1 of Vijayakumar et al. (2016) has it."""
    places = options.width // options.diverse_groups
    groups = [[((START,), 0.0)] for _ in range(options.diverse_groups)]
    ended = []
    for _ in range(options.max_length + 1):
        taken: list[int] = []
        for g, alive in enumerate(groups):
            found = []
            for words, total in alive:
                for token in (END, *WORDS):
                    value = total + float(toy.log_p[picture, words[-1], token])
                    found.append((value - options.diversity * taken.count(token), value, (*words, token)))
            found.sort(key=lambda one: -one[0])
            chosen = found[:places]
            taken += [words[-1] for _, _, words in chosen]
            ended += [words[1:-1] for _, _, words in chosen if words[-1] == END]
            groups[g] = [(words, value) for _, value, words in chosen if words[-1] != END]
    return ended


@pytest.mark.parametrize("library", [np.asarray, torch.from_numpy], ids=["numpy", "torch"])
@pytest.mark.parametrize(("width", "groups"), [(4, 2), (6, 3), (3, 3)])
def test_diverse_groups_are_those_of_the_paper(width: int, groups: int, library: Any) -> None:
    toy = Toy(6, seed=3, library=library)
    options = Beam(width=width, n_best=width, diverse_groups=groups, diversity=1.5, max_length=5, min_length=0)
    for picture, found in enumerate(decode(toy, toy, options)):
        tokens = [one.tokens for one in found if one.finished]
        assert len(set(tokens)) == len(tokens)
        ended = set(plain_diverse_beam(toy, picture, options))
        assert set(tokens) <= ended
        assert set(tokens) == ended or len(found) == width
        for one in found:
            if one.finished:  # scores hold no penalty
                assert one.score == pytest.approx(toy.score(picture, one.tokens, 0, 0.7), abs=1e-4)


def test_groups_differ_more_the_more_diversity_is_asked_for() -> None:
    toy = Toy(30, seed=1)

    def firsts(diversity: float) -> int:
        options = Beam(width=3, n_best=3, diverse_groups=3, diversity=diversity, max_length=LONGEST)
        return sum(len({one.tokens[0] for one in some}) for some in decode(toy, toy, options))

    assert firsts(0.0) == 30  # all groups say the same, and it is returned once
    assert firsts(0.0) < firsts(1.0) <= firsts(5.0)
    plain = decode(toy, toy, Beam(width=3, max_length=LONGEST))
    one_group = decode(toy, toy, Beam(width=3, max_length=LONGEST, diverse_groups=1, diversity=9.0))
    assert [one[0].tokens for one in plain] == [one[0].tokens for one in one_group]


def test_places_are_shared_out_evenly_and_the_rest_goes_to_what_misses_least() -> None:
    candidates = np.arange(10)
    missing = np.array([2, 2, 2, 2, 2, 1, 1, 1, 0, 0])
    assert share_out(candidates, missing, 7).tolist() == [0, 1, 5, 6, 7, 8, 9]
    assert share_out(candidates, missing, 2).tolist() == [8, 9]
    assert share_out(candidates, np.full(10, 1), 3).tolist() == [0, 1, 2]
    assert share_out(candidates, missing, 20).tolist() == candidates.tolist()


def of(**asked: Any) -> Constraints | None:
    return Constraints.of(Beam(**asked), VOCABULARY)


@pytest.mark.parametrize(
    ("asked", "value", "remedy"),
    [
        ({"require_words": "dgo"}, "dgo", "dog"),
        ({"require_words": ["dog", "<unk>"]}, "<", "take another"),
        ({"begin": "a dog"}, "'a'", "take another"),
        ({"begin": "red dog cat", "max_length": 2}, "3 words", "--max-words"),
        ({"require_words": "red dog, cat", "max_length": 2}, "3 words", "--max-words"),
        ({"begin": "red", "require_words": "dog, cat", "max_length": 2}, "2 words", "--max-words"),
        ({"begin": "red dog", "forbid_words": "dog"}, "'dog'", "leave one"),
        ({"require_words": "red dog", "forbid_words": "Dog"}, "'dog'", "leave one"),
        ({"require_words": "..."}, "'...'", "give a word"),
        ({"forbid_words": "dog cat " * 6}, "12 words", "10"),
    ],
)
def test_what_no_caption_can_meet_is_refused(asked: dict[str, Any], value: str, remedy: str) -> None:
    with pytest.raises(OptionError) as error:
        of(**asked)
    assert value in str(error.value)
    assert remedy in error.value.remedy


@pytest.mark.parametrize(
    ("asked", "value"),
    [
        ({"require_words": "dog", "forbid_words": "DOG"}, "DOG"),
        ({"require_words": ["dog", 3]}, "3"),
        ({"require_words": 3}, "3"),
        ({"require_words": ""}, "''"),
        ({"require_words": [f"word{i}" for i in range(MAX_REQUIRED + 1)]}, str(MAX_REQUIRED)),
        ({"begin": ["dog"]}, "dog"),
        ({"min_length": 9, "max_length": 8}, "9"),
        ({"width": 4, "diverse_groups": 3}, "3"),
        ({"diverse_groups": 0}, "0"),
        ({"width": 2, "diverse_groups": 2, "refill": True}, "refill"),
        ({"diversity": -1}, "-1"),
    ],
)
def test_options_that_contradict_themselves_are_refused(asked: dict[str, Any], value: str) -> None:
    with pytest.raises(OptionError) as error:
        Beam(**asked)
    assert value.lower() in str(error.value).lower()


def test_phrases_that_would_take_long_are_refused() -> None:
    words = tuple(f"w{i}" for i in range(1000))
    vocabulary = Vocabulary((*SPECIAL, *words))
    required = [" ".join(words[i : i + 10]) for i in range(0, 80, 10)]
    forbidden = [f"{a} {b}" for a, b in itertools.pairwise(words)]
    for asked in ({"require_words": required, "max_length": 400}, {"forbid_words": forbidden}):
        with pytest.raises(OptionError) as error:
            Constraints.of(Beam(**asked), vocabulary)
        assert "fewer" in error.value.remedy


def test_words_cannot_be_required_of_sampling() -> None:
    with pytest.raises(OptionError, match="sampling") as error:
        Sampling(require_words="dog")
    assert error.value.remedy


def test_another_option_that_stands_against_is_named() -> None:
    toy = Toy(2)
    with pytest.raises(OptionError) as error:
        decode(toy, toy, Beam(width=4, max_length=LONGEST, no_repeat_ngram=1, require_words=("dog dog",)))
    assert "--no-repeat-ngram" in error.value.remedy


def test_texts_are_taken_with_commas_or_as_a_list_and_unknown_forbidden_words_change_nothing() -> None:
    assert Beam(forbid_words="Dog,  red   cat,dog,").forbid_words == ("dog", "red cat")
    assert Beam(forbid_words=["red cat", "dog"]).as_dict()["forbid_words"] == ["red cat", "dog"]
    toy = Toy(3)
    plain, other = (decode(toy, toy, Beam(forbid_words=words)) for words in ((), "zebra, zebra dog"))
    assert [tokens(one) for one in plain] == [tokens(one) for one in other]


def tokens(found: list[Hypothesis]) -> list[tuple[int, ...]]:
    return [one.tokens for one in found]


def test_the_beam_is_widened_to_what_is_asked_where_no_width_is_given() -> None:
    own = Beam(width=3)
    assert own.changed(require_words="fire hydrant, dog").width == 12
    assert own.changed(n_best=5).width == 5
    assert Beam(min_length=5).changed(max_words=3).min_length == 3
    assert own.changed(diverse_groups=2).width == 4
    assert own.changed(diverse_groups=4, n_best=5).width == 8
    assert own.changed(require_words="dog", width=2).width == 2
    assert own.changed(require_words="a b c d, e f g h, i").width == 20
    assert Beam(width=30).changed(require_words="dog").width == 30


def test_the_best_of_each_group_comes_before_the_second_of_any() -> None:
    def ended(slot: int, token: int) -> _Ended:
        return _Ended((token,), (0.0,), (0,), 0.0, True, slot, 0)

    found = _group_by_group([ended(0, 4), ended(0, 5), ended(1, 6), ended(2, 4), ended(1, 7), ended(2, 8)])
    assert [one.tokens for one in found] == [(4,), (6,), (8,), (5,), (7,)]


def test_a_caption_that_is_cut_off_is_scored_by_its_own_words() -> None:
    toy = Toy(3, seed=1)
    toy.log_p[..., END] = -np.inf  # it never ends
    options = Beam(width=30, max_length=3, min_length=0, length_penalty=0.7, begin="red")
    for picture, (best,) in enumerate(decode(toy, toy, options)):
        assert not best.finished and best.given == 1 and len(best.tokens) == 3
        log_p = [float(toy.log_p[picture, a, b]) for a, b in itertools.pairwise(best.tokens)]
        assert best.score == pytest.approx(sum(log_p) / len(log_p) ** 0.7, abs=1e-4)
