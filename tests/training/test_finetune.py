"""Your own words: a trained model learns a house style and new words from pictures with sidecars."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from captioner import checkpoint, cli
from captioner.data.records import Record
from captioner.data.scenes import draw_scene
from captioner.errors import OptionError
from captioner.model.grid import Grid
from captioner.pipeline import load
from captioner.training import rehearsal
from captioner.training.growth import grow
from captioner.training.plot import read_run
from captioner.training.recipe import Recipe
from captioner.training.recipe_files import read_recipe
from captioner.training.rehearsal import mixed_order
from captioner.training.run_folder import RunFolder, read_log

OWN = {"boat": "sloop", "car": "roadster", "road": "causeway", "water": "bay"}


@pytest.mark.parametrize("decoder", ["lstm", "transformer"])
def test_a_grown_model_says_what_it_said(decoder: str, make_checkpoint: object) -> None:
    start = make_checkpoint(decoder)  # type: ignore[operator]
    before = len(start.vocabulary)
    model, vocabulary = grow(start, ["a corgi in the park", "the corgi", "a puli"], minimum_count=2)
    assert vocabulary.words == (*start.vocabulary.words, "corgi")
    grid = Grid(torch.randn(2, 64, 16, generator=torch.Generator().manual_seed(1)), (8, 8))
    tokens = torch.tensor([[1, 4, 5], [1, 6, 7]])
    with torch.no_grad():
        old, new = start.model.decoder(grid, tokens), model.decoder(grid, tokens)
    torch.testing.assert_close(new.logits[..., :before], old.logits)
    assert new.logits.shape[-1] == before + 1
    assert grow(start, ["a dog"], minimum_count=2)[0] is start.model


def test_each_batch_has_its_share_and_each_own_picture_comes_once() -> None:
    order = mixed_order(np.random.default_rng(1), own=20, rest=7, batch=8, share=0.25)
    batches = [order[i : i + 8] for i in range(0, len(order), 8)]
    assert [sum(picture >= 20 for picture in batch) for batch in batches] == [2] * 4
    own = [picture for picture in order if picture < 20]
    assert sorted(own[:20]) == list(range(20))
    assert {picture for picture in order if picture >= 20} == set(range(20, 27))


def test_the_recipe_needs_a_model_to_start_from() -> None:
    values, _ = read_recipe("finetune")
    assert values["grow_vocabulary"] and values["rehearsal"] == 0.5
    with pytest.raises(OptionError, match=r"grow_vocabulary.*start_from"):
        Recipe(**values)
    with pytest.raises(OptionError, match="rehearsal"):
        Recipe(rehearsal=1.0)


def own_pictures(folder: Path, count: int) -> None:
    """Drawn boats and cars in words of their own, with sidecars as a person leaves them."""
    folder.mkdir()
    seed, made = 50_000, 0
    while made < count:
        seed += 1
        scene = draw_scene(seed, size=(96, 72))
        if {"boat", "car"} & set(scene.words):
            scene.image.save(folder / f"{seed}.png")
            words = [OWN.get(word, word) for word in scene.words]
            (folder / f"{seed}.txt").write_text(f"here is {' '.join(words)}\n")
            made += 1


@pytest.mark.filterwarnings("ignore::captioner.metrics.evaluate.FewPicturesWarning")
def test_own_words_are_learned_and_the_rest_is_not_forgotten(
    scene_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(rehearsal, "_DRAWN", 60)
    monkeypatch.setattr(rehearsal, "_DRAWN_DEV", 12)
    own_pictures(tmp_path / "photos", 64)
    start = scene_run / "best.safetensors"
    words = ["train", "--recipe", "finetune", "--start-from", start, "--data", tmp_path / "photos"]
    # A model of a few thousand weights needs a higher rate than one that ships.
    fast = [
        "--learning-rate",
        "4e-3",
        "--epochs",
        "18",
        "--no-horizontal-flip",
        "--ema-decay",
        "0.8",
        "--rehearsal",
        "0.3",
    ]
    command = [str(word) for word in (*words, "--output", tmp_path / "run", *fast, "--device", "cpu")]
    assert cli.main(command) == 0
    captured = capsys.readouterr()
    best = tmp_path / "run" / "best.safetensors"
    assert captured.out.strip() == str(best)
    (line,) = [one for one in captured.err.splitlines() if one.startswith("captioner: CIDEr of the dev pictures")]
    scores = [one["dev"] for one in read_log(tmp_path / "run") if "dev" in one]
    before, after = scores[0], max(scores[1:], key=lambda one: one["cider"] + one["rest_cider"])
    assert f"{before['cider']:.3f} before, {after['cider']:.3f} after" in line
    assert after["cider"] > before["cider"] + 0.4
    assert after["rest_cider"] > 0.3 * before["rest_cider"]  # this model knows little that it could keep
    grown = checkpoint.load(best).vocabulary.words
    assert set(OWN.values()) | {"here", "is"} <= set(grown)
    known = checkpoint.load(start).vocabulary.words
    assert grown[: len(known)] == known
    model = load(best)
    greedy = model.options(width=1)  # as the dev score
    texts = [model.caption(str(path), options=greedy).text for path in sorted((tmp_path / "photos").glob("*.png"))[:8]]
    assert sum(text.startswith("here is") for text in texts) >= 6, texts
    assert any(set(OWN.values()) & set(text.split()) for text in texts)
    assert len(read_run(tmp_path / "run").hours) == 18  # without the scores before the first epoch
    # The same command again finds the run at its end, and the scenes as they were drawn.
    assert cli.main(command) == 0
    assert json.loads((tmp_path / "run" / "recipe.json").read_text())["rehearsal"] == 0.3


def test_a_damaged_file_of_rehearsed_captions_is_made_again(tmp_path: Path, tiny_model: Path) -> None:
    rest = [Record(tmp_path / "gone.png", ("a dog",), split, split) for split in ("train", "dev")]
    for damage in ('["gone.png", "a d', "[1, 2, 3]\n", '["gone.png", 7]\n', "[" * 100_000):
        (tmp_path / "rest.jsonl").write_text(damage)
        assert rehearsal.as_first_captioned(rest, model=str(tiny_model), folder=tmp_path, own=1) == rest[1:]
        (line,) = (tmp_path / "rest.jsonl").read_text().splitlines()  # no caption
        assert json.loads(line).keys() == {"model", "pictures"}


def test_rehearsed_captions_are_those_of_this_model_and_these_pictures(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b"):
        draw_scene(ord(name), size=(48, 36)).image.save(tmp_path / f"{name}.png")
    first, second = (Record(tmp_path / f"{name}.png", ("a dog",), "train", name) for name in ("a", "b"))

    def captions(*rest: Record, model: Path = tiny_model) -> list[str]:
        found = rehearsal.as_first_captioned(rest, model=str(model), folder=tmp_path, own=1)
        return [record.captions[0] for record in found]

    said = captions(first)
    kept = (tmp_path / "rest.jsonl").read_text()
    assert captions(first) == said and (tmp_path / "rest.jsonl").read_text() == kept
    assert len(captions(first, second)) == 2, "other pictures"
    named = replace(checkpoint.load(tiny_model), about={"recipe": {"objective": "another"}})
    checkpoint.save(tmp_path / "other.safetensors", named)
    before = (tmp_path / "rest.jsonl").read_text()
    captions(first, second, model=tmp_path / "other.safetensors")
    assert (tmp_path / "rest.jsonl").read_text().splitlines()[0] != before.splitlines()[0], "another model"


SHORT = ["--epochs", "1", "--frozen-epochs", "1", "--batch-pictures", "4", "--warmup-steps", "1", "--device", "cpu"]


def data_set(folder: Path, **splits: str) -> Path:
    (folder / "images").mkdir(parents=True)
    rows = []
    for i, (name, split) in enumerate(splits.items()):
        draw_scene(i, size=(48, 36)).image.save(folder / "images" / f"{name}.jpg")
        rows.append({"image": f"{name}.jpg", "caption": "a dog", "split": split})
    (folder / "captions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_a_run_of_an_older_version_goes_on_with_its_captions(tmp_path: Path, tiny_model: Path) -> None:
    rest = [Record(tmp_path / "gone.png", ("a dog",), "train", "a")]
    old = json.dumps([str(rest[0].image), "an old caption"]) + "\n"
    (tmp_path / "rest.jsonl").write_text(old)
    assert rehearsal.as_first_captioned(rest, model=str(tiny_model), folder=tmp_path, own=1) == [], "no run yet"
    (tmp_path / "rest.jsonl").write_text(old)
    (tmp_path / "state.safetensors").touch()
    (found,) = rehearsal.as_first_captioned(rest, model=str(tiny_model), folder=tmp_path, own=1)
    assert found.captions == ("an old caption",)


@pytest.mark.filterwarnings("ignore::captioner.metrics.evaluate.FewPicturesWarning")
def test_another_first_model_is_refused_before_it_captions(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = data_set(tmp_path / "own", a="train", b="dev", c="train")
    rest = data_set(tmp_path / "rest", x="train", z="dev")
    other = tmp_path / "other.safetensors"
    checkpoint.save(other, checkpoint.load(tiny_model))
    words = ["train", "--recipe", "finetune", "--data", own, rest, "--output", tmp_path / "run", *SHORT, "--start-from"]
    assert cli.main([str(word) for word in (*words, tiny_model)]) == 0
    before = (tmp_path / "run" / "rest.jsonl").read_bytes()
    assert cli.main([str(word) for word in (*words, other)]) == 2
    assert "holds a run with start_from" in capsys.readouterr().err
    assert (tmp_path / "run" / "rest.jsonl").read_bytes() == before


FLICKR = "1000268201_693b08cb0e"


@pytest.mark.parametrize(("theirs", "other"), [({FLICKR: "train", "d": "dev"}, {}), ({"d": "dev"}, {FLICKR: "train"})])
def test_no_test_picture_is_rehearsed(
    theirs: dict[str, str], other: dict[str, str], tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = data_set(tmp_path / "own", a="train", b="dev", **{FLICKR: "test"})
    rest = [data_set(tmp_path / "rest", **theirs), *([data_set(tmp_path / "more", **other)] if other else [])]
    words = ["train", "--recipe", "finetune", "--start-from", tiny_model, "--data", own, *rest]
    assert cli.main([str(word) for word in (*words, "--output", tmp_path / "run", *SHORT)]) == 2
    error = capsys.readouterr().err
    assert f"{FLICKR}.jpg" in error and "'test'" in error and "'train'" in error


@pytest.mark.filterwarnings("ignore::captioner.metrics.evaluate.FewPicturesWarning")
def test_pictures_of_the_rest_that_do_not_open_are_named(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = data_set(tmp_path / "own", a="train", b="dev", c="train")
    rest = data_set(tmp_path / "rest", x="train", y="train", z="dev")
    (rest / "images" / "x.jpg").write_bytes(b"broken")
    words = ["train", "--recipe", "finetune", "--start-from", tiny_model, "--data", own, rest]
    assert cli.main([str(word) for word in (*words, "--output", tmp_path / "run", *SHORT)]) == 1
    error = capsys.readouterr().err
    assert "x.jpg" in error and "1 of 6 pictures are left out" in error
    assert "x.jpg" not in (tmp_path / "run" / "rest.jsonl").read_text()


@pytest.mark.parametrize("name", ["rest.jsonl", "scenes/captions.jsonl"])
def test_files_of_rehearsal_are_outputs(
    name: str, tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "run" / name
    data_set(data.parent, a="train", b="dev")
    if data.name == "rest.jsonl":
        (data.parent / "captions.jsonl").rename(data)
    before = data.read_text()
    given = data if data.name == "rest.jsonl" else data.parent
    words = ["train", "--recipe", "finetune", "--start-from", tiny_model, "--data", given]
    assert cli.main([str(word) for word in (*words, "--output", tmp_path / "run", *SHORT)]) == 2
    assert data.name in capsys.readouterr().err
    assert data.read_text() == before


def test_scores_before_a_run_are_not_logged_twice(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.log({"epoch": -1, "step": 0, "dev": {"cider": 1.0, "rest_cider": 1.0}})
    folder.forget_log_after(0)  # the run was killed before it saved anything, and scores once more
    assert read_log(folder.path) == []
    for line in ({"step": 1, "dev": 3}, {"step": 2, "dev": {"rest_cider": 1}, "epoch": 1}):  # edited by hand
        folder.log(line)
    assert rehearsal.before_and_after(folder.path) == ""
    folder.release()
