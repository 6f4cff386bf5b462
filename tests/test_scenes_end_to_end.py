"""The whole chain without a download: draw, train, save, load, caption, and hold the maps against boxes."""

from pathlib import Path

import numpy as np
import pytest

import captioner
from captioner.data.readers import read
from captioner.data.scenes import draw_scenes, write_scenes
from captioner.training.loop import Trainer
from captioner.training.recipe import Recipe

SIZE = (192, 144)
DECODERS = {
    "lstm": ({"width": 192, "embedding": 96, "output_hidden": 192, "attention_width": 96, "heads": 4}, 3e-3),
    "transformer": ({"width": 128, "layers": 2, "heads": 4, "hidden": 256}, 2e-3),
}


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_scenes(tmp_path_factory.mktemp("scenes"), count=2400, dev=60, size=SIZE)


@pytest.mark.slow
@pytest.mark.parametrize("decoder", DECODERS)
def test_a_minute_of_training_captions_held_out_scenes_and_looks_at_what_it_names(
    decoder: str, scenes: Path, tmp_path: Path
) -> None:
    options, rate = DECODERS[decoder]
    recipe = Recipe(
        decoder=decoder,
        decoder_options={**options, "dropout": 0.1},
        backbone="tiny",
        refiner_options={"width": 128, "dropout": 0.0, "position": 0.5},
        epochs=7,
        frozen_epochs=0,
        batch_pictures=16,
        captions_per_picture=1,
        minimum_count=1,
        learning_rate=rate,
        encoder_learning_rate=rate,
        warm_up=50,
        label_smoothing=0.0,
        map_supervision=0.3,
        average=0.98,
        flips=False,
    )
    best = Trainer(recipe, read(scenes), tmp_path / "run", device="cpu").run()

    model = captioner.load(best)
    held_out = draw_scenes(100, first_seed=1_000_000, size=SIZE)
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
