"""The same model gives the same captions, numbers and maps on every backend."""

from collections.abc import Sequence

import numpy as np
import pytest

from captioner.data.scenes import dog_frisbee_park
from captioner.errors import OptionError
from captioner.export.parity import parity
from captioner.options import Beam, Greedy, MapOptions, Sampling
from captioner.pipeline import Captioner, load
from captioner.results import Caption
from captioner.shipped import shipped_models
from captioner.tokenizer.subwords import Subwords

Pair = tuple[Captioner, Captioner]

LOG_P, MAPS = 1e-4, 1e-5

OPTIONS = {
    "greedy": Greedy(max_length=6),
    "beam": Beam(width=3, max_length=6),
    "n-best": Beam(width=4, n_best=4, max_length=5),
    "refilled": Beam(width=3, refill=True, max_length=6),
    "no repetition": Beam(width=2, max_length=8, min_length=3, no_repeat_ngram=2),
    "sampling": Sampling(samples=3, max_length=6, seed=7),
}


def pictures(count: int = 3) -> list[np.ndarray]:
    """Noise in several shapes, so that padded models pad each differently."""
    generator = np.random.default_rng(5)
    shapes = [(40, 60), (64, 64), (90, 30), (30, 80)]
    return [generator.integers(0, 256, (*shapes[i % 4], 3), dtype=np.uint8) for i in range(count)]


def assert_same(first: Sequence[Caption], second: Sequence[Caption]) -> None:
    assert [caption.text for caption in first] == [caption.text for caption in second]
    for one, other in zip(first, second, strict=True):
        assert one.score == pytest.approx(other.score, abs=LOG_P)
        assert [word.text for word in one.words] == [word.text for word in other.words]
        for ours, theirs in zip(one.words, other.words, strict=True):
            assert ours.probability == pytest.approx(theirs.probability, rel=LOG_P, abs=1e-7)
            assert ours.off_grid == pytest.approx(theirs.off_grid, abs=MAPS)
            np.testing.assert_allclose(ours.map, theirs.map, atol=MAPS)
        for ours, theirs in zip(one.alternatives, other.alternatives, strict=True):
            assert ours.text == theirs.text
            assert ours.score == pytest.approx(theirs.score, abs=LOG_P)
            np.testing.assert_allclose(ours.words[0].map, theirs.words[0].map, atol=MAPS)


def test_the_backends_are_two(pair: Pair) -> None:
    torch, onnx = pair
    assert (torch.backend.name, onnx.backend.name) in [("torch", "onnx"), ("rereading", "huggingface")]
    for name in ("side", "pad", "grid_shape", "max_length", "digest", "vocabulary", "about"):
        assert getattr(torch.backend, name) == getattr(onnx.backend, name), name


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_captions(pair: Pair, options: Greedy) -> None:
    torch, onnx = (model.caption(pictures(5), options=options, batch=3) for model in pair)
    assert_same(torch, onnx)


def test_one_picture_alone_and_in_a_batch(pair: Pair) -> None:
    onnx = pair[1]
    together = onnx.caption(pictures(4))
    alone = [onnx.caption(picture) for picture in pictures(4)]
    assert_same(alone, together)


def test_captions_that_are_read(pair: Pair) -> None:
    sentences = ["a dog", "a red ball in the park", "zebra", "the cat's ball", "dog"]
    torch, onnx = (model.read(pictures(1)[0], sentences) for model in pair)
    assert_same(torch, onnx)


def test_a_sentence_longer_than_the_model_reads(pair: Pair) -> None:
    sentence = " ".join(["a dog in the park"] * 40)
    torch, onnx = (model.read(pictures(1)[0], [sentence, "a"]) for model in pair)
    vocabulary = pair[0].vocabulary
    if isinstance(vocabulary, Subwords):  # a word that would not fit whole is left out
        ids = vocabulary.encode([word.text for word in torch[0].words])[1:-1]
        assert pair[0].max_length - 3 < sum(len(vocabulary.pieces(i)) for i in ids) <= pair[0].max_length
    else:
        assert len(torch[0].words) == pair[0].max_length
    assert_same(torch, onnx)


