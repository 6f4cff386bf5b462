"""Greedy, beam and sampling, over both decoders in torch and over a toy backend in numpy whose best caption can be
enumerated."""

import itertools
import math
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from captioner.backends.base import Step
from captioner.backends.torch import TorchBackend
from captioner.checkpoint import Checkpoint
from captioner.decoding import Beam, Greedy, Hypothesis, Sampling, decode
from captioner.errors import CheckpointError, OptionError
from captioner.model.caption_model import CaptionModel, ModelConfig
from captioner.model.encoder import EncoderConfig
from captioner.model.grid import Grid
from captioner.model.lstm import LSTMConfig
from captioner.model.refiners import RefinerConfig
from captioner.model.transformer import TransformerConfig
from captioner.tokenizer.vocabulary import END, SPECIAL, START, Vocabulary

WORDS = 12  # ids 4 to 15
CONFIGS = {
    "lstm": LSTMConfig(width=32, embedding=16, output_hidden=16, attention_width=16, heads=2, dropout=0.0),
    "lstm-dot": LSTMConfig(
        width=32, embedding=16, output_hidden=16, attention="dot", attention_width=16, heads=1, dropout=0.0
    ),
    "transformer": TransformerConfig(width=16, layers=2, heads=2, hidden=32, dropout=0.0),
}


@pytest.fixture(params=CONFIGS)
def model(request: pytest.FixtureRequest) -> CaptionModel:
    """A small random model with sharp opinions, so that beams differ from greedy."""
    torch.manual_seed(3)
    config = ModelConfig(
        encoder=EncoderConfig(backbone="tiny", side=32),
        refiner=RefinerConfig(width=16),
        decoder=CONFIGS[request.param],
    )
    model = CaptionModel(config, vocabulary_size=4 + WORDS).eval()
    with torch.no_grad():
        for name, parameter in model.decoder.named_parameters():
            # Weights of the output are left alone: an embedding that is shared would only repeat the last word.
            parameter.mul_(1.0 if "embed" in name else 1.6)
        model.decoder.bias[END] += 1.0
    return model


def grid_of(pictures: int, *, seed: int = 0) -> Grid:
    features = torch.randn(pictures, 12, 16, generator=torch.Generator().manual_seed(seed))
    return Grid(features, (3, 4))


def run(model: CaptionModel, grid: Grid, options: Greedy, *, keys: list[int] | None = None) -> list[list[Hypothesis]]:
    vocabulary = Vocabulary(SPECIAL + tuple(f"w{i}" for i in range(WORDS)))
    return decode(TorchBackend(Checkpoint(model=model, vocabulary=vocabulary)), grid, options, keys=keys)


def forward(model: CaptionModel, grid: Grid, tokens: torch.Tensor) -> tuple[torch.Tensor, NDArray[np.float32]]:
    with torch.no_grad():
        decoded = model.decoder(grid, tokens)
    return decoded.logits, decoded.maps.numpy()


def captions(found: list) -> list[list[tuple]]:
    return [[(h.tokens, h.finished) for h in hypotheses] for hypotheses in found]


def test_a_beam_of_one_is_greedy(model: CaptionModel) -> None:
    grid = grid_of(8)
    greedy = run(model, grid, Greedy(max_length=9))
    assert captions(greedy) == captions(run(model, grid, Beam(width=1, max_length=9)))
    assert len({h[0].tokens for h in greedy}) > 1, "pictures that all get the same caption would test little"


def test_greedy_takes_the_likeliest_word_at_each_step(model: CaptionModel) -> None:
    for picture in range(4):
        grid = Grid(grid_of(4).features[picture : picture + 1], (3, 4))
        best = run(model, grid, Greedy(max_length=6))[0][0]
        tokens = torch.tensor([[START, *best.tokens]])
        logits, maps = forward(model, grid, tokens)
        logits[:, :, [0, 1, 3]] = -math.inf
        logits[:, 0, END] = -math.inf  # min_length is 1
        likeliest = logits[0].argmax(-1).tolist()
        assert tuple(likeliest[: len(best.tokens)]) == best.tokens
        assert best.finished == (likeliest[len(best.tokens)] == END)
        np.testing.assert_allclose(maps[0, : len(best.tokens)], best.maps, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "options",
    [Greedy(max_length=8), Beam(width=4, n_best=3, max_length=8), Sampling(samples=3, max_length=8, top_p=0.9)],
)
def test_a_batch_says_what_each_picture_would_alone(model: CaptionModel, options: Greedy) -> None:
    grid = grid_of(6)
    together = run(model, grid, options)
    for picture, hypotheses in enumerate(together):
        alone = run(model, Grid(grid.features[picture : picture + 1], (3, 4)), options, keys=[picture])[0]
        assert [h.tokens for h in hypotheses] == [h.tokens for h in alone]
        for a, b in zip(hypotheses, alone, strict=True):
            assert a.score == pytest.approx(b.score, abs=1e-5)
            np.testing.assert_allclose(a.maps, b.maps, rtol=0, atol=1e-5)


