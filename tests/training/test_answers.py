"""Training answering models: questions about drawn scenes, from the reader to a model that answers."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from captioner import checkpoint
from captioner.asking import load_answering
from captioner.cli import main
from captioner.data.readers import LeftOutWarning, read
from captioner.data.records import AnsweredQuestion, Record
from captioner.data.scenes import draw_scene, write_scenes
from captioner.errors import DataError, OptionError
from captioner.image import Geometry
from captioner.model.answering.base import drop_grid
from captioner.model.grid import Grid
from captioner.tokenizer.vocabulary import SPECIAL, Vocabulary
from captioner.training.captioned import add_captions
from captioner.training.dev import encode_records
from captioner.training.made_questions import MadeQuestion
from captioner.training.presence import PresenceQuestions
from captioner.training.questions import QuestionBatch, QuestionBatches, frequent_answers, padded_questions
from captioner.training.recipe import Recipe
from captioner.training.run_folder import read_log
from captioner.training.start import first_model
from captioner.training.tasks import TASKS
from captioner.training.tasks.answers import AnswerTask

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


def test_questions_without_splits_have_those_of_lists_or_of_a_checksum(scenes: Path, tmp_path: Path) -> None:
    rows = [json.loads(line) for line in (scenes / "questions.jsonl").read_text().splitlines()]
    for row in rows:
        del row["split"]
    (tmp_path / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "images").symlink_to(scenes / "images")
    assert {record.split for record in read(tmp_path)} == {"train", "dev"}
    (tmp_path / "trainImages.txt").write_text("1.png\n2.png\n")
    (tmp_path / "devImages.txt").write_text("3.png\n")
    with pytest.warns(LeftOutWarning, match="45 of 48"):
        records = read(tmp_path)
    assert [(record.id, record.split) for record in records if record.split] == [
        ("1.png", "train"),
        ("2.png", "train"),
        ("3.png", "dev"),
    ]


def test_boxes_of_words_stay_with_pictures_that_have_questions(scenes: Path, tmp_path: Path) -> None:
    (tmp_path / "images").symlink_to(scenes / "images")
    row = {"image": "1.png", "captions": ["a dog", "a cat"], "boxes": [{"1": [0, 0, 1, 1]}, {}], "split": "train"}
    for name, extra in (("one", {}), ("two", {"captions": ["a cow"], "boxes": [{"1": [0, 0, 0.5, 1]}]})):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps(row | extra) + "\n")
    records = add_captions(read(scenes), [tmp_path / "one.jsonl", tmp_path / "two.jsonl"])
    (record,) = [record for record in records if record.id == "1.png"]
    assert record.captions == ("a dog", "a cat", "a cow") and len(record.questions) == 2
    assert record.boxes == ({1: ((0, 0, 1, 1),)}, {}, {1: ((0, 0, 0.5, 1),)})


def test_a_blind_model_needs_no_pictures(scenes: Path, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    for i in range(48):
        (tmp_path / "images" / f"{i}.png").write_bytes(b"no picture")
    (tmp_path / "questions.jsonl").write_text((scenes / "questions.jsonl").read_text())
    run = tmp_path / "run"
    assert main(["train", "--data", str(tmp_path), "--output", str(run), "--epochs", "1", "--blind", *OPTIONS]) == 0
    (score,) = [line["dev"]["accuracy"] for line in read_log(run) if "dev" in line]
    assert 0 < score <= 1


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


DOG_BOX = (0.0, 0.0, 0.5, 0.5)


def test_made_questions_are_weighed_and_have_the_boxes_of_their_classes() -> None:
    words = Vocabulary((*SPECIAL, "what", "runs", "is", "there", "a", "dog", "who"))
    asked = (AnsweredQuestion("who?", ("dog", "dog", "rare")), AnsweredQuestion("what is?", ("yes",)))
    objects = {"dog": (DOG_BOX,)}
    records = [Record(Path("a.png"), ("a dog runs", "a dog"), "train", "a", questions=asked, objects=objects)] * 2
    records += [Record(Path("b.png"), ("a cat", "a cat"), "train", "b")] * 2
    made = [[MadeQuestion(("what", "runs"), "dog", "object", "dog"), MadeQuestion(("who",), "rare", "object")]] * 2
    batches = QuestionBatches(
        records, words, ("dog", "yes", "no"), batch_pictures=4, questions_per_picture=4, max_length=9,
        horizontal_flip=True, seed=1, made=[*made, [], []], made_per_picture=3,
        presence=PresenceQuestions(records), presence_per_picture=1.0, made_weight=0.5,
    )  # fmt: skip
    (batch,) = batches.epoch(0)
    assert isinstance(batch, QuestionBatch)
    geometry = Geometry(size=(4, 4), side=32, grid=(2, 2))
    covered = batch.map_targets([geometry] * 4)
    assert covered.shape == (16, 1, 2, 2)
    kinds = set()
    for i, (row, target, weight) in enumerate(zip(batch.tokens.tolist(), batch.targets_of, batch.weights, strict=True)):
        text, picture = " ".join(words.decode(row)), batch.pictures[i // 4]
        if not target:
            continue
        kinds.add(text.split()[0])
        assert weight == (0.5 if text.startswith(("what runs", "is there")) else 1.0), text
        if text in ("who", "what runs") or (text.startswith("is there a dog") and picture < 2):
            x = 1 if batch.views[i // 4].flip else 0
            assert covered[i, 0].tolist() == [[float(x == 0), float(x == 1)], [0.0, 0.0]], "the dog's, mirrored with it"
            assert target[0][0] == (1 if text.startswith("is") else 0)
        else:
            assert not covered[i].any()
    assert kinds == {"who", "what", "is"}
    assert ((0, 2 / 3),) in batch.targets_of, "the share of the people"
    assert batch.weight == sum(w for w, t in zip(batch.weights, batch.targets_of, strict=True) if t)
    assert sum(part.weight for part in batch.parts(2)) == batch.weight  # type: ignore[attr-defined]
    assert batch.tokens.tolist() == next(batches.epoch(0)).tokens.tolist()


def test_an_answer_that_no_model_file_can_hold_is_not_learned() -> None:
    long = AnsweredQuestion("what?", ("x" * 201,))
    odd, usual = AnsweredQuestion("what?", ("a\x07",)), AnsweredQuestion("what?", ("dog",))
    records = [Record(Path("a.png"), (), "train", "a", questions=(long, long, odd, usual))]
    assert frequent_answers(records, 9) == ("dog",)
    with pytest.raises(DataError, match="no questions"):
        frequent_answers([Record(Path("a.png"), (), "train", "a", questions=(long,))], 9)


@pytest.mark.parametrize(
    ("known", "answers", "flips"),
    [
        (("what", "left", "right"), ("on left", "on right"), True),
        (("what", "left", "right"), ("on left", "red"), False),  # "on right" cannot be learned
        (("what", "left"), ("red", "blue"), False),
        (("what",), ("red", "blue"), True),
    ],
)
def test_a_picture_is_not_mirrored_where_its_sides_have_no_counterpart(
    known: tuple[str, ...], answers: tuple[str, ...], flips: bool
) -> None:
    asked = AnsweredQuestion("what left?", (answers[0],))
    batches = QuestionBatches(
        [Record(Path("a.png"), (), "train", "a", questions=(asked,))], Vocabulary((*SPECIAL, *known)), answers,
        batch_pictures=1, questions_per_picture=1, max_length=9, horizontal_flip=True, seed=1,
    )  # fmt: skip
    seen = [(batch.views[0].flip, batch.targets_of[0][0][0]) for i in range(20) for batch in batches.epoch(i)]
    assert {flip for flip, _ in seen} == {False, flips}
    if "on right" in answers:
        assert {answers[number] for flip, number in seen if flip} == {"on right"}


def test_drop_grid() -> None:
    torch.manual_seed(0)
    grid = Grid(torch.ones(3, 100, 64), (10, 10))
    dropped = drop_grid(grid, channels=0.5, cells=0.25)
    assert dropped.mask is not None and 0.6 < dropped.mask.float().mean() < 0.9
    assert (dropped.features == dropped.features[:, :1]).all(), "a channel is dropped in all cells"
    assert set(dropped.features.unique().tolist()) == {0.0, 2.0}
    assert drop_grid(grid, channels=0.0, cells=0.0).mask is None
    padded = Grid(torch.ones(2, 4, 8), (2, 2), torch.tensor([[True, False, False, False]] * 2))
    kept = drop_grid(padded, channels=0.0, cells=0.99).mask
    assert kept is not None and kept.tolist() == [[True, False, False, False]] * 2, "a picture keeps some cell"


@pytest.fixture(scope="module")
def captioned(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Captions and instances of the training pictures of ``scenes``, which are reached by a link."""
    folder = tmp_path_factory.mktemp("captioned")
    (folder / "images").symlink_to(scenes / "images")
    numbers = [seed for seed in range(48) if seed % 6]
    dogs = [seed for seed in numbers if "dog" in draw_scene(seed, size=(64, 48)).words]
    assert 2 < len(dogs) < len(numbers)
    images = [{"id": i, "file_name": f"{i}.png", "width": 64, "height": 48, "split": "train"} for i in numbers]
    texts = [(i, text) for i in numbers for text in (draw_scene(i, size=(64, 48)).caption, "a red ball")]
    captions = [{"id": i, "image_id": image, "caption": text} for i, (image, text) in enumerate(texts)]
    (folder / "captions.json").write_text(json.dumps({"images": images, "annotations": captions}))
    boxes = [{"id": i, "image_id": i, "category_id": 18, "bbox": [0, 0, 32, 24]} for i in dogs]
    content = {"images": images, "categories": [{"id": 18, "name": "dog"}], "annotations": boxes}
    (folder / "instances.json").write_text(json.dumps(content))
    return folder


