"""``captioner review``: what it refuses before it serves. The page itself: tests/serve/test_review.py."""

import json
import signal
import subprocess
import urllib.request
from pathlib import Path

import pytest

from .conftest import PROGRAM, Command

pytest.importorskip("fastapi", reason="needs the extra 'serve', which is not installed")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["photos", "--output", "edits.csv"], ".jsonl"),
        (["photos", "--output", "photos"], ".jsonl"),
        (["nowhere", "--output", "edits.jsonl"], "nowhere"),
        (["photos", "--output", "rows.jsonl"], "line 1"),
        (["photos", "--output", "edits.jsonl", "--port", "70000"], "70000"),
        (["photos", "--output", "edits.jsonl", "--model", "nothing"], "nothing"),
        (["photos/a.png", "--output", "link.jsonl"], "an input"),
    ],
)
def test_bad_input_is_one_line(command: Command, folder: Path, arguments: list[str], named: str) -> None:
    Path("rows.jsonl").write_text('{"image": "a.png", "caption": "a dog"}\n')
    Path("link.jsonl").symlink_to(folder / "a.png")
    before = (folder / "a.png").read_bytes()
    found = command("review", *arguments)
    assert found.code == 2
    assert named in found.err.splitlines()[-1]
    assert (folder / "a.png").read_bytes() == before
    assert not Path("edits.jsonl").exists()


def test_a_kill_loses_no_decision(folder: Path, quick_model: Path, tmp_path: Path) -> None:
    output = tmp_path / "edits.jsonl"
    words = [*PROGRAM, "review", folder, "--output", output, "--port", "0", "--model", quick_model]
    running = subprocess.Popen(list(map(str, words)), stderr=subprocess.PIPE, text=True)
    try:
        assert running.stderr is not None
        line = next(line for line in running.stderr if "review on" in line)
        url = line.split(" on ")[1].split()[0]

        def put(picture: int, caption: str) -> None:
            with urllib.request.urlopen(f"{url}api/pictures/{picture}", timeout=60) as answer:
                key = json.load(answer)["key"]
            body = json.dumps({"key": key, "status": "edited", "caption": caption}).encode()
            headers = {"Content-Type": "application/json"}
            request = urllib.request.Request(f"{url}api/pictures/{picture}", body, headers, method="PUT")
            with urllib.request.urlopen(request, timeout=60) as answer:
                assert json.load(answer)["progress"]["edited"] == picture + 1

        put(0, "a dog")
        put(1, "a cat")
    finally:
        running.send_signal(signal.SIGKILL)
        running.communicate(timeout=60)
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    assert [row["caption"] for row in rows] == ["a dog", "a cat"]