def test_cells_without_picture_change_nothing(model: CaptionModel) -> None:
    plain = grid_of(3)
    features = torch.full((3, 5, 4, 16), 7.0)  # two rows of garbage below
    features[:, :3] = plain.features.unflatten(1, (3, 4))
    mask = torch.zeros(3, 5, 4, dtype=torch.bool)
    mask[:, :3] = True
    padded = Grid(features.flatten(1, 2), (5, 4), mask.flatten(1))
    options = Beam(width=3, max_length=8)
    for a, b in zip(run(model, plain, options), run(model, padded, options), strict=True):
        assert a[0].tokens == b[0].tokens
        assert np.abs(b[0].maps[:, 3:]).max() == 0
        np.testing.assert_allclose(a[0].maps, b[0].maps[:, :3], rtol=0, atol=1e-5)


def test_every_word_brings_its_own_map_and_probability_through_the_beam(model: CaptionModel) -> None:
    grid = grid_of(5)
    for picture, hypotheses in enumerate(run(model, grid, Beam(width=5, n_best=5, max_length=7))):
        for h in hypotheses:
            alone = Grid(grid.features[picture : picture + 1], (3, 4))
            logits, maps = forward(model, alone, torch.tensor([[START, *h.tokens]]))
            logits[:, :, [0, 1, 3]] = -math.inf
            p = logits[0].softmax(-1)
            np.testing.assert_allclose(maps[0, : len(h.tokens)], h.maps, rtol=0, atol=1e-5)
            np.testing.assert_allclose(h.maps.sum((1, 2)) + h.off_grid, 1, rtol=1e-5)
            for i, (token, probability) in enumerate(zip(h.tokens, h.probabilities, strict=True)):
                assert p[i, token].item() == pytest.approx(probability, abs=1e-5)


def test_unknown_padding_and_start_are_never_said(model: CaptionModel) -> None:
    with torch.no_grad():
        model.decoder.bias[[0, 1, 3]] += 50
    for options in (Greedy(max_length=6), Beam(width=4, max_length=6), Sampling(samples=3, max_length=6)):
        for hypotheses in run(model, grid_of(4), options):
            assert all(token >= 4 for h in hypotheses for token in h.tokens)


def test_lengths_stay_within_their_bounds(model: CaptionModel) -> None:
    for options in (
        Greedy(min_length=4, max_length=5),
        Beam(width=3, n_best=3, min_length=4, max_length=5),
        Sampling(samples=4, min_length=4, max_length=5),
    ):
        for hypotheses in run(model, grid_of(6), options):
            assert all(4 <= len(h.tokens) <= 5 for h in hypotheses)


def test_what_never_ends_is_returned_and_marked(model: CaptionModel) -> None:
    with torch.no_grad():
        model.decoder.bias[END] = -1e4
    for options in (Greedy(max_length=5), Beam(width=3, n_best=2, max_length=5), Sampling(max_length=5)):
        for hypotheses in run(model, grid_of(2), options):
            assert hypotheses, "a picture without a caption"
            assert all(len(h.tokens) == 5 and not h.finished for h in hypotheses)


def test_no_ngram_stands_twice(model: CaptionModel) -> None:
    with torch.no_grad():
        model.decoder.bias[END] = -1e4
        model.decoder.bias[[5, 6]] += 4  # two words it would love to repeat
    plain = run(model, grid_of(4), Beam(width=3, max_length=10))
    for n in (1, 2, 3):
        pairs = [
            list(itertools.pairwise(h[0].tokens))
            if n == 2
            else list(zip(*(h[0].tokens[i:] for i in range(n)), strict=False))
            for h in run(model, grid_of(4), Beam(width=3, max_length=10, no_repeat_ngram=n))
        ]
        assert all(len(set(p)) == len(p) for p in pairs)
    repeated = [list(itertools.pairwise(h[0].tokens)) for h in plain]
    assert any(len(set(p)) < len(p) for p in repeated), "nothing would have been repeated anyway"


