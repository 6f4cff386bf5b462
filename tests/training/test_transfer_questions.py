"""Questions about other pictures that a teacher answers, and answerers that learn from one."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from captioner import checkpoint
from captioner.cli import main
from captioner.data.records import AnsweredQuestion, Record
from captioner.data.scenes import draw_scene
from captioner.model.answer_model import AnswerModel
from captioner.tokenizer.vocabulary import SPECIAL, Vocabulary
from captioner.training.growth import add_fine_answer_maps, without_fine_maps
from captioner.training.questions import QuestionBatch, QuestionBatches, padded_questions
from captioner.training.run_folder import read_log
from captioner.training.transfer_questions import TransferQuestions


def record(*questions: str, captions: tuple[str, ...] = (), answer: str = "yes") -> Record:
    asked = tuple(AnsweredQuestion(text, (answer,)) for text in questions)
    return Record(Path("a.png"), captions, "train", "a", questions=asked)


def test_questions_of_other_pictures_share_a_word_that_says_what_is_there() -> None:
    records = [
        record("what is the dog?", "is it a cat?", captions=("a red ball is there",), answer="dog"),
        record("is the ball red?", "what is this?"),
        record("who has the dog?", "where is the sky?"),
        record("is this?", captions=("a dog",)),
    ]
    transfer, random = TransferQuestions(records), np.random.default_rng(0)

    def drawn(picture: int) -> set[tuple[int, int]]:
        return {one for _ in range(60) for one in transfer.draw(picture, random, 2)}

    assert drawn(0) == {(1, 0), (2, 0)}, "of its captions and answers, and never its own"
    assert drawn(1) == drawn(2) == set(), "'yes' is in no question"
    assert drawn(3) == {(0, 0), (2, 0)}, "'is', 'this' and 'a' are everywhere"
    assert all(len(transfer.draw(3, random, count)) <= count for count in range(4))


def test_they_take_the_rows_that_are_left_and_have_no_answer() -> None:
    words = Vocabulary((*SPECIAL, "what", "has", "the", "dog"))
    records = [record("what dog?", captions=("a dog",)), record("the dog has what?", "what dog?", captions=("a dog",))]
    batches = QuestionBatches(
        records, words, ("yes", "no"), batch_pictures=2, questions_per_picture=4, max_length=5, horizontal_flip=False,
        seed=1, made_weight=0.5, transfer=TransferQuestions(records), transfer_per_picture=2,
    )  # fmt: skip
    texts = set()
    for number in range(8):
        (batch,) = batches.epoch(number)
        assert isinstance(batch, QuestionBatch) and batch.questions == 3
        (mine,) = [i for i, picture in enumerate(batch.pictures) if picture == 0]
        rows = slice(4 * mine, 4 * mine + 4)
        targets, weights, distilled = batch.targets_of[rows], batch.weights[rows], batch.distilled[rows]
        assert targets == (((0, 1.0),), (), (), ())
        drawn = distilled.count(True) - 1
        assert distilled == (True, *[True] * drawn, *[False] * (3 - drawn)) and 1 <= drawn <= 2
        assert weights == (1.0, *[0.5] * drawn, *[1.0] * (3 - drawn))
        texts |= {" ".join(words.decode(row)) for row in padded_questions(batch)[mine, 1 : 1 + drawn].tolist()}
        assert batch.distilled_weight == 3 + 0.5 * (sum(batch.distilled) - 3)
        parts = batch.parts(2)
        assert sum((part.distilled for part in parts), ()) == batch.distilled  # type: ignore[attr-defined]
    assert texts == {"the dog has what", "what dog"}


OPTIONS = [
    "--objective", "answers", "--backbone", "tiny", "--encoder-options", '{"side": 64}', "--epochs", "1",
    "--answerer-options", '{"embedding": 8, "width": 16, "heads": 2, "hidden": 16, "dropout": 0.0}',
    "--refiner-options", '{"width": 16, "dropout": 0.0}', "--minimum-count", "1", "--batch-pictures", "6",
    "--captions-per-picture", "3", "--warmup-steps", "1", "--ema-decay", "0", "--label-smoothing", "0",
    "--word-dropout", "0", "--no-horizontal-flip", "--precision", "float32",
]  # fmt: skip


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """12 drawn scenes with a question each, and a model that was trained on them, ``teacher/best.safetensors``."""
    folder = tmp_path_factory.mktemp("transfer")
    (folder / "images").mkdir()
    rows = []
    for seed in range(12):
        scene = draw_scene(seed, size=(64, 48))
        scene.image.save(folder / "images" / f"{seed}.png")
        line = {"image": f"{seed}.png", "split": "train" if seed < 8 else "dev"}
        rows.append({**line, "question": "is the dog a yes?", "answer": "no" if seed % 3 else "yes"})
    (folder / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert main(["train", "--data", str(folder), "--output", str(folder / "teacher"), *OPTIONS]) == 0
    return folder


def figures(run: Path) -> dict[str, float]:
    """What the log of a run's one epoch has of the loss."""
    (line,) = [line for line in read_log(run) if "dev" in line]
    return {name: line[name] for name in ("train_loss", "train_from_teacher", "train_accuracy") if name in line}


