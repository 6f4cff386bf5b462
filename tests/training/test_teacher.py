"""A model learns what a better one holds likely."""

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from captioner.checkpoint import Checkpoint, load, save
from captioner.data.readers import read
from captioner.data.records import Record, of_split
from captioner.errors import CheckpointError, OptionError
from captioner.model.caption_model import CaptionModel, ModelConfig
from captioner.model.encoder import EncoderConfig
from captioner.model.grid import Grid
from captioner.model.refiners import RefinerConfig
from captioner.model.transformer import TransformerConfig
from captioner.tokenizer.vocabulary import Vocabulary
from captioner.training.images import ImageDataset, Pixels, load_pixels
from captioner.training.loop import Trainer
from captioner.training.losses import distillation_loss
from captioner.training.recipe import Recipe
from captioner.training.run_folder import read_log
from captioner.training.tasks import TASKS
from captioner.training.teacher import Teacher
from captioner.training.views import View

CPU = torch.device("cpu")
STUDENT = {"width": 32, "embedding": 24, "output_hidden": 32, "attention_width": 16, "heads": 2, "dropout": 0.0}


def recipe(teacher: Path | None = None, **changes: object) -> Recipe:
    values: dict[str, object] = {
        "decoder_options": STUDENT,
        "backbone": "tiny",
        "encoder_options": {"side": 48},
        "refiner_options": {"width": 48, "dropout": 0.0},
        "minimum_count": 1,
        "epochs": 2,
        "frozen_epochs": 0,
        "batch_pictures": 20,
        "captions_per_picture": 1,
        "learning_rate": 5e-3,
        "encoder_learning_rate": 4e-3,
        "label_smoothing": 0.0,
        "warmup_steps": 2,
        "ema_decay": 0.0,
        "horizontal_flip": False,
        "precision": "float32",
        "teacher": str(teacher or ""),
    }
    return Recipe(**(values | changes))  # type: ignore[arg-type]


def pixels_of(model: CaptionModel, records: list[Record]) -> Pixels:
    """The pictures as the model takes them."""
    pictures = ImageDataset([record.image for record in records], model.encoder)
    (pixels,) = load_pixels(model.encoder, pictures, [[(i, View()) for i in range(len(records))]], device=CPU)
    return pixels


def look(encoder: EncoderConfig, records: list[Record]) -> tuple[CaptionModel, Pixels]:
    """A new model, and the pixels that it takes."""
    torch.manual_seed(3)
    config = ModelConfig(encoder=encoder, refiner=RefinerConfig(width=48))
    model = CaptionModel(config, vocabulary_size=9).eval()
    return model, pixels_of(model, records)


@pytest.mark.parametrize("pad", [True, False])
@pytest.mark.parametrize(("side", "tolerance"), [(64, 1e-5), (96, 0.03)])
def test_a_teacher_sees_what_its_student_sees(
    side: int, tolerance: float, pad: bool, scene_run: Path, tmp_path: Path
) -> None:
    """Of another normalisation and size: as if the pictures had been opened for the teacher."""
    records = of_split(read(scene_run / "scenes"), "train")[:4]
    vocabulary = Vocabulary(("<pad>", "<start>", "<end>", "<unk>", "a", "dog", "in", "the", "park"))
    teacher, own = look(
        EncoderConfig(backbone="tiny", side=side, pad=pad, mean=(0.2, 0.3, 0.4), std=(0.1, 0.2, 0.3)), records
    )
    save(tmp_path / "teacher.safetensors", Checkpoint(model=teacher, vocabulary=vocabulary), half=False)
    student, shown = look(EncoderConfig(backbone="tiny", side=64, pad=pad), records)
    reads = torch.randint(4, 9, (8, 5))
    expected = teacher(own.values, reads, own.mask).logits
    asked = Teacher(
        str(tmp_path / "teacher.safetensors"),
        vocabulary,
        student.encoder.config,
        max_length=5,
        device=CPU,
        autocast=nullcontext,
    )
    said = asked.logits(shown, reads)
    assert not said.requires_grad
    spread = (expected - expected.flip(0)).abs().max()  # between pictures
    assert (said - expected).abs().max() <= tolerance * spread


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::captioner.metrics.evaluate.FewPicturesWarning")
def test_a_student_learns_what_its_captions_do_not_say(scene_run: Path, tmp_path: Path) -> None:
    """Trained on captions of other pictures, it can know what is in one from its teacher alone."""
    records = read(scene_run / "scenes")
    file = scene_run / "best.safetensors"
    dev = of_split(records, "dev")[:20]
    train = of_split(records, "train")
    wrong = [replace(one, captions=train[i - 7].captions, boxes=()) for i, one in enumerate(train)]
    distances = {}
    for weight in (0.0, 10.0):
        trainer = Trainer(
            recipe(file, distillation=weight, epochs=6),
            wrong + dev[:1],  # whose score is not asked for
            tmp_path / str(weight),
            device="cpu",
        )
        student = load(trainer.run().with_name("last.safetensors")).model
        teacher = load(file)
        pixels = pixels_of(student, dev)
        tokens = torch.nn.utils.rnn.pad_sequence(
            [torch.tensor(teacher.vocabulary.encode(record.captions[0].split())) for record in dev], batch_first=True
        )
        with torch.inference_mode():
            ours, theirs = (model(pixels.values, tokens[:, :-1]).logits for model in (student, teacher.model))
        distances[weight] = distillation_loss(ours, theirs, tokens[:, 1:]).item()
    assert distances[10.0] < 0.9 * distances[0.0]