def test_sampling_follows_its_seed_and_its_distribution(model: CaptionModel) -> None:
    grid = grid_of(3)
    first = run(model, grid, Sampling(seed=1, samples=4, max_length=6))
    assert captions(first) == captions(run(model, grid, Sampling(seed=1, samples=4, max_length=6)))
    assert captions(first) != captions(run(model, grid, Sampling(seed=2, samples=4, max_length=6)))
    greedy = captions(run(model, grid, Greedy(max_length=6)))
    assert captions(run(model, grid, Sampling(top_k=1, max_length=6))) == greedy
    assert captions(run(model, grid, Sampling(top_p=1e-6, max_length=6))) == greedy
    for temperature in (1e-3, 1e-60):
        assert captions(run(model, grid, Sampling(temperature=temperature, max_length=6))) == greedy


def test_first_sampled_words_are_as_frequent_as_they_are_likely(model: CaptionModel) -> None:
    grid = grid_of(1)
    found = [h for seed in range(4) for h in run(model, grid, Sampling(samples=1000, max_length=1, seed=seed))[0]]
    logits, _ = forward(model, grid, torch.tensor([[START]]))
    logits[..., [0, 1, 3]] = -math.inf
    logits[..., END] = -math.inf
    p = logits[0, 0].softmax(-1)
    counts = torch.bincount(torch.tensor([h.tokens[0] for h in found]), minlength=len(p)) / len(found)
    assert (counts - p).abs().max() < 0.04  # five standard deviations of the largest


@dataclass(frozen=True)
class ToyState:
    images: NDArray[np.int64]  # of each row

    def select(self, rows: NDArray[np.int64], images: NDArray[np.int64] | None = None) -> "ToyState":
        return ToyState(self.images[rows])


class Toy:
    """A Markov chain for a backend: every caption's likelihood can be written down. It is all numpy."""

    grid_shape = (1, 1)

    def __init__(self, pictures: int, size: int, seed: int) -> None:
        self.logits = np.random.default_rng(seed).normal(size=(pictures, size, size)).astype(np.float32) * 2

    def begin(self, encoded: "Toy") -> ToyState:
        return ToyState(np.arange(len(self)))

    def __len__(self) -> int:
        return len(self.logits)

    def step(self, tokens: NDArray[np.int64], state: ToyState) -> Step:
        return Step(self.log_p[state.images, tokens], np.ones((len(tokens), 1, 1)), np.zeros(len(tokens)), state)

    @property
    def log_p(self) -> NDArray[np.float32]:
        logits = self.logits.copy()
        logits[..., [0, 1, 3]] = -np.inf
        return np.asarray(logits - np.log(np.exp(logits).sum(-1, keepdims=True)), dtype=np.float32)


@pytest.mark.parametrize("length_penalty", [0.0, 0.7, 1.0])
def test_a_beam_as_wide_as_the_space_finds_the_best_caption(length_penalty: float) -> None:
    size, longest, pictures = 7, 3, 6  # three words, captions of one to three
    toy = Toy(pictures, size, seed=11)
    found = decode(toy, toy, Beam(width=60, max_length=longest, length_penalty=length_penalty))
    differs = 0
    for picture in range(pictures):
        scores = {}
        for words in itertools.chain.from_iterable(
            itertools.product((4, 5, 6), repeat=n) for n in range(1, longest + 1)
        ):
            total, last = 0.0, START
            for i, token in enumerate((*words, END)):
                logits = toy.log_p[picture, last].astype(np.float64)
                if i == 0:
                    logits[END] = -np.inf
                total += float(logits[token] - np.log(np.exp(logits).sum()))
                last = token
            scores[words] = total / (len(words) + 1) ** length_penalty
        best = max(scores, key=scores.__getitem__)
        assert found[picture][0].tokens == best
        assert found[picture][0].score == pytest.approx(scores[best], abs=1e-5)
        greedy = decode(toy, toy, Greedy(max_length=longest))[picture][0].tokens
        differs += greedy != best
    assert differs, "greedy found them all: the toy is too easy"


