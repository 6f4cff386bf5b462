"""``captioner caption`` with --frames, --heads and --contrast."""

import json
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from captioner.commands.console import ReaderGone
from tests.commands.conftest import Command


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    frames = [Image.effect_noise((32, 24), 20 * i + 10).convert("RGB") for i in range(6)]
    frames[0].save(tmp_path / "clip.gif", save_all=True, append_images=frames[1:], duration=100)
    return tmp_path / "clip.gif"


def test_a_clip_gets_one_caption_a_filmstrip_and_a_page(command: Command, clip: Path, tmp_path: Path) -> None:
    run = command("caption", clip, "--frames", 4, "--json", "--figure", "strip.png", "--page", "strip.html")
    assert (run.code, run.err) == (0, "")
    found = json.loads(run.out)
    assert found["frames"] == 4 and found["grid"] == [8, 32] and found["image"] == str(clip)
    assert sum(found["words"][0]["frames"]) == pytest.approx(1, abs=1e-3)
    assert (tmp_path / "strip.png").exists() and "application/json" in (tmp_path / "strip.html").read_text()
    run = command("caption", clip, tmp_path / "nowhere.gif", "--frames", 4)
    assert run.code == 1 and "nowhere.gif" in run.err and run.out.startswith(f"{clip}\t")
    assert command("caption", tmp_path / "nowhere.gif", "--frames", 4).code == 2


def test_a_request_to_stop_ends_it_in_order(command: Command, clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("captioner.commands.caption_views._caption", lambda *_: signal.raise_signal(signal.SIGTERM))
    assert command("caption", clip, "--frames", 2).code == 128 + signal.SIGTERM


def test_heads_and_contrast_are_drawn(command: Command, make_picture: Callable[..., Path], tmp_path: Path) -> None:
    path = make_picture()
    word = command("caption", path).out.split()[0]
    other = "cat" if word != "cat" else "dog"
    for option, value in (("--heads", word), ("--contrast", f"{word}={other}")):
        run = command("caption", path, option, value, "--figure", f"view{option}.png", "--page", f"view{option}.html")
        assert (run.err, run.code) == ("", 0)
        assert (tmp_path / f"view{option}.png").exists()
        assert (tmp_path / f"view{option}.html").read_text().count('<script type="application/json">') == 2


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--heads", "nowhere"], "--figure words.png"),
        (["--contrast", "dog=cat"], "--figure words.png"),
        (["--heads", "nowhere", "--page", "a.html"], "nowhere"),
        (["--contrast", "dog"], "'dog'"),
        (["--contrast", "dog=dog"], "'dog=dog'"),
        (["--contrast", "a=b", "--heads", "a"], "one at a time"),
        (["--frames", "2", "--figure", "a.txt"], "a.txt"),
        (["--heads", "a", "--page", "a.png"], "a.png"),
        (["--frames", "2", "--heads", "a"], "--heads"),
        (["--frames", "2", "--output", "x.jsonl"], "--output"),
        (["--frames", "0"], "0"),
        (["--frames", "2", "--explain", "occlusion"], "occlusion"),
    ],
)
def test_mistakes_get_one_line(
    options: list[str], named: str, command: Command, make_picture: Callable[..., Path]
) -> None:
    run = command("caption", make_picture(), *options)
    assert run.code == 2 and named in run.err and len(run.err.splitlines()) == 1


def test_no_output_is_written_onto_an_input(command: Command, clip: Path) -> None:
    before = clip.read_bytes()
    run = command("caption", clip, "--frames", 2, "--figure", clip)
    assert run.code == 2 and clip.read_bytes() == before


def test_views_are_written_when_nobody_reads_their_captions(
    command: Command, make_picture: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_picture()
    word = command("caption", path).out.split()[0]

    def gone(*_: object, **__: object) -> None:
        raise ReaderGone

    monkeypatch.setattr("captioner.commands.caption_views.print", gone, raising=False)
    assert command("caption", path, "--heads", word, "--page", "heads.html").code == 0
    assert (tmp_path / "heads.html").exists()
