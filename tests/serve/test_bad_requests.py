"""What strangers send: no pictures, too much, half of it, slowly, or nothing. The server answers and lives on."""

import contextlib
import re
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from captioner.serve import connections
from captioner.serve.settings import Limits

from .conftest import Running, Serve, problem_of, read_all, read_answer


@pytest.fixture(autouse=True)
def lives_on(server: Running, picture: bytes) -> Iterator[None]:
    """After each test nothing is held or queued, and the next picture is captioned."""
    yield
    server.wait_until(lambda running: running.service.held.bytes == running.service.batcher.places == 0)
    assert server.post(("photo.png", picture)).status_code == 200


BAD_PICTURES = {
    "empty": (b"", 422, "a.png: has no bytes"),
    "text": (b"buy milk", 422, "a.png: not an image in a format that is known"),
    "html": (b"<html><script>alert(1)</script></html>", 422, "a.png: not an image"),
    "svg": (b"<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'/>", 422, "a.png: not an image"),
    "signature alone": (b"\x89PNG\r\n\x1a\n", 422, "a.png: "),
    "zeros": (bytes(5000), 422, "a.png: not an image"),
}


@pytest.mark.parametrize(("content", "status", "says"), BAD_PICTURES.values(), ids=BAD_PICTURES)
def test_what_is_no_picture(server: Running, content: bytes, status: int, says: str) -> None:
    assert problem_of(server.post(("a.png", content)), status)["detail"].startswith(says)