Ended = dict[tuple[int, ...], float]


class CountingToy(Toy):
    """A toy that notes how many hypotheses each step continues."""

    def __init__(self, pictures: int, size: int, seed: int) -> None:
        super().__init__(pictures, size, seed)
        self.rows: list[int] = []

    def step(self, tokens: NDArray[np.int64], state: ToyState) -> Step:
        self.rows.append(len(tokens))
        return super().step(tokens, state)


def plain_beam(
    toy: Toy, width: int, max_length: int, *, refill: bool
) -> tuple[list[int], dict[tuple[int, ...], float]]:
    """Beam search for the toy's one picture as the papers write it: rows of each step, and what has ended."""
    log_p = toy.log_p[0].astype(np.float64)
    alive, ended, rows = [((START,), 0.0)], {}, []
    for length in range(max_length + 1):
        rows.append(len(alive))
        found = []
        for words, total in alive:
            own = log_p[words[-1]].copy()
            if length == 0:
                own[END] = -np.inf
                own -= np.log(np.exp(own).sum())
            found += [((*words, token), total + own[token]) for token in np.flatnonzero(np.isfinite(own)).tolist()]
        found.sort(key=lambda one: -one[1])
        ended |= {words: total for words, total in found[:width] if words[-1] == END}
        going = [(words, total) for words, total in (found if refill else found[:width]) if words[-1] != END]
        alive = going[:width]
        if not alive or (refill and len(ended) >= width):
            break
    return rows, {words[1:-1]: total for words, total in ended.items()}


@pytest.mark.parametrize("refill", [False, True])
@pytest.mark.parametrize("seed", range(8))
def test_each_step_continues_as_many_hypotheses_as_the_papers_say(seed: int, refill: bool) -> None:
    toy = CountingToy(1, 12, seed=seed)
    toy.logits[..., END] += 2.0  # some end at each step
    rows, ended = plain_beam(toy, 4, 8, refill=refill)
    options = Beam(width=4, n_best=4, max_length=8, length_penalty=0.0, refill=refill, early_stopping=False)
    (found,) = decode(toy, toy, options)
    assert toy.rows == rows
    best = sorted(ended, key=ended.__getitem__, reverse=True)[:4]
    assert [one.tokens for one in found if one.finished] == best
    np.testing.assert_allclose([one.score for one in found if one.finished], [ended[one] for one in best], atol=1e-4)


@pytest.mark.parametrize("kept", [1, 4])
@pytest.mark.parametrize("seed", range(4))
def test_without_a_length_penalty_early_stopping_only_saves_steps(seed: int, kept: int) -> None:
    toys = [CountingToy(1, 12, seed=seed) for _ in range(2)]
    for toy in toys:
        toy.logits[..., END] += 2.0
    whole, early = (
        decode(toy, toy, Beam(width=4, n_best=kept, max_length=20, length_penalty=0.0, early_stopping=stops))
        for toy, stops in zip(toys, (False, True), strict=True)
    )
    assert captions(early) == captions(whole)
    assert len(toys[1].rows) < len(toys[0].rows) and sum(toys[1].rows) < sum(toys[0].rows)


def test_early_stopping_continues_what_would_be_best_if_it_ended_next() -> None:
    """Two words: "4" ends at once, "5" needs two more steps, each of which is nearly certain."""
    toy = CountingToy(1, 7, seed=0)
    toy.logits[:] = -30.0
    toy.logits[0, START, [4, 5]] = 1.0, 0.9
    toy.logits[0, 4, END], toy.logits[0, 5, 6], toy.logits[0, 6, END] = 5.0, 5.0, 5.0

    def best(length_penalty: float) -> tuple[int, ...]:
        toy.rows.clear()
        return decode(toy, toy, Beam(width=2, length_penalty=length_penalty))[0][0].tokens

    # -0.65 / 2 for "4" and its end. "5 6" has -0.74 before its end, the third token.
    assert best(1.0) == (5, 6) and len(toy.rows) == 3
    assert best(0.0) == (4,) and len(toy.rows) == 2
    assert best(1.2) == (5, 6) and len(toy.rows) > 3  # longer captions may gain: all are looked at


