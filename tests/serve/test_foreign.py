"""One foreign model through every command that captions, reads or measures: each works as with a model of ours."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from captioner.bulk.batch import CaptionBatch
from captioner.cli import main
from captioner.data.scenes import write_scenes
from captioner.pipeline import Captioner

from .conftest import Serve, problem_of

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def model(foreign: Callable[[str], Captioner]) -> Captioner:
    """Of 3 x 6 cells; its tokeniser knows small letters alone."""
    return foreign("vit-gpt2 wide")


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three pictures with boxes of their nouns."""
    return write_scenes(tmp_path_factory.mktemp("scenes"), count=0, dev=3, first_seed=24, size=(96, 72)).parent


@pytest.fixture
def picture(scenes: Path) -> Path:
    return min((scenes / "images").glob("*.png"))


@pytest.fixture
def command(model: Captioner, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Run a command with the model, which is opened once for all."""
    monkeypatch.setattr("captioner.pipeline.load", lambda *_, **__: model)

    def run(*arguments: Any) -> tuple[int, str, str]:
        name = model.model.config.name_or_path
        code = main([*map(str, arguments), "--model", name, "--device", "cpu"])
        return code, *capsys.readouterr()

    return run


def test_everything_that_is_written_of_a_folder(
    command: Command, model: Captioner, scenes: Path, tmp_path: Path
) -> None:
    output, page, figures = tmp_path / "out.jsonl", tmp_path / "page.html", tmp_path / "figures"
    beside = ["--sidecar", ".json", "--xmp", "--page", page, "--figure", f"{figures}/", "--sort", "doubt"]
    how = ["--picture-gain", "--min-confidence", "0.9", "--n-best", "2", "--beam", "2", "--max-words", "6"]
    code, _, err = command("caption", scenes / "images", "--output", output, *beside, *how)
    assert code == 0, err
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    assert [row["model"] for row in rows] == [model.name] * 3
    for row in rows:
        words = row["words"]
        assert np.shape(words[0]["map"]) == model.backend.grid_shape and len(row["alternatives"]) == 1
        assert all(np.isfinite(word["gain"]) for word in words)
        assert json.loads(Path(row["image"]).with_suffix(".json").read_text())["caption"] == row["caption"]
        assert "dc:description" in Path(row["image"]).with_suffix(".xmp").read_text()
        assert row["words"][0]["word"] in page.read_text()
    assert len(list(figures.glob("*.png"))) == 3
    assert "3 of 3 captions are less sure than 0.9" in err


def test_a_run_goes_on_with_the_same_heads_alone(command: Command, picture: Path, tmp_path: Path) -> None:
    output = tmp_path / "o.jsonl"
    heads = ("--output", output, "--map-heads")
    assert command("caption", picture, *heads, "1:1,0")[0] == 0
    before = output.read_bytes()
    code, _, err = command("caption", picture, *heads, "0,1:1")  # in another order
    assert code == 0 and "was there" in err, err
    code, _, err = command("caption", picture, *heads, "1")
    assert code == 2 and "map-heads" in err and output.read_bytes() == before


@pytest.mark.parametrize("view", ["--heads", "--contrast", "--explain"])
def test_views_of_a_word(view: str, command: Command, model: Captioner, picture: Path, tmp_path: Path) -> None:
    figure, page = tmp_path / "figure.png", tmp_path / "page.html"
    word = model.caption(picture).words[0].text
    value = {"--heads": word, "--contrast": f"{word}=dog", "--explain": "occlusion"}[view]
    code, _, err = command("caption", picture, view, value, "--figure", figure, "--page", page)
    assert code == 0, err
    assert min(Image.open(figure).size) > 100 and word in page.read_text()


def test_ground(command: Command, scenes: Path, tmp_path: Path) -> None:
    worst = tmp_path / "worst.html"
    code, out, err = command(
        "ground", "--data", scenes, "--json", "--worst", worst, "--faithfulness", "--resamples", 40
    )
    assert code == 0, err
    every = json.loads(out)["captions"]["references"]
    assert every["all"]["pictures"] == 3 and every["faithfulness"]["pictures"] >= 1
    assert "data:image" in worst.read_text()
    code, out, err = command("ground", "--data", scenes, "--explain", "gradient", "--resamples", 40)
    assert code == 0 and "points at it" in out, err


def test_evaluate(command: Command, scenes: Path, tmp_path: Path) -> None:
    kept = tmp_path / "kept.json"
    annotations = ["--annotations", scenes / "captions.jsonl", "--images", scenes / "images"]
    code, out, err = command("evaluate", *annotations, "--save-results", kept, "--json")
    assert code == 0, err
    assert json.loads(out)
    assert len(json.loads(kept.read_text())) == 3


def test_alt(command: Command, picture: Path, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(picture.read_bytes())
    (tmp_path / "a.html").write_text("<img src=a.png>")
    code, out, err = command("alt", tmp_path)
    assert code == 0 and '+<img alt="' in out, err


def test_the_server(serve: Serve, model: Captioner, picture: Path) -> None:
    with serve(Path(model.model.config.name_or_path)) as running:
        photo = ("a.png", picture.read_bytes())
        (made,) = running.post(photo, picture_gain="true", viewer="true", max_length=5).json()["captions"]
        assert made["model"] == model.name and made["words"][0]["gain"] is not None and made["viewer"]
        (read,) = running.post(photo, text="a dog in OSLO!").json()["captions"]
        assert [word["word"] for word in read["words"]] == ["a", "dog", "in", "OSLO", "!"]
        assert [word.get("unknown", False) for word in read["words"]] == [False] * 3 + [True] * 2
        assert running.post(photo, format="html").text.startswith("<!DOCTYPE")
        assert running.post(photo, format="png").content.startswith(b"\x89PNG")
        assert "reads" in problem_of(running.post(photo, text="frisbees' " * 30), 422)["detail"]
        assert "words" in problem_of(running.post(photo, require_words="\u4e16"), 422)["detail"]


def test_review(reviewing: Callable[..., Any], model: Captioner, picture: Path, tmp_path: Path) -> None:
    output = tmp_path / "edits.jsonl"
    with reviewing([picture], output, model=model) as running, running.client() as client:
        shown = client.get("/api/pictures/0").json()
        assert shown["caption"] == model.caption(picture).text
        answer = client.post("/api/pictures/0/reading", json={"key": shown["key"], "text": "A dog in OSLO"}).json()
        assert answer["unknown"] == ["A", "OSLO"]
        body = {"key": shown["key"], "status": "edited", "caption": "A dog in OSLO"}
        client.put("/api/pictures/0", json=body)
    assert json.loads(output.read_text())["caption"] == "A dog in OSLO"


def test_batches(model: Captioner, picture: Path) -> None:
    batch = CaptionBatch(model=model.model.config.name_or_path, device="cpu")
    found = batch({"image": np.array([picture.read_bytes(), b"no picture"], dtype=object)})
    assert found["caption"].tolist() == [model.caption(picture).text, None]
    assert found["error"][0] is None and "not an image" in found["error"][1]


def test_a_kept_picture(model: Captioner, picture: Path) -> None:
    kept = model.encode(picture)
    caption = model.caption(picture)
    assert [one.text for one in model.caption([kept, picture, kept])] == [caption.text] * 3
    (read,) = model.read(kept, ["a dog, sits"])
    assert [word.text for word in read.words] == ["a", "dog", ",", "sits"]
    assert read.words[1].map.shape == (3, 6) and read.words[1].probability > 0
