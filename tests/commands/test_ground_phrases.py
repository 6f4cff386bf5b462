"""``captioner ground --phrase-boxes``."""

import json
from pathlib import Path
from typing import Any

import pytest

from captioner.cli import main
from captioner.data.readers import read
from captioner.data.scenes import write_scenes
from captioner.grounding.phrase_scores import MEASURES
from captioner.grounding.pointing import BASELINES
from captioner.tokenizer.ptb import tokenize


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Scenes, and ``phrases.json``: a phrase of one word for every thing; animals where the word is dog or cat."""
    folder = tmp_path_factory.mktemp("scenes")
    write_scenes(folder, count=1, dev=4, first_seed=24, size=(96, 72))
    found: dict[str, Any] = {}
    for record in read(folder / "captions.jsonl"):
        words = tokenize(record.captions[0])
        phrases = [
            {
                "start": w,
                "end": w + 1,
                "entity": str(w),
                "types": ["animals" if words[w] in ("dog", "cat") else "other"],
            }
            for w in record.boxes[0]
        ]
        boxes = {str(w): [[1, 1, 50, 100]] for w in record.boxes[0]}
        sentence = {"words": words, "phrases": phrases}
        found[Path(str(record.image)).name] = {"width": 100, "height": 100, "boxes": boxes, "sentences": [sentence]}
    (folder / "phrases.json").write_text(json.dumps(found))
    return folder


def test_phrases_are_measured_by_type_and_words_by_class(
    either_model: Path, scenes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["ground", "--data", str(scenes), "--model", str(either_model), "--resamples", "40"]
    arguments += ["--phrase-boxes", str(scenes / "phrases.json")]
    assert main([*arguments, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["all"]["pictures"] == 4
    assert sum(scores["phrases"] for scores in found["types"].values()) == found["all"]["phrases"] > 4
    for measure in MEASURES:
        assert found["all"][measure].keys() == {"maps", *BASELINES}
    assert found["all"]["mass"]["even"]["value"] == pytest.approx(0.5)  # each box is the left half
    assert found["off_grid"]["things"]["words"] == found["all"]["phrases"]
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    for words in ("points at it", "another word's map", "correctness", "other", "no such place"):
        assert words in printed


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--masks"], "--masks"),
        (["--faithfulness"], "--faithfulness"),
        (["--captions", "generated"], "--captions references"),
        (["--plain", "--backend", "onnx"], "--plain runs on torch"),
        (["--split", "test"], "test"),
        (["--phrase-boxes", "no.json"], "no.json"),
    ],
)
def test_what_is_of_objects_is_refused(
    more: list[str], said: str, tiny_model: Path, scenes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["ground", "--data", str(scenes), "--model", str(tiny_model)]
    assert main([*arguments, "--phrase-boxes", str(scenes / "phrases.json"), *more]) == 2
    assert said in capsys.readouterr().err
