"""A small encoder learns the grids of a larger one."""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from captioner.checkpoint import Checkpoint, load, save
from captioner.data.readers import read
from captioner.errors import OptionError
from captioner.model.caption_model import CaptionModel
from captioner.model.grid import Grid
from captioner.training.growth import add_refiner_layers
from captioner.training.loop import Trainer
from captioner.training.recipe import Recipe
from captioner.training.run_folder import read_log
from captioner.training.start import first_model
from captioner.training.teacher import Teacher


def recipe(file: Path, **changes: object) -> Recipe:
    values: dict[str, object] = {
        "objective": "grid_distillation",
        "teacher": str(file),
        "decoder_from": str(file),
        "backbone": "tiny",
        "encoder_options": {"side": 64},
        "epochs": 4,
        "frozen_epochs": 2,
        "batch_pictures": 20,
        "captions_per_picture": 1,
        "max_length": 9,
        "learning_rate": 5e-3,
        "encoder_learning_rate": 5e-3,
        "warmup_steps": 2,
        "ema_decay": 0.0,
        "horizontal_flip": False,
    }
    return Recipe(**(values | changes))  # type: ignore[arg-type]


@pytest.mark.parametrize("cache", [True, False])
def test_encoder_and_refiner_learn_the_grids_and_the_decoder_stays(
    cache: bool, scene_run: Path, tmp_path: Path
) -> None:
    file = scene_run / "best.safetensors"
    trainer = Trainer(recipe(file, cache=cache), read(scene_run / "scenes"), tmp_path / "run", device="cpu")
    first = {name: tensor.clone() for name, tensor in trainer.model.encoder.state_dict().items()}
    trainer.run()
    errors = [line["train_grid_error"] for line in read_log(tmp_path / "run") if "dev" in line]
    distances = [line["train_from_teacher"] for line in read_log(tmp_path / "run") if "dev" in line]
    assert errors[1] < 0.9 * errors[0]
    assert errors[3] < 0.9 * errors[1], "the encoder has more to give than the refiner alone"
    assert distances[3] < distances[0]
    made, teacher = load(tmp_path / "run" / "last.safetensors"), load(file)
    assert made.about["teacher"], "the file says who taught it"
    assert made.vocabulary.words == teacher.vocabulary.words
    for name, tensor in made.model.decoder.state_dict().items():
        torch.testing.assert_close(tensor, teacher.model.decoder.state_dict()[name])
    assert any(
        not torch.equal(tensor.half(), first[name].half()) for name, tensor in made.model.encoder.state_dict().items()
    )


def test_at_the_teachers_weights_there_is_nothing_to_learn(scene_run: Path, tmp_path: Path) -> None:
    file = scene_run / "last.safetensors"
    options: dict[str, object] = {
        "decoder_from": "",
        "start_from": str(file),
        "encoder_options": {},
        "refiner_options": {},
    }
    options |= {"backbone": "efficientnet_lite0", "epochs": 1, "frozen_epochs": 0, "learning_rate": 1e-9}
    options |= {"encoder_learning_rate": 1e-9}
    Trainer(recipe(file, **options), read(scene_run / "scenes"), tmp_path / "run", device="cpu").run()
    (line,) = [line for line in read_log(tmp_path / "run") if "dev" in line]
    assert line["train_grid_error"] < 1e-5
    assert abs(line["train_from_teacher"]) < 1e-5


@torch.no_grad()
def test_the_teachers_grid_takes_the_shape_of_the_students(scene_run: Path) -> None:
    file = scene_run / "best.safetensors"
    loaded = load(file)
    teacher = Teacher(
        str(file),
        loaded.vocabulary,
        loaded.model.config.encoder,
        max_length=9,
        device=torch.device("cpu"),
        autocast=nullcontext,
    )
    height, width = loaded.model.encoder.grid_shape
    channels = loaded.model.encoder.channels
    even = torch.randn(2, 1, channels).expand(2, height * width, channels)
    same = teacher.refined(Grid(even, (height, width)), (height, width))
    torch.testing.assert_close(same, loaded.model.eval().refine(Grid(even, (height, width))).features)
    finer = teacher.refined(Grid(even, (height, width)), (2 * height, 2 * width))
    expected = loaded.model.refine(Grid(even[:, :1].expand(2, 4 * height * width, channels), (2 * height, 2 * width)))
    torch.testing.assert_close(finer, expected.features)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"teacher": ""}, "learns the grids of a teacher; give teacher"),
        ({"decoder_from": ""}, "trains no decoder; give decoder_from, the teacher"),
        ({"map_supervision": 0.1}, "map_supervision"),
        ({"absent_objects_penalty": 1.0}, r"absent_objects_penalty is 1\.0, .* has no use for it"),
        ({"train_refiner": False}, "train_refiner is false"),
        ({"refiner": "latent_queries", "refiner_options": {"queries": 4}}, "only grids whose cells"),
        ({"encoder_options": {"side": 64, "pad": True}}, "pad"),
    ],
)
def test_what_does_not_fit_is_refused(changes: dict[str, object], said: str, scene_run: Path, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=said):
        Trainer(
            recipe(scene_run / "best.safetensors", **changes),
            read(scene_run / "scenes"),
            tmp_path / "run",
            device="cpu",
        )


