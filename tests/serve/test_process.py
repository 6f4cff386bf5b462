"""``captioner serve`` as a process: how it starts, what it refuses, and how it ends."""

import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest

from captioner import cli
from captioner.errors import OptionError
from captioner.serve.guard import hosts_of, is_loopback
from captioner.serve.server import listen
from captioner.serve.settings import Limits

from .conftest import PLAIN, read_all

PROGRAM = [sys.executable, "-m", "captioner", "serve", "--port", "0"]

SLOW = """
import sys, time
from captioner.pipeline import Captioner
from captioner.cli import main
captioned = Captioner.caption_prepared
def slowly(self, ready, **options):
    time.sleep(0.4)
    return captioned(self, ready, **options)
Captioner.caption_prepared = slowly
sys.exit(main(["serve", "--port", "0", *sys.argv[1:]]))
"""


@contextmanager
def process(*command: object) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A process that serves, and its address."""
    with subprocess.Popen([str(part) for part in command], stderr=subprocess.PIPE, text=True) as running:
        assert running.stderr is not None
        watchdog = threading.Timer(300, running.kill)
        watchdog.start()
        try:
            line = running.stderr.readline()
            found = re.fullmatch(r"captioner: serving on (http://127\.0\.0\.1:\d+)/ \(Ctrl-C stops\)\n", line)
            assert found, line + running.stderr.read()
            yield running, found[1]
        finally:
            running.kill()
            watchdog.cancel()


@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_once_its_work_is_done(quick_model: Path, picture: bytes, ending: signal.Signals) -> None:
    with process(sys.executable, "-c", SLOW, "--model", quick_model, "--batch", 2) as (running, url):

        def post(number: int) -> int:
            files = {"file": (f"{number}.png", picture)}
            return httpx2.post(f"{url}/v1/captions", files=files, timeout=60, **PLAIN).status_code

        with ThreadPoolExecutor(6) as pool:
            assert pool.submit(post, 0).result() == 200
            answers = [pool.submit(post, number) for number in range(6)]  # three batches: more than a second
            answers[0].result()
            running.send_signal(ending)
            assert [answer.result() for answer in answers] == [200] * 6
        assert running.wait(30) == 0
        assert running.stderr is not None
        assert running.stderr.read() == ""


def test_a_client_that_crashes_leaves_no_trace(quick_model: Path, picture: bytes) -> None:
    """Nothing is printed for what clients do wrong; the log of requests is printed when asked for."""
    with process(*PROGRAM, "--model", quick_model, "--access-log") as (running, url):
        place = url.removeprefix("http://").split(":")
        with socket.create_connection((place[0], int(place[1]))) as connection:
            connection.sendall(b"POST /v1/captions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99\r\n\r\nab")
        assert httpx2.get(f"{url}/health/live", **PLAIN).status_code == 200
        running.send_signal(signal.SIGTERM)
        assert running.wait(30) == 0


def test_a_signal_during_an_upload(quick_model: Path) -> None:
    """Its client is told, the server does not wait for the rest, and nothing is printed."""
    with process(*PROGRAM, "--model", quick_model, "--device", "cpu") as (running, url):
        place = url.removeprefix("http://").split(":")
        with socket.create_connection((place[0], int(place[1])), timeout=60) as connection:
            connection.sendall(
                b"POST /v1/captions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9000\r\n"
                b"Content-Type: multipart/form-data; boundary=edge\r\nExpect: 100-continue\r\n\r\n"
            )
            assert connection.recv(1000).startswith(b"HTTP/1.1 100 ")  # the upload has begun
            running.send_signal(signal.SIGTERM)
            assert read_all(connection).startswith(b"HTTP/1.1 503 ")
        assert running.wait(30) == 0
        assert running.stderr is not None
        assert running.stderr.read() == ""


def test_an_address_of_version_6() -> None:
    try:
        sock = listen("::1", 0)
    except OptionError:
        pytest.skip("this machine has no IPv6")
    with sock:
        port = sock.getsockname()[1]
        with socket.create_connection(("::1", port), timeout=10):
            pass
        with pytest.raises(OptionError, match=str(port)):
            listen("::1", port)
    assert hosts_of("::1", ()) == {"localhost", "127.0.0.1", "[::1]"}
    assert hosts_of("127.0.0.1", (), name="127.1") == {"localhost", "127.0.0.1", "[::1]", "127.1"}
    assert hosts_of("127.0.0.1", (), name="LOCALHOST.") == {"localhost", "127.0.0.1", "[::1]", "localhost."}
    assert hosts_of("0.0.0.0", (), name="captions.example") is None
    for one in ("localhost", "LOCALHOST.", "ip6-localhost", "127.1", "127.0.0.7", "::1"):
        assert is_loopback(one), "pages of its other ports may not post"
    for one in ("captions.example", "10.1", "0.0.0.0", "", "127.1.example", "\ud800"):
        assert not is_loopback(one)
    assert hosts_of("0.0.0.0", ["localhost"]) == {"localhost", "127.0.0.1", "[::1]", "0.0.0.0"}  # as in a container
    assert "[2001:db8::1]" in (hosts_of("2001:db8::1", ("captions.example",)) or ())


Refused = Callable[..., str]


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Refused:
    """The one line with which ``captioner serve`` refuses to start."""

    def run(*arguments: object) -> str:
        assert cli.main(["serve", *map(str, arguments)]) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        assert captured.err.startswith("captioner: ")
        assert captured.err.count("\n") == 1
        return captured.err

    return run


def test_what_cannot_be_served(refused: Refused, tiny_model: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert f"--port {port} is in use: choose another" in refused("--port", port, "--model", tiny_model)
    assert "--host is empty" in refused("--host", "")
    assert "--port must be from 0 to 65535, not 70000" in refused("--port", 70000)
    assert "--host '192.0.2.1' is no address of this machine" in refused("--host", "192.0.2.1", "--port", 0)
    assert "--host 'no such name' is no address" in refused("--host", "no such name")
    assert "nowhere.safetensors: no such model file" in refused("--port", 0, "--model", "nowhere.safetensors")
    assert "no model is called 'bset'" in refused("--port", 0, "--model", "bset")
    (tmp_path / "bad.safetensors").write_bytes(b"no model")
    assert "not a whole safetensors file" in refused("--port", 0, "--model", tmp_path / "bad.safetensors")
    assert "'gpu'" in refused("--port", 0, "--model", tiny_model, "--device", "gpu")
    assert "--batch must be at least 1, not 0" in refused("--batch", 0)
    assert "--max-files 99 is more than --queue 64" in refused("--max-files", 99)


def test_a_port_below_1024_without_the_right(refused: Refused, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbid(*arguments: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("socket.socket.bind", forbid)
    assert "--port 80: not permitted; ports from 1024 on are" in refused("--port", 80)


def test_what_is_not_installed_is_named(refused: Refused, monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "fastapi" else found(name))
    line = refused()
    assert "needs fastapi" in line
    assert "pip install 'captioner[serve]'" in line


def test_limits_are_checked_together() -> None:
    assert Limits(wait_ms=0).wait_ms == 0
    with pytest.raises(OptionError, match=r"--max-upload 70.*--max-request 64"):
        Limits(max_upload=70)
    with pytest.raises(OptionError, match=r"--max-request 300.*--max-held 256"):
        Limits(max_request=300)
    with pytest.raises(OptionError, match="--timeout must be at least 1, not -1"):
        Limits(timeout=-1)


def test_help_needs_no_server() -> None:
    program = "from captioner.cli import main\ntry: main(['serve', '--help'])\nexcept SystemExit: pass"
    report = "\nimport sys; print(*{name.partition('.')[0] for name in sys.modules}, file=sys.stderr)"
    run = subprocess.run([sys.executable, "-c", program + report], capture_output=True, text=True, check=True)
    assert "--max-upload N" in run.stdout
    assert set(run.stderr.split()).isdisjoint({"torch", "fastapi", "uvicorn", "pydantic"})