@pytest.mark.parametrize("objective", ["cross_entropy", "self_critical"])
def test_rounds_see_the_teacher_that_one_step_sees(objective: str, scene_run: Path, tmp_path: Path) -> None:
    records, file = read(scene_run / "scenes"), tmp_path / "teacher.safetensors"
    teacher = load(scene_run / "best.safetensors")
    with torch.no_grad():
        for weight in teacher.model.decoder.parameters():
            weight.mul_(0.7)  # of another opinion than the student
    save(file, teacher)
    figures = []
    for rounds in (1, 2):
        options: dict[str, object] = {
            "gradient_accumulation_steps": rounds,
            "epochs": 1,
            "learning_rate": 1e-9,
            "batch_pictures": 100,
        }
        if objective == "self_critical":
            options |= {"objective": "self_critical", "start_from": str(scene_run / "last.safetensors"), "samples": 2}
            options |= {"decoder_options": {}, "backbone": "efficientnet_lite0", "encoder_options": {}}
            options |= {"refiner_options": {}}
        trainer = Trainer(recipe(file, **options), records, tmp_path / str(rounds), device="cpu")
        trainer.run()
        figures += [line["train_from_teacher"] for line in read_log(trainer.folder.path) if "dev" in line]
    # The samples are drawn anew in each round: alike in the mean alone.
    assert figures[0] > 0.1
    assert figures[0] == pytest.approx(figures[1], rel=1e-4 if objective == "cross_entropy" else 0.3)


def test_a_teacher_of_other_words_is_refused(scene_run: Path, tmp_path: Path) -> None:
    records = read(scene_run / "scenes")
    with pytest.raises(OptionError, match="vocabulary of the teacher"):
        Trainer(recipe(scene_run / "best.safetensors", minimum_count=30), records, tmp_path, device="cpu")
    with pytest.raises(CheckpointError, match=r"typo\.safetensors: no such model file"):
        Trainer(recipe(scene_run / "typo.safetensors"), records, tmp_path, device="cpu")
    assert not list(tmp_path.iterdir()), "the folder is still free"


def test_a_teacher_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    vocabulary = Vocabulary(("<pad>", "<start>", "<end>", "<unk>", "a"))
    encoder = EncoderConfig(backbone="tiny", side=48)
    config = ModelConfig(
        encoder=encoder, refiner=RefinerConfig(width=48), decoder=TransformerConfig(width=48, heads=2, max_length=8)
    )
    model = CaptionModel(config, vocabulary_size=len(vocabulary))
    file = str(tmp_path / "teacher.safetensors")
    save(file, Checkpoint(model=model, vocabulary=vocabulary))
    for student, max_length, said in (
        (encoder, 8, "max_length is 8, .* at most 7 words; set max_length 7"),
        (replace(encoder, pad=True), 7, "pad is False in the teacher .* and True in the model"),
    ):
        with pytest.raises(OptionError, match=said):
            Teacher(file, vocabulary, student, max_length=max_length, device=CPU, autocast=nullcontext)
    Teacher(file, vocabulary, encoder, max_length=7, device=CPU, autocast=nullcontext)


