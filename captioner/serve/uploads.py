"""Reading multipart forms in memory and within limits. Nothing is written to a disk, not even for a while.

The grammar is python-multipart's. Starlette's ``request.form()`` stands on the same parser, but it cannot hold what
this server promises: it has no limit for the bytes of a file (``max_part_size`` is for fields), it takes a form that
was cut off for a whole one, it knows no ``filename*``, it spools files to a disk, and its errors do not tell "too
large" from "damaged".
"""

import asyncio
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser
from starlette.requests import Request

from captioner.results import Failure
from captioner.serve.headers import parameter, parse_header
from captioner.serve.problems import Problem
from captioner.serve.settings import MEGABYTE, Limits

FailureKind = Literal["not-a-picture", "too-many-pixels", "internal-error"]

FILE_FIELD = "file"
_LONGEST_FIELD = 1000  # bytes of an option
_MOST_FIELDS = 32
_LONGEST_HEADERS = 8_000  # bytes of the headers of a part
_LONGEST_BOUNDARY = 200  # bytes; RFC 2046 allows 70
_LONGEST_NAME = 200  # characters that are kept of a file's name
_SECONDS_TO_CLOSE = 3.0  # an upload that is under way when the server stops has so long
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


@dataclass(frozen=True)
class Upload:
    """A picture that was sent: the file's name, which is only ever shown, and its bytes."""

    name: str
    data: bytes = field(repr=False)


@dataclass(frozen=True)
class UploadFailure(Failure):
    """An upload that could not be captioned.

    Attributes:
        kind: what is wrong, as problem objects call it.
    """

    kind: FailureKind = "not-a-picture"


@dataclass(frozen=True)
class Form:
    """A form that was sent: its files and its fields."""

    files: list[Upload]
    fields: dict[str, str]


