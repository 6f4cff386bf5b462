"""Batches that never depend on interruptions, and runs that resume exactly."""

import json
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from captioner.backends.torch import TorchBackend
from captioner.checkpoint import load
from captioner.data.readers import read
from captioner.data.records import Record
from captioner.data.scenes import write_scenes
from captioner.errors import DataError, OptionError
from captioner.image import Geometry
from captioner.pipeline import Captioner
from captioner.tokenizer.vocabulary import SPECIAL, Vocabulary
from captioner.training.batches import Batch, CaptionBatches
from captioner.training.distributed import Processes
from captioner.training.epoch import EpochFigures
from captioner.training.grid_cache import GridCache
from captioner.training.images import ImageDataset, encode_images
from captioner.training.loop import Trainer
from captioner.training.precision import has_bfloat16  # before the tests' own takes its place
from captioner.training.recipe import Recipe
from captioner.training.start import first_model
from captioner.training.views import View

pytestmark = pytest.mark.filterwarnings("ignore::captioner.metrics.evaluate.FewPicturesWarning")  # 4 on dev

SMALL = {
    "lstm": {"width": 16, "embedding": 16, "output_hidden": 16, "attention_width": 16, "heads": 2},
    "transformer": {"width": 16, "layers": 1, "heads": 2, "hidden": 16},
}


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> list[Record]:
    return read(write_scenes(tmp_path_factory.mktemp("scenes"), count=20, dev=4, size=(96, 72)))


