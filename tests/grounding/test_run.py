"""The measure run on models: written and read captions, deletion and insertion, the worst cases, the command."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import captioner
from captioner import checkpoint
from captioner.checkpoint import Checkpoint
from captioner.cli import main
from captioner.data.readers import read
from captioner.data.records import Record, of_split
from captioner.data.scenes import write_scenes
from captioner.errors import ImageError
from captioner.explain.maps import MapReading
from captioner.explain.occlusion import blot_out, mean_colour, orders_of
from captioner.grounding.deletion import LEVELS, summarise
from captioner.grounding.ground_truth import find_truth
from captioner.grounding.pointing import RIVALS, average
from captioner.grounding.run import ground, measure, try_out, worst
from captioner.pipeline import Captioner


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Scenes with a dog or a cat, words that the tiny untrained models know, among them."""
    folder = tmp_path_factory.mktemp("scenes")
    write_scenes(folder, count=2, dev=8, first_seed=24, size=(96, 72))
    return folder


@pytest.fixture(params=["lstm", "transformer"])
def model(request: pytest.FixtureRequest, make_checkpoint: Callable[..., Checkpoint]) -> Captioner:
    return Captioner(make_checkpoint(request.param), name="tiny")


def test_references_are_read_and_every_noun_with_a_box_is_measured(model: Captioner, scenes: Path) -> None:
    records = of_split(read(scenes), "dev")
    found = list(ground(model, records, find_truth(scenes), sources=("references",)))
    assert [grounded.record for grounded in found] == records
    for grounded, record in zip(found, records, strict=True):
        (boxes,) = record.boxes
        assert [place.word for place in grounded.places] == sorted(boxes)
        assert len(grounded.mentions) == len(grounded.aims) == len(boxes)
        assert grounded.source == "references" and grounded.absent == 0
        for place, mention in zip(grounded.places, grounded.mentions, strict=True):
            np.testing.assert_array_equal(mention.map, grounded.caption.words[place.word].map)
            same = sum(word.text == place.category for word in grounded.caption.words)
            assert len(mention.others) == len(grounded.caption.words) - same


def test_written_captions_are_measured_where_they_name_what_is_there(model: Captioner, scenes: Path) -> None:
    records = of_split(read(scenes), "dev")
    things = {r.captions[0].split()[place] for r in read(scenes) for place in r.boxes[0]}
    done = []
    found = list(
        ground(model, records, find_truth(scenes), sources=("written",), advance=lambda: done.append(1), batch=3)
    )
    assert len(found) == len(done) == len(records)
    for grounded, record in zip(found, records, strict=True):
        nouns = {record.captions[0].split()[place] for place in record.boxes[0]}
        said = [word.text for word in grounded.caption.words]
        assert [said[place.word] for place in grounded.places] == [word for word in said if word in nouns]
        assert grounded.absent == sum(word in things - nouns for word in said)