def test_a_teacher_of_the_same_encoder_reads_its_grids(scene_run: Path, tmp_path: Path) -> None:
    """Self-distillation: at its own teacher's weights a model has nothing to learn, on grids as on pictures."""
    records, file = read(scene_run / "scenes"), scene_run / "best.safetensors"
    options: dict[str, object] = {"objective": "self_critical", "start_from": str(file), "samples": 2, "epochs": 1}
    options |= {"decoder_options": {}, "backbone": "efficientnet_lite0", "encoder_options": {}, "refiner_options": {}}
    trainer = Trainer(
        recipe(file, **options, frozen_epochs=1, learning_rate=1e-9), records, tmp_path / "run", device="cpu"
    )
    trainer.run()
    (distance,) = [line["train_from_teacher"] for line in read_log(trainer.folder.path) if "dev" in line]
    assert abs(distance) < 1e-3  # grids in 16 bits
    loaded = load(file)
    teacher = Teacher(
        str(file),
        loaded.vocabulary,
        loaded.model.config.encoder,
        max_length=9,
        device=CPU,
        autocast=nullcontext,
    )
    student = loaded.model
    pixels = pixels_of(student, of_split(records, "dev")[:4])
    reads = torch.randint(4, 9, (8, 5))
    with torch.no_grad():
        grids = student.encode_image(pixels.values, pixels.mask)
    assert teacher.reads_grids_of(student.encoder)
    torch.testing.assert_close(teacher.logits(grids, reads), teacher.logits(pixels, reads))


