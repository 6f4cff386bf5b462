"""A server with the tiny model: in this process, on a real port, so that a test can hold its model up."""

import asyncio
import io
import socket
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import httpx2
import pytest
from PIL import Image

pytest.importorskip("fastapi", reason="needs the extra 'serve', which is not installed")
pytest.importorskip("uvicorn", reason="needs the extra 'serve', which is not installed")

from captioner.data.writers import EditsFile
from captioner.pipeline import Captioner, load
from captioner.serve.app import create_app
from captioner.serve.connections import Connections
from captioner.serve.guard import hosts_of
from captioner.serve.models import Models
from captioner.serve.review import Review, create_review
from captioner.serve.server import listen, make_server
from captioner.serve.server import serve as serve_on
from captioner.serve.service import Service
from captioner.serve.settings import Limits
from captioner.serve.workers import Stopped, Wanted

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

T = TypeVar("T")
Problem = dict[str, Any]
PATIENCE = 60_000  # milliseconds: the machine may be busy
PLAIN: dict[str, Any] = {"trust_env": False, "verify": False}  # of HTTP: loading certificates would take longest


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run work in a thread of its own: the browser of other tests occupies this one's loop."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, work).result()  # noqa: TID251


class EndlessDrawing:
    """In place of a figure: it ends when nobody waits for it any more."""

    def __init__(self) -> None:
        self.stopped = threading.Event()

    def __call__(self, shown: object, wanted: Wanted) -> bytes:
        while True:
            try:
                wanted.check()
            except Stopped:
                self.stopped.set()
                raise
            time.sleep(0.01)


@dataclass
class Gate:
    """Stands before the model: while it is closed, a batch waits; it knows the batches that came."""

    batches: list[int] = field(default_factory=list)
    _open: threading.Event = field(default_factory=threading.Event)
    _came: threading.Condition = field(default_factory=threading.Condition)

    def close(self) -> None:
        self._open.clear()

    def open(self) -> None:
        self._open.set()

    def pass_through(self, pictures: int) -> None:
        with self._came:
            self.batches.append(pictures)
            self._came.notify_all()
        assert self._open.wait(30), "the test never opened the gate"

    def wait_for_batch(self, count: int = 1) -> None:
        """Until so many batches have come."""
        with self._came:
            assert self._came.wait_for(lambda: len(self.batches) >= count, 30)


@dataclass
class Running:
    """A server that runs in a thread of this process."""

    url: str
    address: tuple[str, int]
    service: Service
    server: Any
    thread: threading.Thread
    gate: Gate

    def client(self, **options: Any) -> httpx2.Client:
        return httpx2.Client(base_url=self.url, timeout=30, **PLAIN, **options)

    def post(self, *files: tuple[str, bytes], **fields: Any) -> httpx2.Response:
        """POST /v1/captions with files (name, bytes) and fields."""
        with self.client() as client:
            return client.post("/v1/captions", files=[("file", file) for file in files], data=fields)

    def in_background(self, *files: tuple[str, bytes], **fields: Any) -> "Answer":
        """As `post`, but at once; the answer comes later."""
        return Answer(lambda: self.post(*files, **fields))

    def connect(self) -> socket.socket:
        """A bare connection."""
        return socket.create_connection(self.address, timeout=30)

    def wait_until(self, what: Callable[["Running"], bool]) -> None:
        deadline = time.monotonic() + 30
        while not what(self):
            assert time.monotonic() < deadline, "what was waited for did not happen"
            time.sleep(0.005)


class Answer:
    """What a thread that asks will be told."""

    def __init__(self, ask: Callable[[], httpx2.Response]) -> None:
        self._found: list[Any] = []
        self._thread = threading.Thread(target=self._run, args=(ask,), daemon=True)
        self._thread.start()

    def _run(self, ask: Callable[[], httpx2.Response]) -> None:
        try:
            self._found.append(ask())
        except Exception as error:
            self._found.append(error)

    @property
    def is_there(self) -> bool:
        return bool(self._found)

    def get(self) -> httpx2.Response:
        self._thread.join(30)
        assert self._found, "no answer came"
        if isinstance(self._found[0], Exception):
            raise self._found[0]
        response: httpx2.Response = self._found[0]
        return response


@dataclass
class Reviewing:
    """A page of ``captioner review`` that runs in a thread of this process."""

    url: str
    review: Review

    def client(self) -> httpx2.Client:
        return httpx2.Client(base_url=self.url, timeout=30, **PLAIN)


