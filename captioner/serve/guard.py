"""What stands before the application: who may ask, and what browsers may do with the answers."""

import ipaddress
import socket
from collections.abc import Collection
from contextlib import nullcontext

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from captioner.serve.connections import connection_of
from captioner.serve.problems import Problem

_PAGE = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_DOCS = _PAGE.replace("style-src 'self'", "style-src 'self' 'unsafe-inline'")  # Swagger UI styles its elements inline

HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}


class Guard:
    """An ASGI application around another: checks Host and Origin, and adds headers to every answer.

    A page elsewhere on the web can let its own name point to 127.0.0.1 and read the answers of a server there (DNS
    rebinding); such a request has that name as its Host. It can also send forms here, without reading the answers;
    these have its Origin. Both are refused.

    Args:
        app: what is guarded.
        hosts: names and addresses that a request may be for; None for all.
    """

    def __init__(self, app: ASGIApp, *, hosts: Collection[str] | None) -> None:
        self.app = app
        self.hosts = None if hosts is None else {host.lower() for host in hosts}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        policy = _DOCS if scope["path"] == "/docs" else _PAGE

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers["Content-Security-Policy"] = policy
                headers.update(HEADERS)
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        problem = self._refuse(scope["method"], Headers(scope=scope))
        app = self.app if problem is None else problem.response()
        if scope["method"] == "HEAD":  # what GET answers, without its body, which the server below leaves out
            scope = {**scope, "method": "GET"}
        connection = connection_of(scope)
        with connection.request() if connection is not None else nullcontext():
            await app(scope, receive, send_with_headers)

    def _refuse(self, method: str, headers: Headers) -> Problem | None:
        host = headers.get("host", "")
        if self.hosts is not None and _name(host) not in self.hosts:
            detail = f"this server is not '{host[:100]}'; --allow-host lets it answer to another name"
            return Problem(421, "wrong-host", detail)
        if method in ("GET", "HEAD"):
            return None
        origin = headers.get("origin")
        if origin is not None and not self._is_ours(origin, host):
            return Problem(403, "other-origin", f"pages of '{origin[:100]}' may not send pictures here")
        if headers.get("sec-fetch-site") == "cross-site":
            return Problem(403, "other-origin", "pages of other sites may not send pictures here")
        return None

    def _is_ours(self, origin: str, host: str) -> bool:
        """Whether a page comes from here, or from a name that a proxy before this server has."""
        _, _, place = origin.partition("://")
        name = _name(place)
        # Other ports of this machine are other servers; a proxy may use any port.
        return bool(place) and (
            place.lower() == host.lower() or (name in (self.hosts or ()) and not is_loopback(name.strip("[]")))
        )


def hosts_of(address: str, others: Collection[str], *, name: str = "") -> set[str] | None:
    """The names under which a server may be asked that listens on an address, which was given by ``name``.

    One that only this machine reaches goes by its usual names; of one that others reach, every name is good, unless
    ``others`` names them.
    """
    own = {"localhost", "127.0.0.1", "[::1]", _bracketed(address), *([_bracketed(name).lower()] if name else [])}
    return own | set(others) if others or is_loopback(address) else None


def is_loopback(address: str) -> bool:
    """Whether an address or name is this machine's own, in any spelling that the system takes."""
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        pass
    if address.rstrip(".").lower() in ("localhost", "ip6-localhost", "ip6-loopback"):
        return True
    try:
        return ipaddress.ip_address(socket.inet_aton(address)).is_loopback  # 127.1, 0x7f.1
    except (OSError, ValueError, UnicodeError):
        return False


def _bracketed(address: str) -> str:
    return f"[{address}]" if ":" in address else address


def _name(host: str) -> str:
    """The host without its port."""
    if host.startswith("["):
        return host.partition("]")[0].lower() + "]"
    return host.partition(":")[0].lower()
