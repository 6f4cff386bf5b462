"""What an answer costs has a bound that no request raises."""

import asyncio
import contextlib
import importlib
import io
import pkgutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import captioner.serve
from captioner.pipeline import load
from captioner.results import Caption, Failure
from captioner.scans import MOST_SCANS
from captioner.serve import answers, connections
from captioner.serve.batches import Request
from captioner.serve.settings import BOUND, FIGURE_PIXELS, KEPT_PIXELS, Limits
from captioner.serve.uploads import UploadFailure
from captioner.serve.workers import Stopped, Wanted, Workers

from .conftest import EndlessDrawing, Running, Serve, problem_of, run
from .test_bad_requests import HEAD, PART


def drawn(size: tuple[int, int], mode: str = "RGB", form: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, size, 30_000 if mode.startswith("I") else "orange").save(buffer, form)
    return buffer.getvalue()


@pytest.mark.parametrize("size", [(3, 3000), (3000, 3), (3, 30_000), (30_000, 3), (1, 1), (1, 60_000)])
def test_figures_and_pages_of_thin_pictures(server: Running, size: tuple[int, int]) -> None:
    figure = server.post(("a.png", drawn(size)), format="png", max_length=50, min_length=12)
    assert figure.status_code == 200
    shown = Image.open(io.BytesIO(figure.content))
    assert max(shown.size) <= FIGURE_PIXELS
    assert min(shown.size) > 100
    page = server.post(("a.png", drawn(size)), format="html")
    assert page.status_code == 200
    [line] = server.post(("a.png", drawn(size)), viewer="true").json()["captions"]
    assert line["size"] == line["viewer"]["size"] == list(size)


def test_pictures_of_16_bits(server: Running) -> None:
    assert server.post(("a.tif", drawn((300, 200), "I;16", "TIFF")), format="png").status_code == 200


def test_the_most_that_can_be_asked_for(serve: Serve, tiny_model: Path, picture: bytes) -> None:
    files = [(f"{i}.png", picture) for i in range(16)]
    most = {"beam": 10, "n_best": 10, "max_length": 50, "min_length": 50}
    with serve(tiny_model) as running:
        lines = running.post(*files, **most).json()["captions"]
        assert len(lines) == 16
        assert {len(line["alternatives"]) for line in lines} == {9}
        assert {len(line["words"]) for line in lines} == {50}
        page = running.post(*files, **most, format="html")
        assert page.text.count("data:image/jpeg;base64,") == 16
    with serve(tiny_model, max_answer=1) as running:
        for fields in ({}, {"format": "html"}):
            problem = problem_of(running.post(*files, **most, **fields), 413)
            assert problem["type"].endswith(":answer-too-large")
            assert "1 MB" in problem["detail"]
        assert running.post(*files[:1]).status_code == 200
        running.wait_until(lambda running: running.service.held.bytes == 0)


def test_a_jpeg_file_of_very_many_scans(server: Running) -> None:
    """Each costs a pass over all pixels, and takes a few bytes: 20 MB would be hours."""
    buffer = io.BytesIO()
    Image.new("L", (300, 300), 128).save(buffer, "JPEG", progressive=True)
    whole = buffer.getvalue()
    scan = whole[whole.rindex(b"\xff\xda") : -2]
    problem = problem_of(server.post(("a.jpg", whole[:-2] + scan * 200 + b"\xff\xd9")), 422)
    assert problem["detail"].startswith("a.jpg: ")
    assert str(MOST_SCANS) in problem["detail"]
    assert server.post(("a.jpg", whole[:-2] + scan * 50 + b"\xff\xd9")).status_code == 200