@pytest.fixture(scope="module")
def short_run(records: list[Record], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    """The path of a model of one epoch with this decoder, trained once."""

    @cache
    def run(decoder: str) -> str:
        return str(Trainer(recipe(decoder, epochs=1), records, tmp_path_factory.mktemp(decoder), device="cpu").run())

    return run


@pytest.fixture(scope="module")
def whole_run(records: list[Record], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Trainer]:
    """A run with this decoder that nothing stopped, trained once, saved after every step."""

    @cache
    def run(decoder: str) -> Trainer:
        folder = tmp_path_factory.mktemp(f"whole-{decoder}") / "whole"
        trainer = Trainer(recipe(decoder, save_minutes=1e-9), records, folder, device="cpu")
        trainer.run()
        return trainer

    return run


def recipe(decoder: str = "lstm", **changes: object) -> Recipe:
    values: dict[str, object] = {
        "decoder": decoder,
        "decoder_options": SMALL.get(decoder, {}),
        "backbone": "tiny",
        "encoder_options": {"side": 32},
        "refiner_options": {"width": 16},
        "minimum_count": 1,
        "epochs": 4,
        "frozen_epochs": 2,
        "batch_pictures": 8,
        "captions_per_picture": 1,
        "warmup_steps": 2,
        "ema_decay": 0.5,
        "map_supervision": 0.1,
        "map_regularisation": 0.1,
        "max_length": 12,
    }
    return Recipe(**(values | changes))  # type: ignore[arg-type]


def batches_of(records: list[Record], **changes: object) -> CaptionBatches:
    words = Vocabulary.build([c.split() for r in records for c in r.captions], minimum_count=1)
    values: dict[str, object] = {
        "batch_pictures": 3, "captions_per_picture": 2, "max_length": 12, "horizontal_flip": True, "seed": 5,
    }  # fmt: skip
    return CaptionBatches(records, words, **(values | changes))  # type: ignore[arg-type]


def test_an_epoch_has_every_picture_once_and_another_order_each_time(records: list[Record]) -> None:
    batches = batches_of(records)
    first = [p for batch in batches.epoch(0) for p in batch.pictures]
    assert sorted(first) == list(range(len(records)))
    assert first != [p for batch in batches.epoch(1) for p in batch.pictures]


def test_an_epoch_that_is_entered_late_goes_on_as_it_would_have(records: list[Record]) -> None:
    whole = list(batches_of(records).epoch(3))
    for a, b in zip(whole[4:], batches_of(records).epoch(3, start=4), strict=True):
        assert (a.pictures, a.views, a.boxes) == (b.pictures, b.views, b.boxes)
        assert torch.equal(a.tokens, b.tokens)


def test_pictures_that_say_left_or_right_are_never_mirrored(records: list[Record]) -> None:
    sided = {i for i, r in enumerate(records) if {"left", "right"} & set(r.captions[0].split())}
    assert sided, "no such scene among them: the test would be empty"
    flipped = {
        p
        for n in range(20)
        for b in batches_of(records).epoch(n)
        for p, view in zip(b.pictures, b.views, strict=True)
        if view.flip
    }
    assert flipped == set(range(len(records))) - sided


def test_captions_of_a_picture_are_all_different_while_there_are_enough() -> None:
    record = Record(Path("x.jpg"), ("a dog", "a cat", "a bird"), "train", "x")
    words = Vocabulary.build([["a", "dog", "cat", "bird"]], minimum_count=1)

    def rows(k: int) -> list[tuple[int, ...]]:
        batches = CaptionBatches(
            [record], words, batch_pictures=1, captions_per_picture=k, max_length=9, horizontal_flip=False, seed=1
        )
        return [tuple(row) for row in next(batches.epoch(0)).tokens.tolist()]

    assert len(set(rows(3))) == 3
    assert len(rows(5)) == 5
    assert len(set(rows(5))) == 3


def test_map_targets_follow_what_is_seen_of_a_picture(records: list[Record]) -> None:
    geometry = ImageDataset([r.image for r in records], encoder()).geometry((96, 72))
    mirrored = cut = 0
    for batch in batches_of(records, crop=0.3).epoch(0):
        targets = batch.map_targets([geometry] * len(batch.pictures))
        for row, words in enumerate(batch.boxes):
            view = batch.views[row // 2]
            mirrored, cut = mirrored + view.flip, cut + (view.crop != (0.0, 0.0, 1.0, 1.0))
            for word, boxes in words.items():
                expected = np.max([geometry.coverage(view.of_box(box)) for box in boxes], axis=0)
                np.testing.assert_allclose(targets[row, word], expected, atol=1e-6)
    assert mirrored and cut, "none was: the test would show nothing"


def test_map_targets_of_several_boxes_are_their_union() -> None:
    geometry = Geometry(size=(40, 40), side=40, grid=(2, 2))
    left, lower = (0.0, 0.0, 0.5, 0.75), (0.25, 0.5, 1.0, 1.0)
    batch = Batch(pictures=[0], views=[View()], tokens=torch.tensor([[1, 4, 5, 2]]), boxes=[{1: (left, lower)}])
    targets = batch.map_targets([geometry])
    assert targets[0, 1].tolist() == [[1.0, 0.0], [0.5, 1.0]]
    assert targets[0, [0, 2]].abs().sum() == 0
    assert batch.boxed_words == 1
    mirrored = Batch(pictures=[0], views=[View(flip=True)], tokens=batch.tokens, boxes=batch.boxes)
    assert mirrored.map_targets([geometry])[0, 1].tolist() == [[0.0, 1.0], [1.0, 0.5]]


def test_boxes_of_places_that_a_caption_lacks_are_left_out() -> None:
    box = ((0.0, 0.0, 0.5, 0.5),)
    boxes = ({1: box, 3: box, 4: box}, {2: box, 3: box})
    record = Record(Path("a.png"), ("a dog", "a dog in snow"), "train", "a", boxes=boxes)
    assert batches_of([record]).boxes == [[{1: box}, {2: box, 3: box}]]
    assert batches_of([record], max_length=3).boxes == [[{1: box}, {2: box}]], "of what is left of a caption"


def encoder():  # type: ignore[no-untyped-def]
    from captioner.model.encoder import EncoderConfig, GridEncoder

    torch.manual_seed(0)
    return GridEncoder(EncoderConfig(backbone="tiny", side=32)).eval()


def test_stored_grids_are_what_the_encoder_gives(records: list[Record], tmp_path: Path) -> None:
    frozen, device = encoder(), torch.device("cpu")
    pictures = ImageDataset([r.image for r in records], frozen)
    stored = GridCache(frozen, pictures, tmp_path, mirrored=True)
    alone = Processes(rank=0, count=1, device=device)
    reported = list(stored.fill(alone, workers=0, batch=7))
    assert reported[-1] == (2 * len(records), 2 * len(records))
    keys = [[(3, View()), (3, View(flip=True)), (0, View(flip=True))]]
    with torch.no_grad():
        (fresh,) = encode_images(frozen, pictures, keys, device=device)
    (read_back,) = stored.read(keys, device=device)
    torch.testing.assert_close(read_back.features, fresh.features, rtol=2e-3, atol=2e-3)
    assert not torch.allclose(fresh.features[0], fresh.features[1]), "the mirror image is another picture"
    before = stored.file.stat().st_mtime_ns
    assert not list(GridCache(frozen, pictures, tmp_path, mirrored=True).fill(alone, workers=0, batch=7))
    assert stored.file.stat().st_mtime_ns == before
    for file in (stored.file, stored.masks):  # cut off, as by a copy of the folder that stopped
        os.truncate(file, file.stat().st_size - 1)
        assert list(GridCache(frozen, pictures, tmp_path, mirrored=True).fill(alone, workers=0, batch=7))
        (mended,) = stored.read(keys, device=device)
        assert torch.equal(mended.features, read_back.features)
    torch.nn.init.zeros_(frozen.stages[0][0].weight)
    assert GridCache(frozen, pictures, tmp_path, mirrored=True).file != stored.file


@pytest.mark.parametrize(  # within and at the end of frozen and fine-tuned epochs
    ("decoder", "kill_at"), [("lstm", 2), ("lstm", 3), ("lstm", 5), ("lstm", 8), ("transformer", 3), ("transformer", 8)]
)
def test_a_killed_and_resumed_run_ends_with_the_same_weights(
    records: list[Record], tmp_path: Path, decoder: str, kill_at: int, whole_run: Callable[[str], Trainer]
) -> None:
    # Saved after every step, so that the run is resumed in the middle of an epoch.
    killed_and_resumed(whole_run(decoder), records, tmp_path, kill_at)


@pytest.mark.parametrize(
    ("decoder", "precision", "taught"),
    [("lstm", "bfloat16", False), ("transformer", "float32", False), ("lstm", "float32", True)],
)
def test_so_does_one_that_is_trained_on_the_reward(
    records: list[Record],
    tmp_path: Path,
    decoder: str,
    precision: str,
    taught: bool,
    short_run: Callable[[str], str],
) -> None:
    first = short_run(decoder)
    options = recipe(
        decoder, start_from=first, objective="self_critical", samples=3, bleu_reward=0.5, epochs=2,
        frozen_epochs=0 if taught else 1, teacher=first if taught else "",
        crop=0.1, colour_jitter=0.1, precision=precision, save_minutes=1e-9,
    )  # fmt: skip
    whole = Trainer(options, records, tmp_path / "whole", device="cpu")
    whole.run()
    log = killed_and_resumed(whole, records, tmp_path, 3)
    ends = [line for line in log if "dev" in line]
    assert all(0 <= line["train_breaks_off"] <= 1 and line["train_reward"] >= 0 for line in ends)
    assert all((line.get("train_from_teacher", 0) > 0) == taught for line in ends)


def test_so_does_one_that_is_trained_on_the_grids_of_a_teacher(
    records: list[Record], tmp_path: Path, short_run: Callable[[str], str]
) -> None:
    file = short_run("lstm")
    options = recipe(
        "lstm", objective="grid_distillation", teacher=file, decoder_from=file, encoder_options={"side": 64},
        decoder_options={}, minimum_count=Recipe().minimum_count, map_supervision=0.0, map_regularisation=0.0,
        epochs=2, frozen_epochs=1, save_minutes=1e-9,
    )  # fmt: skip
    whole = Trainer(options, records, tmp_path / "whole", device="cpu")
    whole.run()
    for kill_at in (2, 4):
        log = killed_and_resumed(whole, records, tmp_path / str(kill_at), kill_at)
        assert all(line["train_grid_error"] > 0 for line in log if "dev" in line)


def killed_and_resumed(whole: Trainer, records: list[Record], tmp_path: Path, kill_at: int) -> list[dict[str, Any]]:
    """The log of a run that was killed and went on; makes sure that it ends as one that was not."""
    options = whole.recipe
    killed = Trainer(options, records, tmp_path / "killed", device="cpu")
    steps = killed.steps()
    next(step for step in steps if step.what.startswith("epoch") and step.done > kill_at)
    steps.close()  # type: ignore[attr-defined]
    resumed = Trainer(options, records, tmp_path / "killed", device="cpu")
    assert 0 < resumed.step <= kill_at + 1
    resumed.run()
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(tensor, resumed.model.state_dict()[name]), name
    for name, tensor in whole.state.average.weights.items():
        assert torch.equal(tensor, resumed.state.average.weights[name]), name

    def lines(run: Path) -> list[dict[str, Any]]:
        found = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
        return [{k: v for k, v in line.items() if k not in ("time", "seconds")} for line in found]

    assert lines(whole.folder.path) == lines(tmp_path / "killed")
    return lines(tmp_path / "killed")


def test_the_average_follows_the_weights(records: list[Record], tmp_path: Path) -> None:
    trainer = Trainer(recipe(ema_decay=0.25), records, tmp_path, device="cpu")
    average = trainer.state.average
    name, tensor = next(iter(trainer.model.named_parameters()))
    before = average.weights[name].clone()
    with torch.no_grad():
        tensor += 1
    average.update(100)
    torch.testing.assert_close(average.weights[name], before * 0.25 + tensor.detach() * 0.75)
    torch.testing.assert_close(average.averaged_model().state_dict()[name], average.weights[name])


def test_a_frozen_encoder_does_not_move_and_then_learns(records: list[Record], tmp_path: Path) -> None:
    trainer = Trainer(recipe(), records, tmp_path, device="cpu")
    start = trainer.model.encoder.stages[0][0].weight.detach().clone()
    ends = [trainer.model.encoder.stages[0][0].weight.detach().clone() for step in trainer.steps() if step.is_dev]
    assert torch.equal(start, ends[0])
    assert torch.equal(start, ends[1])
    assert not torch.equal(start, ends[2])


def test_the_best_model_is_the_one_of_the_best_dev_score(records: list[Record], tmp_path: Path) -> None:
    path = Trainer(recipe(), records, tmp_path, device="cpu").run()
    log = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    ends = [line for line in log if "dev" in line]
    assert len(ends) == 4
    best = load(path)
    assert best.about["dev"]["cider"] == max(line["dev"]["cider"] for line in ends)
    assert best.about["recipe"]["decoder"] == "lstm"
    assert Captioner(TorchBackend(best)).caption(np.zeros((20, 30, 3), dtype=np.uint8)).words, "it captions"


def test_a_run_can_start_from_a_model(records: list[Record], tmp_path: Path, short_run: Callable[[str], str]) -> None:
    first = short_run("lstm")
    second = Trainer(recipe(epochs=1, start_from=first), records, tmp_path / "b", device="cpu")
    assert second.vocabulary == load(first).vocabulary
    torch.testing.assert_close(second.model.state_dict(), load(first).model.state_dict())


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"decoder": "transformer"}, "decoder is 'lstm' in the model that is started from, not 'transformer'"),
        ({"decoder_options": {"width": 32}}, "decoder_options: width is 16 in the model"),
        ({"encoder_options": {"pad": True}}, "encoder_options: pad is False in the model"),
        ({"backbone": "resnet50"}, "backbone is 'tiny' in the model"),
        ({"refiner_options": {"width": 8}}, "refiner_options: width is 16 in the model"),
    ],
)
def test_what_is_asked_of_a_model_that_is_otherwise_is_refused(
    records: list[Record], tmp_path: Path, changes: dict[str, object], said: str, short_run: Callable[[str], str]
) -> None:
    with pytest.raises(OptionError, match=said):
        Trainer(recipe(start_from=short_run("lstm"), **changes), records, tmp_path / "b", device="cpu")


