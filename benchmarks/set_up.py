"""What the benchmarks have in common: how they read their arguments, and the recipe of a small model."""

import argparse
from typing import TYPE_CHECKING, Any

from captioner.commands.parser import Parser

if TYPE_CHECKING:
    from captioner.training.recipe import Recipe


def argument_parser(description: str | None) -> argparse.ArgumentParser:
    """A parser whose help is the benchmark's own text, line for line."""
    return Parser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)


def scene_recipe(*, learning_rate: float, **changes: Any) -> "Recipe":
    """Training on drawn scenes with the tiny backbone, as two benchmarks compare models by it."""
    from captioner.training.recipe import Recipe

    return Recipe(
        **{
            "backbone": "tiny",
            "frozen_epochs": 0,
            "batch_pictures": 16,
            "captions_per_picture": 1,
            "minimum_count": 1,
            "learning_rate": learning_rate,
            "encoder_learning_rate": learning_rate,
            "warmup_steps": 50,
            "label_smoothing": 0.0,
            "ema_decay": 0.98,
            "horizontal_flip": False,
            "dev_pictures": 60,
            **changes,
        }
    )
