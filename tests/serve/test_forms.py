"""Forms as clients of all kinds send them: odd but right ones are read, wrong ones are answered with what is wrong."""

import socket
from collections.abc import Iterator

import httpx2
import pytest

from .conftest import Running, problem_of, read_all, read_answer
from .test_bad_requests import HEAD, PART, status_of


@pytest.fixture(autouse=True)
def lives_on(server: Running, picture: bytes) -> Iterator[None]:
    """After each test nothing is held or queued, and the next picture is captioned."""
    yield
    server.wait_until(lambda running: running.service.held.bytes == running.service.batcher.places == 0)
    assert server.post(("photo.png", picture)).status_code == 200


def part(headers: str, content: bytes) -> bytes:
    return b"--edge\r\n" + headers.encode() + b"\r\n\r\n" + content + b"\r\n"


def file_part(picture: bytes, disposition: str = 'name="file"; filename="a.png"') -> bytes:
    return part(f"Content-Disposition: form-data; {disposition}", picture)


END = b"--edge--\r\n"


def post(server: Running, body: bytes, kind: str = "multipart/form-data; boundary=edge") -> httpx2.Response:
    with server.client() as client:
        return client.post("/v1/captions", content=body, headers={"Content-Type": kind})


NAMES = {
    "extended": ("name=\"file\"; filename*=UTF-8''b%C3%A4.png", "bä.png"),
    "both": ('name="file"; filename="b_.png"; filename*=UTF-8\'\'b%C3%A4.png', "bä.png"),
    "extended folders": ("name=\"file\"; filename*=UTF-8''..%2F..%2Fb%C3%A4.png", "bä.png"),
    "extended direction": ("name=\"file\"; filename*=UTF-8''a%E2%80%AEgnp.exe", "a\ufffdgnp.exe"),
    "extended new lines": ("name=\"file\"; filename*=UTF-8''a%0D%0AX-Evil%3A%201.png", "a\ufffd\ufffdX-Evil: 1.png"),
    "extended, no text": ("name=\"file\"; filename*=UTF-8''%FF%FE", "UTF-8''%FF%FE"),
    "extended, empty": ("name=\"file\"; filename*=UTF-8''", ""),
    "field extended": ("name*=UTF-8''file; filename=a.png", "a.png"),
    "escapes": (r'name="file"; filename="a \"b\"; c.png"', 'a "b"; c.png'),
    "empty": ('name="file"; filename=""', ""),
}


@pytest.mark.parametrize(("disposition", "name"), NAMES.values(), ids=NAMES)
def test_names_of_files(server: Running, picture: bytes, disposition: str, name: str) -> None:
    response = post(server, file_part(picture, disposition) + END)
    assert response.status_code == 200, response.text
    assert response.json()["captions"][0]["image"] == name
    assert "x-evil" not in response.headers
    detail = problem_of(post(server, file_part(b"no picture", disposition) + END), 422)["detail"]
    assert detail.startswith(f"{name or 'the picture'}: ")


def test_a_field_without_a_chosen_file_is_no_picture(server: Running, picture: bytes) -> None:
    nothing = file_part(b"", 'name="file"; filename=""')
    assert "file" in problem_of(post(server, nothing + END), 422)["detail"]
    assert len(post(server, nothing + file_part(picture) + END).json()["captions"]) == 1


def test_forms_that_are_odd_but_right(server: Running, picture: bytes) -> None:
    plain = file_part(picture) + END
    assert post(server, b"a preamble\r\n" + plain).status_code == 400  # clients of HTTP send none
    assert post(server, plain + b"an epilogue").status_code == 200
    assert post(server, plain, 'multipart/form-data; boundary="edge"').status_code == 200
    assert post(server, plain, "Multipart/Form-Data; charset=utf-8; Boundary=edge").status_code == 200
    quoted = plain.replace(b"edge", b"e;d g=e")
    assert post(server, quoted, 'multipart/form-data; boundary="e;d g=e"').status_code == 200
    long = plain.replace(b"edge", b"e" * 70)
    assert post(server, long, f"multipart/form-data; boundary={'e' * 70}").status_code == 200
    more = part(
        "content-type: image/png\r\nX-More: 1\r\nCONTENT-DISPOSITION: form-data; filename=a.png; name=file", picture
    )
    assert post(server, more + END).status_code == 200