def test_of_a_run_that_starts_from_a_model_the_file_decides(
    records: list[Record], tmp_path: Path, short_run: Callable[[str], str]
) -> None:
    first = short_run("lstm")
    about = load(Trainer(recipe(epochs=1, start_from=first), records, tmp_path / "c", device="cpu").run()).about
    assert not {"decoder", "backbone", "decoder_options"} & about["recipe"].keys(), "the file decides"
    assert about["recipe"]["precision"] == "float32", "what was computed in, not 'auto'"


@pytest.mark.parametrize("source", ["start_from", "encoder_from"])
def test_an_earlier_model_can_be_shown_larger_pictures(
    source: str, records: list[Record], tmp_path: Path, short_run: Callable[[str], str]
) -> None:
    first = short_run("lstm")
    small = load(first).model
    # Above all of its stages the network has halved the side as often as before: four times the cells.
    larger = Trainer(
        recipe(epochs=1, encoder_options={"side": 64}, **{source: first}), records, tmp_path / "large", device="cpu"
    )
    assert [2 * n for n in small.encoder.grid_shape] == list(larger.model.encoder.grid_shape)
    learned = small.encoder.state_dict()
    assert all(torch.equal(tensor, learned[name]) for name, tensor in larger.model.encoder.state_dict().items())
    trained = load(larger.run())
    assert trained.model.config.encoder.side == 64
    assert trained.model.encoder.grid_shape == larger.model.encoder.grid_shape
    assert trained.about["recipe"]["encoder_options"] == {"side": 64}, "readers are told"


