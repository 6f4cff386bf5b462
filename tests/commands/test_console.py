"""Standard streams that are closed, full, or of another encoding, readers that leave, and signals."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from captioner.commands.console import exit_code

MakePicture = Callable[..., Path]
# The commands run in processes of their own. A model that says the same of each picture keeps them quick.
PROGRAM = """
import sys, time
from pathlib import Path
import numpy as np
from captioner import cli, pipeline, shipped
from captioner.image import Geometry
from captioner.results import Caption, Word

class Model:
    max_length = 24

    def caption_all(self, pictures, **_):
        for picture in pictures:
            time.sleep(0.1)
            words = tuple(Word("dog", 0.5, np.full((2, 2), 0.25, np.float32)) for _ in range(20))
            geometry = Geometry(size=(40, 30), side=64, grid=(2, 2))
            yield Caption(text="dog", words=words, score=-1.0, finished=True, image=str(picture), model="tiny",
                          geometry=geometry, source=picture)

shipped.shipped_models = lambda: {"default": Path(sys.argv[1])}
pipeline.load = lambda *_, **__: Model()
sys.exit(cli.main(sys.argv[2:]))
"""


@pytest.fixture
def shell(tmp_path: Path, tiny_model: Path) -> Callable[..., "subprocess.CompletedProcess[bytes]"]:
    """Run a line of bash in which ``$captioner`` is the program."""
    (tmp_path / "program.py").write_text(PROGRAM)

    def run(line: str, **environment: str) -> "subprocess.CompletedProcess[bytes]":
        program = f"'{sys.executable}' program.py '{tiny_model}'"
        return subprocess.run(
            ["bash", "-c", line.replace("$captioner", program)],
            cwd=tmp_path,
            capture_output=True,
            env={**os.environ, **environment},
        )

    return run


Shell = Callable[..., "subprocess.CompletedProcess[bytes]"]


def test_characters_that_the_stream_cannot_hold_are_escaped(shell: Shell, make_picture: MakePicture) -> None:
    for i, name in enumerate(("b.png", "собака.png", "c.png")):
        make_picture(name, seed=i)
    run = shell("$captioner caption b.png собака.png c.png нет.png", PYTHONIOENCODING="cp1252")
    lines = run.stdout.decode("ascii").splitlines()
    escaped = "собака".encode("ascii", "backslashreplace").decode()
    assert [line.partition("\t")[0] for line in lines] == ["b.png", f"{escaped}.png", "c.png"]
    assert run.returncode == 1
    assert "нет".encode("ascii", "backslashreplace") + b".png" in run.stderr
    assert run.stderr.count(b"\n") == 1


def test_a_closed_stream_is_none(shell: Shell, make_picture: MakePicture, tmp_path: Path) -> None:
    make_picture("b.png")
    run = shell("$captioner caption b.png --output x.txt >&-; echo $? >&2")
    assert run.stderr.decode().splitlines() == ["x.txt: 1 caption", "0"]
    assert (tmp_path / "x.txt").read_text().startswith("b.png\t")
    assert shell("$captioner models >&-; echo $? >&2").stderr == b"0\n"
    assert shell("$captioner --help >&-; echo $? >&2").stderr == b"0\n"
    # The results file must not become the closed descriptor, into which libraries may print.
    run = shell("$captioner caption b.png missing.png --output y.txt >&- 2>&- <&-; echo $?")
    assert run.stdout == b"1\n"
    assert (tmp_path / "y.txt").read_text().count("\n") == 1
    run = shell("$captioner caption missing.png 2>&-; echo $?")
    assert (run.stdout, run.stderr) == (b"2\n", b"")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")  # noqa: PTH110
def test_a_full_disk_behind_standard_output_is_one_line(shell: Shell, make_picture: MakePicture) -> None:
    make_picture("b.png")
    for line, unbuffered in (("caption b.png", ""), ("models", ""), ("models", "1"), ("--help", "")):
        run = shell(f"$captioner {line} > /dev/full", PYTHONUNBUFFERED=unbuffered)
        assert run.returncode == 2, line
        assert run.stderr.count(b"\n") == 1
        assert b"standard output" in run.stderr
        assert os.strerror(28).encode() in run.stderr
    run = shell("$captioner caption b.png missing.png 2> /dev/full")
    assert (run.returncode, run.stdout.count(b"\n")) == (1, 1)


def test_a_results_file_on_a_full_disk_keeps_its_whole_lines(
    shell: Shell, make_picture: MakePicture, tmp_path: Path
) -> None:
    for i in range(8):
        make_picture(f"photos/{i}.png", seed=i)
    run = shell("ulimit -f 4; $captioner caption photos --output c.jsonl")  # kilobytes
    assert run.returncode == 1
    assert b"c.jsonl: cannot be written" in run.stderr
    assert b"Traceback" not in run.stderr
    content = (tmp_path / "c.jsonl").read_bytes()
    assert 0 < content.count(b"\n") < 8
    assert content.endswith(b"\n")
    assert shell("$captioner caption photos --output c.jsonl").returncode == 0
    assert (tmp_path / "c.jsonl").read_bytes().startswith(content)
    assert (tmp_path / "c.jsonl").read_bytes().count(b"\n") == 8


def test_a_reader_that_leaves_ends_the_run_well_and_files_are_written(
    shell: Shell, make_picture: MakePicture, tmp_path: Path
) -> None:
    for i in range(3):
        make_picture(f"photos/{i}.png", seed=i)
    for line in ("models", "caption photos --json"):
        run = shell(f"$captioner {line} | true; exit ${{PIPESTATUS[0]}}")
        assert (run.returncode, run.stderr) == (0, b""), line
    run = shell("$captioner caption photos --page all.html | true; exit ${PIPESTATUS[0]}")
    assert (run.returncode, run.stderr) == (0, b"")
    assert (tmp_path / "all.html").read_text().count("<section>") == 3


def test_a_signal_leaves_no_partial_files(make_picture: MakePicture, tiny_model: Path, tmp_path: Path) -> None:
    for i in range(20):
        make_picture(f"photos/{i:02}.png", seed=i)
    (tmp_path / "program.py").write_text(PROGRAM)
    page = tmp_path / "all.html"
    old = '<main class="cv-here">the old one</main>'
    page.write_text(old)
    line = [sys.executable, "program.py", str(tiny_model), "caption", "photos", "--page", "all.html"]
    for number, code in ((signal.SIGTERM, 128 + signal.SIGTERM), (signal.SIGKILL, -signal.SIGKILL)):
        with subprocess.Popen(line, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
            assert process.stdout is not None
            process.stdout.readline()  # it is at work
            process.send_signal(number)
            assert process.wait(60) == code
        assert page.read_text() == old
        assert bool(list(tmp_path.rglob(".captioner-*"))) == (number == signal.SIGKILL)
    # The next run removes what the killed one left.
    assert subprocess.run([*line[:-3], "photos/00.png", "--page", "all.html"], cwd=tmp_path).returncode == 0
    assert not list(tmp_path.rglob(".captioner-*"))
    assert page.read_text() != old


@pytest.mark.parametrize("error", [ValueError("broken"), ModuleNotFoundError("no such", name="json.nothing")])
def test_a_fault_in_a_group_of_processes_is_printed(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> int:
        raise error

    monkeypatch.setattr("captioner.commands.console.in_group", lambda: True)
    assert exit_code(fail) == 1
    assert "Traceback" in capsys.readouterr().err
    monkeypatch.setattr("captioner.commands.console.in_group", lambda: False)
    with pytest.raises(type(error)):
        exit_code(fail)


def test_a_package_that_is_missing_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> int:
        raise ModuleNotFoundError("no scipy", name="scipy.stats")

    monkeypatch.setattr("captioner.commands.packages.is_installed", lambda module: False)
    assert exit_code(fail) == 2
    assert capsys.readouterr().err.endswith("; pip install scipy\n")
