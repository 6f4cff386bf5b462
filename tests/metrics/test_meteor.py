"""METEOR through the official Java program, on the words of this project's tokeniser."""

import json
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from captioner.errors import OptionError
from captioner.metrics.meteor import java_score, missing

from .test_gold import scored_sets


@pytest.mark.slow
@pytest.mark.skipif(missing() is not None, reason=f"METEOR needs {missing()}")
def test_meteor_is_the_official_figure(gold: Path) -> None:
    official = json.loads((gold / "scores.json").read_text())["coco500_human"]["scores"]["METEOR"]
    each_official = json.loads((gold / "scores_per_image_500.json").read_text())["per_image"]
    total, each = java_score("METEOR", *scored_sets(gold, "coco500_human"))
    assert total == pytest.approx(official, abs=1e-9, rel=0)
    assert len(each) == 500
    for key, value in each.items():
        assert value == pytest.approx(each_official[str(key)]["METEOR"], abs=1e-9, rel=0), key


class PretendSpice:
    """Says what it fetches on standard output, as the real one does, and scores what has a word in common."""

    def __init__(self) -> None:
        print("Downloading a model")

    def compute_score(self, truth: dict[Any, list[str]], result: dict[Any, list[str]]) -> tuple[float, list[Any]]:
        shared = [bool({*result[key][0].split()} & {*" ".join(truth[key]).split()}) for key in truth]
        return sum(shared) / len(shared), [{"All": {"f": float(one)}} for one in shared]


class SpiceOffLine:
    def __init__(self) -> None:
        raise OSError("Name or service not known")


@pytest.fixture
def pretend(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    module = types.ModuleType("pycocoevalcap.spice.spice")
    monkeypatch.setitem(sys.modules, "pycocoevalcap.spice.spice", module)
    monkeypatch.setattr("importlib.import_module", lambda name: sys.modules[name])
    monkeypatch.setattr("captioner.metrics.meteor.missing", lambda: None)
    return module


def test_programs_get_words_and_keep_standard_output_clean(
    pretend: types.ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    pretend.Spice = PretendSpice  # type: ignore[attr-defined]
    total, each = java_score("SPICE", {1: "A DOG.", 2: "a cat"}, {1: ["the dog"], 2: ["two birds"]})
    assert (total, each) == (0.5, {1: 1.0, 2: 0.0})
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "Downloading a model\n")


def test_a_program_that_fails_gets_one_line(pretend: types.ModuleType) -> None:
    pretend.Spice = SpiceOffLine  # type: ignore[attr-defined]
    with pytest.raises(OptionError, match=r"SPICE.*Name or service not known"):
        java_score("SPICE", {1: "a"}, {1: ["a"]})