@pytest.mark.parametrize(
    ("side", "said"),
    [
        (8, "side must be a whole number from 32 to 4096, not 8"),
        (10_000_000, "not 10000000"),
        ("x", "not 'x'"),
        (None, "side is 32 in the model that is started from, not None"),
    ],
)
def test_a_side_that_no_encoder_takes_is_refused(
    side: object, said: str, records: list[Record], tmp_path: Path, short_run: Callable[[str], str]
) -> None:
    with pytest.raises(OptionError, match=said):
        Trainer(
            recipe(start_from=short_run("lstm"), encoder_options={"side": side}), records, tmp_path / "b", device="cpu"
        )


def test_a_run_of_a_version_without_an_option_goes_on(records: list[Record], tmp_path: Path) -> None:
    Trainer(recipe(), records, tmp_path, device="cpu")
    kept = json.loads((tmp_path / "recipe.json").read_text())
    del kept["word_dropout"]
    kept["precision"] = "auto"
    (tmp_path / "recipe.json").write_text(json.dumps(kept))
    (tmp_path / "last.safetensors").touch()  # as after an epoch
    Trainer(recipe(), records, tmp_path, device="cpu")
    with pytest.raises(OptionError, match=r"holds a run with word_dropout 0\.0, not 0\.5"):
        Trainer(recipe(word_dropout=0.5), records, tmp_path, device="cpu")


