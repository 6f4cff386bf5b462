"""Figures name captioner as the program that made them: a run replaces them, and no file of others."""

from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from tests.commands.conftest import Command

MakePicture = Callable[..., Path]


@pytest.mark.parametrize("ending", ["png", "jpg", "webp", "tif", "svg", "pdf"])
def test_a_figure_is_replaced_and_a_picture_of_others_stays(
    ending: str, command: Command, make_picture: MakePicture, tmp_path: Path
) -> None:
    figure = tmp_path / f"words.{ending}"
    for _ in range(2):
        assert command("caption", make_picture(), "--figure", figure).code == 0
    mine = tmp_path / f"mine.{ending}"
    if ending in ("svg", "pdf"):
        mine.write_text("a drawing of others")
    else:
        Image.new("RGB", (64, 48), "red").save(mine)
    before = mine.read_bytes()
    run = command("caption", make_picture(), "--figure", mine)
    assert run.code == 2 and mine.name in run.err and len(run.err.splitlines()) == 1
    assert mine.read_bytes() == before


def test_figures_in_a_folder_are_no_pictures(command: Command, make_picture: MakePicture, tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    make_picture("photos/a.png")
    assert command("caption", "photos/a.png", "--figure", folder / "words.png").code == 0
    run = command("caption", folder)
    assert run.code == 0 and "words.png" not in run.out
    assert "1 figure left out" in run.err
