"""The slim installation: the steps of the Dockerfile in a new environment, without torch, matplotlib and scipy."""

import http.client
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
import venv
from pathlib import Path

import pytest

from captioner.data.scenes import dog_frisbee_park, write_scenes

ROOT = Path(__file__).resolve().parents[1]
PART = b'--edge\r\nContent-Disposition: form-data; name="file"; filename="dog.png"\r\n\r\n%b\r\n'
FORMAT = b'--edge\r\nContent-Disposition: form-data; name="format"\r\n\r\n%b\r\n--edge--\r\n'
DOCKERFILE = (ROOT / "Dockerfile").read_text()


def commands() -> list[list[str]]:
    """What the Dockerfile runs with pip."""
    found = [shlex.split(line) for line in re.findall(r"^RUN (pip .*)$", DOCKERFILE, re.MULTILINE)]
    assert len(found) == 2
    return found


pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory, stored_wheels: dict[str, str]) -> Path:
    """The folder of programs of a new environment."""
    folder = tmp_path_factory.mktemp("slim")
    source = folder / "source"
    for words in re.findall(r"^COPY (.*)$", DOCKERFILE, re.MULTILINE):
        *names, target = words.split()
        place = source / Path(target).relative_to("/source")
        for name in names:
            if (ROOT / name).is_dir():
                shutil.copytree(ROOT / name, place, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                place.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / name, place)
    venv.create(folder / "venv")
    environment = os.environ | stored_wheels | {"PIP_NO_COMPILE": "0"}  # pip reads 0 as "none"; most is never imported
    for pip, *words in commands():
        line = [sys.executable, "-m", pip, "--python", folder / "venv/bin/python", *words]
        done = subprocess.run(line, cwd=source, capture_output=True, text=True, check=False, env=environment)
        if re.search("No matching distribution|Could not fetch|Connection", done.stderr):
            pytest.skip(f"the package index is not to be had: {done.stderr[-200:]}")
        assert done.returncode == 0, done.stderr
    return folder / "venv/bin"


def start(installed: Path, *words: object, cwd: Path) -> subprocess.Popen[str]:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [installed / "captioner", *map(str, words)]
    return subprocess.Popen(
        command, cwd=cwd, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def run(installed: Path, *words: object, cwd: Path, code: int = 0) -> tuple[str, str]:
    process = start(installed, *words, cwd=cwd)
    out, errors = process.communicate(timeout=120)
    assert process.returncode == code, errors
    assert "Traceback" not in errors
    return out, errors


def ask(address: str, method: str, path: str, body: bytes | None = None) -> tuple[int, str]:
    """Status and body of an answer."""
    connection = http.client.HTTPConnection(address, timeout=60)
    connection.request(method, path, body, {"Content-Type": "multipart/form-data; boundary=edge"} if body else {})
    response = connection.getresponse()
    answer = response.status, response.read().decode()
    connection.close()
    return answer


def test_it_has_no_torch_matplotlib_and_scipy(installed: Path) -> None:
    code = "import importlib.util as u; print([n for n in ('torch', 'matplotlib', 'scipy') if u.find_spec(n)])"
    assert subprocess.check_output([installed / "python", "-c", code], text=True) == "[]\n"


def test_captions_scores_and_models(installed: Path, tmp_path: Path) -> None:
    write_scenes(tmp_path, count=1, dev=2, size=(96, 72))
    example = dog_frisbee_park()
    example.image.save(tmp_path / "dog.png")
    assert run(installed, "caption", "dog.png", cwd=tmp_path)[0] == f"{example.caption}\n"
    assert json.loads(run(installed, "caption", "dog.png", "--json", cwd=tmp_path)[0])["caption"] == example.caption
    run(installed, "caption", "dog.png", "--page", "words.html", cwd=tmp_path)
    assert example.caption in (tmp_path / "words.html").read_text()
    run(installed, "caption", "images", "--output", "results.jsonl", cwd=tmp_path)
    assert len((tmp_path / "results.jsonl").read_text().splitlines()) == 3
    scores = run(installed, "evaluate", "--annotations", "captions.jsonl", "--results", "results.jsonl", cwd=tmp_path)
    assert "CIDEr" in scores[0]
    assert "transformer" in run(installed, "models", cwd=tmp_path)[0]


@pytest.mark.parametrize(
    ("words", "remedy"),
    [
        (["caption", "dog.png", "--figure", "words.png"], "pip install matplotlib"),
        (["caption", "dog.png", "--explain", "gradient"], "pip install torch"),
        (["caption", "dog.png", "--backend", "torch"], "pip install torch"),
        (["train", "--recipe", "flickr8k-fast", "--data", "captions.jsonl", "--output", "run"], "pip install torch"),
        (["export", "default", "--output", "exported"], "pip install 'captioner[export]'"),
    ],
    ids=lambda words: "-".join(words) if isinstance(words, list) else "",
)
def test_what_needs_more_is_told_in_one_line(words: list[str], remedy: str, installed: Path, tmp_path: Path) -> None:
    write_scenes(tmp_path, count=2, dev=2, size=(96, 72))
    dog_frisbee_park().image.save(tmp_path / "dog.png")
    before = sorted(tmp_path.iterdir())
    out, errors = run(installed, *words, cwd=tmp_path, code=2)
    assert out == "" and len(errors.splitlines()) == 1
    assert errors.endswith(f"; {remedy}\n")
    assert sorted(tmp_path.iterdir()) == before


def test_the_server(installed: Path, tmp_path: Path) -> None:
    dog_frisbee_park().image.save(tmp_path / "dog.png")
    (words,) = re.findall(r"^CMD (\[.*\])$", DOCKERFILE, re.MULTILINE)
    server = start(installed, *json.loads(words), "--host", "127.0.0.1", "--port", 0, cwd=tmp_path)
    try:
        assert server.stderr is not None
        address = server.stderr.readline().split("http://")[1].split("/")[0]
        (health,) = re.findall(r"'GET', '(/[\w/]+)'", DOCKERFILE)
        for form, status, text in (("json", 200, dog_frisbee_park().caption), ("png", 422, "matplotlib")):
            body = PART % (tmp_path / "dog.png").read_bytes() + FORMAT % form.encode()
            assert ask(address, "POST", "/v1/captions", body)[0] == status
            assert text in ask(address, "POST", "/v1/captions", body)[1]
        deadline = time.monotonic() + 60
        assert 'data-format="png"' not in ask(address, "GET", "/")[1]
        while ask(address, "GET", health)[0] != 200:  # until the model is warm
            assert time.monotonic() < deadline
            time.sleep(0.1)
    finally:
        server.send_signal(signal.SIGTERM)
        server.communicate(timeout=60)
    assert server.returncode == 0


def test_all_versions_are_pinned() -> None:
    pinned = {normal(line.partition("==")[0]) for line in (ROOT / "constraints.txt").read_text().splitlines()}
    for name in ("slim", "slim-serve"):
        lines = (ROOT / "requirements" / f"{name}.txt").read_text().splitlines()
        wanted = {normal(line) for line in lines if line and not line.startswith("#")}
        assert wanted and wanted <= pinned


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
