"""Training with mechanisms of the family: the estimator of hard attention, and a run of several parts of it."""

import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from captioner import checkpoint
from captioner.data.readers import read
from captioner.data.scenes import write_scenes
from captioner.errors import OptionError
from captioner.model.attention import HardAttention
from captioner.pipeline import load
from captioner.training.loop import Trainer
from captioner.training.losses import hard_attention_loss
from captioner.training.recipe import Recipe
from captioner.training.tasks.cross_entropy import CrossEntropy


def test_the_estimator_is_the_gradient_of_the_expected_reward() -> None:
    """Over all cells, each as often as its probability says, the estimator is the exact gradient, whatever the
    baseline."""
    scores = torch.tensor([0.3, -1.0, 0.8], requires_grad=True)
    rewards = torch.tensor([-1.0, -4.0, -2.5])
    (exact,) = torch.autograd.grad(-(scores.softmax(0) * rewards).sum(), scores)
    for baseline in (0.0, -2.0):
        estimate = torch.zeros(3)
        for cell, share in enumerate(scores.detach().softmax(0)):
            log_p = scores.log_softmax(0)[cell].view(1, 1)
            loss = hard_attention_loss(
                rewards[cell].view(1), log_p, torch.zeros(1, 1), torch.tensor(baseline), reward=1.0, entropy_weight=0.0
            )
            estimate += share * torch.autograd.grad(loss, scores)[0]
        torch.testing.assert_close(estimate, exact)
    entropy = torch.tensor([[0.5, 1.0]], requires_grad=True)
    zero = torch.zeros(1, 2)
    loss = hard_attention_loss(zero[:, 0], zero, entropy, torch.zeros(()), reward=1.0, entropy_weight=0.2)
    assert torch.autograd.grad(loss, entropy)[0].tolist() == [[pytest.approx(-0.2), pytest.approx(-0.2)]]


def test_the_baselines_of_several_processes_stay_the_same() -> None:
    """Each follows the mean over all of them; its own captions alone would set them apart."""
    logits, targets = torch.zeros(1, 2, 8), torch.tensor([[5, 2]])
    decoded = SimpleNamespace(logits=logits, maps=torch.full((1, 2, 1, 3), 1 / 3), others={"log_p": torch.zeros(1, 2)})
    attention = HardAttention(text_width=4, image_width=4, width=4)
    processes = SimpleNamespace(count=2, sum=lambda values: [values[0] - 10.0])  # another's captions are less likely
    model = SimpleNamespace(decoder=SimpleNamespace(map_decoder=SimpleNamespace(attention=attention)))
    task = SimpleNamespace(context=SimpleNamespace(model=model, processes=processes))
    CrossEntropy.hard_loss(task, decoded, targets, count=1)  # type: ignore[arg-type]
    assert attention.baseline.item() == pytest.approx((-2 * math.log(8) - 10) / 2)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_scenes(tmp_path_factory.mktemp("scenes"), count=20, dev=4, size=(96, 72))


def recipe(attention: str, **options: object) -> Recipe:
    return Recipe(
        decoder_options={
            "width": 24,
            "embedding": 16,
            "output_hidden": 16,
            "attention": attention,
            "attention_width": 16,
            "heads": 1,
        },
        backbone="tiny",
        epochs=1,
        frozen_epochs=0,
        batch_pictures=10,
        captions_per_picture=1,
        minimum_count=1,
        warmup_steps=0,
        horizontal_flip=False,
        **{"encoder_options": {"side": 48}, "refiner_options": {"width": 16}, **options},
    )


@pytest.mark.parametrize(
    ("attention", "options"),
    [
        ("hard", {"map_supervision": 0.3}),
        (
            "adaptive",
            {
                "refiner": "latent_queries",
                "refiner_options": {"width": 16, "queries": 5, "pooling_heads": 2},
                "encoder_options": {"side": 48, "attention": "self_attention", "attention_after": [2]},
            },
        ),
        ("local_previous", {"refiner": "cbam", "refiner_options": {"width": 16}, "map_supervision": 0.3}),
    ],
)
def test_a_run_learns_saves_and_captions(
    attention: str, options: dict[str, object], scenes: Path, tmp_path: Path
) -> None:
    trainer = Trainer(recipe(attention, **options), read(scenes), tmp_path, device="cpu")
    before = {name: tensor.clone() for name, tensor in trainer.model.named_parameters()}
    best = trainer.run()
    after = dict(trainer.model.named_parameters())
    assert [name for name in before if torch.equal(before[name], after[name])] == [], "every weight learns"
    if attention == "hard":
        kept = checkpoint.load(best).model.decoder.attention
        assert isinstance(kept, HardAttention) and kept.baseline.item() < 0
    model = load(best)
    (caption,) = model.caption([read(scenes)[0].image])
    assert caption.maps.shape[1:] == (6, 6)
    for word in caption.words:
        assert word.map.sum() + word.off_grid == pytest.approx(1, abs=1e-4)
        assert (word.off_grid > 0) == (attention == "adaptive")


def test_mechanisms_that_go_word_by_word_are_not_for_transformers(scenes: Path, tmp_path: Path) -> None:
    for attention in ("hard", "local_previous"):
        options = {"width": 16, "layers": 1, "heads": 1, "hidden": 16, "attention": attention}
        with pytest.raises(OptionError, match="word by word"):
            Trainer(Recipe(decoder="transformer", decoder_options=options), read(scenes), tmp_path, device="cpu")