def taught_by_other(scene_run: Path, folder: Path) -> Trainer:
    """A run with the decoder of the scenes' model, and ``other.safetensors`` as teacher."""
    options = recipe(folder / "other.safetensors", decoder_from=str(scene_run / "best.safetensors"))
    return Trainer(options, read(scene_run / "scenes"), folder / "run", device="cpu")


def test_a_teacher_of_another_width_is_refused(scene_run: Path, tmp_path: Path) -> None:
    teacher = load(scene_run / "best.safetensors")
    config = replace(teacher.model.config, refiner=replace(teacher.model.config.refiner, width=32))
    other = CaptionModel(config, vocabulary_size=len(teacher.vocabulary))
    save(tmp_path / "other.safetensors", replace(teacher, model=other))
    with pytest.raises(
        OptionError, match=r"refined grid is 48 wide, and that of the teacher .* 32; give refiner_options"
    ):
        taught_by_other(scene_run, tmp_path)


def test_a_decoder_that_is_not_the_teachers_is_refused(scene_run: Path, tmp_path: Path) -> None:
    other = load(scene_run / "best.safetensors")
    with torch.no_grad():
        next(other.model.decoder.parameters()).mul_(1.5)
    save(tmp_path / "other.safetensors", other)
    with pytest.raises(OptionError, match="the decoder is not that of the teacher"):
        taught_by_other(scene_run, tmp_path)


def test_rounds_learn_what_one_step_learns(scene_run: Path, tmp_path: Path) -> None:
    figures = []
    for rounds in (1, 2):
        options = {"gradient_accumulation_steps": rounds, "epochs": 2, "frozen_epochs": 1}
        Trainer(
            recipe(scene_run / "best.safetensors", **options),
            read(scene_run / "scenes"),
            tmp_path / str(rounds),
            device="cpu",
        ).run()
        figures += [line["train_grid_error"] for line in read_log(tmp_path / str(rounds)) if "dev" in line]
    assert figures[:2] == pytest.approx(figures[2:], rel=1e-3)


def test_the_first_phase_leaves_the_grids_of_the_teacher_to_the_second(scene_run: Path, tmp_path: Path) -> None:
    """With pictures that are cropped, these are computed for the first phase alone."""
    cases: dict[str, dict[str, object]] = {"steady": {}, "cropped": {"crop": 0.1}}
    for name, changes in cases.items():
        trainer = Trainer(
            recipe(scene_run / "best.safetensors", epochs=2, frozen_epochs=1, precision="bfloat16", **changes),
            read(scene_run / "scenes"),
            tmp_path / name,
            device="cpu",
        )
        filled = {step.what for step in trainer.steps() if step.what.startswith("grids")}
        assert filled == {"grids", "grids of the teacher"}
        cached = trainer._feeder._teacher
        assert cached is not None
        assert (cached.cache is None) == (name == "cropped")
        assert all(line["train_grid_error"] > 0 for line in read_log(tmp_path / name) if "dev" in line)


def test_layers_that_would_not_learn_are_refused(scene_run: Path) -> None:
    added = {"layers": 1, "heads": 4, "hidden": 32}
    given = Recipe(start_from=str(scene_run / "best.safetensors"), refiner_options=added)
    assert given.for_readers()["refiner_options"] == added, "the file says what was added"
    for changes in ({"train_refiner": False}, {"objective": "language_model"}):
        with pytest.raises(OptionError, match="refiner_options add layers"):
            first_model(replace(given, **changes), [])  # type: ignore[arg-type]


@pytest.mark.parametrize("decoder", ["lstm", "transformer"])
def test_new_layers_of_the_refiner_change_nothing_at_first(
    decoder: str, tmp_path: Path, make_checkpoint: Callable[[str], Checkpoint]
) -> None:
    start = make_checkpoint(decoder)
    assert add_refiner_layers(start, {}) is start
    assert add_refiner_layers(start, {"layers": 0}) is start
    grown = add_refiner_layers(start, {"layers": 2, "hidden": 24})
    assert (grown.model.config.refiner.layers, grown.model.config.refiner.hidden) == (2, 24)
    torch.manual_seed(1)
    pixels, tokens = torch.randn(1, 3, 64, 64), torch.tensor([[1, 4, 5, 6]])
    with torch.no_grad():
        old, new = (one.model.eval()(pixels, tokens) for one in (start, grown))
    torch.testing.assert_close(new.logits, old.logits)
    grown.model(pixels, tokens).logits.square().sum().backward()
    assert grown.model.refiner.layers[1].linear2.weight.grad.abs().sum() > 0  # type: ignore[index,union-attr]
    save(tmp_path / "start.safetensors", start)
    made, _ = first_model(Recipe(start_from=str(tmp_path / "start.safetensors"), refiner_options={"layers": 1}), [])
    assert made.config.refiner.layers == 1
    twice = add_refiner_layers(grown, {"layers": 3, "hidden": 8})
    assert {len(layer.linear1.weight) for layer in twice.model.refiner.layers} == {24}  # type: ignore[union-attr]
    torch.testing.assert_close(
        twice.model.state_dict()["refiner.layers.1.linear1.weight"],
        grown.model.state_dict()["refiner.layers.1.linear1.weight"],
    )