def test_refilled_slots_find_at_least_as_likely_captions_and_as_many() -> None:
    toy = Toy(30, 12, seed=8)
    without = decode(toy, toy, Beam(width=4, n_best=4, max_length=8, length_penalty=0.0))
    refilled = decode(toy, toy, Beam(width=4, n_best=4, max_length=8, length_penalty=0.0, refill=True))
    assert without != refilled
    for one, other in zip(without, refilled, strict=True):
        assert other[0].score >= one[0].score - 1e-5
        assert len({h.tokens for h in other}) == len(other) == 4
        for h in other:
            assert all(0 < p <= 1 for p in h.probabilities)
            assert len(h.maps) == len(h.tokens) == len(h.probabilities)
    best = decode(toy, toy, Greedy(max_length=8))
    as_greedy = decode(toy, toy, Beam(width=1, max_length=8, length_penalty=1.0, refill=True))
    assert captions(best) == captions(as_greedy)


def test_a_longer_caption_wins_with_a_larger_length_penalty() -> None:
    toy = Toy(20, 9, seed=4)
    lengths = [
        sum(len(h[0].tokens) for h in decode(toy, toy, Beam(width=8, max_length=8, length_penalty=a)))
        for a in (0.0, 1.0, 3.0)
    ]
    assert lengths == sorted(lengths)
    assert lengths[0] < lengths[-1]


def test_n_best_are_different_and_in_order(model: CaptionModel) -> None:
    for hypotheses in run(model, grid_of(4), Beam(width=6, n_best=4, max_length=6)):
        assert len({h.tokens for h in hypotheses}) == len(hypotheses) == 4
        order = [(h.finished, h.score) for h in hypotheses]
        assert order == sorted(order, reverse=True), "finished ones first, each kind by its score"


def test_a_caption_that_ends_is_not_returned_once_more_as_one_that_was_cut_off() -> None:
    logits = np.full((1, 6, 6), -20.0, dtype=np.float32)
    logits[0, :, 4] = 0.0
    logits[0, 4] = [-20.0, -20.0, -0.7, -20.0, -0.8, -3.0]  # the end, the word 4 or the word 5
    toy = Toy(1, 6, 0)
    toy.logits = logits
    found = decode(toy, toy, Beam(width=4, n_best=4, max_length=2))[0]
    assert len({h.tokens for h in found}) == len(found)
    assert {h.finished for h in found} == {True, False}


def test_a_caption_keeps_no_maps_but_its_own(model: CaptionModel) -> None:
    for options in (Greedy(max_length=6), Beam(width=4, n_best=4, max_length=6), Sampling(samples=2, max_length=6)):
        for h in itertools.chain(*run(model, grid_of(5), options)):
            assert h.maps.base is None and h.maps.nbytes == 4 * len(h.tokens) * 12


def test_a_sample_depends_on_seed_and_picture_alone() -> None:
    """Pictures that are alike to the model draw differently, and a picture draws the same in any batch."""
    toy = Toy(4, 20, seed=2)
    toy.logits[:] = toy.logits[:1]
    options = Sampling(samples=3, max_length=6, seed=9)
    keys = [101, 102, 103, 104]
    together = [[h.tokens for h in some] for some in decode(toy, toy, options, keys=keys)]
    assert len(set(map(tuple, together))) == 4
    for picture, key in enumerate(keys):
        one = Toy(1, 20, seed=2)
        one.logits = toy.logits[picture : picture + 1]
        assert [h.tokens for h in decode(one, one, options, keys=[key])[0]] == together[picture]


def test_the_nucleus_is_the_fewest_words_that_reach_the_probability() -> None:
    toy = Toy(1, 12, seed=5)
    p = np.exp(toy.log_p[0, START].astype(np.float64))
    p[END] = 0
    order = np.argsort(-p)
    reached = np.cumsum(p[order] / p.sum())
    nucleus = set(order[: int(np.searchsorted(reached, 0.6)) + 1].tolist())
    assert 1 < len(nucleus) < 6
    options = Sampling(samples=400, max_length=1, top_p=0.6)
    assert {one.tokens[0] for one in decode(toy, toy, options)[0]} == nucleus


def test_seed_and_picture_are_two_numbers() -> None:
    toy = Toy(1, 20, seed=2)

    def drawn(seed: int, key: int) -> list[tuple[int, ...]]:
        return [one.tokens for one in decode(toy, toy, Sampling(samples=3, max_length=6, seed=seed), keys=[key])[0]]

    assert drawn(1, 2) != drawn(2, 1) and drawn(1, 2) == drawn(1, 2)


