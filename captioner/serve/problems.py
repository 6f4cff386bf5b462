"""Every error as problem JSON (RFC 9457): what is wrong, in one object that people and programs can read."""

import logging
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

MEDIA_TYPE = "application/problem+json"

SCHEMA = {
    "type": "object",
    "required": ["type", "title", "status", "detail"],
    "properties": {
        "type": {"type": "string", "description": "names the kind of problem, for programs"},
        "title": {"type": "string", "description": "the kind of problem, for people"},
        "status": {"type": "integer"},
        "detail": {"type": "string", "description": "what is wrong this time, and what would mend it"},
    },
}

_log = logging.getLogger("captioner.serve")


class Problem(Exception):  # noqa: N818 - the name that its standard gives it
    """An answer that is an error.

    Args:
        status: of HTTP.
        kind: a short name that stays the same, "queue-full".
        detail: a sentence for people.
        retry_after: seconds after which asking again makes sense.
        more: further members of the object.
    """

    def __init__(
        self,
        status: int,
        kind: str,
        detail: str,
        *,
        retry_after: int | None = None,
        more: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status, self.kind, self.detail = status, kind, detail
        self.retry_after, self.more = retry_after, dict(more or {})

    def as_dict(self) -> dict[str, Any]:
        """The members of the object."""
        return {
            "type": f"urn:captioner:problem:{self.kind}",
            "title": self.kind.replace("-", " ").capitalize(),
            "status": self.status,
            "detail": self.detail,
            **self.more,
        }

    def response(self) -> Response:
        """The answer."""
        headers = {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}
        content = self.as_dict()
        content["detail"] = content["detail"].encode("utf-8", "replace").decode()  # names of files may be no UTF-8
        return JSONResponse(content, self.status, headers, MEDIA_TYPE)


def answer_with_problems(app: FastAPI) -> None:
    """Answer every error of the application with a problem object, and none with a traceback."""
    app.add_exception_handler(Problem, _of_problem)
    app.add_exception_handler(HTTPException, _of_status)
    app.add_exception_handler(RequestValidationError, _of_validation)
    app.add_exception_handler(Exception, _of_fault)


async def _of_problem(_: Request, error: Exception) -> Response:
    assert isinstance(error, Problem)
    return error.response()


async def _of_status(request: Request, error: Exception) -> Response:
    """What the framework raises: no such address, and the wrong method for one."""
    assert isinstance(error, HTTPException)
    kind = HTTPStatus(error.status_code).phrase.lower().replace(" ", "-")
    details = {
        404: f"there is nothing at {request.url.path[:200]}; /docs lists the addresses",
        405: f"{request.url.path[:200]} does not take {request.method[:20]}",
    }
    response = Problem(error.status_code, kind, details.get(error.status_code, str(error.detail))).response()
    response.headers.update(error.headers or {})
    return response


async def _of_validation(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    return Problem(422, "invalid-options", "; ".join(map(describe, error.errors()))).response()


async def _of_fault(_: Request, error: Exception) -> Response:
    """A fault of the program; its traceback goes to the log and nowhere else."""
    return fault(error).response()


def fault(error: BaseException) -> Problem:
    """The problem that a fault of the program is to the client; the log has the rest."""
    _log.error("a request failed", exc_info=error)
    return Problem(500, "internal-error", "this is a fault of the server, not of the request; its log has the details")


def describe(error: Mapping[str, Any]) -> str:
    """A line for one of Pydantic's validation errors: which field, what is wrong, which value."""
    field = ".".join(str(part) for part in error.get("loc", ()) if part != "body") or "the request"
    message = str(error.get("msg", "is wrong"))
    if error.get("type") == "extra_forbidden":
        message = "no such option"
    value = error.get("input")
    shown = f", not '{value[:60]}'" if isinstance(value, str) and error.get("type") != "extra_forbidden" else ""
    return f"{field}: {message[:1].lower()}{message[1:]}{shown}"