def test_captions_join_their_questions(scenes: Path, captioned: Path) -> None:
    records = add_captions(read(scenes), [captioned])
    assert len(records) == 48, "the same pictures, by a link"
    for record in records:
        assert len(record.questions) == 2
        assert len(record.captions) == (2 if record.split == "train" else 0)
        assert (record.objects is not None) == (record.split == "train")
        if record.objects is not None:
            there = record.questions[0].answers == ("yes",)
            assert record.objects == {"dog": ((0.0, 0.0, 0.5, 0.5),) if there else ()}


def test_captions_of_dev_pictures_are_refused(scenes: Path, tmp_path: Path) -> None:
    (tmp_path / "images").symlink_to(scenes / "images")
    (tmp_path / "captions.jsonl").write_text('{"image": "0.png", "caption": "a dog", "split": "train"}\n')
    with pytest.raises(DataError, match=r"0\.png.*'dev' and 'train'"):
        add_captions(read(scenes), [tmp_path])


@pytest.mark.parametrize("blind", [False, True])
def test_a_command_line_trains_on_captions_too(scenes: Path, captioned: Path, tmp_path: Path, blind: bool) -> None:
    run = tmp_path / "run"
    command = [
        "train", "--data", str(scenes), "--captions", str(captioned), "--output", str(run), "--epochs", "2", *OPTIONS,
        "--made-questions", "2", "--presence-questions", "1", "--map-supervision", "0.5", "--frozen-epochs", "1",
        "--captions-per-picture", "4",
        "--attributes", "3", "--attribute-supervision", "1", *(["--blind"] if blind else []),
    ]  # fmt: skip
    assert main(command) == 0
    best = checkpoint.load_answering(run / "best.safetensors")
    assert {"color", "image", "drawing", "skateboard"} - set(best.vocabulary.words) == {"drawing"}
    attributes = [best.vocabulary.words[word] for word in best.model.config.answerer.attributes]
    assert attributes == ([] if blind else ["person", "bicycle", "car"]), "classes in COCO's order"
    if not blind:  # of cars, which are there, and of bicycles, which are not
        bias = checkpoint.load_answering(run / "last.safetensors").model.state_dict()["answerer.attributes.found.bias"]
        assert bias[2] > -4 > bias[1]
    asking = load_answering(run / "best.safetensors", backend="torch")
    questions = ["what is this?", "is there a dog?"]
    one, other = ([a.probability for a in asking.ask(scenes / "images" / f"{i}.png", questions)] for i in (1, 2))
    assert (one == other) == blind, "a blind model answers alike about all pictures"
    assert any(run.glob("grids-*")) != blind, "a blind run reads no pictures"
    before = (run / "last.safetensors").read_bytes()
    assert main(command) == 0
    assert (run / "last.safetensors").read_bytes() == before


