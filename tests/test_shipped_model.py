"""The model that ships: small, honest about itself, and as good as its card says."""

import contextlib
import io
import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

import captioner
from captioner.checkpoint import read_header
from captioner.cli import main
from captioner.data.scenes import dog_frisbee_park
from captioner.pipeline import Captioner
from captioner.shipped import shipped_answering_models, shipped_models
from captioner.training.recipe import FILES

CARD = Path(__file__).resolve().parents[1] / "checkpoints" / "README.md"
CAPTIONS = Path(__file__).with_name("shipped_captions")
"""What each model says of Flickr8k's test pictures: `captioner evaluate --images … --save-results NAME.json`."""


@pytest.fixture(scope="module")
def model() -> Captioner:
    return captioner.load()


@pytest.mark.parametrize("name", shipped_models())
def test_it_is_small_and_says_where_it_comes_from(name: str) -> None:
    path = shipped_models()[name]
    assert path.stat().st_size < (100e6 if name == "best" else 25e6)  # git hosts take no larger file
    about = read_header(path)["about"]
    recipes = [*about["earlier"], *about.get("teacher", []), about["recipe"]]
    assert any(recipe.get("weights") for recipe in recipes), "where its encoder started"
    assert not any(recipe[file].startswith("/") for recipe in recipes for file in FILES if file in recipe)
    assert about["test"]["pictures"] == 1000
    assert {"width", "length_penalty"} <= set(about["decoding"])


def test_a_file_that_is_being_written_is_no_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("mine.safetensors", ".captioner-7-0a1b2c3d.partial.safetensors"):
        (tmp_path / name).touch()
    monkeypatch.setattr("captioner.shipped._checkpoints", lambda: str(tmp_path))
    assert list(shipped_models()) == ["mine"]


@pytest.mark.parametrize("name", shipped_models())
def test_the_card_has_the_scores_of_the_file(name: str) -> None:
    about = read_header(shipped_models()[name])["about"]
    card = CARD.read_text()
    for split in ("dev", "test"):
        scores = about[split]["scores"]
        row = " | ".join(
            f"{scores[measure]:.1f}" for measure in ("BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "ROUGE-L", "CIDEr")
        )
        assert row in card, f"the card lacks the {split} scores of {name}: {row}"


def test_the_demo_scene_is_described(model: Captioner) -> None:
    caption = model.caption(dog_frisbee_park().image)
    assert caption.text == dog_frisbee_park().caption


def test_it_never_says_unknown_nor_a_word_twice_in_a_row(model: Captioner) -> None:
    noise = torch.randint(0, 256, (8, 90, 120, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    for caption in model.caption(list(noise.numpy())):
        assert caption.words
        texts = [word.text for word in caption.words]
        assert not set(texts) & {"<unk>", "<pad>", "<start>", "<end>"}
        assert all(word != before for before, word in pairwise(texts))
        assert all(0 < word.probability <= 1 for word in caption.words)
        off_grid = np.array([word.off_grid for word in caption.words])
        assert caption.maps.sum((1, 2)) + off_grid == pytest.approx(1, abs=1e-4)


@pytest.mark.shared
@pytest.mark.parametrize("name", shipped_models())
def test_the_test_score_is_what_the_card_says(name: str, shared: Path) -> None:
    """Of the captions that lie here. That they are the model's own is the test below."""
    printed = io.StringIO()
    annotations = shared / "data" / "flickr8k" / "Flickr8k.token.txt"
    arguments = ["--annotations", str(annotations), "--split", "Flickr_8k.testImages.txt", "--no-baselines", "--json"]
    with contextlib.redirect_stdout(printed):
        code = main(["evaluate", *arguments, "--results", str(CAPTIONS / f"{name}.json")])
    assert code == 0
    found = json.loads(printed.getvalue())["scores"]
    claimed = read_header(shipped_models()[name])["about"]["test"]["scores"]
    for measure, value in claimed.items():
        assert 100 * found[measure] == pytest.approx(value, abs=0.05), measure


@pytest.mark.shared
@pytest.mark.parametrize("name", shipped_models())
def test_the_captions_that_lie_here_are_the_models_own(name: str, shared: Path) -> None:
    stored = {line["image_id"]: line["caption"] for line in json.loads((CAPTIONS / f"{name}.json").read_text())}
    assert len(stored) == 1000
    images = shared / "data" / "flickr8k" / "images"
    some = sorted(stored)[::20]
    captions = captioner.load(name).caption([images / image for image in some])
    others = {
        image: caption.text for image, caption in zip(some, captions, strict=True) if caption.text != stored[image]
    }
    assert len(others) <= 1, others  # another processor may decide a tie of the beam in another way


@pytest.mark.parametrize("name", shipped_answering_models())
def test_an_answering_model_is_small_and_its_card_has_its_scores(name: str) -> None:
    path = shipped_answering_models()[name]
    assert path.stat().st_size < 25e6
    about = read_header(path)["about"]
    recipes = [*about["earlier"], *about.get("teacher", []), about["recipe"]]
    assert not any(recipe[file].startswith("/") for recipe in recipes for file in FILES if file in recipe)
    card = (path.parent / "README.md").read_text()
    named = {"cocoqa": "COCO-QA", "vqa1": "VQA v1", "vqa2": "VQA v2", "pope": "POPE"}
    named["VQA accuracy"] = "VQA v1 and v2 with ten answers, official accuracy"
    for split in ("dev", "test"):
        for measure, value in about[split]["scores"].items():
            count, after = about[split]["counts"][measure], "(" if split == "dev" else "|"
            row = f"| {named[measure]} | {count:,} | {value:.1f} {after}"
            assert row in card, f"the card lacks the score of {name}: {row}"
            without = f"| {about[split]['without the picture'][measure]:.1f} |"
            assert without in card[card.index(row) :].partition("\n")[0], f"{row} without the picture"
