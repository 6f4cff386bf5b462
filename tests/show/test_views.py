"""Heads of a word, contrast of two words, captions of clips."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from captioner import checkpoint, prepared
from captioner.backends.torch import TorchBackend
from captioner.errors import ImageError, OptionError
from captioner.options import Greedy, MapOptions
from captioner.pipeline import Captioner
from captioner.results import Caption, across_strip, from_strip, strip_layout


@pytest.fixture(scope="module", params=["lstm", "transformer"])
def model(request: pytest.FixtureRequest, make_checkpoint: Callable[..., checkpoint.Checkpoint]) -> Captioner:
    return Captioner(TorchBackend(make_checkpoint(request.param)))


def picture(seed: int, size: tuple[int, int] = (40, 30)) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))


@pytest.fixture
def caption(model: Captioner) -> Caption:
    return model.caption(picture(1))


def test_views_of_a_picture_that_was_let_through(
    model: Captioner, caption: Caption, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They open the picture once more, which is larger than the default limit."""
    limits: list[int] = []

    def prepare(source: Any, backend: Any, *, max_pixels: int = 100) -> Any:
        limits.append(max_pixels)
        return prepared.prepare(source, backend, max_pixels=max_pixels)

    monkeypatch.setattr("captioner.pipeline.word_views.prepare", prepare)
    monkeypatch.setattr("captioner.pipeline.word_views.MAX_PIXELS", 100)
    width, height = caption.geometry.size
    model.heads(caption, 0)
    model.contrast(caption, 0, caption.words[-1].text)
    assert limits == [width * height] * 2
    with pytest.raises(ImageError, match=rf"{width} x {height}"):
        model.caption_clip([picture(1)], max_pixels=100)


def test_the_chosen_heads_are_the_words_map(model: Captioner, caption: Caption, tmp_path: Path) -> None:
    last = len(caption.words) - 1
    heads = model.heads(caption, last)
    assert heads.word == caption.words[last].text
    assert heads.maps.shape[:2] in ((1, 1), (2, 2)) and heads.maps.shape[2:] == (8, 8)
    np.testing.assert_allclose(heads.maps.sum((2, 3)), 1, rtol=1e-5)
    mean = np.mean([heads.maps[place] for place in heads.chosen], 0)
    np.testing.assert_allclose(mean, caption.words[last].map, rtol=1e-4, atol=1e-6)
    heads.figure(tmp_path / "heads.png")
    assert Image.open(tmp_path / "heads.png").width > 100
    document = heads.page(tmp_path / "heads.html")
    assert document.count('<script type="application/json">') == 2 and '"1.1"' in document