def test_a_folder_of_another_recipe_is_not_gone_on_with(records: list[Record], tmp_path: Path) -> None:
    Trainer(recipe(), records, tmp_path, device="cpu")
    (tmp_path / "last.safetensors").touch()  # as after an epoch
    with pytest.raises(OptionError, match="holds a run with epochs 4, not 5"):
        Trainer(recipe(epochs=5), records, tmp_path, device="cpu")
    Trainer(recipe(workers=1), records, tmp_path, device="cpu")  # changes nothing of what is learned


def test_a_run_that_has_saved_nothing_gives_way_to_another(records: list[Record], tmp_path: Path) -> None:
    Trainer(recipe(), records, tmp_path, device="cpu").close()
    Trainer(recipe(epochs=1, cache=False), records, tmp_path, device="cpu").run()
    assert json.loads((tmp_path / "recipe.json").read_text())["epochs"] == 1


@pytest.mark.parametrize("name", ["log.jsonl", "inputs.json"])
def test_files_of_others_in_the_folder_stay(records: list[Record], tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text('{"mine": 1}\n')
    with pytest.raises(OptionError, match=name):
        Trainer(recipe(), records, tmp_path, device="cpu")
    assert (tmp_path / name).read_text() == '{"mine": 1}\n'


def test_pictures_with_questions_alone_are_refused_where_captions_are_learned(
    records: list[Record], tmp_path: Path
) -> None:
    asked = [replace(records[0], captions=()), *records[1:]]
    with pytest.raises(DataError, match=r"1 of \d+ pictures have no captions"):
        Trainer(recipe(), asked, tmp_path / "x", device="cpu")


@pytest.mark.parametrize("option", ["dev_beam", "max_length"])
def test_dev_captions_are_decoded_with_allowed_options(option: str) -> None:
    with pytest.raises(OptionError, match=f"{option} must be at most 1000, not 1001"):
        recipe(**{option: 1001})


def test_figures_that_some_steps_miss_are_means_of_the_others() -> None:
    figures = EpochFigures()
    for step in ({"loss": 1.0}, {"loss": 2.0, "maps_missed": 3.0}, {"loss": 3.0}):
        figures.add(step)
    resumed = EpochFigures()
    resumed.restore(json.loads(json.dumps(figures.as_dict())))
    assert resumed.end()[0] == {"loss": 2.0, "maps_missed": 3.0}


@pytest.mark.parametrize(("wanted", "rows"), [(3, [0, 6, 13]), (20, range(20)), (50, range(20)), (0, range(20))])
def test_part_of_the_training_pictures_is_spread_over_all(
    records: list[Record], tmp_path: Path, wanted: int, rows: Sequence[int]
) -> None:
    trained = [r for r in records if r.split == "train"]
    trainer = Trainer(recipe(train_pictures=wanted, batch_pictures=2), records, tmp_path, device="cpu")
    assert trainer.train_records == [trained[i] for i in rows]
    assert len(trainer.dev_records) == 4


def test_a_split_without_pictures_is_named(records: list[Record], tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no pictures of the split 'dev'"):
        Trainer(recipe(), [r for r in records if r.split == "train"], tmp_path / "x", device="cpu")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"epochs": 0}, "epochs must be at least 1, not 0"),
        ({"learning_rate": 0.0}, "learning_rate must be above 0"),
        ({"label_smoothing": 1.0}, r"label_smoothing must be in \[0, 1\), not 1.0"),
        ({"precision": "int8"}, "not 'int8'"),
        ({"seed": -1}, "seed must be at least 0, not -1"),
        ({"learning_rate": float("nan")}, "learning_rate must be a finite number, not nan"),
        ({"weight_decay": float("inf")}, "weight_decay must be a finite number, not inf"),
        ({"start_from": "a", "encoder_from": "b"}, "start_from alone, or encoder_from and decoder_from"),
        ({"map_supervision": -1.0}, "map_supervision must be at least 0, not -1.0"),
    ],
)
def test_options_out_of_range_are_named(changes: dict[str, object], said: str) -> None:
    with pytest.raises(OptionError, match=said):
        Recipe(**changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"decoder": "gru"}, "'gru'.*lstm.*transformer"),
        ({"objective": "speed"}, "'speed'.*cross_entropy.*language_model.*self_critical"),
        ({"objective": "self_critical"}, "give start_from"),
        ({"objective": "self_critical", "start_from": "a", "samples": 1}, "at least 2 samples, not 1"),
        ({"decoder": "transformer", "max_length": 64}, "at most 63 words; set max_length 63"),
    ],
)
def test_what_a_task_or_a_model_cannot_do_is_named(
    records: list[Record], changes: dict[str, object], said: str, tmp_path: Path
) -> None:
    with pytest.raises(OptionError, match=said):
        Trainer(recipe(str(changes.pop("decoder", "lstm")), **{"decoder_options": {}, **changes}), records, tmp_path)
    assert not list(tmp_path.iterdir()), "the folder is still free"


