"""On a CPU the commands that caption run the models that ship without torch."""

import http.client
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from captioner.data.scenes import dog_frisbee_park, write_scenes

ROOT = Path(__file__).resolve().parents[2]
HEAVY = ("torch", "torchvision", "safetensors", "scipy", "pycocotools")
DRAWING = ("matplotlib",)
SCRIPT = """
import sys
from captioner.cli import main
code = main(sys.argv[2:])
print(code, sorted(set(sys.argv[1].split(",")) & set(sys.modules)), file=sys.stderr)
"""


def start(*words: object, forbidden: tuple[str, ...]) -> subprocess.Popen[str]:
    """A command in a process of its own, which names at its end the forbidden modules that it imported."""
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, ",".join(forbidden), *map(str, words)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes")
    write_scenes(folder, count=1, dev=3, size=(96, 72))
    dog_frisbee_park().image.save(folder / "dog.png")
    return folder


@pytest.mark.parametrize(
    ("words", "forbidden"),
    [
        (["caption", "dog.png", "--device", "cpu"], HEAVY + DRAWING),
        (["caption", "dog.png", "--device", "cpu", "--json"], HEAVY + DRAWING),
        (["caption", "dog.png", "--device", "cpu", "--page", "words.html"], HEAVY + DRAWING),
        (["caption", "images", "--device", "cpu", "--output", "out.jsonl"], HEAVY + DRAWING),
        (["caption", "dog.png", "--device", "cpu", "--figure", "words.png"], HEAVY),
        (["evaluate", "--annotations", "captions.jsonl", "--images", "images", "--device", "cpu"], HEAVY + DRAWING),
        (["ground", "--data", ".", "--resamples", "40", "--device", "cpu"], ("torch", "torchvision", "matplotlib")),
        (["models"], HEAVY + DRAWING + ("numpy", "PIL")),
    ],
    ids=lambda words: " ".join(word for word in words if word.islower()),
)
def test_commands(words: list[str], forbidden: tuple[str, ...], scenes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(scenes)
    out, errors = start(*words, forbidden=forbidden).communicate(timeout=120)
    assert errors.splitlines()[-1:] == ["0 []"], errors
    assert out or "--output" in words


def test_serve(scenes: Path) -> None:
    pytest.importorskip("fastapi", reason="needs the extra 'serve', which is not installed")
    server = start("serve", "--port", "0", "--device", "cpu", forbidden=HEAVY + DRAWING)
    try:
        assert server.stderr is not None
        address = server.stderr.readline().split("http://")[1].split("/")[0]
        body = (
            b'--edge\r\nContent-Disposition: form-data; name="file"; filename="dog.png"\r\n\r\n'
            + (scenes / "dog.png").read_bytes()
            + b"\r\n--edge--\r\n"
        )
        connection = http.client.HTTPConnection(address, timeout=60)
        connection.request("POST", "/v1/captions", body, {"Content-Type": "multipart/form-data; boundary=edge"})
        response = connection.getresponse()
        assert response.status == 200 and dog_frisbee_park().caption in response.read().decode()
        connection.close()
    finally:
        server.send_signal(signal.SIGTERM)
        _, errors = server.communicate(timeout=60)
    assert errors.splitlines()[-1:] == ["0 []"], errors


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="counts threads as Linux shows them")
@pytest.mark.parametrize("asked", [None, "1"])
def test_numpy_starts_no_threads_for_a_caption(asked: str | None) -> None:
    code = (
        "import os; from captioner.commands.packages import import_numpy; import_numpy(); "
        "print(len(os.listdir('/proc/self/task')), os.environ.get('OPENBLAS_NUM_THREADS'))"
    )
    around = {
        name: value for name, value in os.environ.items() if name not in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS")
    }
    environment = around | ({} if asked is None else {"OPENBLAS_NUM_THREADS": asked})
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.split() == ["1", str(asked)]