def test_a_release_holds_the_accuracies_of_each_source(
    make_answering: Callable[..., checkpoint.AnswerCheckpoint], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, released, folder = tmp_path / "m.safetensors", tmp_path / "released.safetensors", tmp_path / "data"
    (folder / "images").mkdir(parents=True)
    checkpoint.save(model, make_answering(), half=False)
    for i in range(4):
        draw_scene(i, size=(64, 48)).image.save(folder / "images" / f"{i}.png")
    asked = {f"{i}.png": ["what is the dog", "how many cat", "is the cat red"] for i in range(4)}
    said = {
        name: [answer.text for answer in load_answering(model).ask(folder / "images" / name, texts)]
        for name, texts in asked.items()
    }
    others = ["yes", "no", "dog", "two", "red ball"]
    rows = []
    for i, (name, texts) in enumerate(asked.items()):
        line = {"image": name, "split": "dev" if i == 3 else "test"}
        wrong = [next(one for one in others if one != answer) for answer in said[name]]
        rows += [
            {**line, "question": texts[0], "answer": said[name][0], "source": "a"},
            {**line, "question": texts[1], "answer": (said[name] if i == 0 else wrong)[1], "source": "b"},
            # The set's own answer decides, and not the one that most people gave.
            {**line, "question": texts[2], "answer": said[name][2], "answers": [wrong[2]] * 10, "source": "b"},
            # Which nobody can answer.
            {**line, "question": "zxqv?" if i else "?!", "answer": said[name][0], "source": "c"},
        ]
    (folder / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = ["export", str(model), "--data", str(folder), "--name", "scenes", "--output", str(released)]
    assert main(command) == 0
    about = checkpoint.load_answering(released).about
    expected = {"a": 100.0, "b": 66.6667, "c": 0.0, "VQA accuracy": 0.0}
    assert about["test"]["on"] == "scenes test" and about["test"]["scores"] == expected
    assert about["test"]["counts"] == {"a": 3, "b": 6, "c": 3, "VQA accuracy": 3} and about["test"]["questions"] == 12
    assert about["dev"]["scores"] == {**expected, "b": 50.0} and about["dev"]["pictures"] == 1
    gray = np.full((64, 64, 3), 128, dtype=np.uint8)
    blind = [answer.text for answer in load_answering(model).ask(gray, asked["0.png"])]
    same = [blind[0] == said[f"{i}.png"][0] for i in range(3)]
    assert about["test"]["without the picture"]["a"] == pytest.approx(100 * sum(same) / 3, abs=0.01)
    assert json.loads(capsys.readouterr().out) == about["test"]
    assert main(["models", str(released)]) == 0
    assert "scenes test: a 100.0 (3)  b 66.7 (6)" in capsys.readouterr().out
    assert released.stat().st_size < model.stat().st_size, "16 bits"
    for option, value, message in (("--side", "7", "not 7"), ("--decoding", "{}", "--decoding")):
        assert main([*command, option, value]) == 2
        assert message in capsys.readouterr().err
    assert main([*command, "--side", "96"]) == 0
    asked_larger = load_answering(released).ask(folder / "images" / "0.png", "what is the dog")
    assert asked_larger.geometry.side == 96 and asked_larger.map.shape == (12, 12)
    for row in rows:
        row["split"] = "train"
    (folder / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert main(command) == 2
    assert "dev" in capsys.readouterr().err


def test_refused_options(scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = ["train", "--data", str(scenes), "--output", str(tmp_path / "run")]
    assert main([*base, "--captions", str(scenes)]) == 2
    assert "--data" in capsys.readouterr().err
    assert main([*base, *OPTIONS, "--no-train-refiner"]) == 2
    assert "encoder_from" in capsys.readouterr().err
    pooled = [*base, *OPTIONS, "--answerer", "pooled", "--answerer-options", "{}", "--attributes", "5"]
    assert main(pooled) == 2
    assert "'pooled' has none" in capsys.readouterr().err
    named = ["--answerer-options", '{"attributes": [5]}']
    assert main([*base, *OPTIONS, *named, "--attributes", "5"]) == 2
    assert "attributes is 5" in capsys.readouterr().err
    for option in (["--crop", "0.1"], ["--rehearsal", "0.3"], ["--off-grid-supervision", "1"], ["--train-from", "99"]):
        assert main([*base, *OPTIONS, *option]) == 2, "before any epoch"
        assert option[1] in capsys.readouterr().err
    language = ["--objective", "language_model", "--text", str(scenes / "questions.jsonl"), "--rehearsal", "0.3"]
    assert main([*base, *language]) == 2
    assert "rehearsal" in capsys.readouterr().err


@pytest.mark.parametrize("objective", ["cross_entropy", "self_critical", "language_model"])
@pytest.mark.parametrize("option", [{"attributes": 5}, {"blind": True}, {"made_questions": 2}, {"answers": 7}])
def test_captions_have_no_use_for_options_of_answers(objective: str, option: dict[str, Any]) -> None:
    ((name, value),) = option.items()
    with pytest.raises(OptionError, match=f"{name} is {value}"):
        TASKS[objective].check(Recipe(objective=objective, start_from="start.safetensors", **option))
    TASKS[objective].check(Recipe(objective=objective, start_from="start.safetensors"))


def test_what_a_model_file_decides_cannot_be_another(
    scenes: Path, tiny_model: Path, make_answering: Callable[..., checkpoint.AnswerCheckpoint], tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    checkpoint.save(tmp_path / "start.safetensors", make_answering())
    base = ["train", "--objective", "answers", "--data", str(scenes), "--output", str(tmp_path / "run")]
    start, encoder = ["--start-from", str(tmp_path / "start.safetensors")], ["--encoder-from", str(tiny_model)]
    for option in (
        [*start, "--answerer-options", '{"hidden": 4321}'],
        [*start, "--answerer", "pooled"],
        [*start, "--answers", "4321"],
        [*start, "--attributes", "4321"],
        [*encoder, "--refiner-options", '{"width": 4321}'],
        [*encoder, "--backbone", "resnet18"],
    ):
        assert main([*base, *option]) == 2
        assert option[-1].strip("{}").rpartition(" ")[2] in capsys.readouterr().err
    recipe = Recipe(objective="answers", start_from=start[1], encoder_options={"side": 96}, captions_per_picture=1)
    model, _ = AnswerTask.first_model(recipe, read(scenes))
    assert model.config.encoder.side == 96
    # Dropout is not learned: a recipe may have another.
    changed, _ = AnswerTask.first_model(replace(recipe, answerer_options={"cell_dropout": 0.5}), read(scenes))
    assert changed.config.answerer.cell_dropout == 0.5 != model.config.answerer.cell_dropout
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, changed.state_dict()[name])
    other = Recipe(start_from=str(tiny_model), decoder_options={"dropout": 0.25})
    assert first_model(other, [])[0].config.decoder.dropout == 0.25
    with pytest.raises(OptionError, match="dropout"):
        first_model(replace(other, decoder_options={"dropout": 2}), [])
    first_model(Recipe(start_from=str(tiny_model), refiner="transformer_encoder"), [])  # as the file has it
    with pytest.raises(OptionError, match="refiner is 'transformer_encoder' in the model"):
        first_model(Recipe(start_from=str(tiny_model), refiner="cbam"), [])


def test_the_recipe_keeps_encoder_and_refiner(scenes: Path, captioned: Path, tiny_model: Path, tmp_path: Path) -> None:
    command = [
        "train", "--recipe", "answers", "--data", str(scenes), "--captions", str(captioned), "--epochs", "1",
        "--encoder-from", str(tiny_model), "--output", str(tmp_path / "run"), "--answerer-options",
        '{"embedding": 8, "width": 16, "heads": 2, "hidden": 16, "channel_dropout": 0.1, "cell_dropout": 0.1}',
    ]  # fmt: skip
    assert main(command) == 0
    before = checkpoint.load(tiny_model).model.state_dict()
    trained = checkpoint.load_answering(tmp_path / "run" / "best.safetensors").model.state_dict()
    kept = [name for name in before if name.startswith(("encoder.", "refiner."))]
    assert any(name.startswith("refiner.") for name in kept)
    assert all(torch.equal(before[name], trained[name]) for name in kept)


def test_rounds_end_where_one_step_does(scenes: Path, captioned: Path, tmp_path: Path) -> None:
    """With all that a step sums: made and presence questions, attributes, and their maps, of mirrored pictures too."""
    losses = []
    for rounds in (1, 3):
        run = tmp_path / f"{rounds}"
        command = [
            "train", "--data", str(scenes), "--captions", str(captioned), "--output", str(run), "--epochs", "1",
            *OPTIONS, "--attributes", "20", "--attribute-supervision", "1", "--map-supervision", "1",
            "--made-questions", "1", "--presence-questions", "1", "--captions-per-picture", "4",
            "--gradient-accumulation-steps", str(rounds), "--word-dropout", "0", "--precision", "float32",
            "--backbone", "tiny", "--learning-rate", "1e-9",
        ]  # fmt: skip
        assert main(command) == 0
        losses += [line["train_loss"] for line in read_log(run) if "train_loss" in line]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_maps_of_attributes_are_held_to_the_boxes_of_their_classes(
    scenes: Path, captioned: Path, tmp_path: Path
) -> None:
    """Trained on nothing but these maps, they gather where the boxes are."""
    inside = {}
    for weight in (0.0, 5.0):
        run = tmp_path / f"{weight}"
        command = [
            "train", "--data", str(scenes), "--captions", str(captioned), "--output", str(run), "--epochs", "4",
            *OPTIONS, "--attributes", "20", "--attribute-supervision", "0", "--map-supervision", str(weight),
        ]  # fmt: skip
        options = command.index("--answerer-options") + 1
        command[options] = json.dumps({**json.loads(command[options]), "attribute_map": 0.25})
        assert main(command) == 0
        loaded = checkpoint.load_answering(run / "last.safetensors")
        names = [loaded.vocabulary.words[word] for word in loaded.model.config.answerer.attributes]
        answerer = loaded.model.config.answerer
        assert answerer.attribute_map == 0.25
        assert answerer.attribute_answers == tuple(
            loaded.answers.index(one) if one in loaded.answers else -1 for one in names
        )
        start = ["train", "--data", str(scenes), "--output", str(tmp_path / f"{weight}-on"), "--epochs", "1"]
        start += ["--objective", "answers", "--start-from", str(run / "last.safetensors")]
        assert main([*start, "--answerer-options", '{"attribute_map": 0.5}']) == 0
        later = checkpoint.load_answering(tmp_path / f"{weight}-on" / "last.safetensors").model.config.answerer
        assert later == replace(answerer, attribute_map=0.5), "an option may change, and the answers stay"
        with torch.inference_mode():
            grids = encode_records(loaded.model, read(scenes)[1:4], device=torch.device("cpu"))
            maps = torch.cat(
                [loaded.model.answerer(one, torch.full((len(one), 1, 1), 4)).attribute_maps for one in grids]
            )
        share = maps[:, names.index("dog"), :4, :4].sum((1, 2))
        assert maps.shape[2:] == (8, 8)
        inside[weight] = float(share.mean())
    assert inside[5.0] > 1.5 * inside[0.0], inside


def test_fine_maps_learn_and_answers_stay(
    scenes: Path, captioned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = ["train", "--data", str(scenes), "--captions", str(captioned)]
    first = [*base, *OPTIONS, "--output", str(tmp_path / "first"), "--epochs", "1", "--attributes", "20"]
    assert main(first) == 0
    start = tmp_path / "first" / "last.safetensors"
    fine = [
        *base, "--objective", "answer_maps", "--output", str(tmp_path / "fine"), "--start-from", str(start),
        "--map-supervision", "1", "--epochs", "6", "--frozen-epochs", "6", "--batch-pictures", "8",
        "--captions-per-picture", "2", "--warmup-steps", "2", "--learning-rate", "0.05", "--ema-decay", "0",
    ]  # fmt: skip
    sizes = ["--encoder-options", '{"fine_stage": 1}', "--answerer-options", '{"fine_width": 8}']
    few = [*fine, *sizes, "--train-pictures", "1"]
    for command, found in (
        (few, "pictures have boxes"),
        (fine, "no fine maps"),
        ([*fine, *sizes, "--map-supervision", "0"], "map_supervision"),
        ([*fine, *sizes, "--frozen-epochs", "0"], "--frozen-epochs is 0 of 6"),
        ([*fine, *sizes, "--word-dropout", "0.1"], "--word-dropout is 0.1"),
    ):
        assert main(command) == 2
        assert found in capsys.readouterr().err
    assert main([*fine, *sizes]) == 0
    missed = [line["train_maps_missed"] for line in read_log(tmp_path / "fine") if "train_maps_missed" in line]
    assert missed[-1] < 0.8 * missed[0], missed
    before, after = (checkpoint.load_answering(one) for one in (start, tmp_path / "fine" / "last.safetensors"))
    weights = after.model.state_dict()
    for name, tensor in before.model.state_dict().items():
        assert torch.equal(tensor, weights[name]), name
    assert {name.split(".")[2] for name in weights.keys() - before.model.state_dict().keys()} == {"fine", "fine_query"}
    pictures = torch.rand(1, 3, 64, 64)
    question = torch.full((1, 1, 1), 4)
    with torch.no_grad():
        ours, theirs = (one.model.eval()(pictures, question) for one in (before, after))
    assert torch.equal(ours.logits, theirs.logits)
    assert theirs.maps.shape[2:] == (16, 16)
