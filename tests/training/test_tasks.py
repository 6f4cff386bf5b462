"""A task from outside the package: one class and one decorator, and a run trains on it."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from torch import Tensor

from captioner.checkpoint import load
from captioner.data.readers import read
from captioner.data.scenes import write_scenes
from captioner.errors import OptionError
from captioner.model.caption_model import CaptionModel
from captioner.training.batches import TextBatches
from captioner.training.epoch import Figures
from captioner.training.images import Images
from captioner.training.loop import Trainer
from captioner.training.losses import caption_loss
from captioner.training.recipe import Recipe
from captioner.training.tasks import TASKS, Forward, Part, TaskContext


class Reversed:
    """Captions from their end to their start, without pictures."""

    uses_images = False

    def __init__(self, context: TaskContext) -> None:
        self.context = context
        captions = [" ".join(reversed(c.split())) for record in context.train for c in record.captions]
        self.batches = TextBatches(captions, context.vocabulary, batch_captions=4, max_length=12, seed=1)

    @staticmethod
    def check(recipe: Recipe) -> None:
        if recipe.teacher:
            raise OptionError("no teacher knows this")

    def set_trainable(self, *, frozen: bool) -> None:
        self.context.model.encoder.train_from(None)
        self.context.model.refiner.requires_grad_(False)

    def loss(self, forward: Forward, part: Part, images: Images) -> tuple[Tensor, Figures]:
        assert images is None
        tokens = part.batch.tokens
        logits = forward(None, tokens[:, :-1]).logits
        return caption_loss(logits, tokens[:, 1:], count=part.step.known_targets), {"mine": 2.0}

    def dev_score(self, model: CaptionModel) -> tuple[float, Figures]:
        return 0.5, {"mine": 0.5}


@pytest.fixture
def reversed_task() -> Iterator[str]:
    TASKS.register("reversed")(Reversed)
    yield "reversed"
    TASKS.unregister("reversed")


def test_a_task_from_outside_is_trained_on(reversed_task: str, tmp_path: Path) -> None:
    records = read(write_scenes(tmp_path / "scenes", count=8, dev=2, size=(48, 36)))
    small = {"width": 8, "embedding": 8, "output_hidden": 8, "attention_width": 8, "heads": 1}
    recipe = Recipe(
        objective=reversed_task,
        decoder_options=small,
        backbone="tiny",
        encoder_options={"side": 32},
        refiner_options={"width": 8},
        epochs=1,
        minimum_count=1,
    )
    trainer = Trainer(recipe, records, tmp_path / "run", device="cpu")
    steps = list(trainer.steps())
    assert [step.done for step in steps] == [1, 2, 2]
    assert steps[0].figures["mine"] == 2.0
    about = load(tmp_path / "run" / "best.safetensors").about
    assert about["recipe"]["objective"] == "reversed"
    assert about["dev"] == {"mine": 0.5}


def test_the_tasks_of_the_package_are_registered() -> None:
    assert set(TASKS) >= {"cross_entropy", "self_critical", "language_model"}
    with pytest.raises(OptionError, match="cross_entropy"):
        TASKS["speed"]