def test_scores_of_several_pictures_with_different_numbers_of_captions(pair: Pair) -> None:
    captions = [[(4, 5), (6,)], [(), (4, 5, 6, 7), (8, 9, 10)], [(3,)], []]
    found = []
    for model in pair:
        ready = [model.prepare(picture) for picture in pictures(4)]
        encoded = model.backend.encode(np.stack([one.pixels for one in ready]), [one.geometry for one in ready])
        found.append(model.backend.score(encoded, captions))
    assert [[len(one.log_p) for one in some] for some in found[1]] == [[3, 2], [1, 5, 4], [2], []]
    for torch, onnx in zip(*found, strict=True):
        for ours, theirs in zip(torch, onnx, strict=True):
            np.testing.assert_allclose(ours.log_p, theirs.log_p, atol=LOG_P)
            np.testing.assert_allclose(ours.maps, theirs.maps, atol=MAPS)
            np.testing.assert_allclose(ours.off_grid, theirs.off_grid, atol=MAPS)


def test_occlusion(pair: Pair) -> None:
    options = MapOptions(explain="occlusion")
    torch, onnx = (model.caption(pictures(2), explain=options, options=Greedy(max_length=3)) for model in pair)
    for one, other in zip(torch, onnx, strict=True):
        assert one.text == other.text
        # A map divides small differences of log-probabilities by their sum.
        np.testing.assert_allclose(one.maps, other.maps, atol=5e-3)


def test_gradients_come_from_torch(pair: Pair) -> None:
    if pair[1].backend.name == "huggingface":  # which runs on torch itself, and has no file
        caption = pair[1].caption(pictures(1)[0], explain="gradient", options=Greedy(max_length=4))
        assert all(word.map.sum() + word.off_grid == pytest.approx(1, abs=1e-5) for word in caption.words)
        assert not np.allclose(caption.maps, pair[1].caption(pictures(1)[0], options=Greedy(max_length=4)).maps)
        return
    if pair[1].file is None:  # an exported folder
        with pytest.raises(OptionError, match="safetensors"):
            pair[1].caption(pictures(1)[0], explain="gradient")
        return
    torch, onnx = (model.caption(pictures(2), explain="gradient", options=Greedy(max_length=4)) for model in pair)
    for one, other in zip(torch, onnx, strict=True):
        assert one.text == other.text
        np.testing.assert_allclose(one.maps, other.maps, atol=1e-4)
    assert pair[1].backend.name == "onnx"
    assert pair[1].model is pair[1].model, "loaded once"


def test_steps_of_any_number_of_pictures_and_captions(pair: Pair) -> None:
    found = parity(pair[0].backend, pair[1].backend, words=3)
    assert found.log_p < LOG_P
    assert found.maps < MAPS


@pytest.fixture(scope="module", params=shipped_models())
def shipped(request: pytest.FixtureRequest) -> Pair:
    return load(request.param, backend="torch", device="cpu"), load(request.param, backend="onnx", threads=1)


IN_INTEGERS = 0.1, 0.03
"""By how much log-probabilities and maps of a word differ where rounding puts a number on the other side of a step."""


def assert_as_in_integers(first: Sequence[Caption], second: Sequence[Caption]) -> None:
    """The same words. Most of them have the same numbers, and none has others than a few roundings explain."""
    log_p, maps = IN_INTEGERS
    differences = []
    for one, other in zip(first, second, strict=True):
        assert one.text == other.text
        assert one.score == pytest.approx(other.score, abs=log_p)
        for ours, theirs in zip(one.words, other.words, strict=True):
            assert ours.off_grid == pytest.approx(theirs.off_grid, abs=maps)
            np.testing.assert_allclose(ours.map, theirs.map, atol=maps)
            differences.append(abs(np.log(ours.probability) - np.log(theirs.probability)))
    assert max(differences) < log_p
    assert np.median(differences) < LOG_P, "torch does not round as the graphs do"


def test_shipped_models_on_drawn_scenes(shipped: Pair) -> None:
    scenes = [dog_frisbee_park().image, *pictures(2)]
    torch, onnx = (model.caption(scenes) for model in shipped)
    assert_as_in_integers(torch[:1], onnx[:1])
    sentences = ["a dog catches a frisbee", "a zebra"]
    assert_as_in_integers(*(model.read(scenes[0], sentences) for model in shipped))


@pytest.mark.shared
def test_shipped_models_on_photographs(shipped: Pair, shared) -> None:
    photographs = sorted((shared / "data" / "flickr8k" / "images").glob("*.jpg"))[:8]
    torch, onnx = (model.caption(list(photographs)) for model in shipped)
    same = [(one, other) for one, other in zip(torch, onnx, strict=True) if one.text == other.text]
    assert len(same) >= len(photographs) - 1
    assert_as_in_integers(*zip(*same, strict=True))
