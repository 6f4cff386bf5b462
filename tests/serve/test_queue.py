"""Batches, the bounded queue, clients that hang up, and the end of a server with work under way."""

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from captioner.pipeline import load

from .conftest import Running, Serve, problem_of, read_answer

MakePicture = Callable[..., Path]


@pytest.fixture
def small(serve: Serve, tiny_model: Path) -> Iterator[Running]:
    """A server of four places, in batches of two."""
    with serve(tiny_model, queue=4, batch=2, max_files=4) as running:
        running.gate.close()
        yield running


def places(count: int) -> Callable[[Running], bool]:
    return lambda running: running.service.batcher.places == count


def test_pictures_that_wait_together_are_captioned_together(
    serve: Serve, tiny_model: Path, make_picture: MakePicture
) -> None:
    pictures = [make_picture(f"{i}.png", seed=i).read_bytes() for i in range(8)]
    with serve(tiny_model, batch=4) as running:
        running.gate.close()
        first = running.in_background(("a.png", pictures[0]))
        running.gate.wait_for_batch()
        beams = [2, 2, 3, 2, 3, 2, 2]  # what has other options goes by itself
        answers = []
        for i, beam in enumerate(beams):
            answers.append(running.in_background((f"{i}.png", pictures[i + 1]), beam=beam))
            running.wait_until(places(i + 2))
            running.wait_until(lambda running, i=i: len(running.service.batcher._jobs) == i + 1)  # type: ignore[misc]
        running.gate.open()
        assert first.get().status_code == 200
        lines = [answer.get().json()["captions"][0] for answer in answers]
        assert running.gate.batches == [1, 4, 2, 1]  # beam 2, beam 3, and the fifth of beam 2
    model = load(tiny_model)
    for i, (beam, line) in enumerate(zip(beams, lines, strict=True)):
        assert line["image"] == f"{i}.png"
        assert line["caption"] == model.caption(pictures[i + 1], options=model.options(width=beam)).text


def test_a_full_queue_says_when_to_come_again(small: Running, picture: bytes) -> None:
    waiting = [small.in_background((f"{i}.png", picture)) for i in range(4)]
    small.wait_until(places(4))
    response = small.post(("e.png", picture))
    assert problem_of(response, 503)["title"] == "Queue full"
    assert 1 <= int(response.headers["retry-after"]) <= 60
    with small.client() as client:  # everything else goes on
        assert client.get("/health/live").status_code == 200
        assert client.get("/health/ready").status_code == 200
    small.gate.open()
    assert [answer.get().status_code for answer in waiting] == [200] * 4
    assert small.post(("e.png", picture)).status_code == 200


def test_a_request_has_places_for_all_its_pictures_or_for_none(small: Running, picture: bytes) -> None:
    waiting = small.in_background(("a.png", picture), ("b.png", picture))
    small.wait_until(places(2))
    problem_of(small.post(*[(f"{i}.png", picture) for i in range(3)]), 503)
    assert small.service.batcher.places == 2
    small.gate.open()
    assert len(waiting.get().json()["captions"]) == 2


def test_who_hangs_up_leaves_the_queue(small: Running, picture: bytes) -> None:
    head = "POST /v1/captions HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=edge\r\n"
    part = b'--edge\r\nContent-Disposition: form-data; name="file"; filename="a.png"\r\n\r\n'
    body = part + picture + b"\r\n--edge--\r\n"
    staying = small.in_background(("a.png", picture))
    small.gate.wait_for_batch()
    leaving = [small.connect() for _ in range(3)]
    for connection in leaving:
        connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
    small.wait_until(places(4))
    for connection in leaving:
        connection.close()
    small.wait_until(places(1))  # their places are free at once
    assert not small.service.batcher._jobs
    late = small.in_background(("b.png", picture))
    small.wait_until(places(2))
    small.gate.open()
    assert staying.get().status_code == late.get().status_code == 200
    assert small.gate.batches == [1, 1]  # nothing was computed for those who left


