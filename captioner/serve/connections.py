"""Connections: a bound on how many are open, and on how long one may be silent or leave its answer unread.

uvicorn serves each connection with an `asyncio.Protocol` of its own, and ``Config(http=...)`` names it. What is given
here wraps uvicorn's protocol and adds what it has no option for. ``limit_concurrency`` refuses requests, not
connections; ``timeout_keep_alive`` begins with the first answer; and no option bounds the time for the head of a first
request, so a few hundred silent clients would use up all sockets. Only the interface of asyncio and the state of ASGI's
lifespan are used, nothing of uvicorn's inside.
"""

import asyncio
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

from starlette.types import Scope
from uvicorn.protocols.http.h11_impl import H11Protocol

from captioner.serve.problems import MEDIA_TYPE, Problem

PATIENCE = 30.0
"""Seconds for the head of a request to arrive, and for a full buffer of an answer to be read."""
ANSWER_SECONDS = 120.0
"""Seconds for a whole answer to be read."""
_OWN_ANSWER = b"\r\ncontent-type: text/plain"  # of uvicorn; the application sends no plain text


class Connections:
    """Makes the protocol of each connection, and refuses those beyond a number.

    Args:
        most: connections at a time.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self.open: set[Connection] = set()

    def __call__(self, *, app_state: dict[str, Any], **options: Any) -> "Connection":
        """The protocol of a new connection; the arguments are what uvicorn gives to any class of protocols."""
        return Connection(self, app_state, options)


class Connection(asyncio.Protocol):
    """Wraps uvicorn's protocol of one connection; requests find it in their scope, see `request`."""

    def __init__(self, connections: Connections, app_state: dict[str, Any], options: dict[str, Any]) -> None:
        self._connections = connections
        self._inner = H11Protocol(app_state={**app_state, "connection": self}, **options)
        self._transport: asyncio.Transport | None = None
        self._accepted = False
        self._due: dict[str, asyncio.TimerHandle] = {}

    @contextmanager
    def request(self) -> Iterator[None]:
        """While the block runs, a request is answered: the client need not send anything."""
        self._cancel("request")
        try:
            yield
        finally:
            self._abort_after(PATIENCE, "request")

    @contextmanager
    def answer(self) -> Iterator[None]:
        """While the block runs, an answer is sent, and the client has `ANSWER_SECONDS` to read it."""
        self._abort_after(ANSWER_SECONDS, "answer")
        try:
            yield
        finally:
            self._cancel("answer")

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        if len(self._connections.open) >= self._connections.most:
            problem = Problem(503, "too-many-clients", "too many clients: try again in 2 s", retry_after=2)
            self._transport.write(raw_answer(problem))
            self._transport.close()
            return
        self._accepted = True
        self._connections.open.add(self)
        self._abort_after(PATIENCE, "request")
        self._inner.connection_made(cast(asyncio.Transport, _Transport(self._transport)))

    def data_received(self, data: bytes) -> None:
        if self._accepted:
            self._inner.data_received(data)

    def eof_received(self) -> None:
        if self._accepted:
            self._inner.eof_received()

    def pause_writing(self) -> None:
        self._abort_after(PATIENCE, "reading")
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        self._cancel("reading")
        self._inner.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._connections.open.discard(self)
        for what in tuple(self._due):
            self._cancel(what)
        self._transport = None
        if self._accepted:
            self._inner.connection_lost(exc)

    def _abort_after(self, seconds: float, what: str) -> None:
        """Close the connection after some time, whatever is still to be sent, unless cancelled by the same name."""
        self._cancel(what)
        if self._transport is not None:
            self._due[what] = asyncio.get_running_loop().call_later(seconds, self._transport.abort)

    def _cancel(self, what: str) -> None:
        if what in self._due:
            self._due.pop(what).cancel()


def connection_of(scope: Scope) -> Connection | None:
    """The connection that a request came by; None where another server than ours runs the application."""
    found = scope.get("state", {}).get("connection")
    return found if isinstance(found, Connection) else None


class _Transport:
    """A transport whose protocol's own answers, to what is not HTTP, are problem objects as all other errors are."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._replaced = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        if self._replaced:
            return
        head = data[:400].lower()
        if head.startswith(b"http/1.1 ") and _OWN_ANSWER in head:
            self._replaced = True
            status = 500 if head.startswith(b"http/1.1 5") else 400
            detail = "this is not HTTP as it should be" if status == 400 else "this is a fault of the server"
            kind = "bad-request" if status == 400 else "internal-error"
            self._transport.write(raw_answer(Problem(status, kind, detail)))
            self._transport.close()
            return
        self._transport.write(data)


def raw_answer(problem: Problem) -> bytes:
    """A problem as an answer to what is no request; the connection is to be closed after it."""
    body = json.dumps(problem.as_dict()).encode()
    lines = [
        f"HTTP/1.1 {problem.status} {problem.as_dict()['title']}",
        f"Content-Type: {MEDIA_TYPE}",
        f"Content-Length: {len(body)}",
        "X-Content-Type-Options: nosniff",
        "Connection: close",
        *([f"Retry-After: {problem.retry_after}"] if problem.retry_after is not None else []),
    ]
    return "\r\n".join([*lines, "", ""]).encode() + body