def test_a_delay_holds_for_heads_and_clips(make_checkpoint: Callable[..., checkpoint.Checkpoint]) -> None:
    made = make_checkpoint("transformer")
    about = {**made.about, "maps": MapOptions.as_stored(MapOptions(delay=1))}
    model = Captioner(TorchBackend(replace(made, about=about)))
    options = Greedy(no_repeat_ngram=1, max_length=20)
    caption = model.caption(picture(1), options=options)
    assert caption.finished and len(caption.words) > 2
    assert not np.allclose(caption.maps, model.caption(picture(1), options=options, explain=MapOptions()).maps)
    for place, word in enumerate(caption.words):
        heads = model.heads(caption, place)
        mean = np.mean([heads.maps[one] for one in heads.chosen], 0)
        np.testing.assert_allclose(mean, word.map, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(model.caption_clip([picture(1)], options=options).maps, caption.maps, atol=1e-6)
    short = Greedy(max_length=2)
    cut_off = model.caption(picture(1), options=short)
    assert not cut_off.finished
    np.testing.assert_allclose(model.caption_clip([picture(1)], options=short).maps, cut_off.maps, atol=1e-6)


def test_a_word_that_is_not_there_is_refused(model: Captioner, caption: Caption) -> None:
    for word in ("nowhere", len(caption.words), -1):
        with pytest.raises(OptionError, match="no word"):
            model.heads(caption, word)
    with pytest.raises(OptionError, match="does not know the word 'xylophone'"):
        model.contrast(caption, 0, "xylophone")


def test_contrast_is_antisymmetric_and_0_for_the_same_word(model: Captioner, caption: Caption, tmp_path: Path) -> None:
    word = caption.words[1].text
    other = "cat" if word != "cat" else "dog"
    contrast = model.contrast(caption, 1, other)
    assert np.abs(contrast.map).sum() == pytest.approx(1, abs=1e-4)
    assert np.abs(model.contrast(caption, 1, word).map).max() == 0
    contrast.figure(tmp_path / "contrast.png")
    assert "and not" in contrast.page(tmp_path / "contrast.html")
    sides = contrast.as_caption().words
    assert [side.text for side in sides] == [word, other]
    for side in sides:
        assert side.map.sum() == pytest.approx(1, abs=1e-5)


def test_contrast_is_the_derivative_of_the_ratio(model: Captioner, caption: Caption) -> None:
    backend = model.backend
    assert isinstance(backend, TorchBackend)
    prepared = model.prepare(caption.source)
    ids = model.vocabulary.encode([word.text for word in caption.words])[1:-1]
    other = 5 if ids[1] != 5 else 6
    encoded = backend.encode(prepared.pixels[None], [prepared.geometry])
    log_p, maps = backend.word_gradients(encoded, ids, 1, (ids[1], other))
    mine = model.contrast(caption, 1, model.vocabulary.decode([other])[0])
    difference = maps[0] - maps[1]
    np.testing.assert_allclose(mine.map, difference / np.abs(difference).sum(), rtol=1e-4, atol=1e-6)
    ((scored,),) = backend.score(encoded, [[ids]])
    assert log_p[0] == pytest.approx(scored.log_p[1], abs=1e-5)
    assert mine.probabilities == pytest.approx(np.exp(log_p).tolist(), rel=1e-5)


@pytest.mark.parametrize(
    ("frames", "layout"), [(1, (1, 1)), (3, (1, 3)), (4, (1, 4)), (7, (1, 7)), (8, (2, 4)), (12, (3, 4))]
)
def test_a_filmstrip_has_full_rows(frames: int, layout: tuple[int, int]) -> None:
    assert strip_layout(frames) == layout
    maps = np.random.default_rng(0).random((2, frames, 3, 5), dtype=np.float32)
    strip = across_strip(maps, layout)
    assert strip.shape == (2, layout[0] * 3, layout[1] * 5)
    np.testing.assert_array_equal(strip[:, :3, :5], maps[:, 0])
    np.testing.assert_array_equal(from_strip(strip, layout), maps)


def test_a_clip_has_one_caption_over_the_cells_of_all_frames(model: Captioner, tmp_path: Path) -> None:
    frames = [picture(seed) for seed in range(8)]
    clip = model.caption_clip(frames)
    assert clip.frames == 8 and clip.geometry.grid == (2 * 8, 4 * 8)
    assert clip.picture.size == (160, 60)
    assert clip.frame_maps.shape == (len(clip.words), 8, 8, 8)
    np.testing.assert_allclose(clip.frame_maps.sum((1, 2, 3)), 1, rtol=1e-4)
    assert [len(word["frames"]) for word in clip.as_dict()["words"]] == [8] * len(clip.words)
    clip.figure(tmp_path / "strip.png")
    assert "<section>" in clip.page()
    # Attention over the joined cells: a frame twice gets twice its share, and the words stay.
    one, twice = model.caption_clip(frames[:1]), model.caption_clip([frames[0]] * 2)
    assert (
        [word.text for word in twice.words]
        == [word.text for word in one.words]
        == [word.text for word in model.caption(frames[0]).words]
    )
    np.testing.assert_allclose(twice.frame_maps[:, 0], one.frame_maps[:, 0] / 2, rtol=1e-3, atol=1e-6)


def test_frames_of_two_sizes_are_no_clip(model: Captioner) -> None:
    with pytest.raises(OptionError, match="2 sizes"):
        model.caption_clip([picture(0), picture(1, (30, 30))])
    with pytest.raises(OptionError, match="no frames"):
        model.caption_clip([])
