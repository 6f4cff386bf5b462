"""The command ``captioner ground``."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

import captioner
from captioner import checkpoint
from captioner.checkpoint import Checkpoint
from captioner.cli import main
from captioner.data.scenes import write_scenes
from captioner.grounding.deletion import LEVELS
from captioner.grounding.pointing import BASELINES


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Scenes with a dog or a cat, words that the tiny untrained models know, among them."""
    folder = tmp_path_factory.mktemp("scenes")
    write_scenes(folder, count=2, dev=8, first_seed=24, size=(96, 72))
    return folder


def test_the_command_prints_tables_json_and_the_page(
    either_model: Path, scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["ground", "--data", str(scenes), "--model", str(either_model), "--resamples", "50"]
    assert main([*arguments, "--worst", str(tmp_path / "worst.html")]) == 0
    printed = capsys.readouterr().out
    for words in ("reference captions", "points at it", "another word's map", "an even map", "dev, maps:"):
        assert words in printed
    assert "Where the maps were wrong" in (tmp_path / "worst.html").read_text()

    assert main([*arguments, "--json", "--captions", "references", "--faithfulness", "--pictures", "7"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["inside"] == "boxes" and content["maps"]["explain"] == "attention"
    assert content["captions"].keys() == {"references"}
    every = content["captions"]["references"]["all"]
    assert every["pictures"] == 7
    assert every["pointing"].keys() == every["mass"].keys() == {"maps", *BASELINES}
    assert every["mass"]["maps"]["value"] > 0 and every["mass"]["maps"]["interval"] is None, "seven pictures have none"
    faithful = content["captions"]["references"]["faithfulness"]
    assert 1 <= faithful["pictures"] <= 7 and len(faithful["curves"]["deletion"]) == len(LEVELS)
    for way in ("deletion", "insertion"):
        assert abs(faithful[f"{way}_gain"]["value"]) < 1


def test_plain_maps_are_those_of_all_heads(
    make_checkpoint: Callable[..., Checkpoint], scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = make_checkpoint("transformer")
    checkpoint.save(tmp_path / "all.safetensors", made)
    made.model.set_map_heads([1])
    checkpoint.save(tmp_path / "one.safetensors", replace(made, about={**made.about, "maps": {"explain": "gradient"}}))

    def mass(model: Path, *more: str) -> float:
        arguments = ["--data", str(scenes), "--model", str(model), "--captions", "references", "--pictures", "3"]
        assert main(["ground", *arguments, "--json", "--resamples", "40", *more]) == 0
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
    assert main(["ground", *arguments, "--captions", "references", "--resamples", "40"]) == 0
    assert "points at it" in capsys.readouterr().out


def test_no_page_is_written_where_no_map_was_wrong(
    tiny_model: Path, scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("captioner.grounding.worst_cases.worst_cases", lambda found, count: [])
    page = tmp_path / "worst.html"
    arguments = ["--data", str(scenes), "--model", str(tiny_model), "--captions", "references", "--worst", str(page)]
    assert main(["ground", *arguments, "--pictures", "2", "--resamples", "40"]) == 0
    captured = capsys.readouterr()
    assert str(page) in captured.err and "not written" in captured.err
    assert "points at it" in captured.out
    assert not page.exists()


def test_ways_to_explain_go_through_the_command(
    tiny_model: Path, scenes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--data", str(scenes), "--model", str(tiny_model), "--pictures", "2", "--captions", "references"]
    maps = []
    for explain in ("attention", "gradient", "occlusion"):
        assert main(["ground", *arguments, "--json", "--resamples", "40", "--explain", explain]) == 0
        content = json.loads(capsys.readouterr().out)
        assert content["maps"]["explain"] == explain
        maps.append(content["captions"]["references"]["all"]["mass"]["maps"]["value"])
    assert len(set(maps)) == 3


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--data", "nowhere"], "nowhere: no such file or folder"),
        (["--split", "tset"], "tset"),
        (["--split", "test"], "no pictures of the split 'test'"),
        (["--pictures", "0"], "--pictures"),
        (["--resamples", "-3"], "-3"),
        (["--beam", "0"], "--beam"),
        (["--seed", "-1"], "-1"),
        (["--masks"], "no instances*.json beside the captions"),
        (["--model", "nothing"], "no model is called 'nothing'"),
        (["--worst", "worst.txt"], "worst.txt"),
        (["--captions", "spoken"], "generated, references"),
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
    assert "is annotated" in capsys.readouterr().err
    (tmp_path / "captions.jsonl").write_text(json.dumps({**row, "boxes": {"0": [0, 0, 1, 1]}, "caption": "cat"}))
    assert main(["ground", "--data", str(tmp_path), "--model", str(tiny_model), "--captions", "references"]) == 0
    assert "highest possible" in capsys.readouterr().out
    # Of captions of one word, no other word has a map.
    assert (
        main(["ground", "--data", str(tmp_path), "--model", str(tiny_model), "--captions", "references", "--json"]) == 0
    )
    every = json.loads(capsys.readouterr().out)["captions"]["references"]["all"]
    assert every["pointing"]["another word"] == {"value": None, "interval": None}


def rows_of(folder: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in (folder / "captions.jsonl").read_text().splitlines()]


def test_a_failed_picture_is_named_once_and_the_others_are_measured(
    tiny_model: Path, scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(shutil.copytree(scenes, tmp_path / "scenes"))
    name = next(Path(row["image"]).name for row in rows_of(folder) if row["split"] == "dev")
    next(folder.rglob(name)).write_text("no picture")
    arguments = ["ground", "--data", str(folder), "--model", str(tiny_model), "--resamples", "40", "--json"]
    assert main(arguments) == 1
    captured = capsys.readouterr()
    assert captured.err.count(name) == 1
    content = json.loads(captured.out)
    assert content["captions"]["references"]["all"]["pictures"] == 7
    assert any(note.startswith("1 pictures failed") for note in content["notes"])


@pytest.mark.parametrize("what", ["captions", "model", "picture", "picture of another split"])
def test_an_input_is_not_overwritten_by_the_page(
    what: str, tiny_model: Path, scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(shutil.copytree(scenes, tmp_path / "scenes"))
    name = next(Path(row["image"]).name for row in rows_of(folder) if row["split"] == "dev")
    other = next(Path(row["image"]).name for row in rows_of(folder) if row["split"] == "train")
    targets = {"captions": folder / "captions.jsonl", "model": tiny_model, "picture": next(folder.rglob(name))}
    targets["picture of another split"] = next(folder.rglob(other))
    page = tmp_path / "worst.html"
    page.symlink_to(targets[what])
    before = targets[what].read_bytes()
    assert main(["ground", "--data", str(folder), "--model", str(tiny_model), "--worst", str(page)]) == 2
    assert "--worst" in capsys.readouterr().err
    assert targets[what].read_bytes() == before


def write_rows(folder: Path, *captions: str, boxed: int = 0) -> Path:
    """A data set of one grey picture for each caption, whose word ``boxed`` has the box of the whole picture."""
    lines = []
    for number, caption in enumerate(captions):
        Image.new("RGB", (40, 30), "grey").save(folder / f"{number}.png")
        row = {"image": f"{number}.png", "caption": caption, "split": "dev", "boxes": {str(boxed): [0, 0, 1, 1]}}
        lines.append(json.dumps(row))
    (folder / "captions.jsonl").write_text("\n".join(lines))
    return folder


def test_the_old_name_of_generated_captions_still_works(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.new("RGB", (40, 30), "grey").save(tmp_path / "0.png")
    generated = captioner.load(tiny_model, device="cpu").caption(tmp_path / "0.png")
    data = write_rows(tmp_path, generated.words[0].text)
    arguments = ["ground", "--data", str(data), "--model", str(tiny_model), "--resamples", "40", "--json"]
    assert main([*arguments, "--captions", "written"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["captions"].keys() == {"generated"}
    assert "generated" in captured.err and captured.err.count("\n") == 1


def test_json_has_no_nan(tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Where a single caption has another word, its baseline has a value and no interval."""

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    data = write_rows(tmp_path, "dog a", *["dog"] * 11)
    arguments = ["ground", "--data", str(data), "--model", str(tiny_model), "--captions", "references", "--json"]
    assert main([*arguments, "--resamples", "40"]) == 0
    every = json.loads(capsys.readouterr().out, parse_constant=refuse)["captions"]["references"]["all"]
    assert every["pointing"]["another word"] == {"value": 1, "interval": None}
    low, high = every["mass"]["maps"]["interval"]
    assert 0 < low <= every["mass"]["maps"]["value"] <= high <= 1


@pytest.mark.parametrize(
    ("option", "value"),
    [("--resamples", "1" + "0" * 14), ("--resamples", "39"), ("--worst", f"{__file__}/x/worst.html")],
)
def test_what_would_fail_at_the_end_is_refused_before_the_work(
    option: str, value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["ground", "--data", "none", "--model", "none", option, value]) == 2
    line = capsys.readouterr().err
    assert option in line and "none" not in line
