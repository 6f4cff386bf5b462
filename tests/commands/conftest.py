"""What the tests of commands share: a command line that runs in this process, and a folder of pictures."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from captioner import cli

PROGRAM = [sys.executable, "-m", "captioner"]


@dataclass
class Run:
    """What a command line returned and printed."""

    code: int
    out: str
    err: str


Command = Callable[..., Run]


@pytest.fixture
def command(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> Command:
    """Run ``captioner`` in this process and in the test's folder, where the tiny model is the only one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("captioner.shipped.shipped_models", lambda: {"default": tiny_model})

    def run(*arguments: object) -> Run:
        capsys.readouterr()
        code = cli.main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        return Run(code, captured.out, captured.err)

    return run


@pytest.fixture
def folder(make_picture: Callable[..., Path]) -> Path:
    """Four pictures, one of them in a subfolder; a broken one, and files that are no pictures."""
    for i, name in enumerate(("a.png", "b.jpg", "sub/a.png", "z.PNG")):
        path = make_picture(f"photos/{name}", seed=i)
    photos = path.parent
    (photos / "broken.jpg").write_bytes(b"\xff\xd8 no picture")
    (photos / "notes.txt").write_text("notes")
    (photos / ".hidden.png").write_bytes((photos / "a.png").read_bytes())
    return photos