class Held:
    """Counts the bytes of all requests that are in memory, and the requests that are still arriving."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.bytes = 0
        self._arriving: set[asyncio.Timeout] = set()
        self.closing = False

    def close(self) -> None:
        """Give requests that are still arriving a moment, and no more."""
        self.closing = True
        end = asyncio.get_running_loop().time() + _SECONDS_TO_CLOSE
        for timeout in self._arriving:
            when = timeout.when()
            timeout.reschedule(end if when is None else min(when, end))

    @contextmanager
    def arriving(self, timeout: asyncio.Timeout) -> Iterator[None]:
        """Let `close` shorten a timeout while the block runs."""
        self._arriving.add(timeout)
        try:
            yield
        finally:
            self._arriving.discard(timeout)


class Account:
    """The bytes that one request holds: what it has sent, and its answer until it is read."""

    def __init__(self, held: Held) -> None:
        self.held = held
        self.bytes = 0

    def hold_answer(self, count: int) -> None:
        """Hold an answer in place of what was sent. Its size has a limit of its own: nothing is refused here."""
        self.close()
        self.bytes += count
        self.held.bytes += count

    def close(self) -> None:
        """Hold nothing any more."""
        self.held.bytes -= self.bytes
        self.bytes = 0

    def add(self, count: int) -> None:
        """Hold more.

        Raises:
            Problem: 413, too much for one request; 503, too much together with the others.
        """
        limits = self.held.limits
        if self.bytes + count > limits.max_request * MEGABYTE:
            raise too_large("the request", limits.max_request)
        if self.held.bytes + count > limits.max_held * MEGABYTE:
            raise Problem(503, "busy", "too many uploads at a time: try again in 2 s", retry_after=2)
        self.bytes += count
        self.held.bytes += count


def too_large(what: str, megabytes: int) -> Problem:
    """The problem of something that has too many bytes."""
    return Problem(413, "too-large", f"{what} has more than {megabytes} MB, the most that this server takes")


async def read_form(request: Request, account: Account) -> Form:
    """Read the request's body as multipart/form-data. The limits hold while it arrives, whatever it declares.

    Raises:
        Problem: 400, the form is damaged or cut off; 408, it arrives too slowly; 413, too large; 415, no such form;
            503, too much is held, or the server stops.
        starlette.requests.ClientDisconnect: the client has left.
    """
    limits, held = account.held.limits, account.held
    sent = request.headers.get("content-type", "")
    kind, parameters = parse_header(sent.encode("latin-1"))
    if kind != "multipart/form-data":
        shown = sent[:60] or "nothing"
        raise Problem(415, "not-a-form", f"pictures come as multipart/form-data in the field 'file', not as {shown}")
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > limits.max_request * MEGABYTE:
        raise too_large("the request", limits.max_request)
    boundary = parameters.get("boundary", "").encode()
    if not 0 < len(boundary) <= _LONGEST_BOUNDARY:
        raise Problem(400, "damaged-form", "the Content-Type names no boundary, or too long a one")
    reader = _Reader(limits)
    try:
        parser = MultipartParser(boundary, reader.callbacks())  # type: ignore[arg-type]
        async with asyncio.timeout(limits.upload_seconds) as timeout:
            with held.arriving(timeout):
                async for chunk in _body(request):
                    account.add(len(chunk))
                    parser.write(chunk)
                    await asyncio.sleep(0)  # a client that sends fast does not keep the others waiting
    except FormParserError as error:
        raise Problem(400, "damaged-form", f"the multipart form is damaged: {error}") from None
    except TimeoutError:
        if held.closing:
            raise Problem(503, "closing", "the server is stopping", retry_after=5) from None
        detail = f"the request had not arrived after {limits.upload_seconds} s"
        raise Problem(408, "too-slow", detail) from None
    if not reader.ended:
        raise Problem(400, "damaged-form", "the multipart form is cut off before its end")
    return Form(reader.files, reader.fields)


async def _body(request: Request) -> AsyncIterator[bytes]:
    async for chunk in request.stream():
        if chunk:
            yield chunk


class _Reader:
    """Collects the parts of a form as the parser comes upon them."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.files: list[Upload] = []
        self.fields: dict[str, str] = {}
        self.ended = False
        self._parts = 0
        self._begin()

    def callbacks(self) -> dict[str, object]:
        return {
            "on_part_begin": self._begin,
            "on_header_field": lambda data, start, end: self._add_header(self._header, data[start:end]),
            "on_header_value": lambda data, start, end: self._add_header(self._value, data[start:end]),
            "on_header_end": self._end_header,
            "on_headers_finished": self._end_headers,
            "on_part_data": self._add,
            "on_part_end": self._end,
            "on_end": self._finish,
        }

    def _begin(self) -> None:
        self._header, self._value, self._data = bytearray(), bytearray(), bytearray()
        self._headers = 0  # bytes of all of them
        self._disposition = b""
        self._name = ""
        self._file_name: str | None = None

    def _add_header(self, to: bytearray, data: bytes) -> None:
        self._headers += len(data)
        if self._headers > _LONGEST_HEADERS:
            raise Problem(400, "damaged-form", f"the headers of a part have more than {_LONGEST_HEADERS} bytes")
        to += data

    def _end_header(self) -> None:
        if self._header.lower() == b"content-disposition":
            self._disposition = bytes(self._value)
        self._header, self._value = bytearray(), bytearray()

    def _end_headers(self) -> None:
        _, parameters = parse_header(self._disposition)
        self._name = parameter(parameters, "name") or ""
        file_name = parameter(parameters, "filename")
        is_file = file_name is not None or any(key.startswith("filename*") for key in parameters)
        if is_file:
            self._file_name = clean_name(file_name or "")
        if not self._name:
            raise Problem(400, "damaged-form", "a part of the form has no name")
        if is_file and self._name != FILE_FIELD:
            raise Problem(422, "invalid-form", f"pictures come in the field 'file', not in '{self._name[:60]}'")
        if self._name == FILE_FIELD and not is_file:
            raise Problem(422, "invalid-form", "the field 'file' holds a text and no file")
        if is_file and len(self.files) == self.limits.max_files:
            raise Problem(413, "too-many-files", f"a request may bring {self.limits.max_files} pictures and no more")
        self._parts += 1
        if (not is_file and len(self.fields) == _MOST_FIELDS) or self._parts > _MOST_FIELDS + self.limits.max_files:
            raise Problem(413, "too-many-fields", f"a request may have {_MOST_FIELDS} fields and no more")

    def _add(self, data: bytes, start: int, end: int) -> None:
        size = len(self._data) + end - start
        if self._file_name is None and size > _LONGEST_FIELD:
            raise Problem(413, "too-large", f"the field '{self._name[:60]}' has more than {_LONGEST_FIELD} bytes")
        if size > self.limits.max_upload * MEGABYTE:
            raise too_large(self._file_name or "the picture", self.limits.max_upload)
        self._data += data[start:end]

    def _end(self) -> None:
        if self._file_name == "" and not self._data:
            pass  # what browsers send for a field in which no file was chosen
        elif self._file_name is not None:
            self.files.append(Upload(self._file_name, bytes(self._data)))
        elif self._name in self.fields:
            raise Problem(422, "invalid-options", f"{self._name[:60]}: given twice")
        else:
            self.fields[self._name] = self._data.decode("utf-8", "replace")
        self._data = bytearray()

    def _finish(self) -> None:
        self.ended = True


def clean_name(name: str) -> str:
    """The last part of a file's name, as it is shown: no folders, no control or direction characters, not too long."""
    last = re.split(r"[/\\]", name)[-1]
    return _UNPRINTABLE.sub("\ufffd", last)[:_LONGEST_NAME]
