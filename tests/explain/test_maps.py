"""Maps of attention, gradient and occlusion; and what is done to them afterwards."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import captioner
from captioner.checkpoint import Checkpoint
from captioner.data.scenes import draw_scene
from captioner.decoding import Beam
from captioner.errors import CheckpointError, OptionError
from captioner.explain.maps import EXPLAIN, MapReading, attention_heads, encode, finish, gradient_steps
from captioner.model.decoder import START
from captioner.pipeline import Captioner

PICTURES = [draw_scene(1, size=(96, 72)).image, draw_scene(2, size=(72, 96)).image]
ALL = np.ones((2, 2), dtype=bool)


@pytest.fixture(params=["lstm", "transformer"])
def model(request: pytest.FixtureRequest, make_checkpoint: Callable[..., Checkpoint]) -> Captioner:
    return Captioner(make_checkpoint(request.param, pad=True))


# What is done to maps


def test_a_plain_reading_only_drops_the_end() -> None:
    steps = np.random.default_rng(0).dirichlet(np.ones(4), 3).reshape(3, 2, 2).astype(np.float32)
    assert MapReading().plain
    np.testing.assert_allclose(finish(steps, ALL, MapReading()), steps[:2], rtol=1e-6)


def test_the_delay_reads_the_next_step() -> None:
    steps = np.random.default_rng(0).dirichlet(np.ones(4), 3).reshape(3, 2, 2).astype(np.float32)
    reading = MapReading(delay=1)
    assert not reading.plain
    np.testing.assert_allclose(finish(steps, ALL, reading), steps[1:], rtol=1e-6)


def test_what_every_word_looks_at_is_subtracted() -> None:
    steps = np.array([[[0.5, 0.5], [0, 0]], [[0.5, 0], [0.5, 0]], [[0.5, 0.1], [0.1, 0.3]]], dtype=np.float32)
    maps = finish(steps, ALL, MapReading(sinks="subtract"))
    np.testing.assert_allclose(maps, [[[0, 1], [0, 0]], [[0, 0], [1, 0]]], atol=1e-6)


def test_standardising_weighs_each_cell_by_its_own_deviation() -> None:
    # Cell (0, 0) varies ten times as much as (0, 1): the second word stands out alike in both.
    steps = np.zeros((3, 2, 2), dtype=np.float32)
    steps[:, 0, 0], steps[:, 0, 1], steps[:, 1, 0] = (0.2, 0.5, 0.2), (0.1, 0.13, 0.1), 0.3
    subtracted = finish(steps, ALL, MapReading(sinks="subtract"))[1]
    standardised = finish(steps, ALL, MapReading(sinks="standardise"))[1]
    assert subtracted[0, 0] == pytest.approx(10 * subtracted[0, 1])
    assert 1 < standardised[0, 0] / standardised[0, 1] < 2.5
    assert standardised[1, 0] == 0


@pytest.mark.parametrize("sinks", ["subtract", "standardise"])
def test_maps_that_are_all_alike_say_nothing_and_are_even(sinks: str) -> None:
    valid = np.array([[True, True], [True, False]])
    steps = np.repeat(np.array([[[0.7, 0.2], [0.1, 0.0]]], dtype=np.float32), 4, axis=0)
    maps = finish(steps, valid, MapReading(sinks=sinks))
    np.testing.assert_allclose(maps, np.repeat([[[1 / 3, 1 / 3], [1 / 3, 0]]], 3, axis=0), rtol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"explain": "magic"}, "not from 'magic'"),
        ({"sinks": "float"}, "not 'float'"),
        ({"delay": 2}, "not 2 for attention"),
        ({"explain": "gradient", "delay": 1}, "not 1 for gradient"),
        ({"block": 2}, "an odd number of cells, not 2"),
    ],
)
def test_readings_that_cannot_be_are_refused(options: dict, message: str) -> None:  # type: ignore[type-arg]
    with pytest.raises(OptionError, match=message):
        MapReading(**options)


def test_readings_are_stored_by_way() -> None:
    best = MapReading(sinks="standardise", delay=1)
    about = {"maps": MapReading.as_stored(best, MapReading(explain="gradient", sinks="subtract"))}
    assert MapReading.stored(about) == MapReading.stored(about, "attention") == best
    assert MapReading.stored(about, "gradient") == MapReading(explain="gradient", sinks="subtract")
    assert MapReading.stored(about, "occlusion") == MapReading(explain="occlusion")
    assert MapReading.stored({}).plain


# Where they come from


@pytest.mark.parametrize("explain", EXPLAIN)
def test_every_way_gives_maps_of_one_format_and_the_same_captions(model: Captioner, explain: str) -> None:
    plain = model.caption(PICTURES, options=Beam(width=2, max_length=5, n_best=2))
    found = model.caption(PICTURES, options=Beam(width=2, max_length=5, n_best=2), explain=explain)
    for one, other in zip(plain, found, strict=True):
        assert one.text == other.text
        assert (one.explain, other.explain, other.as_dict()["explain"]) == ("attention", explain, explain)
        for maps in (other.maps, np.stack([word.map for word in other.alternatives[0].words])):
            assert maps.dtype == np.float32
            assert maps.min() >= 0
            np.testing.assert_allclose(maps.sum((1, 2)), 1, rtol=1e-4)
            assert maps[:, ~other.geometry.mask].max(initial=0) == 0
        same = np.allclose(one.maps, other.maps, atol=1e-4)
        assert same == (explain == "attention")


def test_reading_the_own_caption_gives_its_words_probabilities_and_maps(
    model: Captioner, monkeypatch: pytest.MonkeyPatch
) -> None:
    (written,) = model.caption([PICTURES[0]], options=Beam(width=2, max_length=5, min_length=3))
    # An untrained model says anything, what a tokeniser would split too.
    monkeypatch.setattr(model, "split", lambda _: [word.text for word in written.words])
    (read,) = model.read(PICTURES[0], [written.text])
    assert [word.text for word in read.words] == [word.text for word in written.words]
    np.testing.assert_allclose(read.maps, written.maps, atol=1e-5)
    # Reading forbids no word, so probabilities are a little lower than where special ones cannot be said.
    assert all(0 < a.probability <= b.probability + 1e-6 for a, b in zip(read.words, written.words, strict=True))


def test_several_captions_are_read_as_each_alone(model: Captioner) -> None:
    texts = ["a red dog in the park", "a zebra", "the ball 's blue."]
    for explain in ("attention", "gradient"):
        together = model.read(PICTURES[1], texts, explain=explain)
        for text, caption in zip(texts, together, strict=True):
            (alone,) = model.read(PICTURES[1], [text], explain=explain)
            assert caption.text == alone.text
            np.testing.assert_allclose(caption.maps, alone.maps, atol=1e-4)
            np.testing.assert_allclose(
                [word.probability for word in caption.words], [word.probability for word in alone.words], rtol=1e-4
            )
    assert together[1].words[1].text == "zebra"
    assert together[1].words[1].probability == 0, "a word that the model does not know"
    assert [word.text for word in together[2].words] == ["the", "ball", "'s", "blue"]
    assert model.read(PICTURES[1], []) == []


def test_captions_without_words_are_refused_and_long_ones_cut(model: Captioner) -> None:
    with pytest.raises(OptionError, match=r"'\.\.\.' has no words"):
        model.read(PICTURES[0], ["..."])
    (caption,) = model.read(PICTURES[0], ["a dog " * 200])
    assert len(caption.words) == model.longest


def test_gradients_are_those_of_finite_differences(model: Captioner) -> None:
    """Attention times gradient is how the log-probability answers when the weights of one cell grow."""
    prepared = model.prepare(PICTURES[0])
    grid = encode(model.model, prepared.pixels[None].copy(), [prepared.geometry])
    reads, says = torch.tensor([[START, 4, 5, 6]]), torch.tensor([[4, 5, 6, 7]])
    _, steps = gradient_steps(model.model.decoder, grid, reads, says)
    assert steps.shape == (1, 4, 8, 8)
    heads = attention_heads(model.model.decoder, grid, reads)
    assert heads.shape[:3] == (1, 1 if model.model.config.decoder_name == "lstm" else 4, 4)
    torch.testing.assert_close(heads.sum((3, 4)), torch.ones(heads.shape[:3]))

    step, cell, small = 3, 10, 1e-2

    def grown(size: float) -> float:
        """The log-probability when every head gives one cell a little more, at one step."""
        calls = 0

        def grow(weights: torch.Tensor) -> None:
            nonlocal calls
            at_once = weights.shape[2] == 4
            if at_once or calls == step:
                place = step if at_once else 0
                gain = positive[calls if at_once else 0]
                weights[:, :, place, cell] += size * weights[:, :, place, cell] * gain
            calls += 1

        attentions = [m for m in model.model.decoder.modules() if hasattr(m, "listener")]
        for attention in attentions:
            attention.listener = grow
        try:
            with torch.no_grad():
                logits, _ = model.model.decoder.teach(grid, reads)
        finally:
            for attention in attentions:
                attention.listener = None
        return float(logits.double().log_softmax(-1)[0, step, says[0, step]])

    # Which heads the cell speaks for the word in: the others count as 0, and here stay as they are.
    count = 1 if model.model.config.decoder_name == "lstm" else 2
    alone = []
    for layer in range(count):
        for head in range(heads.shape[1] // count):
            positive = [torch.zeros(1, heads.shape[1] // count) for _ in range(count)]
            positive[layer][0, head] = 1
            alone.append((grown(small) - grown(-small)) / (2 * small))
    expected = sum(max(0.0, change) for change in alone)
    assert float(steps[0, step].flatten()[cell]) == pytest.approx(expected, rel=0.05, abs=2e-5)


def test_occlusion_finds_the_cells_that_the_words_hang_on(make_checkpoint: Callable[..., Checkpoint]) -> None:
    """A model whose every word hangs on one corner, for its encoder sees nothing else."""
    made = make_checkpoint("lstm")
    model = Captioner(made)
    stages = made.model.encoder.stages

    def corner(_module: object, _inputs: object, output: torch.Tensor) -> torch.Tensor:
        kept = torch.zeros_like(output)
        kept[:, :, :2, :2] = output[:, :, :2, :2]
        return kept

    hook = stages.register_forward_hook(corner)
    try:
        (caption,) = model.read(PICTURES[0], ["a red dog"], explain=MapReading(explain="occlusion", block=1))
    finally:
        hook.remove()
    for map_ in caption.maps:
        if map_.max() > 1.5 / 64:  # a word that blots make likelier has an even map
            assert map_[:3, :3].sum() > 0.99  # a cell sees the pixels of its neighbours
    assert max(map_.max() for map_ in caption.maps) > 1.5 / 64


def test_the_models_file_says_how_maps_are_read(make_checkpoint: Callable[..., Checkpoint], tmp_path: Path) -> None:
    from dataclasses import replace

    from captioner import checkpoint

    made = make_checkpoint("lstm")
    stored = MapReading.as_stored(MapReading(sinks="subtract", delay=1))
    checkpoint.save(tmp_path / "m.safetensors", replace(made, about={**made.about, "maps": stored}))
    model = captioner.load(tmp_path / "m.safetensors")
    assert model.map_reading == MapReading(sinks="subtract", delay=1)
    default, asked = model.caption(PICTURES[0]), model.caption(PICTURES[0], explain="attention")
    np.testing.assert_array_equal(default.maps, asked.maps)
    assert not np.allclose(default.maps, model.caption(PICTURES[0], explain=MapReading()).maps)
    with pytest.raises(OptionError, match="not from 'magic'"):
        model.caption(PICTURES[0], explain="magic")

    checkpoint.save(tmp_path / "bad.safetensors", replace(made, about={"maps": {"attention": {"sink": 3}}}))
    with pytest.raises(CheckpointError, match=r"bad\.safetensors: damaged"):
        captioner.load(tmp_path / "bad.safetensors")
