"""How much the picture mattered: against the model's own probabilities on a picture of one colour."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from captioner.pipeline import load

MakePicture = Callable[..., Path]


def test_gain_is_the_log_ratio_to_an_even_picture(either_model: Path, make_picture: MakePicture) -> None:
    model = load(either_model)
    path = make_picture(size=(50, 40))
    captions = model.caption([path, make_picture("other.png", seed=5)], options=model.options(n_best=2))
    gained = model.with_gains(captions)
    grey = model.prepare(Image.new("RGB", (64, 64), (124, 116, 104)))
    for caption, plain in zip(gained, captions, strict=True):
        for reading in (caption, *caption.alternatives):
            ids = model.vocabulary.encode([word.text for word in reading.words])[1:-1]
            without = model.log_probabilities([grey.pixels], grey.geometry, [ids])[0, 0, : len(ids)]
            expected = [math.log(word.probability) - p for word, p in zip(reading.words, without, strict=True)]
            np.testing.assert_allclose([word.gain for word in reading.words], expected, atol=1e-3)
        assert [word.text for word in caption.words] == [word.text for word in plain.words]
        assert all(word.gain is None for word in plain.words)


def test_an_even_picture_gains_nothing_and_unknown_words_have_none(tiny_model: Path) -> None:
    model = load(tiny_model)
    read = model.read(Image.new("RGB", (64, 64), (124, 116, 104)), ["a zebra in the park", "the dog"])
    first, second = model.with_gains(read)
    assert [word.gain is None for word in first.words] == [False, True, False, False, False]
    assert [word.gain for word in second.words] == pytest.approx([0, 0], abs=1e-4)
    assert model.with_gains([]) == []


def test_many_captions_are_read_a_few_at_a_time(
    tiny_model: Path, make_picture: MakePicture, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load(tiny_model)
    texts = [" ".join(["a dog"] * (1 + i % 5)) for i in range(150)]
    sizes: list[int] = []
    score = model.backend.score

    def counted(encoded: Any, captions: Any) -> Any:
        sizes.append(len(captions[0]))
        return score(encoded, captions)

    monkeypatch.setattr(model.backend, "score", counted)
    read = model.read(make_picture(), texts)
    assert [caption.text for caption in read] == texts and max(sizes) <= 64
    alone = model.read(make_picture(), [texts[0], texts[149]])
    for one, other in zip((read[0], read[149]), alone, strict=True):
        assert one.score == pytest.approx(other.score, abs=1e-5)
    gained = model.with_gains(read)
    assert max(sizes) <= 64 and len(gained) == 150
    assert gained[149].words[0].gain == pytest.approx(model.with_gains([read[149]])[0].words[0].gain, abs=1e-5)