def test_forms_that_are_too_much(server: Running, picture: bytes) -> None:
    field = b"".join(part(f'Content-Disposition: form-data; name="f{i}"', b"1") for i in range(1000))
    problem_of(post(server, field + END), 413)
    nothing = file_part(b"", 'name="file"; filename=""') * 1000
    problem_of(post(server, nothing + END), 413)
    problem_of(post(server, file_part(b"") * 1000 + END), 413)
    problem_of(post(server, part("X: 1\r\n" * 2000 + "Content-Disposition: form-data; name=file", b"") + END), 400)
    problem_of(post(server, part(f"X: {'1' * 9000}\r\nContent-Disposition: form-data; name=f", b"") + END), 400)


def test_a_form_of_one_byte_at_a_time(server: Running, picture: bytes) -> None:
    """Chunked, without a length, and cut inside every header and boundary."""
    body = file_part(picture[:2000], "name=\"file\"; filename*=UTF-8''b%C3%A4.png") + END
    with server.connect() as connection:
        connection.sendall(f"{HEAD}Transfer-Encoding: chunked\r\n\r\n".encode())
        connection.sendall(b"".join(b"1\r\n" + bytes([byte]) + b"\r\n" for byte in body) + b"0\r\n\r\n")
        answer = read_answer(connection)
    assert status_of(answer) in (200, 422)
    assert "bä.png".encode() in answer


def test_a_chunk_that_is_none(server: Running) -> None:
    with server.connect() as connection:
        connection.sendall(f"{HEAD}Transfer-Encoding: chunked\r\n\r\n".encode() + b"5\r\n--edg\r\nno length\r\n")
        answer = read_all(connection)
    assert status_of(answer) == 400
    assert b"application/problem+json" in answer


def test_other_methods(server: Running) -> None:
    with server.client() as client:
        for path in ("/", "/docs", "/static/app.js", "/v1/models", "/health/live", "/health/ready", "/openapi.json"):
            head, get = client.head(path), client.get(path)
            assert (head.status_code, head.content) == (get.status_code, b""), path
            assert head.headers["content-type"] == get.headers["content-type"]
        assert client.head("/nothing").status_code == 404
        assert client.head("/v1/captions").status_code == 405
        assert problem_of(client.options("/v1/captions"), 405)
        assert client.options("/v1/captions").headers["allow"] == "POST"
        for method in ("PUT", "PATCH", "DELETE", "TRACE", "BREW"):
            problem_of(client.request(method, "/v1/captions"), 405)


def ask(connection: socket.socket, version: str, picture: bytes) -> None:
    body = PART + picture + b"\r\n--edge--\r\n"
    head = HEAD.replace("HTTP/1.1", version)
    connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)


def test_an_old_client(server: Running, picture: bytes) -> None:
    with server.connect() as connection:
        ask(connection, "HTTP/1.0", picture)
        answer = read_all(connection)  # the server closes after it
    assert status_of(answer) == 200
    assert b'"captions"' in answer


def test_requests_one_after_the_other_without_waiting(server: Running, picture: bytes) -> None:
    with server.connect() as connection:
        for _ in range(3):
            ask(connection, "HTTP/1.1", picture)
        connection.sendall(b"GET /health/live HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        answers = read_all(connection)
    assert answers.count(b"HTTP/1.1 200 ") == 4
    assert answers.count(b'{"captions":[') == 3
    assert answers.endswith(b'{"status":"live"}')