@pytest.mark.parametrize("frozen", [0, 1])
def test_at_its_own_teacher_a_model_has_nothing_to_learn(scenes: Path, tmp_path: Path, frozen: int) -> None:
    teacher, found = scenes / "teacher" / "best.safetensors", {}
    own = [option for option in OPTIONS if option != "tiny"]
    for part in ("--backbone", "--encoder-options", "--answerer-options", "--refiner-options"):
        place = own.index(part)
        del own[place : place + (1 if part == "--backbone" else 2)]
    command = ["train", "--data", str(scenes), "--teacher", str(teacher), "--frozen-epochs", str(frozen)]
    for name, more in (("same", [*own, "--start-from", str(teacher)]), ("other", [*OPTIONS, "--seed", "5"])):
        run = tmp_path / name
        more = [*more, "--learning-rate", "1e-9", "--transfer-questions", "2", "--distillation", "2"]
        assert main([*command, *more, "--output", str(run)]) == 0
        found[name] = figures(run)["train_from_teacher"]
        rounds = [*command, *more, "--gradient-accumulation-steps", "3", "--output", str(tmp_path / f"{name}3")]
        assert main(rounds) == 0
        expected = pytest.approx(figures(run), rel=1e-4, abs=1e-6)
        assert figures(tmp_path / f"{name}3") == expected, "rounds end where one step does"
        recipe = checkpoint.load_answering(run / "best.safetensors").about["recipe"]
        assert recipe["teacher"] == "teacher/best.safetensors" and recipe["distillation"] == 2
    assert abs(found["same"]) < 1e-3
    assert found["other"] > 0.01


def test_a_teacher_with_fine_maps_reads_the_grids_of_the_same_encoder_without(scenes: Path) -> None:
    """Nothing asks it for its maps, and its answers are the same without."""
    own = checkpoint.load_answering(scenes / "teacher" / "best.safetensors").model.eval()
    config = replace(own.config, answerer=replace(own.config.answerer, attributes=(4, 5)))
    own = AnswerModel(config, vocabulary_size=own.vocabulary_size, answers=own.answers).eval()
    fine = add_fine_answer_maps(own, {"fine_stage": 1}, {"fine_width": 8})
    plain = without_fine_maps(fine)
    assert fine.encoder.fine_channels
    assert not plain.encoder.fine_channels
    assert plain.config == own.config
    pixels, questions = torch.rand(2, 3, 64, 64), torch.randint(4, 6, (2, 1, 5))
    with torch.no_grad():
        torch.testing.assert_close(plain(pixels, questions).logits, fine(pixels, questions).logits)


def test_a_teacher_that_does_not_fit_is_refused(
    scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], tiny_model: Path
) -> None:
    teacher = str(scenes / "teacher" / "best.safetensors")
    other = tmp_path / "questions.jsonl"
    other.write_text((scenes / "questions.jsonl").read_text().replace('"no"', '"never"'))
    base = ["train", "--data", str(scenes), "--output", str(tmp_path / "run"), *OPTIONS, "--frozen-epochs", "0"]
    others = ["train", "--data", str(other), "--images", str(scenes / "images"), *base[3:]]
    for command, said in (
        ([*others, "--teacher", teacher], "the answers of the teacher"),
        ([*base, "--teacher", str(tiny_model)], "answers no questions"),
        ([*base, "--teacher", teacher, "--blind"], "a blind model sees nothing"),
        ([*base, "--transfer-questions", "1"], "--transfer-questions is 1 and there is no teacher"),
        ([*base, "--teacher", teacher, "--max-length", "99"], "--max-length is 99"),
        ([*base, "--teacher", teacher, "--captions-per-picture", "1", "--transfer-questions", "1"], "take all 1 rows"),
    ):
        assert main(command) == 2, said
        assert said in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