def test_a_picture_that_is_cut_off(server: Running, make_picture: Callable[..., Path]) -> None:
    for name in ("cut.png", "cut.jpg", "cut.gif", "cut.tif"):
        whole = make_picture(name, size=(90, 90)).read_bytes()
        problem = problem_of(server.post((name, whole[: len(whole) // 2])), 422)
        assert problem["detail"].startswith(f"{name}: ")


def test_a_hundred_megapixels_in_a_small_file(server: Running, bomb: bytes) -> None:
    assert len(bomb) < 100_000
    began = time.process_time()  # the server is a thread of this process
    problem = problem_of(server.post(("bomb.png", bomb)), 413)
    assert problem["detail"].startswith("bomb.png: 10000 x 10000 pixels are more than the 200,000")
    assert time.process_time() - began < 2  # refused by its header, not unpacked
    assert Limits().max_pixels < 100_000_000


def test_too_many_bytes(server: Running) -> None:
    problem = problem_of(server.post(("big.png", bytes(1_500_000))), 413)
    assert problem["detail"] == "big.png has more than 1 MB, the most that this server takes"
    several = [(f"{i}.png", bytes(900_000)) for i in range(3)]
    assert "the request has more than 2 MB" in problem_of(server.post(*several), 413)["detail"]
    many = [(f"{i}.png", b"x") for i in range(5)]
    assert "4 pictures and no more" in problem_of(server.post(*many), 413)["detail"]
    fields = {f"field{i}": "1" for i in range(40)}
    assert "32 fields and no more" in problem_of(server.post(("a.png", b"x"), **fields), 413)["detail"]
    assert "field 'model' has more than" in problem_of(server.post(("a.png", b"x"), model="m" * 5000), 413)["detail"]


HEAD = "POST /v1/captions HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=edge\r\n"
PART = b'--edge\r\nContent-Disposition: form-data; name="file"; filename="a.png"\r\n\r\n'


def status_of(answer: bytes) -> int:
    found = re.match(rb"HTTP/1\.1 (\d{3}) ", answer)
    assert found, answer
    return int(found[1])


def test_a_declared_gigabyte_is_refused_before_it_comes(server: Running) -> None:
    with server.connect() as connection:
        connection.sendall(f"{HEAD}Content-Length: 1000000000\r\nExpect: 100-continue\r\n\r\n".encode())
        answer = read_answer(connection)
    assert status_of(answer) == 413
    assert b"application/problem+json" in answer


def test_an_undeclared_stream_is_refused_while_it_comes(server: Running) -> None:
    """Chunked, so that nothing says how much comes: the answer is there while the client could go on forever."""
    with server.connect() as connection:
        connection.sendall(f"{HEAD}Transfer-Encoding: chunked\r\n\r\n".encode())
        for block in (PART, *[bytes(50_000)] * 60):  # 3 MB, three times what is allowed
            connection.sendall(f"{len(block):x}\r\n".encode() + block + b"\r\n")
        answer = read_answer(connection)  # the request has not ended
    assert status_of(answer) == 413
    assert b"a.png has more than 1 MB" in answer


def test_a_length_that_is_a_lie(server: Running, picture: bytes) -> None:
    body = PART + picture + b"\r\n--edge--\r\n"
    with server.connect() as connection:  # shorter than what comes: the form is cut, the rest is no request
        connection.sendall(f"{HEAD}Content-Length: {len(body) - 300}\r\n\r\n".encode() + body)
        connection.settimeout(20)
        answer = read_answer(connection)
        assert status_of(answer) == 400
        assert b"cut off" in answer
    for length in ("-5", "many", "1e3", "5, 6"):
        with server.connect() as connection:
            connection.sendall(f"{HEAD}Content-Length: {length}\r\n\r\n".encode() + body)
            answer = read_all(connection)
            assert status_of(answer) == 400
            assert b"application/problem+json" in answer


def test_what_is_not_http(server: Running) -> None:
    for nonsense in (b"\x16\x03\x01\x02\x00\x01\x00", b"hello\r\n\r\n", b"GET / HTTP/9\r\n\r\n"):
        with server.connect() as connection:
            connection.sendall(nonsense + b"\r\n\r\n")
            assert status_of(read_all(connection)) == 400
    with server.connect() as connection:  # a head that never ends
        connection.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"X-Long: " + b"x" * 200_000)
        assert status_of(read_answer(connection)) == 400


def test_an_upload_that_breaks_off(server: Running, picture: bytes) -> None:
    body = PART + picture + b"\r\n--edge--\r\n"
    before = len(server.gate.batches)
    for sent in (0, 30, len(PART) + 20, len(body) - 1):
        with server.connect() as connection:
            connection.sendall(f"{HEAD}Content-Length: {len(body)}\r\n\r\n".encode() + body[:sent])
    server.wait_until(lambda running: not running.server.server_state.connections)
    assert len(server.gate.batches) == before


DAMAGED_FORMS = {
    "no body": b"",
    "no boundary in it": b"just text",
    "no end": PART + b"some bytes",
    "no name": b'--edge\r\nContent-Disposition: form-data; filename="a.png"\r\n\r\nx\r\n--edge--\r\n',
    "no headers": b"--edge\r\n\r\nx\r\n--edge--\r\n",
    "a header without an end": b"--edge\r\nContent-Disposition" + b"x" * 50_000,
    "a broken header": b"--edge\r\nContent Disposition: form-data\r\n\r\nx\r\n--edge--\r\n",
}


@pytest.mark.parametrize("body", DAMAGED_FORMS.values(), ids=DAMAGED_FORMS)
def test_damaged_forms(server: Running, body: bytes) -> None:
    with server.client() as client:
        kind = {"Content-Type": "multipart/form-data; boundary=edge"}
        problem_of(client.post("/v1/captions", content=body, headers=kind), 400)


def test_forms_of_other_kinds(server: Running, picture: bytes) -> None:
    with server.client() as client:

        def post(body: bytes, **headers: bytes) -> str:
            response = client.post("/v1/captions", content=body, headers=headers)
            return str(problem_of(response, response.status_code)["detail"]) + f" {response.status_code}"

        for kind in (b"image/png", b"application/json", b"application/x-www-form-urlencoded", b"text", b"\xff"):
            assert post(picture, **{"Content-Type": kind}).endswith(" 415")
        assert post(picture).endswith("not as nothing 415")
        for boundary in (b"", b"; boundary=", b"; boundary=" + b"x" * 999, b"; boundary=\xff", b"; boundary=other"):
            assert post(PART, **{"Content-Type": b"multipart/form-data" + boundary}).endswith(" 400")
        empty = client.post("/v1/captions", files={"picture": ("a.png", picture)})
        assert "in the field 'file', not in 'picture'" in problem_of(empty, 422)["detail"]
        text = client.post("/v1/captions", files={"file": (None, "photo.png")})
        assert "holds a text and no file" in problem_of(text, 422)["detail"]
        none = client.post("/v1/captions", files={"beam": (None, "3")})
        assert "no picture" in problem_of(none, 422)["detail"]


def test_slow_clients_hold_nobody_up(serve: Serve, tiny_model: Path, picture: bytes) -> None:
    """Fifty that dribble their uploads: others are answered meanwhile."""
    with serve(tiny_model) as running:
        slow = [running.connect() for _ in range(50)]
        for connection in slow:
            connection.sendall(f"{HEAD}Content-Length: 5000\r\n\r\n".encode() + PART)
        running.wait_until(lambda running: running.service.held.bytes == 50 * len(PART))
        for _ in range(3):
            assert running.post(("a.png", picture)).status_code == 200
        running.wait_until(lambda running: running.service.held.bytes == 50 * len(PART))  # released after the answer
        for connection in slow:
            connection.close()


def test_an_upload_has_its_time(serve: Serve, tiny_model: Path) -> None:
    with serve(tiny_model, upload_seconds=1) as running, running.connect() as connection:
        connection.sendall(f"{HEAD}Content-Length: 5000\r\n\r\n".encode() + PART)
        answer = read_answer(connection)
        assert status_of(answer) == 408
        assert b"had not arrived after 1 s" in answer


def assert_let_go(connection: socket.socket) -> None:
    with contextlib.suppress(ConnectionResetError):
        assert read_all(connection) == b""


def test_silent_clients_are_let_go(serve: Serve, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "PATIENCE", 0.5)
    with serve(tiny_model) as running:
        for start in (b"", b"GET /", b"GET /health/live HTTP/1.1\r\nHost: localhost\r\nX: "):
            with running.connect() as connection:
                connection.sendall(start)
                assert_let_go(connection)
        with running.connect() as connection:  # after an answer too, were the next request begun
            connection.sendall(b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert status_of(read_answer(connection)) == 200
            connection.sendall(b"G")
            assert_let_go(connection)


def test_no_more_clients_than_sockets(serve: Serve, tiny_model: Path) -> None:
    with serve(tiny_model, max_connections=3) as running:
        others = [running.connect() for _ in range(3)]
        running.wait_until(lambda running: len(running.server.server_state.connections) == 3)
        with running.connect() as connection:
            answer = read_all(connection)
        assert status_of(answer) == 503
        assert b"Retry-After: 2" in answer
        for connection in others:
            connection.close()
        running.wait_until(lambda running: not running.server.server_state.connections)
        with running.client() as client:
            assert client.get("/health/live").status_code == 200


def test_uploads_together_have_a_limit(server: Running, picture: bytes) -> None:
    """4 MB may be held: three clients that have each sent most of 2 MB are one too many."""
    open_ended = []
    for _ in range(2):
        connection = server.connect()
        connection.sendall(f"{HEAD}Content-Length: 1950000\r\n\r\n".encode() + PART + bytes(900_000))
        connection.sendall(b"\r\n" + PART + bytes(950_000))
        open_ended.append(connection)
    server.wait_until(lambda running: running.service.held.bytes > 3_600_000)
    response = server.post(("a.png", bytes(900_000)))
    assert problem_of(response, 503)["title"] == "Busy"
    assert response.headers["retry-after"] == "2"
    for connection in open_ended:
        connection.close()
