"""The process: a socket, uvicorn on it, and an end that finishes what is under way."""

import asyncio
import errno
import signal
import socket
from types import FrameType
from typing import Any, Protocol, cast

import uvicorn
from starlette.types import ASGIApp

from captioner.errors import OptionError
from captioner.serve.connections import Connections
from captioner.serve.uploads import Held

_SECONDS_TO_FINISH = 75  # for requests under way when the server stops
_SECONDS_TO_NOTICE = 0.1  # that it is to stop


class Serving(Protocol):
    """What stands behind an application.

    Attributes:
        held: the requests that are still arriving.
    """

    held: Held


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


def make_server(app: ASGIApp, connections: Connections, *, access_log: bool = False) -> uvicorn.Server:
    """What serves an application; its ``should_exit`` ends it once what is under way is finished."""
    config = uvicorn.Config(
        app,
        http=cast(Any, connections),  # uvicorn takes whatever makes a protocol
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
    return uvicorn.Server(config)


def serve(server: uvicorn.Server, service: Serving, sock: socket.socket) -> None:
    """Serve on a socket until the server is asked to exit, and finish what is under way then."""
    asyncio.run(_serve(server, service, sock))  # noqa: TID251 - a program of its own


def serve_until_signal(server: uvicorn.Server, service: Serving, sock: socket.socket) -> None:
    """Serve until SIGTERM or SIGINT; the process then ends with its own exit code."""

    def stop(_: int, __: FrameType | None) -> None:
        server.should_exit = True

    # uvicorn has handlers of its own while it serves, and once it has stopped it raises the signal again for those
    # that were there before. These then have nothing left to do.
    for each in (signal.SIGTERM, signal.SIGINT):
        signal.signal(each, stop)
    serve(server, service, sock)


async def _serve(server: uvicorn.Server, service: Serving, sock: socket.socket) -> None:
    stopping = asyncio.create_task(_close_uploads(server, service))
    try:
        await server.serve(sockets=[sock])
    finally:
        stopping.cancel()


async def _close_uploads(server: uvicorn.Server, service: Serving) -> None:
    """Once the server stops, uploads that are still arriving do not hold up the end."""
    while not server.should_exit:
        await asyncio.sleep(_SECONDS_TO_NOTICE)
    service.held.close()
