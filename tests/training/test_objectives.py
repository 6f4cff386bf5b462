"""Tasks beside plain cross-entropy: language model, word dropout, scheduled sampling; parts of runs; recipes."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from captioner.checkpoint import load, save
from captioner.commands.train import read_text
from captioner.data.readers import read
from captioner.errors import DataError, OptionError
from captioner.model.decoder import Decoded
from captioner.model.grid import Grid
from captioner.model.refiners import RefinerConfig
from captioner.tokenizer.vocabulary import END, PAD, START, UNKNOWN, Vocabulary
from captioner.training.batches import TextBatches, word_dropout
from captioner.training.distributed import Processes
from captioner.training.images import ImageDataset
from captioner.training.loop import Trainer
from captioner.training.recipe import Recipe, default_of, options
from captioner.training.recipe_files import named_recipes, read_recipe
from captioner.training.run_folder import read_log
from captioner.training.start import earlier_recipes, first_model
from captioner.training.tasks import TASKS, TaskContext
from captioner.training.tasks.cross_entropy import CrossEntropy

SMALL = {
    "lstm": {"width": 32, "embedding": 24, "output_hidden": 32, "attention_width": 16, "heads": 2, "dropout": 0.0},
    "transformer": {"width": 32, "layers": 1, "heads": 2, "hidden": 32, "dropout": 0.0},
}


def recipe(decoder: str = "lstm", **changes: object) -> Recipe:
    values: dict[str, object] = {
        "decoder": decoder,
        "decoder_options": SMALL[decoder],
        "backbone": "tiny",
        "encoder_options": {"side": 48},
        "refiner_options": {"width": 48},
        "minimum_count": 1,
        "epochs": 3,
        "frozen_epochs": 3,
        "batch_pictures": 20,
        "captions_per_picture": 1,
        "learning_rate": 5e-3,
        "label_smoothing": 0.0,
        "warmup_steps": 2,
        "ema_decay": 0.0,
        "max_length": 12,
    }
    return Recipe(**(values | changes))  # type: ignore[arg-type]


@pytest.mark.parametrize("decoder", SMALL)
def test_text_teaches_the_decoder_and_nothing_else(decoder: str, scene_run: Path, tmp_path: Path) -> None:
    records = read(scene_run / "scenes")
    text = [caption for record in records for caption in record.captions]
    trainer = Trainer(recipe(decoder, objective="language_model"), records, tmp_path, text=text, device="cpu")
    before = {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}
    trainer.run()
    moved = {
        name.split(".")[0]
        for name, tensor in trainer.model.state_dict().items()
        if not torch.equal(tensor, before[name])
    }
    assert moved == {"decoder"}
    measured = [line["dev"]["perplexity"] for line in read_log(trainer.folder.path) if "dev" in line]
    assert measured[-1] < measured[0] < len(trainer.vocabulary)
    best = load(trainer.folder.best)
    assert best.about["dev"]["perplexity"] == min(measured)


def test_a_run_takes_the_encoder_of_one_and_the_decoder_of_another(scene_run: Path, tmp_path: Path) -> None:
    records = read(scene_run / "scenes")
    spoken = Trainer(
        recipe(objective="language_model", epochs=1), records, tmp_path / "text", text=["a dog in a park"], device="cpu"
    ).run()
    seeing = scene_run / "last.safetensors"
    both = Trainer(recipe(encoder_from=str(seeing), decoder_from=str(spoken)), records, tmp_path / "both", device="cpu")
    ours, encoder, decoder = (model.state_dict() for model in (both.model, load(seeing).model, load(spoken).model))
    for name, tensor in ours.items():
        if not name.startswith("refiner."):
            assert torch.equal(tensor, (encoder if name.startswith("encoder.") else decoder)[name]), name
    assert both.vocabulary == load(spoken).vocabulary
    about = load(both.run()).about
    assert [recipe["objective"] for recipe in about["earlier"]] == ["cross_entropy", "language_model"]
    assert about["recipe"]["encoder_from"] == "/".join(seeing.parts[-2:])
    parts = recipe(encoder_from=str(seeing), decoder_from=str(tmp_path / "both" / "last.safetensors"))
    earlier = [one["objective"] for one in earlier_recipes(parts)]
    assert earlier == ["cross_entropy", "language_model", "cross_entropy"], "what both come from stands there once"


def test_a_decoder_of_another_width_is_refused(scene_run: Path, tmp_path: Path) -> None:
    records, model = read(scene_run / "scenes"), str(scene_run / "last.safetensors")
    with pytest.raises(OptionError, match=r"48, not 16; leave the width out of refiner_options"):
        Trainer(
            recipe(decoder_from=model, decoder_options={}, refiner_options={"width": 16}),
            records,
            tmp_path / "refused",
            device="cpu",
        )
    fits = recipe(decoder_from=model, decoder_options={}, refiner_options={"layers": 1, "heads": 2})
    refiner = Trainer(fits, records, tmp_path / "fits", device="cpu").model.config.refiner
    assert refiner == RefinerConfig(width=48, layers=1, heads=2), "as wide as the decoder wants it"


def test_text_is_asked_for(scene_run: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="give --text"):
        Trainer(recipe(objective="language_model"), read(scene_run / "scenes"), tmp_path, device="cpu")


def test_text_is_dealt_whole_and_the_same_from_any_step_on() -> None:
    words = Vocabulary.build([["a", "b", "c", "d", "e", "f", "g"]], minimum_count=1)
    batches = TextBatches(list("abcdefg"), words, batch_captions=3, max_length=5, seed=1)
    whole = list(batches.epoch(2))
    assert len(whole) == len(batches) == 3
    assert {int(row[1]) for batch in whole for row in batch.tokens} == set(range(4, 11))
    for ours, theirs in zip(batches.epoch(2, start=1), whole[1:], strict=True):
        assert torch.equal(ours.tokens, theirs.tokens)


def test_words_are_hidden_at_the_share_asked_for_and_marks_never() -> None:
    torch.manual_seed(0)
    tokens = torch.tensor([[START, 5, 6, 7, 8, END, PAD]] * 2000)
    hidden = word_dropout(tokens, 0.3)
    changed = hidden != tokens
    assert not changed[:, [0, 5, 6]].any()
    assert (hidden[changed] == UNKNOWN).all()
    assert changed[:, 1:5].float().mean() == pytest.approx(0.3, abs=0.02)


def test_guesses_take_the_place_of_words_and_of_nothing_else(scene_run: Path) -> None:
    records = read(scene_run / "scenes")
    start = load(scene_run / "last.safetensors")
    given = recipe(scheduled_sampling=0.999)
    train = [r for r in records if r.split == "train"]
    context = TaskContext(
        recipe=given,
        train=train,
        dev=[],
        text=[],
        vocabulary=start.vocabulary,
        model=start.model,
        images=ImageDataset([], start.model.encoder),
        processes=Processes(rank=0, count=1, device=torch.device("cpu")),
        precision="float32",
    )
    task = CrossEntropy(context)
    batch = next(task.batches.epoch(0, start=0, steady=True))
    reads = batch.tokens[:, :-1]
    certain = torch.full((*reads.shape, len(start.vocabulary)), -50.0)
    certain[..., UNKNOWN], certain[..., 7] = 50.0, 40.0  # what may not be said is likeliest, word 7 comes next
    empty = torch.zeros(0)
    mixed = task.mix_in_predictions(
        lambda images, tokens: Decoded(logits=certain.clone(), maps=empty, off_grid=empty), None, reads
    )
    is_word = (reads != PAD) & (reads != START) & (reads != END)
    assert torch.equal(mixed[~is_word], reads[~is_word])
    assert (mixed[is_word] == 7).float().mean() > 0.98


@pytest.mark.parametrize("name", named_recipes())
def test_named_recipes_are_whole(name: str) -> None:
    values, warning = read_recipe(name)
    assert not warning, "our own recipes use today's names"
    if values.get("objective") == "self_critical" or values.get("grow_vocabulary"):
        values["start_from"] = "model"
    if "distillation" in values:
        values["teacher"] = "model"
    made = Recipe(**values)
    assert any(getattr(made, option.name) != default_of(option) for option in options()), "it says nothing"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("epochs = ", "not TOML"),
        ("epoch = 3", "no option is called 'epoch'"),
        ("epochs = 'three'", "epochs must be a whole number, not 'three'"),
        ("epochs = true", "epochs must be a whole number, not True"),
    ],
)
def test_a_recipe_that_is_wrong_is_named(content: str, said: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(content)
    with pytest.raises(OptionError, match=said):
        read_recipe(file)


def test_a_recipe_that_is_not_there_is_named() -> None:
    with pytest.raises(OptionError, match=r"'flicker'.*flickr8k-fast"):
        read_recipe("flicker")


def test_text_is_read_by_the_line(tmp_path: Path) -> None:
    import gzip

    (tmp_path / "a.txt").write_text("a dog\n\n  a cat \n", encoding="utf-8")
    assert read_text(tmp_path / "a.txt") == ["a dog", "a cat"]
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(b"a dog\n"))
    assert read_text(tmp_path / "a.txt.gz") == ["a dog"]
    (tmp_path / "b.gz").write_bytes(b"no gzip")
    (tmp_path / "c.txt").write_text("\n")
    for name, said in {"b.gz": "cannot be read", "c.txt": "no captions in it", "d.txt": "no such file"}.items():
        with pytest.raises(DataError, match=said):
            read_text(tmp_path / name)


def test_the_command_takes_a_recipe_and_what_is_said_goes_before_it(scene_run: Path, tmp_path: Path) -> None:
    from captioner.cli import main

    file = tmp_path / "mine.toml"
    lines = ['backbone = "tiny"', "epochs = 1", "frozen_epochs = 0", "minimum_count = 1", "batch_pictures = 50"]
    lines += ["captions_per_picture = 1", "[encoder_options]", "side = 32", "[refiner_options]", "width = 16"]
    file.write_text("\n".join([*lines, "[decoder_options]", *(f"{k} = {v}" for k, v in SMALL["lstm"].items())]))
    run = tmp_path / "run"
    command = ["train", "--data", str(scene_run / "scenes"), "--output", str(run), "--device", "cpu"]
    assert main([*command, "--recipe", str(file), "--batch-pictures", "25"]) == 0
    used = json.loads((run / "recipe.json").read_text())
    assert (used["epochs"], used["batch_pictures"], used["backbone"]) == (1, 25, "tiny")


def test_boxes_that_are_not_there_are_missed(scene_run: Path, tmp_path: Path) -> None:
    records = read(scene_run / "scenes")
    for boxed in (True, False):
        some = records if boxed else [replace(record, boxes=()) for record in records]
        with Trainer(recipe(map_supervision=0.1), some, tmp_path / str(boxed), device="cpu") as trainer:
            assert [line for line in trainer.warnings if "no training picture has boxes" in line] == trainer.warnings
            assert bool(trainer.warnings) != boxed


@pytest.mark.parametrize(
    ("objective", "options"),
    [
        ("cross_entropy", {"samples": 7}),
        ("cross_entropy", {"cross_entropy_weight": 0.9}),
        ("self_critical", {"word_dropout": 0.1}),
        ("self_critical", {"scheduled_sampling": 0.1}),
        ("language_model", {"colour_jitter": 0.1}),
        ("language_model", {"map_supervision": 0.1}),
        ("language_model", {"crop": 0.1}),
    ],
)
def test_options_that_an_objective_does_not_read_are_refused(objective: str, options: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match=f"{next(iter(options))} is .*'{objective}' has no use for it"):
        TASKS[objective].check(Recipe(objective=objective, start_from="start.safetensors", **options))


def test_options_of_slots_that_are_no_object_are_one_line(make_checkpoint: Callable[..., Any], tmp_path: Path) -> None:
    save(tmp_path / "start.safetensors", make_checkpoint("transformer"))
    for wrong in (5, [1], "ab"):
        changed = {"attention": "memory", "attention_options": wrong}
        for source in ("start_from", "decoder_from"):
            with pytest.raises(OptionError, match="decoder_options"):
                first_model(Recipe(**{source: str(tmp_path / "start.safetensors")}, decoder_options=changed), [])


def test_grids_beyond_sixteen_bits_are_not_kept(scene_run: Path, tmp_path: Path) -> None:
    records = read(scene_run / "scenes")
    trainer = Trainer(recipe(), records, tmp_path, device="cpu")
    encode = trainer.model.encoder.forward

    def huge(*arguments: Any, **more: Any) -> Any:
        grid = encode(*arguments, **more)
        return Grid(grid.features + 1e6, grid.shape, grid.mask)

    trainer.model.encoder.forward = huge  # type: ignore[method-assign]
    with pytest.raises(OptionError, match=r"65,504; train with --no-cache"):
        trainer.run()