@pytest.mark.parametrize("form", ["html", "png"])
def test_pages_and_figures_keep_their_places_until_they_are_drawn(
    small: Running, picture: bytes, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    small.gate.open()
    drawing, finish = threading.Event(), threading.Event()

    def draw(*arguments: object) -> bytes:
        drawing.set()
        assert finish.wait(30)
        return b"drawn"

    monkeypatch.setattr(f"captioner.serve.answers.{'page' if form == 'html' else 'figure'}", draw)
    waiting = [small.in_background((f"{i}.png", picture), format=form) for i in range(4)]
    assert drawing.wait(30)
    small.wait_until(lambda running: sum(running.gate.batches) == 4)
    assert small.service.batcher.places == 4
    problem_of(small.post(("e.png", picture)), 503)
    finish.set()
    assert [answer.get().content for answer in waiting] == [b"drawn"] * 4
    small.wait_until(places(0))


def test_captions_that_take_too_long(serve: Serve, tiny_model: Path, picture: bytes) -> None:
    with serve(tiny_model, timeout=1) as running:
        running.gate.close()
        began = time.monotonic()
        response = running.post(("a.png", picture))
        assert problem_of(response, 503)["title"] == "Too busy"
        assert 1 <= time.monotonic() - began < 5
        assert "retry-after" in response.headers
        assert running.service.batcher.places == 0
        running.gate.open()
        assert running.post(("a.png", picture)).status_code == 200


def test_two_at_once(small: Running, make_picture: MakePicture) -> None:
    small.gate.open()
    pictures = [make_picture(f"{i}.png", seed=i, size=(30 + i, 20)).read_bytes() for i in range(2)]
    answers = [small.in_background((f"{i}.png", data)) for i, data in enumerate(pictures)]
    lines = [answer.get().json()["captions"][0] for answer in answers]
    assert [(line["image"], line["size"]) for line in lines] == [("0.png", [30, 20]), ("1.png", [31, 20])]


def test_the_end_waits_for_what_is_under_way(small: Running, picture: bytes) -> None:
    waiting = [small.in_background((f"{i}.png", picture)) for i in range(3)]
    small.wait_until(places(3))
    slow = small.connect()  # an upload that would take forever
    slow.sendall(
        b"POST /v1/captions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 900\r\n"
        b"Content-Type: multipart/form-data; boundary=edge\r\n\r\n--edge\r\n"
    )
    small.wait_until(lambda running: len(running.service.held._arriving) == 1)
    idle = small.connect()
    small.server.should_exit = True
    small.wait_until(lambda running: running.service.held.closing)
    small.wait_until(lambda running: not running.server.servers[0].is_serving())
    with pytest.raises(OSError, match="refused"):
        small.connect()
    assert not any(answer.is_there for answer in waiting)
    small.gate.open()
    assert [answer.get().status_code for answer in waiting] == [200] * 3
    answer = read_answer(slow)
    assert answer.startswith(b"HTTP/1.1 503 ")
    assert b"the server is stopping" in answer
    small.thread.join(20)
    assert not small.thread.is_alive()
    slow.close()
    idle.close()


def test_nothing_is_written_to_disk(
    serve: Serve, tiny_model: Path, picture: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No temporary file of an upload, not even one that has no name: none is ever opened."""

    def refuse(*arguments: object, **options: object) -> None:
        raise AssertionError("a temporary file")

    for name in ("TemporaryFile", "NamedTemporaryFile", "SpooledTemporaryFile", "mkstemp"):
        monkeypatch.setattr(f"tempfile.{name}", refuse)
    with serve(tiny_model) as running:
        large = picture + bytes(5_000_000)  # what follows a PNG's end is no harm
        for fields in ({}, {"format": "html"}, {"format": "png"}, {"viewer": "true"}):
            assert running.post(("a.png", large), **fields).status_code == 200


def test_a_batch_that_fails_takes_no_other_with_it(
    serve: Serve, tiny_model: Path, picture: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*arguments: object, **options: object) -> None:
        raise RuntimeError("out of something")

    with serve(tiny_model) as running:
        with monkeypatch.context() as patch:
            patch.setattr("captioner.pipeline.captions.decode", fails)
            problem_of(running.post(("a.png", picture)), 500)
        assert running.post(("a.png", picture)).status_code == 200