def test_unknown_options_of_the_model_are_named(records: list[Record], tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="wings"):
        Trainer(recipe(decoder_options={"wings": 2}), records, tmp_path, device="cpu")


@pytest.mark.parametrize(
    "changes",
    [
        {"decoder_options": {"width": math.inf}},
        {"decoder_options": {"width": 10**8}},  # more than the memory
        {"decoder_options": {"map_heads": ["x"]}},
        {"refiner": "latent_queries", "refiner_options": {"width": 16, "pooling_heads": 0}},
        # What does not fit the grid comes before the first epoch, whose grids may take hours.
        {"decoder_options": {"attention": "hierarchical", "heads": 1, "attention_options": {"regions": 99}}},
        {
            "decoder_options": {"attention": "local", "heads": 1},
            "refiner": "latent_queries",
            "refiner_options": {"width": 16},
        },
        {"refiner": "coarse_cells", "refiner_options": {"width": 16, "regions": 99}},
    ],
)
def test_options_that_make_no_model_are_refused_before_the_first_epoch(changes: dict[str, Any]) -> None:
    with pytest.raises(OptionError) as raised:
        first_model(recipe(**changes), [], vocabulary=Vocabulary((*SPECIAL, "dog")))
    assert "\n" not in str(raised.value)


def test_a_picture_that_was_turned_is_trained_on_upright(tmp_path: Path) -> None:
    # The reader of pictures is the same as for captioning: EXIF counts.
    image = Image.new("RGB", (40, 20), "white")
    image.paste("black", (0, 0, 20, 20))
    exif = Image.Exif()
    exif[0x0112] = 3
    image.save(tmp_path / "turned.png", exif=exif)
    pixels, _ = ImageDataset([tmp_path / "turned.png"], encoder())[0, View()]
    assert pixels[16, 4].tolist() == [255, 255, 255]
    assert pixels[16, 28].tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("capabilities", "able"),
    [({"amx_bf16": True, "avx512_bf16": False}, True), ({"avx512_bf16": True}, True), ({"avx512_f": True}, False)],
)
def test_a_processor_that_only_imitates_bfloat16_is_not_asked_for_it(
    capabilities: dict[str, bool], able: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    assert has_bfloat16(torch.device("cpu")) is able


@pytest.mark.parametrize(("precision", "able", "half"), [
    ("auto", True, True), ("auto", False, False), ("float32", True, False), ("bfloat16", False, True),
])  # fmt: skip
def test_precision(
    precision: str, able: bool, half: bool, records: list[Record], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("captioner.training.precision.has_bfloat16", lambda device: able)
    trainer = Trainer(recipe(precision=precision), records, tmp_path, device="cpu")
    with trainer._context.autocast():
        product = torch.ones(2, 2) @ torch.ones(2, 2)
    assert product.dtype == (torch.bfloat16 if half else torch.float32)
