"""The process: a socket, connections that may not idle, and an end that finishes what is under way."""

import asyncio
import errno
import json
import signal
import socket
from types import FrameType

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from captioner.errors import OptionError
from captioner.serve.problems import MEDIA_TYPE, Problem
from captioner.serve.service import Service

_PATIENCE = 30.0  # seconds for the head of a request to arrive, and for an answer to be read
_SECONDS_TO_FINISH = 75  # for requests under way when the server stops


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens.

    Raises:
        OptionError: the address is none of this machine, or the port is taken or not permitted.
    """
    if not host:
        raise OptionError("--host is empty: 127.0.0.1 is this machine alone, 0.0.0.0 lets others in")
    if not 0 <= port <= 65535:
        raise OptionError(f"--port must be from 0 to 65535, not {port}")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (OSError, UnicodeError):
        raise OptionError(f"--host '{host}' is no address of this machine: 127.0.0.1 and 0.0.0.0 are") from None
    sock = socket.socket(family, kind, protocol)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
        sock.listen(256)
    except OSError as error:
        sock.close()
        if isinstance(error, PermissionError):
            raise OptionError(f"--port {port}: not permitted; ports from 1024 on are") from None
        if error.errno == errno.EADDRINUSE:
            raise OptionError(f"--port {port} is in use: choose another, or 0 for any that is free") from None
        raise OptionError(f"--host '{host}' is no address of this machine ({error.strerror})") from None
    return sock


def make_server(app: ASGIApp, service: Service, *, access_log: bool = False) -> uvicorn.Server:
    """What serves an application on a socket; its ``should_exit`` ends it once what is under way is finished."""
    config = uvicorn.Config(
        app,
        http=_connection_class(service.limits.max_connections),
        loop="asyncio",
        ws="none",
        lifespan="on",
        log_level="info" if access_log else "error",
        access_log=access_log,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=5,
        timeout_graceful_shutdown=_SECONDS_TO_FINISH,
    )
    return _Server(config, service)


def serve_until_told(server: uvicorn.Server, sock: socket.socket) -> None:
    """Serve until SIGTERM or SIGINT, and finish what is under way then."""

    def stop(_: int, __: FrameType | None) -> None:
        server.should_exit = True

    # uvicorn has handlers of its own while it serves, and once it has stopped it raises the signal anew for those
    # that were there before. These then have nothing left to do, and the process ends in peace.
    for each in (signal.SIGTERM, signal.SIGINT):
        signal.signal(each, stop)
    server.run(sockets=[sock])


class _Server(uvicorn.Server):
    """Tells the service when it begins to stop, so that uploads still arriving do not hold up the end."""

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self.service = service

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self.service.held.close()
        await super().shutdown(sockets)


class _Connection(H11Protocol):
    """A connection that is closed when no request comes of it, or when its answer is not read.

    uvicorn waits forever for the head of a first request; a few hundred silent clients would use up all sockets.
    """

    most = 256  # connections at a time
    _due: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self.most:
            self._answer(Problem(503, "too-many-clients", "too many clients: try again in 2 s", retry_after=2))
            return
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._due is not None:
            self._due.cancel()
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._wait()

    def send_400_response(self, msg: str) -> None:
        self._answer(Problem(400, "bad-request", "this is not HTTP as it should be"))

    def _wait(self) -> None:
        if self._due is not None:
            self._due.cancel()
        self._due = self.loop.call_later(_PATIENCE, self._give_up)

    def _give_up(self) -> None:
        if self.cycle is None or self.cycle.response_complete:
            self.transport.abort()

    def _answer(self, problem: Problem) -> None:
        """Answer what is no request, and close."""
        body = json.dumps(problem.as_dict()).encode()
        lines = [
            f"HTTP/1.1 {problem.status} {problem.as_dict()['title']}",
            f"Content-Type: {MEDIA_TYPE}",
            f"Content-Length: {len(body)}",
            "X-Content-Type-Options: nosniff",
            "Connection: close",
            *([f"Retry-After: {problem.retry_after}"] if problem.retry_after is not None else []),
        ]
        self.transport.write("\r\n".join([*lines, "", ""]).encode() + body)
        self.transport.close()


def _connection_class(most: int) -> type[_Connection]:
    return type("_Connection", (_Connection,), {"most": most})
