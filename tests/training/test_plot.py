"""Runs as a picture."""

import json
from pathlib import Path

import pytest
from PIL import Image

from captioner.training import plot
from captioner.training.plot import read_course


def test_a_course_is_what_the_log_says(scene_run: Path) -> None:
    course = read_course(scene_run)
    lines = [json.loads(line) for line in (scene_run / "log.jsonl").open()]
    ends = [line for line in lines if "dev" in line]
    assert [s["cider"] for s in course.scores] == [line["dev"]["cider"] for line in ends]
    assert course.hours[-1] == pytest.approx(sum(line["seconds"] for line in ends) / 3600)
    assert course.pictures_per_second == pytest.approx(600 / sum(line["seconds"] for line in ends))


def test_the_command_draws_and_tells(
    scene_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["plot", str(scene_run), str(scene_run), "--output", str(tmp_path / "a.png")])
    assert plot.main() == 0
    assert Image.open(tmp_path / "a.png").size[0] > 400
    assert "6 epochs of 100 pictures" in capsys.readouterr().out
    monkeypatch.setattr("sys.argv", ["plot", str(tmp_path), "--output", str(tmp_path / "a.png")])
    assert plot.main() == 2
    assert "no run with a whole epoch" in capsys.readouterr().err