@pytest.mark.parametrize("options", [Greedy(), Beam(width=3, n_best=2), Sampling(samples=2)])
def test_numbers_that_are_not_finite_are_an_error_and_no_caption(options: Greedy) -> None:
    toy = Toy(3, 9, seed=1)
    toy.logits[1, 4:] = np.nan
    with pytest.raises(CheckpointError, match="not finite"):
        decode(toy, toy, options)


@pytest.mark.parametrize("n", [1, 2, 3])
@pytest.mark.parametrize(
    "options",
    [
        Greedy(max_length=6),
        Beam(width=4, n_best=3, max_length=9, min_length=3),
        Beam(width=3, max_length=5),
        Beam(width=4, n_best=4, max_length=6, refill=True),
        Sampling(samples=3, max_length=6, seed=4, top_p=0.9),
        Greedy(max_length=14, min_length=10),  # words run out before the end is allowed
    ],
)
def test_arrays_of_an_accelerator_decode_to_what_numpy_decodes_to(options: Beam, n: int) -> None:
    """The arrays of torch stand for those of a device: decoding never sees numpy until the few best are picked."""
    toy = Toy(5, 12, seed=6)

    class OnDevice(Toy):
        def step(self, tokens: NDArray[np.int64], state: ToyState) -> Step:
            step = super().step(tokens, state)
            arrays = [torch.from_numpy(np.asarray(array)) for array in (step.log_p, step.maps, step.off_grid)]
            return Step(*arrays, state=step.state)

    device = OnDevice(5, 12, seed=6)
    options = replace(options, no_repeat_ngram=n)
    with np.errstate(divide="raise", invalid="raise"):
        both = zip(decode(toy, toy, options), decode(device, device, options), strict=True)
    for ours, theirs in both:
        assert [h.tokens for h in ours] == [h.tokens for h in theirs]
        assert [h.score for h in ours] == pytest.approx([h.score for h in theirs], abs=1e-5)


@pytest.mark.parametrize(
    ("kind", "values", "said"),
    [
        (Beam, {"width": 0}, "not 0"),
        (Beam, {"width": 10**6}, "not 1000000"),
        (Beam, {"width": 2, "n_best": 3}, "--beam"),
        (Beam, {"length_penalty": -1.0}, "not -1.0"),
        (Beam, {"length_penalty": math.nan}, "not nan"),
        (Beam, {"length_penalty": "1"}, "length_penalty"),
        (Greedy, {"max_length": 0}, "not 0"),
        (Greedy, {"max_length": True}, "not True"),
        (Greedy, {"min_length": 9, "max_length": 8}, "min_length 9 is above max_length 8"),
        (Greedy, {"no_repeat_ngram": -1}, "not -1"),
        (Sampling, {"temperature": 0.0}, "not 0.0"),
        (Sampling, {"temperature": math.inf}, "not inf"),
        (Sampling, {"seed": -1}, "not -1"),
        (Sampling, {"seed": 2**63}, "seed"),
        (Sampling, {"top_p": 1.5}, "not 1.5"),
        (Sampling, {"top_k": -2}, "not -2"),
        (Sampling, {"samples": 0}, "not 0"),
    ],
)
def test_options_out_of_range_are_named(kind: type, values: dict, said: str) -> None:
    with pytest.raises(OptionError, match=said.replace("(", r"\(")):
        kind(**values)


@pytest.mark.parametrize(
    "options",
    [Beam(width=3, no_repeat_ngram=1, min_length=6, max_length=8, n_best=3), Sampling(no_repeat_ngram=1, min_length=6)],
)
def test_what_is_forbidden_changes_no_probability_of_a_word(model: CaptionModel, options: Greedy) -> None:
    grid = grid_of(2)
    for i, found in enumerate(run(model, grid, options)):
        for one in found:
            read, _ = forward(model, grid.select(torch.tensor([i])), torch.tensor([[START, *one.tokens]]))
            read[:, :, [0, 1, 3]] = -math.inf
            log_p = read[0].log_softmax(-1)[torch.arange(len(one.tokens)), list(one.tokens)]
            np.testing.assert_allclose(one.probabilities, log_p.exp().numpy(), rtol=1e-4)
