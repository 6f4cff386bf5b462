"""Boxes of phrases as supervision of maps, and function words that learn to look off the grid."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from captioner.checkpoint import Checkpoint, load, save
from captioner.cli import main
from captioner.commands.train import _with_phrase_boxes, read_data
from captioner.data.readers import read
from captioner.errors import OptionError
from captioner.model.decoder import Decoded
from captioner.options import MapOptions
from captioner.tokenizer.ptb import tokenize
from captioner.training.average_checkpoints import average_checkpoints
from captioner.training.growth import add_slots
from captioner.training.images import ImageDataset, encode_images
from captioner.training.loop import Trainer
from captioner.training.losses import off_grid_supervision
from captioner.training.recipe import Recipe
from captioner.training.start import delay_of_maps
from captioner.training.tasks import Part
from captioner.training.views import View

SLOT = {"attention": "memory", "attention_options": {"slots": 1}}


def phrases_of(scenes: Path) -> dict[str, object]:
    """The boxes of drawn things as those of phrases of one word, in a picture of 1,000 x 1,000 pixels."""
    found = {}
    for record in read(scenes / "captions.jsonl"):
        (boxes,) = record.boxes
        found[record.image.name] = {
            "width": 1000,
            "height": 1000,
            "boxes": {
                str(word): [[1 + round(999 * x) for x in box[:2]] + [round(1000 * x) for x in box[2:]] for box in some]
                for word, some in boxes.items()
            },
            "sentences": [
                {
                    "words": tokenize(record.captions[0]),
                    "phrases": [{"start": w, "end": w + 1, "entity": str(w), "types": ["other"]} for w in boxes],
                }
            ],
        }
    return found


@pytest.fixture
def plain(scene_run: Path, tmp_path: Path) -> tuple[Path, Path]:
    """The scenes without boxes, and the boxes in a file of phrases."""
    scenes, folder = scene_run / "scenes", tmp_path / "plain"
    folder.mkdir()
    (folder / "images").symlink_to(scenes / "images")
    rows = [json.loads(line) for line in (scenes / "captions.jsonl").read_text().splitlines()]
    (folder / "captions.jsonl").write_text("\n".join(json.dumps({**row, "boxes": {}}) for row in rows))
    (tmp_path / "phrases.json").write_text(json.dumps(phrases_of(scenes)))
    return folder / "captions.jsonl", tmp_path / "phrases.json"


def test_phrases_supervise_the_training_split_alone(plain: tuple[Path, Path]) -> None:
    data, phrases = plain
    records = read_data([data])
    recipe = Recipe(map_supervision=0.1)
    found = _with_phrase_boxes(records, [phrases], recipe)
    assert [record.image for record in found] == [record.image for record in records]
    assert {record.split for record in found if any(record.boxes)} == {"train"}
    assert sum(any(record.boxes) for record in found) > 50
    of_maps = _with_phrase_boxes(records, [phrases], replace(recipe, objective="maps", start_from="default"))
    assert {record.split for record in of_maps if any(record.boxes)} == {"train", "dev"}, "their dev score needs them"
    with pytest.raises(OptionError, match="map_supervision"):
        _with_phrase_boxes(records, [phrases], Recipe())
    with pytest.raises(OptionError, match="language_model"):
        _with_phrase_boxes(records, [phrases], replace(recipe, objective="language_model"))


@pytest.mark.parametrize(("objective", "delay"), [("cross_entropy", 0), ("cross_entropy", 1), ("self_critical", 1)])
def test_a_run_learns_from_phrases_and_off_the_grid(
    objective: str, delay: int, plain: tuple[Path, Path], scene_run: Path, tmp_path: Path
) -> None:
    """From a model without a place off the grid, on stored grids and mirrored pictures."""
    data, phrases = plain
    options = f"--data {data} --phrase-boxes {phrases} --map-supervision 0.5 --off-grid-supervision 0.5 --epochs 1"
    options += f" --start-from {scene_run / 'best.safetensors'} --frozen-epochs 1 --batch-pictures 10"
    options += f" --map-delay {delay} --captions-per-picture 2 --warmup-steps 0 --learning-rate 1e-2 --ema-decay 0"
    options += (
        f" --dev-pictures 2 --train-pictures 60 --max-length 12 --objective {objective} --output {tmp_path / 'run'}"
    )
    assert main(["train", *options.split(), "--decoder-options", json.dumps(SLOT)]) == 0
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert {"train_maps_missed", "train_function_words_looked"} <= lines[-1].keys()
    trained = load(tmp_path / "run" / "last.safetensors")
    assert trained.model.config.decoder.attention == "memory"
    assert MapOptions.stored(dict(trained.about)).delay == delay
    started = add_slots(load(scene_run / "best.safetensors"), SLOT)
    (_, before), (thing, function) = (off_grid_by_kind(one, scene_run / "scenes", delay) for one in (started, trained))
    assert function > before + 0.05
    assert function > thing + 0.05


def test_a_run_keeps_the_delay_of_the_model_that_it_starts_from(scene_run: Path, tmp_path: Path) -> None:
    start = load(scene_run / "best.safetensors")
    late = replace(start, about={**start.about, "maps": MapOptions.as_stored(MapOptions(delay=1))})
    save(tmp_path / "late.safetensors", late)
    records = read(scene_run / "scenes" / "captions.jsonl")
    recipe = Recipe(start_from=str(tmp_path / "late.safetensors"), map_supervision=0.1, max_length=12)
    trainer = Trainer(recipe, records, tmp_path / "run", device="cpu")
    batch = next(trainer.task.batches.epoch(0))
    boxes = batch.map_targets([trainer._context.images.geometry((96, 72))] * len(batch.pictures))
    maps = torch.roll(boxes, 1, 1)  # in the boxes of each word, one step later
    maps = maps / maps.sum((2, 3), keepdim=True).clamp(min=1e-9)
    _, figures = trainer.task.map_loss(  # type: ignore[attr-defined]
        maps, maps[..., 0, 0], batch.tokens[:, 1:], Part(batch, batch), None
    )
    assert figures["maps_missed"] < 0.7
    assert delay_of_maps(recipe) == 1
    assert delay_of_maps(replace(recipe, start_from="", decoder_from=recipe.start_from)) == 1
    assert delay_of_maps(replace(recipe, start_from=str(scene_run / "best.safetensors"))) == 0
    with pytest.raises(OptionError, match=r"late\.safetensors have a delay of 1, .* of 0"):
        average_checkpoints([scene_run / "best.safetensors", tmp_path / "late.safetensors"])


@torch.no_grad()
def off_grid_by_kind(checkpoint: Checkpoint, scenes: Path, delay: int) -> tuple[float, float]:
    """The mean weight off the grid of words with a box, and of "a", on training scenes."""
    things, functions = [], []
    records = read(scenes / "captions.jsonl")[:10]
    images = ImageDataset([record.image for record in records], checkpoint.model.encoder)
    keys = [[(i, View())] for i in range(len(records))]
    for record, grid in zip(
        records, encode_images(checkpoint.model.encoder, images, keys, device=torch.device("cpu")), strict=True
    ):
        words = tokenize(record.captions[0])
        tokens = torch.tensor([checkpoint.vocabulary.encode(words)])
        decoded: Decoded = checkpoint.model(grid, tokens)
        for place, word in enumerate(words):
            if place in record.boxes[0]:
                things.append(decoded.off_grid[0, place + delay].item())
            elif word == "a":
                functions.append(decoded.off_grid[0, place + delay].item())
    return sum(things) / len(things), sum(functions) / len(functions)


@pytest.mark.parametrize("decoder", ["lstm", "transformer"])
def test_slots_change_little_at_first(decoder: str, make_checkpoint: Callable[[str], Checkpoint]) -> None:
    start = make_checkpoint(decoder)
    if decoder == "lstm":  # the tiny one has additive attention, which has no slots
        assert add_slots(start, SLOT) is start
        return
    assert add_slots(start, {}) is start
    grown = add_slots(start, SLOT)
    assert grown.model.config.decoder.attention == "memory"
    torch.manual_seed(1)
    pixels, tokens = torch.randn(1, 3, 64, 64), torch.tensor([[1, 4, 5, 6]])
    with torch.no_grad():
        old, new = (one.model.eval()(pixels, tokens) for one in (start, grown))
    assert 0 < new.off_grid.max() < 0.2  # one of 65 places
    torch.testing.assert_close(new.logits, old.logits, atol=0.05, rtol=0.05)


@pytest.mark.parametrize("changes", [{"map_delay": 1}, {"map_delay": 2, "map_supervision": 0.1}, {"map_delay": -1}])
def test_a_delay_without_supervision_or_out_of_range_is_refused(changes: dict[str, float]) -> None:
    with pytest.raises(OptionError, match=f"map_delay .*{changes['map_delay']}"):
        Recipe(**changes)  # type: ignore[arg-type]


def test_a_model_without_a_place_off_the_grid_is_refused(
    plain: tuple[Path, Path], scene_run: Path, tmp_path: Path
) -> None:
    recipe = Recipe(start_from=str(scene_run / "best.safetensors"), off_grid_supervision=0.1, max_length=12)
    with pytest.raises(OptionError, match="multihead") as caught:
        Trainer(recipe, read(scene_run / "scenes" / "captions.jsonl"), tmp_path / "run", device="cpu")
    assert "memory" in str(caught.value.remedy)


def test_off_grid_supervision_is_the_share_of_function_words_on_the_picture() -> None:
    off_grid = torch.tensor([[0.5, 0.1, 0.25]])
    words = torch.tensor([[True, False, True]])
    assert off_grid_supervision(off_grid, words).item() == pytest.approx(3 * 0.6931 / 2, abs=1e-3)
    assert off_grid_supervision(off_grid, words, count=6).item() == pytest.approx(3 * 0.6931 / 6, abs=1e-3)
    assert off_grid_supervision(off_grid, words & False).item() == 0
