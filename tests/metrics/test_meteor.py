"""METEOR through the official Java program, on the words of this project's tokeniser."""

import json
from pathlib import Path

import pytest

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
