"""Runs as a picture."""

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

from captioner.cli import main
from captioner.training.plot import read_run


def test_a_course_is_what_the_log_says(scene_run: Path) -> None:
    course = read_run(scene_run)
    lines = [json.loads(line) for line in (scene_run / "log.jsonl").open()]
    ends = [line for line in lines if "dev" in line]
    assert [s["cider"] for s in course.scores] == [line["dev"]["cider"] for line in ends]
    assert course.hours[-1] == pytest.approx(sum(line["seconds"] for line in ends) / 3600)
    assert course.pictures_per_second == pytest.approx(600 / sum(line["seconds"] for line in ends))


def test_the_command_draws_and_summarises(scene_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plot", str(scene_run), str(scene_run), "--output", str(tmp_path / "a.png")]) == 0
    assert Image.open(tmp_path / "a.png").size[0] > 400
    assert "6 epochs of 100 pictures" in capsys.readouterr().out


_END = '{"step": 3, "seconds": 1, "train_loss": 2, "dev": %s}\n'


@pytest.mark.parametrize("damage", ["", "recipe", "log", "half a line", "no scores", "too large", "too deep"])
def test_a_folder_without_a_whole_run_is_one_line(
    damage: str, scene_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    run.mkdir()
    if damage:
        for name in ("recipe.json", "log.jsonl"):
            shutil.copy(scene_run / name, run)
    if damage == "recipe":
        (run / "recipe.json").write_text("[1")
    elif damage == "log":
        (run / "log.jsonl").write_text('{"step": 3, "dev": {"cider": "x"}, "seconds": 1, "train_loss": 2}\n')
    elif damage == "no scores":
        (run / "log.jsonl").write_text(_END % "{}")
    elif damage == "too large":
        (run / "recipe.json").write_text('{"training_pictures": Infinity}')
    elif damage == "too deep":
        (run / "log.jsonl").write_text("[" * 100_000 + "\n")
    elif damage:
        log = (run / "log.jsonl").read_text()
        (run / "log.jsonl").write_text('{"step": 1, "ep\n\x00\n' + log + '{"epoch": 7, "st')
        assert len(read_run(run).scores) == 6, "lines that were cut off are left out"
        return
    assert main(["plot", str(run), "--output", str(tmp_path / "a.png")]) == 2
    line = capsys.readouterr().err
    assert str(run) in line
    assert line.count("\n") == 1


def test_a_figure_is_not_written_onto_the_log(scene_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    link = scene_run / "link.png"
    link.symlink_to(scene_run / "log.jsonl")
    before = (scene_run / "log.jsonl").read_bytes()
    assert main(["plot", str(scene_run), "--output", str(link)]) == 2
    assert "link.png" in capsys.readouterr().err
    assert (scene_run / "log.jsonl").read_bytes() == before
    link.unlink()


def test_the_best_epoch_of_a_run_with_rehearsal_is_the_one_that_it_kept(tmp_path: Path) -> None:
    (tmp_path / "recipe.json").write_text('{"training_pictures": 9}')
    for cider, rest in ((0.9, 0.1), (0.8, 0.7)):
        with (tmp_path / "log.jsonl").open("a") as log:
            log.write(_END % json.dumps({"cider": cider, "rest_cider": rest}))
    assert "best dev cider 0.800, rest_cider 0.700" in read_run(tmp_path).summary()