def test_pictures_that_do_not_open_are_told_once(model: Captioner, scenes: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_text("no picture")
    good = of_split(read(scenes), "dev")[0]
    bad = replace(good, image=tmp_path / "broken.png", id="broken")
    told: list[Record] = []
    found = list(ground(model, [bad, good], find_truth(scenes), on_error=lambda record, _: told.append(record)))
    assert told == [bad]
    assert {grounded.record.id for grounded in found} == {good.id}
    for source in ("written", "references"):
        with pytest.raises(ImageError, match=r"broken\.png"):
            list(ground(model, [bad], find_truth(scenes), sources=(source,)))


def test_curves_are_the_words_probabilities_on_blotted_pictures(model: Captioner, scenes: Path) -> None:
    records = of_split(read(scenes), "dev")
    record = next(r for r in records if {"dog", "cat", "ball"} & set(r.captions[0].split()))  # words of the tiny models
    (grounded,) = ground(model, [record], find_truth(scenes), sources=("references",))
    known = [place for place in grounded.places if grounded.caption.words[place.word].probability > 0]
    trials = try_out(model, grounded, seed=3)
    assert len(trials) == len(known) > 0
    again = try_out(model, grounded, seed=3)
    np.testing.assert_array_equal(trials[0].random_deletion, again[0].random_deletion)
    assert not np.array_equal(trials[0].random_deletion, try_out(model, grounded, seed=4)[0].random_deletion)
    prepared = model.prepare(record.image)
    gray = mean_colour(prepared.pixels, prepared.geometry)
    for place, trial in zip(known, trials, strict=True):
        word = grounded.caption.words[place.word]
        assert trial.deletion[0] == pytest.approx(word.probability, rel=1e-3)
        assert trial.insertion[-1] == pytest.approx(word.probability, rel=1e-3)
        assert trial.deletion[-1] == trial.random_deletion[-1]
        assert trial.deletion.shape == trial.insertion.shape == (len(LEVELS),)
        # One level by hand.
        (cells,) = orders_of(word.map.astype(float), [round(0.2 * 64)])
        blotted = Image.fromarray(blot_out(prepared.pixels, gray, cells))
        (read_again,) = model.read(blotted.resize((64, 64)), [record.captions[0]])
        assert trial.deletion[LEVELS.index(0.2)] == pytest.approx(read_again.words[place.word].probability, rel=1e-3)


def test_the_worst_cases_come_first_with_their_boxes_drawn(model: Captioner, scenes: Path) -> None:
    records, truth = of_split(read(scenes), "dev"), find_truth(scenes)
    found = list(ground(model, records, truth, sources=("references",)))
    cases = worst(found, 3)
    assert 1 <= len(cases) <= 3
    masses = [float(case.image.split(", ")[1].split("%")[0]) for case in cases]
    assert masses == sorted(masses)
    assert len({case.image.split(", ")[0] for case in cases}) == len(cases), "a picture stands there once"
    before = next(g for g in found if g.caption.text == cases[0].text and g.record.image.name in cases[0].image).caption
    changed = np.any(np.asarray(before.picture) != np.asarray(cases[0].picture), axis=2)
    assert 0 < changed.mean() < 0.5


def test_a_caption_without_nouns_has_nothing_to_measure(model: Captioner, scenes: Path) -> None:
    record = of_split(read(scenes), "dev")[0]
    (caption,) = model.read(record.image, ["in the park"])
    grounded = measure(caption, record, [], "written")
    assert grounded.mentions == grounded.aims == ()
    assert try_out(model, grounded) == []
    assert worst([grounded], 5) == []


# The command


def test_the_command_prints_tables_json_and_the_page(
    either_model: Path, scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["ground", "--data", str(scenes), "--model", str(either_model), "--resamples", "50"]
    assert main([*arguments, "--worst", str(tmp_path / "worst.html")]) == 0
    printed = capsys.readouterr().out
    for words in ("references that the model read", "points at it", "another word's map", "an even map", "dev, maps:"):
        assert words in printed
    assert "Where the maps were wrong" in (tmp_path / "worst.html").read_text()

    assert main([*arguments, "--json", "--captions", "references", "--faithfulness", "--pictures", "7"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["inside"] == "boxes" and content["maps"]["explain"] == "attention"
    assert content["captions"].keys() == {"references"}
    every = content["captions"]["references"]["all"]
    assert every["pictures"] == 7
    assert every["pointing"].keys() == every["mass"].keys() == set(RIVALS)
    low, high = every["mass"]["maps"]["interval"]
    assert low <= every["mass"]["maps"]["value"] <= high
    faithful = content["captions"]["references"]["faithfulness"]
    assert 1 <= faithful["pictures"] <= 7 and len(faithful["curves"]["deletion"]) == len(LEVELS)
    for way in ("deletion", "insertion"):
        low, high = faithful[f"{way}_gain"]["interval"]
        assert low <= faithful[f"{way}_gain"]["value"] <= high


def test_plain_maps_are_those_of_all_heads(
    make_checkpoint: Callable[..., Checkpoint], scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = make_checkpoint("transformer")
    checkpoint.save(tmp_path / "all.safetensors", made)
    made.model.make_maps_of([(0, 1)])
    checkpoint.save(tmp_path / "one.safetensors", replace(made, about={**made.about, "maps": {"explain": "gradient"}}))

    def mass(model: Path, *more: str) -> float:
        arguments = ["--data", str(scenes), "--model", str(model), "--captions", "references", "--pictures", "3"]
        assert main(["ground", *arguments, "--json", "--resamples", "9", *more]) == 0
        return float(json.loads(capsys.readouterr().out)["captions"]["references"]["all"]["mass"]["maps"]["value"])

    one, every = tmp_path / "one.safetensors", tmp_path / "all.safetensors"
    assert mass(one, "--plain") == pytest.approx(mass(every), rel=1e-3)
    assert mass(one, "--explain", "attention") != pytest.approx(mass(every), rel=1e-3)


def test_pictures_may_lie_elsewhere(
    tiny_model: Path, scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    alone = tmp_path / "captions.jsonl"
    alone.write_text((scenes / "captions.jsonl").read_text())
    pictures = next(path.parent for path in scenes.rglob("*.png"))
    arguments = ["--data", str(alone), "--images", str(pictures), "--model", str(tiny_model), "--pictures", "2"]
    assert main(["ground", *arguments, "--captions", "references", "--resamples", "9"]) == 0
    assert "points at it" in capsys.readouterr().out


def test_no_page_is_written_where_no_map_was_wrong(
    tiny_model: Path, scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("captioner.grounding.run.worst", lambda found, count: [])
    page = tmp_path / "worst.html"
    arguments = ["--data", str(scenes), "--model", str(tiny_model), "--captions", "references", "--worst", str(page)]
    assert main(["ground", *arguments, "--pictures", "2", "--resamples", "9"]) == 0
    captured = capsys.readouterr()
    assert f"no map lay elsewhere, so {page} is not written" in captured.err
    assert "points at it" in captured.out
    assert not page.exists()


def test_ways_to_explain_go_through_the_command(
    tiny_model: Path, scenes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--data", str(scenes), "--model", str(tiny_model), "--pictures", "2", "--captions", "references"]
    maps = []
    for explain in ("attention", "gradient", "occlusion"):
        assert main(["ground", *arguments, "--json", "--resamples", "9", "--explain", explain]) == 0
        content = json.loads(capsys.readouterr().out)
        assert content["maps"]["explain"] == explain
        maps.append(content["captions"]["references"]["all"]["mass"]["maps"]["value"])
    assert len(set(maps)) == 3


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--data", "nowhere"], "nowhere: no such file or folder"),
        (["--split", "tset"], "--split must be train, dev or test, not 'tset'"),
        (["--split", "test"], "no pictures of the split 'test'"),
        (["--pictures", "0"], "--pictures must be at least 1, not 0"),
        (["--resamples", "-3"], "--resamples must be at least 1, not -3"),
        (["--beam", "0"], "--beam must be at least 1, not 0"),
        (["--seed", "-1"], "--seed must not be negative, as -1 is"),
        (["--masks"], "no instances*.json beside the captions"),
        (["--model", "nothing"], "no model is called 'nothing'"),
        (["--worst", "worst.txt"], "worst.txt"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    more: list[str], message: str, tiny_model: Path, scenes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["ground", "--data", str(scenes), "--model", str(tiny_model), *more]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert message in captured.err and captured.err.count("\n") == 1


def test_data_without_places_is_refused(
    tiny_model: Path, make_picture: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_picture("a.png")
    row = {"image": "a.png", "caption": "a dog", "split": "dev"}
    (tmp_path / "captions.jsonl").write_text(json.dumps(row))
    assert main(["ground", "--data", str(tmp_path), "--model", str(tiny_model)]) == 2
    assert "nothing says where things are" in capsys.readouterr().err
    (tmp_path / "captions.jsonl").write_text(json.dumps({**row, "boxes": {"0": [0, 0, 1, 1]}, "caption": "cat"}))
    assert main(["ground", "--data", str(tmp_path), "--model", str(tiny_model), "--captions", "references"]) == 0
    assert "the most possible" in capsys.readouterr().out
    # Of captions of one word, no other word has a map.
    assert (
        main(["ground", "--data", str(tmp_path), "--model", str(tiny_model), "--captions", "references", "--json"]) == 0
    )
    every = json.loads(capsys.readouterr().out)["captions"]["references"]["all"]
    assert every["pointing"]["another word"] == {"value": None, "interval": None}


def test_captions_of_the_command_line_can_be_explained(
    tiny_model: Path, make_picture: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    picture = make_picture("a.png")
    said = []
    for explain in ("attention", "gradient", "occlusion"):
        assert main(["caption", str(picture), "--model", str(tiny_model), "--json", "--explain", explain]) == 0
        said.append(json.loads(capsys.readouterr().out))
    assert len({content["caption"] for content in said}) == 1
    maps = [np.array([word["map"] for word in content["words"]]) for content in said]
    assert not np.allclose(maps[0], maps[1]) and not np.allclose(maps[0], maps[2])
    for map_ in maps:
        np.testing.assert_allclose(map_.sum((1, 2)), 1, rtol=1e-3)


# Trained models


@pytest.mark.slow
@pytest.mark.parametrize("decoder", ["lstm", "transformer"])
def test_maps_of_trained_models_point_at_what_they_name_and_the_model_needs_it(
    decoder: str, scenes_model: Callable[[str], Path], tmp_path: Path
) -> None:
    write_scenes(tmp_path, count=0, dev=60, first_seed=2_000_000, size=(192, 144))
    records, truth = read(tmp_path), find_truth(tmp_path)
    model = captioner.load(scenes_model(decoder))
    found = list(ground(model, records, truth))
    for source in ("written", "references"):
        some = [grounded for grounded in found if grounded.source == source]
        mentions = [mention for grounded in some for mention in grounded.mentions]
        shares, _ = average(mentions, [aim for grounded in some for aim in grounded.aims])
        assert shares.pointing["maps"].value >= 0.95
        assert shares.beats_baselines
        assert shares.mass["maps"].interval.low > shares.mass["even"].interval.high
        assert shares.pointing["even"].value < 0.3
    torch.manual_seed(0)
    tried = summarise([trial for grounded in found[:15] for trial in try_out(model, grounded)])
    assert tried.deletion_gain.interval.low > 0
    assert tried.insertion_gain.interval.low > 0
    # Drawn things are two or three of these cells wide: a block of three would reach beyond them.
    blots = MapReading(explain="occlusion", block=1)
    occluded = list(ground(model, records[:15], truth, sources=("references",), explain=blots))
    hits = [aim.pointing[0] for grounded in occluded for aim in grounded.aims]
    assert np.mean(hits) > 0.8