@pytest.mark.parametrize("objective", ["cross_entropy", "self_critical"])
def test_a_teacher_of_another_encoder_reads_grids_of_its_own(
    objective: str, scene_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Grids on disk, grids that are encoded again, and pixels say the same, whether the student is frozen or not."""
    records, file = read(scene_run / "scenes"), tmp_path / "teacher.safetensors"
    teacher = load(scene_run / "best.safetensors")
    teacher.model.set_side(96)
    with torch.no_grad():
        for weight in (*teacher.model.decoder.parameters(), *teacher.model.encoder.parameters()):
            weight.mul_(0.8)  # of another opinion and another encoder than the student
    save(file, teacher)
    options: dict[str, object] = {"epochs": 1, "learning_rate": 1e-9, "encoder_learning_rate": 1e-9}
    if objective == "self_critical":
        options |= {"objective": objective, "start_from": str(scene_run / "last.safetensors"), "samples": 2}
        options |= {"decoder_options": {}, "backbone": "efficientnet_lite0", "encoder_options": {}}
        options |= {"refiner_options": {}}
    read_by_teacher: list[object] = []
    logits = Teacher.logits

    def watched(self: Teacher, images: Pixels | Grid, inputs: torch.Tensor) -> torch.Tensor:
        read_by_teacher.append(images.shape if isinstance(images, Grid) else "pixels")
        return logits(self, images, inputs)

    monkeypatch.setattr(Teacher, "logits", watched)
    figures = {}
    for name, changes in {
        "file": {"frozen_epochs": 1},
        "mirrored": {"frozen_epochs": 1, "horizontal_flip": True},
        "no file": {"frozen_epochs": 1, "cache": False},
        "learning": {"frozen_epochs": 0},
        "mirrored learning": {"frozen_epochs": 0, "horizontal_flip": True},
        "pixels": {"frozen_epochs": 0, "cache": False},
        "cropped": {"frozen_epochs": 0, "crop": 1e-6},
    }.items():
        trainer = Trainer(recipe(file, **options | changes), records, tmp_path / name, device="cpu")
        trainer.run()
        (figures[name],) = [line["train_from_teacher"] for line in read_log(trainer.folder.path) if "dev" in line]
        # Of 96 pixels, where the student has fewer or more.
        expected = "pixels" if name in ("pixels", "cropped") else teacher.model.encoder.grid_shape
        assert set(read_by_teacher) == {expected}
        assert teacher.model.encoder.grid_shape != trainer.model.encoder.grid_shape
        read_by_teacher.clear()
    assert figures["no file"] > 0.1
    assert figures["file"] == pytest.approx(figures["no file"], rel=0.01 if objective == "cross_entropy" else 0.3)
    assert figures["learning"] == pytest.approx(figures["no file"], rel=0.01 if objective == "cross_entropy" else 0.3)
    # These are of the student's size, and made larger for the teacher.
    assert figures["pixels"] == pytest.approx(figures["no file"], rel=0.1 if objective == "cross_entropy" else 0.3)
    # A teacher that mixed the views up, or did not mirror, would be further away from what it says of the pictures.
    for name in ("mirrored", "mirrored learning"):
        assert figures[name] == pytest.approx(figures["no file"], rel=0.1 if objective == "cross_entropy" else 0.3)


def test_a_resumed_run_finds_the_grids_of_both_encoders(scene_run: Path, tmp_path: Path) -> None:
    records, file = read(scene_run / "scenes"), tmp_path / "teacher.safetensors"
    teacher = load(scene_run / "best.safetensors")
    teacher.model.set_side(96)
    save(file, teacher)
    taught = recipe(file, frozen_epochs=2, save_minutes=1e-9)
    trainer = Trainer(taught, records, tmp_path / "run", device="cpu")
    for progress in trainer.steps():
        if progress.done == 3 and progress.what.startswith("epoch"):
            break
    trainer.close()
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("grids-*.npy")}
    assert len(files) == 4, "grids and masks of both encoders"
    resumed = Trainer(taught, records, tmp_path / "run", device="cpu")
    assert resumed.step > 0
    assert not [progress for progress in resumed.steps() if progress.what.startswith("grids")]
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("grids-*.npy")} == files


def test_a_file_names_the_teachers_of_earlier_runs(scene_run: Path, tmp_path: Path) -> None:
    records, file = read(scene_run / "scenes"), scene_run / "best.safetensors"
    taught = recipe(file, epochs=1, frozen_epochs=1, cache=False)
    first = Trainer(taught, records, tmp_path / "first", device="cpu").run()
    then: dict[str, object] = {
        "start_from": str(first),
        "decoder_options": {},
        "refiner_options": {},
        "encoder_options": {},
    }
    second = Trainer(recipe(**then, epochs=1), records, tmp_path / "second", device="cpu").run()
    teacher = load(file).about
    for one in (first, second):
        assert load(one).about["teacher"] == [*teacher.get("earlier", []), teacher["recipe"]]


def test_a_teacher_may_have_its_words_in_another_order(scene_run: Path, tmp_path: Path) -> None:
    own = load(scene_run / "best.safetensors")
    words, special = own.vocabulary.words, 4
    student = Vocabulary(words[:special] + words[special:][::-1])
    pixels = pixels_of(own.model, of_split(read(scene_run / "scenes"), "dev")[:2])
    teacher = Teacher(
        str(scene_run / "best.safetensors"),
        student,
        own.model.config.encoder,
        max_length=9,
        device=CPU,
        autocast=nullcontext,
    )
    reads = torch.randint(special, len(words), (2, 5))
    same = torch.tensor([own.vocabulary.ids[student.words[i]] for i in reads.flatten()]).view_as(reads)
    with torch.no_grad():
        expected = own.model.eval()(pixels.values, same, pixels.mask).logits
    found = teacher.logits(pixels, reads)
    torch.testing.assert_close(found[..., special:], expected[..., special:].flip(-1))
    torch.testing.assert_close(found[..., :special], expected[..., :special])


def test_a_model_of_text_has_no_teacher() -> None:
    with pytest.raises(OptionError, match="a teacher needs the pictures"):
        TASKS["language_model"].check(recipe(Path("teacher.safetensors"), objective="language_model"))


def test_a_weight_without_a_teacher_is_refused() -> None:
    with pytest.raises(OptionError, match=r"distillation is 0\.5 .*give teacher"):
        recipe(distillation=0.5)
