"""Maps from attention, gradient and occlusion, and their postprocessing."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

import captioner
from captioner.backends.torch import TorchBackend
from captioner.checkpoint import Checkpoint
from captioner.data.scenes import draw_scene
from captioner.errors import CheckpointError, OptionError
from captioner.explain.attention import attention_heads
from captioner.explain.gradient import gradient_maps
from captioner.explain.postprocess import postprocess
from captioner.model.attention import Attended, AttentionCache, MultiHeadAttention
from captioner.model.grid import Grid
from captioner.options import EXPLAIN, Beam, MapOptions
from captioner.pipeline import Captioner
from captioner.pipeline.word_maps import word_maps
from captioner.results import Caption
from captioner.tokenizer.vocabulary import START

PICTURES = [draw_scene(1, size=(96, 72)).image, draw_scene(2, size=(72, 96)).image]
ALL = np.ones((2, 2), dtype=bool)


@pytest.fixture(params=["lstm", "transformer"])
def model(request: pytest.FixtureRequest, make_checkpoint: Callable[..., Checkpoint]) -> Captioner:
    return Captioner(TorchBackend(make_checkpoint(request.param, pad=True)))


# What is done to maps


def test_a_plain_reading_only_drops_the_end() -> None:
    steps = np.random.default_rng(0).dirichlet(np.ones(4), 3).reshape(3, 2, 2).astype(np.float32)
    assert MapOptions().plain
    np.testing.assert_allclose(postprocess(steps, ALL, MapOptions())[0], steps[:2], rtol=1e-6)


def test_the_delay_reads_the_next_step() -> None:
    steps = np.random.default_rng(0).dirichlet(np.ones(4), 3).reshape(3, 2, 2).astype(np.float32)
    options = MapOptions(delay=1)
    assert not options.plain
    np.testing.assert_allclose(postprocess(steps, ALL, options)[0], steps[1:], rtol=1e-6)


@pytest.mark.parametrize("options", [MapOptions(delay=1), MapOptions(sinks="standardise")])
@pytest.mark.parametrize("max_length", [6, 2])
def test_maps_of_a_caption_are_those_of_reading_it(model: Captioner, options: MapOptions, max_length: int) -> None:
    """Decoding returns all that they take, also of captions that are cut off."""
    ready = [model.prepare(picture) for picture in PICTURES]
    captions = model.caption_prepared(ready, options=Beam(width=2, max_length=max_length), explain=options)
    ids = [[model.vocabulary.encode_made([word.text for word in caption.words])] for caption in captions]
    assert any(not caption.finished for caption in captions) or max_length > 2
    encoded = model.backend.encode(np.stack([one.pixels for one in ready]), [one.geometry for one in ready])
    read = word_maps(model.backend, ready, encoded, ids, options, gradient_backend=model.torch_backend)
    for caption, (expected,) in zip(captions, read, strict=True):
        np.testing.assert_allclose(caption.maps, expected.maps, atol=1e-5)


def test_what_every_word_looks_at_is_subtracted() -> None:
    steps = np.array([[[0.5, 0.5], [0, 0]], [[0.5, 0], [0.5, 0]], [[0.5, 0.1], [0.1, 0.3]]], dtype=np.float32)
    maps = postprocess(steps, ALL, MapOptions(sinks="subtract"))[0]
    np.testing.assert_allclose(maps, [[[0, 1], [0, 0]], [[0, 0], [1, 0]]], atol=1e-6)


def test_standardising_weighs_each_cell_by_its_own_deviation() -> None:
    # Cell (0, 0) varies ten times as much as (0, 1): the second word stands out alike in both.
    steps = np.zeros((3, 2, 2), dtype=np.float32)
    steps[:, 0, 0], steps[:, 0, 1], steps[:, 1, 0] = (0.2, 0.5, 0.2), (0.1, 0.13, 0.1), 0.3
    subtracted = postprocess(steps, ALL, MapOptions(sinks="subtract"))[0][1]
    standardised = postprocess(steps, ALL, MapOptions(sinks="standardise"))[0][1]
    assert subtracted[0, 0] == pytest.approx(10 * subtracted[0, 1])
    assert 1 < standardised[0, 0] / standardised[0, 1] < 2.5
    assert standardised[1, 0] == 0


@pytest.mark.parametrize("sinks", ["subtract", "standardise"])
def test_maps_that_are_all_alike_say_nothing_and_are_even(sinks: str) -> None:
    valid = np.array([[True, True], [True, False]])
    steps = np.repeat(np.array([[[0.7, 0.2], [0.1, 0.0]]], dtype=np.float32), 4, axis=0)
    maps = postprocess(steps, valid, MapOptions(sinks=sinks))[0]
    np.testing.assert_allclose(maps, np.repeat([[[1 / 3, 1 / 3], [1 / 3, 0]]], 3, axis=0), rtol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"explain": "magic"}, "magic"),
        ({"sinks": "float"}, "float"),
        ({"delay": 2}, "2"),
        ({"explain": "gradient", "delay": 1}, "1 for gradient"),
        ({"block": 2}, "odd"),
    ],
)
def test_readings_that_cannot_be_are_refused(options: dict, message: str) -> None:  # type: ignore[type-arg]
    with pytest.raises(OptionError, match=message):
        MapOptions(**options)


def test_readings_are_stored_by_way() -> None:
    best = MapOptions(sinks="standardise", delay=1)
    about = {"maps": MapOptions.as_stored(best, MapOptions(explain="gradient", sinks="subtract"))}
    assert MapOptions.stored(about) == MapOptions.stored(about, "attention") == best
    assert MapOptions.stored(about, "gradient") == MapOptions(explain="gradient", sinks="subtract")
    assert MapOptions.stored(about, "occlusion") == MapOptions(explain="occlusion")
    assert MapOptions.stored({}).plain


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
    words = [word.text for word in written.words]
    monkeypatch.setattr("captioner.pipeline.captioner.split_captions", lambda *_, **__: [words])
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
    assert len(caption.words) == model.max_length


class Grown(torch.nn.Module):
    """An attention mechanism whose weights of one head and cell are a little larger at one of its calls or queries."""

    def __init__(self, attention: torch.nn.Module, head: int, step: int, cell: int, size: float) -> None:
        super().__init__()
        self.attention, self.head, self.step, self.cell, self.size = attention, head, step, cell, size
        self.calls = 0

    def keys_values(self, grid: Grid) -> AttentionCache:
        cache: AttentionCache = self.attention.keys_values(grid)
        return cache

    def context(self, query: torch.Tensor, cache: AttentionCache) -> torch.Tensor:
        return self(query, cache).context

    def forward(self, query: torch.Tensor, cache: AttentionCache) -> Attended:
        attended = self.attention(query, cache)
        place = self.step if query.shape[1] > 1 else 0
        if query.shape[1] == 1 and self.calls != self.step:
            place = -1
        self.calls += 1
        if place < 0:
            return attended
        change = torch.zeros_like(attended.weights)
        change[:, self.head, place, self.cell] = self.size * attended.weights[:, self.head, place, self.cell]
        if isinstance(self.attention, MultiHeadAttention):
            joined = (change @ cache.values).transpose(1, 2).flatten(2) @ self.attention.output.weight.T
        else:
            joined = (change @ cache.values.unsqueeze(1)).squeeze(1)
        return Attended(attended.context + joined, attended.weights + change, attended.off_grid)


def test_gradients_are_those_of_finite_differences(model: Captioner) -> None:
    """Attention times gradient is how the log-probability responds when the weight of one cell grows."""
    prepared = model.prepare(PICTURES[0])
    grid = model.backend.encode(prepared.pixels[None], [prepared.geometry])
    tokens, targets = torch.tensor([[START, 4, 5, 6]]), torch.tensor([[4, 5, 6, 7]])
    decoder = model.model.decoder
    _, steps = gradient_maps(decoder, grid, tokens, targets)
    assert steps.shape == (1, 4, 8, 8)
    heads = attention_heads(decoder, grid, tokens)
    assert heads.shape[:3] == (1, decoder.layers * decoder.heads, 4)
    torch.testing.assert_close(heads.sum((3, 4)), torch.ones(heads.shape[:3]))

    step, cell, small = 3, 10, 1e-2

    def grown(layer: int, head: int, size: float) -> float:
        owner = decoder.blocks[layer] if hasattr(decoder, "blocks") else decoder
        name = "cross_attention" if hasattr(decoder, "blocks") else "attention"
        original = getattr(owner, name)
        setattr(owner, name, Grown(original, head, step, cell, size))
        try:
            with torch.inference_mode():
                logits = decoder(grid, tokens, attention=True).logits
        finally:
            setattr(owner, name, original)
        return float(logits.double().log_softmax(-1)[0, step, targets[0, step]])

    expected = sum(
        max(0.0, (grown(layer, head, small) - grown(layer, head, -small)) / (2 * small))
        for layer in range(decoder.layers)
        for head in range(decoder.heads)
    )
    assert float(steps[0, step].flatten()[cell]) == pytest.approx(expected, rel=0.05, abs=2e-5)


@pytest.mark.parametrize("explain", ["attention", "gradient"])
def test_threads_that_share_a_model_get_what_each_gets_alone(model: Captioner, explain: str) -> None:
    pictures = [draw_scene(seed, size=(96, 72)).image for seed in range(4)]
    options = Beam(width=2, max_length=5)
    alone = [model.caption(picture, options=options, explain=explain) for picture in pictures]

    def work(_: int) -> list[Caption]:
        return [model.caption(picture, options=options, explain=explain) for picture in pictures]

    with ThreadPoolExecutor(6) as pool:
        for found in pool.map(work, range(6)):
            for one, other in zip(found, alone, strict=True):
                assert one.text == other.text
                np.testing.assert_allclose(one.maps, other.maps, atol=1e-5)


def test_weight_off_the_grid_is_kept_beside_the_maps() -> None:
    steps = np.full((3, 2, 2), 0.2, dtype=np.float32)
    maps, off_grid = postprocess(steps, ALL, MapOptions(delay=1), np.array([0.9, 0.2, 0.6]))
    np.testing.assert_allclose(off_grid, [0.2, 0.6], rtol=1e-6)
    np.testing.assert_allclose(maps.sum((1, 2)), [0.8, 0.4], rtol=1e-6)


def test_occlusion_finds_the_cells_that_the_words_hang_on(make_checkpoint: Callable[..., Checkpoint]) -> None:
    """A model whose every word hangs on one corner, for its encoder sees nothing else."""
    made = make_checkpoint("lstm")
    model = Captioner(TorchBackend(made))
    stages = made.model.encoder.stages

    def corner(_module: object, _inputs: object, output: torch.Tensor) -> torch.Tensor:
        kept = torch.zeros_like(output)
        kept[:, :, :2, :2] = output[:, :, :2, :2]
        return kept

    hook = stages.register_forward_hook(corner)
    try:
        (caption,) = model.read(PICTURES[0], ["a red dog"], explain=MapOptions(explain="occlusion", block=1))
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
    stored = MapOptions.as_stored(MapOptions(sinks="subtract", delay=1))
    checkpoint.save(tmp_path / "m.safetensors", replace(made, about={**made.about, "maps": stored}))
    model = captioner.load(tmp_path / "m.safetensors")
    assert model.map_options == MapOptions(sinks="subtract", delay=1)
    default, asked = model.caption(PICTURES[0]), model.caption(PICTURES[0], explain="attention")
    np.testing.assert_array_equal(default.maps, asked.maps)
    assert not np.allclose(default.maps, model.caption(PICTURES[0], explain=MapOptions()).maps)
    with pytest.raises(OptionError, match="magic"):
        model.caption(PICTURES[0], explain="magic")

    checkpoint.save(tmp_path / "bad.safetensors", replace(made, about={"maps": {"attention": {"sink": 3}}}))
    with pytest.raises(CheckpointError, match=r"bad\.safetensors: damaged"):
        captioner.load(tmp_path / "bad.safetensors")


def test_sinks_are_those_of_all_steps_on_the_picture() -> None:
    steps = np.random.default_rng(3).random((6, 4, 4)).astype(np.float32)
    valid = np.ones((4, 4), dtype=bool)
    valid[3] = False
    steps[:, 3] *= 9  # padding, which varies more than any cell
    steps[-1] += 1  # the end
    mean = steps.mean(0)  # that of the end counts
    maps = postprocess(steps, valid, MapOptions(sinks="subtract"))[0]
    for found, step in zip(maps, steps, strict=False):
        expected = np.where(valid, (step - mean).clip(0), 0)
        np.testing.assert_allclose(found, expected / expected.sum(), rtol=1e-5)
    deviation = steps.std(0)
    typical = deviation[valid].mean()
    maps = postprocess(steps, valid, MapOptions(sinks="standardise"))[0]
    for found, step in zip(maps, steps, strict=False):
        expected = np.where(valid, ((step - mean) / (deviation + 0.1 * typical)).clip(0), 0)
        np.testing.assert_allclose(found, expected / expected.sum(), rtol=1e-5)