@pytest.fixture(scope="session")
def reviewing(tiny_model: Path) -> "Callable[..., Any]":
    """Run the page of ``captioner review`` over pictures, while a ``with`` block lasts."""
    tiny = load(tiny_model)

    @contextmanager
    def run(
        pictures: list[Path], output: Path, *, port: int = 0, model: Captioner | None = None
    ) -> Iterator[Reviewing]:
        with EditsFile(output) as edits, listen("127.0.0.1", port) as sock:
            review = Review(pictures, model or tiny, edits)
            server = make_server(create_review(review), Connections(16))
            thread = threading.Thread(target=serve_on, args=(server, review, sock), daemon=True)
            thread.start()
            try:
                yield Reviewing(f"http://127.0.0.1:{sock.getsockname()[1]}", review)
            finally:
                server.should_exit = True
                thread.join(60)
                assert not thread.is_alive(), "the server did not end"

    return run


Serve = Callable[..., Any]


@pytest.fixture(scope="session")
def serve() -> Serve:
    """Run a server with a model and limits, while a ``with`` block lasts."""

    @contextmanager
    def run(model: Path, *, hosts: tuple[str, ...] = (), **limits: int) -> Iterator[Running]:
        service, gate = Service(Models(str(model), device="cpu"), Limits(**limits)), Gate()
        gate.open()
        with listen("127.0.0.1", 0) as sock:
            address = sock.getsockname()
            connections = Connections(service.limits.max_connections)
            server = make_server(create_app(service, hosts=hosts_of("127.0.0.1", hosts)), connections)
            thread = threading.Thread(target=serve_on, args=(server, service, sock), daemon=True)
            thread.start()
            running = Running(f"http://127.0.0.1:{address[1]}", address, service, server, thread, gate)
            running.wait_until(lambda running: running.service.ready)
            captioned = Captioner.caption_prepared

            def watched(self: Captioner, ready: Any, **options: Any) -> Any:
                gate.pass_through(len(ready))
                return captioned(self, ready, **options)

            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(Captioner, "caption_prepared", watched)
                try:
                    yield running
                finally:
                    gate.open()
                    server.should_exit = True
                    thread.join(60)
                    assert not thread.is_alive(), "the server did not end"

    return run


@pytest.fixture(scope="module")
def server(serve: Serve, tiny_model: Path) -> Iterator[Running]:
    """A server with small limits, shared by the tests of a module."""
    limits = {"max_upload": 1, "max_request": 2, "max_held": 4, "max_pixels": 200_000, "max_files": 4, "queue": 8}
    with serve(tiny_model, **limits) as running:
        yield running


@pytest.fixture
def picture(make_picture: Callable[..., Path]) -> bytes:
    """The bytes of a small PNG."""
    return make_picture("made.png", size=(50, 30)).read_bytes()


@pytest.fixture(scope="session")
def bomb() -> bytes:
    """100 megapixels in a few kilobytes."""
    buffer = io.BytesIO()
    Image.new("1", (10_000, 10_000)).save(buffer, "PNG")
    return buffer.getvalue()


def problem_of(response: httpx2.Response, status: int) -> Problem:
    """The problem object that an answer is, and nothing else."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    problem: Problem = response.json()
    assert {"type", "title", "status", "detail"} <= problem.keys()
    assert problem["status"] == status
    assert problem["type"].startswith("urn:captioner:problem:")
    assert "Traceback" not in response.text
    assert response.headers["x-content-type-options"] == "nosniff"
    return problem


def read_all(connection: socket.socket) -> bytes:
    """What a connection brings until its other end closes it."""
    parts = []
    while part := connection.recv(65536):
        parts.append(part)
    return b"".join(parts)


def read_answer(connection: socket.socket) -> bytes:
    """The head and body of one answer, by its Content-Length."""
    got = b""
    while b"\r\n\r\n" not in got:
        part = connection.recv(65536)
        assert part, f"closed after {got!r}"
        got += part
    head, _, body = got.partition(b"\r\n\r\n")
    lines = [line.partition(b":") for line in head.lower().split(b"\r\n")]
    length = next(int(value) for name, _, value in lines if name == b"content-length")
    while len(body) < length:
        body += connection.recv(65536)
    return head + b"\r\n\r\n" + body


@pytest.fixture
def open_page(browser: "Browser") -> "Iterator[Callable[..., Page]]":
    """Open a page of a server. It must ask no other server for anything, and its policy must stop nothing."""
    contexts = []
    elsewhere: list[str] = []
    complaints: list[str] = []

    def open_(running: "Running | Reviewing", path: str = "/", *, script: str = "", **options: Any) -> "Page":
        context = browser.new_context(**options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(PATIENCE)
        own = (running.url, "data:", "blob:")
        page.on("request", lambda request: None if request.url.startswith(own) else elsewhere.append(request.url))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("console", lambda message: "Security" in message.text and complaints.append(message.text))
        if script:
            page.add_init_script(script)
        page.goto(running.url + path)
        return page

    yield open_
    for context in contexts:
        context.close()
    assert not elsewhere
    assert not complaints
