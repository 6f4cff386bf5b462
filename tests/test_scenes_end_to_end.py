"""The whole chain without a download: draw, train, save, load, caption, and hold the maps against boxes."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import captioner
from captioner.data.scenes import draw_scenes


@pytest.mark.slow
@pytest.mark.parametrize("decoder", ["lstm", "transformer"])
def test_a_minute_of_training_captions_held_out_scenes_and_looks_at_what_it_names(
    decoder: str, scenes_model: Callable[[str], Path]
) -> None:
    model = captioner.load(scenes_model(decoder))
    held_out = draw_scenes(100, first_seed=1_000_000, size=(192, 144))
    captions = model.caption([scene.image for scene in held_out])
    right = [(c, s) for c, s in zip(captions, held_out, strict=True) if c.text == s.caption]
    assert len(right) >= 93, [
        (c.text, s.caption) for c, s in zip(captions, held_out, strict=True) if c.text != s.caption
    ]

    inside = []
    for caption, scene in right:
        for word, (left, top, right_edge, bottom) in scene.things().items():
            peak = np.unravel_index(caption.maps[word].argmax(), caption.geometry.grid)
            x0, y0, x1, y1 = caption.geometry.cell_box(int(peak[0]), int(peak[1]))
            x, y = (x0 + x1) / 2, (y0 + y1) / 2
            inside.append(left <= x <= right_edge and top <= y <= bottom)
    assert len(inside) > 150
    assert np.mean(inside) >= 0.95