@pytest.mark.parametrize("fields", [{"format": "html"}, {"format": "png"}, {"viewer": "true"}, {}])
def test_a_picture_is_decoded_once(
    server: Running, picture: bytes, fields: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = Image.open
    calls: list[object] = []

    def count(*arguments: Any, **options: Any) -> Image.Image:
        calls.append(arguments)
        return opened(*arguments, **options)

    monkeypatch.setattr(Image, "open", count)
    files = [("a.png", picture)] * (1 if fields.get("format") == "png" else 3)
    assert server.post(*files, **fields).status_code == 200
    assert len(calls) == len(files)


def test_what_is_shown_is_a_small_copy(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[Caption] = []
    figure = answers.figure

    def keep(caption: Caption, wanted: Wanted) -> bytes:
        shown.append(caption)
        return figure(caption, wanted)

    monkeypatch.setattr(answers, "figure", keep)
    assert server.post(("a.png", drawn((2000, 90))), format="png").status_code == 200
    assert shown[0].geometry.size == (2000, 90)
    assert max(shown[0].picture.size) == KEPT_PIXELS


def test_a_figure_stops_when_its_client_leaves(
    serve: Serve, tiny_model: Path, picture: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    figure = answers.figure
    begun, go_on, ended = threading.Event(), threading.Event(), []

    def slow(caption: Caption, wanted: Wanted) -> bytes:
        begun.set()
        assert go_on.wait(30)
        try:
            return figure(caption, wanted)
        except Stopped:
            ended.append(True)
            raise

    monkeypatch.setattr(answers, "figure", slow)
    body = PART + picture + b'\r\n--edge\r\nContent-Disposition: form-data; name="format"\r\n\r\npng\r\n--edge--\r\n'
    with serve(tiny_model) as running:
        leaving = [running.connect() for _ in range(5)]
        for connection in leaving:
            connection.sendall(f"{HEAD}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        assert begun.wait(30)
        running.wait_until(lambda running: sum(running.gate.batches) == 5)
        for connection in leaving:
            connection.close()
        running.wait_until(lambda running: running.service.batcher.places == 0)
        running.wait_until(lambda running: running.service.held.bytes == 0)
        go_on.set()
        assert running.post(("a.png", picture), format="png").status_code == 200
    assert ended == [True], "the others were never begun"


def test_a_figure_stops_after_its_time(
    serve: Serve, tiny_model: Path, picture: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawing = EndlessDrawing()
    with serve(tiny_model, timeout=1) as running:
        with monkeypatch.context() as patch:
            patch.setattr(answers, "figure", drawing)
            problem_of(running.post(("a.png", picture), format="png"), 503)
            assert drawing.stopped.wait(10)
        running.wait_until(lambda running: running.service.batcher.places == running.service.held.bytes == 0)


def test_drawing_asks_at_each_panel_and_page(tiny_model: Path, picture: bytes) -> None:
    class Counting(Wanted):
        def __init__(self, most: int) -> None:
            super().__init__()
            self.left = most

        def check(self) -> None:
            self.left -= 1
            if self.left < 0:
                raise Stopped

    captions = load(tiny_model, device="cpu").caption([picture] * 3)
    caption = captions[0]
    assert isinstance(caption, Caption)
    whole = Counting(1000)
    answers.figure(caption, whole)
    assert 1000 - whole.left > len(caption.words) + 1
    with pytest.raises(Stopped):
        answers.figure(caption, Counting(5))
    with pytest.raises(Stopped):
        answers.page([each for each in captions if isinstance(each, Caption)], 10**9, Counting(2))
    with pytest.raises(Stopped):
        answers.json_answer(captions, True, 10**9, Counting(2))


def test_workers_keep_no_work_that_nobody_waits_for() -> None:
    async def work() -> tuple[int, int]:
        workers, block, begun = Workers(1, "test"), threading.Event(), threading.Event()

        def wait() -> None:
            begun.set()
            block.wait(30)

        tasks = [asyncio.create_task(workers.run(wait)) for _ in range(50)]
        await asyncio.to_thread(begun.wait, 30)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        queued = workers._pool._work_queue.qsize()
        block.set()
        value = await workers.run(lambda: 7)
        workers.close()
        return queued, value

    assert run(work()) == (0, 7)


def asks_for_a_figure(picture: bytes) -> bytes:
    """A whole request."""
    body = PART + picture + b'\r\n--edge\r\nContent-Disposition: form-data; name="format"\r\n\r\npng\r\n--edge--\r\n'
    return f"{HEAD}Content-Length: {len(body)}\r\n\r\n".encode() + body


def test_a_client_that_does_not_read_is_let_go(
    serve: Serve, tiny_model: Path, picture: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its answer counts as held, and goes when its time is over."""
    monkeypatch.setattr(connections, "PATIENCE", 1.5)
    monkeypatch.setattr(answers, "figure", lambda *arguments: bytes(30_000_000))
    with serve(tiny_model) as running, running.connect() as connection:
        connection.sendall(asks_for_a_figure(picture))
        running.wait_until(lambda running: running.service.held.bytes == 30_000_000)
        assert running.service.batcher.places == 0
        running.wait_until(lambda running: running.service.held.bytes == 0)
        with contextlib.suppress(ConnectionResetError):
            got = 0
            while part := connection.recv(1_000_000):
                got += len(part)
            assert got < 30_000_000
        assert len(running.post(("a.png", picture), format="png").content) == 30_000_000


def test_an_answer_has_its_time(
    serve: Serve, tiny_model: Path, picture: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that is read, but slowly, does not keep its connection for ever."""
    monkeypatch.setattr(connections, "ANSWER_SECONDS", 1.0)
    monkeypatch.setattr(answers, "figure", lambda *arguments: bytes(30_000_000))
    with serve(tiny_model) as running, running.connect() as connection:
        connection.sendall(asks_for_a_figure(picture))
        got = 0
        with contextlib.suppress(ConnectionResetError):
            while part := connection.recv(20_000):
                got += len(part)
                time.sleep(0.01)
        assert 0 < got < 30_000_000
        running.wait_until(lambda running: running.service.held.bytes == 0)


def test_outcomes_are_captions_or_failures(serve: Serve, tiny_model: Path, picture: bytes, bomb: bytes) -> None:
    """What the service returns is aligned with the request, and says what is wrong and what to do."""
    from captioner.serve.uploads import Upload

    with serve(tiny_model, max_pixels=10_000) as running:
        service = running.service

        async def ask() -> Any:
            model = await service.models.get(None)
            uploads = [Upload("a.png", picture), Upload("b.txt", b"text"), Upload("c.png", bomb), Upload("", b"")]
            return await service.caption_all(uploads, model, Request(model.options()), keep_pictures=False)

        outcomes = asyncio.run_coroutine_threadsafe(ask(), _loop_of(running)).result(30)
    caption, *failures = outcomes
    assert isinstance(caption, Caption)
    assert caption.image == "a.png"
    assert all(isinstance(failure, UploadFailure) and isinstance(failure, Failure) for failure in failures)
    assert [failure.image for failure in failures] == ["b.txt", "c.png", ""]
    assert [str(failure).split(":")[0] for failure in failures] == ["b.txt", "c.png", "the picture"]
    assert [answers.problem_of(failure).status for failure in failures] == [422, 413, 422]
    assert answers.problem_of(Failure("x", "wrong", "mend it")).detail == "wrong; mend it"


def _loop_of(running: Running) -> asyncio.AbstractEventLoop:
    loop: asyncio.AbstractEventLoop = running.server.servers[0].get_loop()
    return loop


def test_the_bound_is_stated(capsys: pytest.CaptureFixture[str]) -> None:
    from captioner.serve import settings

    assert settings.__doc__ is not None
    assert importlib.import_module("captioner.cli").main(["serve", "--help"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    for value in (str(FIGURE_PIXELS), str(KEPT_PIXELS), "--max-answer", "--max-held", "--timeout"):
        assert value in shown
        assert value in BOUND
    for name in vars(Limits()):
        assert name in settings.__doc__ or name == "wait_ms", name


def test_no_torch() -> None:
    """The server's modules import no torch; what runs a model does, once there is one to run."""
    names = [f"captioner.serve.{module.name}" for module in pkgutil.iter_modules(captioner.serve.__path__)]
    assert "captioner.serve.service" in names
    program = f"import sys\nfor name in {names!r}: __import__(name)\nprint('torch' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout == "False\n"
