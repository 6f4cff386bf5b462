"""A run on drawn scenes that several tests start from."""

from collections.abc import Callable
from pathlib import Path

import pytest

from captioner.data.readers import read
from captioner.data.scenes import write_scenes
from captioner.training.loop import Trainer
from captioner.training.recipe import Recipe


@pytest.fixture(scope="session")
def scene_run(for_all_processes: Callable[[str, Callable[[Path], object]], Path]) -> Path:
    """The folder of a run whose model has begun to caption the scenes in ``scenes/`` within it."""
    return for_all_processes("scene-run", _train)


def _train(folder: Path) -> None:
    records = read(write_scenes(folder / "scenes", count=100, dev=50, size=(96, 72)))
    recipe = Recipe(
        decoder_options={"width": 64, "embedding": 48, "output_hidden": 64, "attention_width": 48, "heads": 2},
        backbone="tiny",
        encoder_options={"side": 48},
        refiner_options={"width": 48},
        epochs=6,
        frozen_epochs=0,
        batch_pictures=10,
        captions_per_picture=1,
        minimum_count=1,
        learning_rate=4e-3,
        encoder_learning_rate=4e-3,
        warmup_steps=10,
        final_learning_rate_ratio=0.3,
        label_smoothing=0.0,
        ema_decay=0.8,
        horizontal_flip=False,
    )
    Trainer(recipe, records, folder, device="cpu").run()
