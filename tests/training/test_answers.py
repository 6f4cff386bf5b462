"""Training answering models: questions about drawn scenes, from the reader to a model that answers."""

import json
from pathlib import Path

import pytest

from captioner import checkpoint
from captioner.asking import load_answering
from captioner.cli import main
from captioner.data.readers import read
from captioner.data.records import AnsweredQuestion, Record
from captioner.data.scenes import draw_scene, write_scenes
from captioner.errors import DataError
from captioner.tokenizer.vocabulary import SPECIAL, Vocabulary
from captioner.training.questions import QuestionBatch, QuestionBatches, frequent_answers, padded_questions

OPTIONS = [
    "--objective", "answers", "--backbone", "tiny", "--encoder-options", '{"side": 64}', "--frozen-epochs", "0",
    "--answerer-options", '{"embedding": 8, "width": 16, "heads": 2, "hidden": 16, "dropout": 0.0}',
    "--refiner-options", '{"width": 16, "dropout": 0.0}', "--minimum-count", "1", "--batch-pictures", "8",
    "--captions-per-picture", "2", "--warmup-steps", "2", "--learning-rate", "0.01", "--ema-decay", "0",
    "--answers", "4", "--label-smoothing", "0",
]  # fmt: skip


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """48 drawn scenes, and of each whether there is a dog, and a question that blindness answers."""
    folder = tmp_path_factory.mktemp("questions")
    (folder / "images").mkdir()
    rows = []
    for seed in range(48):
        scene = draw_scene(seed, size=(64, 48))
        scene.image.save(folder / "images" / f"{seed}.png")
        line = {"image": f"{seed}.png", "split": "dev" if seed % 6 == 0 else "train"}
        rows += [
            {**line, "question": "is there a dog?", "answer": "yes" if "dog" in scene.words else "no"},
            {**line, "question": "what is this?", "answers": ["drawing"] * 9 + ["picture"]},
        ]
    (folder / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_the_reader_puts_the_questions_of_a_picture_together(scenes: Path, tmp_path: Path) -> None:
    records = read(scenes)
    assert len(records) == 48 and {record.split for record in records} == {"train", "dev"}
    assert records[1].questions[1] == AnsweredQuestion("what is this?", ("drawing",) * 9 + ("picture",))
    assert frequent_answers(records, 3)[0] == "drawing" and set(frequent_answers(records, 3)) == {
        "drawing",
        "yes",
        "no",
    }
    broken = tmp_path / "questions.jsonl"
    broken.write_text('{"image": "a.png", "question": "what?"}\n')
    with pytest.raises(DataError, match=r"line 1.*answer"):
        read(broken, images=scenes / "images")


def test_batches_fill_up_and_mirror() -> None:
    words = Vocabulary((*SPECIAL, "what", "is", "left", "right"))
    asked = (AnsweredQuestion("what is left?", ("right",) * 3 + ("rare",)),)
    records = [Record(Path("a.png"), (), "train", "a", questions=asked)] * 6
    batches = QuestionBatches(
        records, words, ("left", "right"), batch_pictures=6, questions_per_picture=2, max_length=5,
        horizontal_flip=True, seed=1,
    )  # fmt: skip
    (batch,) = batches.epoch(0)
    assert isinstance(batch, QuestionBatch) and batch.questions == 6
    assert padded_questions(batch).shape == (6, 2, 3)
    flips = {view.flip for view in batch.views}
    assert flips == {True, False}
    for view, row, target in zip(batch.views, batch.tokens[::2].tolist(), batch.targets_of[::2], strict=True):
        assert words.decode(row)[-1] == ("right" if view.flip else "left")
        assert target == ((0 if view.flip else 1, 0.75),), "'rare' is none of the answers"
    halves = batch.parts(2)
    assert [part.questions for part in halves] == [3, 3]  # type: ignore[attr-defined]


def test_a_command_line_trains_a_model_that_answers_and_resumes(scenes: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    command = ["train", "--data", str(scenes), "--output", str(run), "--epochs", "3", *OPTIONS]
    assert main(command) == 0
    log = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    losses = [line["train_loss"] for line in log if "train_loss" in line]
    assert losses[-1] < 0.8 * losses[0]
    best = checkpoint.load_answering(run / "best.safetensors")
    assert set(best.answers) == {"drawing", "yes", "no"}
    answer = load_answering(run / "best.safetensors").ask(scenes / "images" / "1.png", "what is this?")
    assert answer.text == "drawing"
    before = (run / "last.safetensors").read_bytes()
    assert main(command) == 0  # nothing is left to do
    assert (run / "last.safetensors").read_bytes() == before


def test_captions_are_no_questions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written = write_scenes(tmp_path / "scenes", count=12, dev=4, size=(64, 48))
    command = ["train", "--data", str(written), "--output", str(tmp_path / "run"), *OPTIONS]
    assert main(command) == 2
    assert "questions" in capsys.readouterr().err
