"""The answers to a request for captions or answers: JSON, page or figure, each with a largest size, and held until it
is read."""

import io
import json
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from captioner.results import Answer as QuestionAnswer
from captioner.results import Caption, Failure, Outcome
from captioner.serve.connections import connection_of
from captioner.serve.problems import Problem
from captioner.serve.settings import MEGABYTE
from captioner.serve.uploads import Account, UploadFailure
from captioner.serve.workers import Wanted
from captioner.show import FIGURE_PIXELS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_DPI = 110
_CHUNK = 65_536  # bytes that are given to a connection at a time
_STATUSES = {"not-a-picture": 422, "too-many-pixels": 413, "internal-error": 500}


def problem_of(failure: Failure) -> Problem:
    """The problem object of a picture that could not be captioned."""
    kind = failure.kind if isinstance(failure, UploadFailure) else "not-a-picture"
    return Problem(_STATUSES[kind], kind, str(failure))


def problem_of_all(outcomes: Sequence[Outcome]) -> Problem:
    """The problem of a request that has no picture which could be captioned."""
    problems = [problem_of(outcome) for outcome in outcomes if isinstance(outcome, Failure)]
    if len(outcomes) == 1:
        return problems[0]
    lines = [
        {"image": outcome.image, "problem": problem.as_dict()}
        for outcome, problem in zip(outcomes, problems, strict=True)
    ]
    detail = f"none of {len(lines)} pictures could be captioned"
    return Problem(max(each.status for each in problems), "no-captions", detail, more={"captions": lines})


def json_answer(outcomes: Sequence[Outcome | QuestionAnswer], viewer: bool, max_bytes: int, wanted: Wanted) -> bytes:
    """All outcomes as JSON, in the order of the request.

    Args:
        outcomes: of each picture, or the answers to the questions about one.
        viewer: add what the page's viewer shows.
        max_bytes: the largest answer.
        wanted: whether the client still waits.

    Raises:
        Problem: 413, the answer would be larger.
        Stopped: nobody waits for it.
    """
    key = "answers" if any(isinstance(outcome, QuestionAnswer) for outcome in outcomes) else "captions"
    lines: list[bytes] = []
    size = 0
    for outcome in outcomes:
        wanted.check()
        lines.append(_line(outcome, viewer=viewer))
        size += len(lines[-1]) + 1
        _check_size(size, max_bytes)
    return f'{{"{key}":['.encode() + b",".join(lines) + b"]}"


def _line(outcome: Outcome | QuestionAnswer, *, viewer: bool) -> bytes:
    if isinstance(outcome, Failure):
        line: dict[str, Any] = {"image": outcome.image, "problem": problem_of(outcome).as_dict()}
        return json.dumps(line, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
    more: dict[str, Any] = {}
    if viewer:
        from captioner.show.page import payload

        more["viewer"] = payload(outcome)
    return outcome.as_json(compact=True, **more).encode()


def page(captions: Sequence[Caption] | Sequence[QuestionAnswer], max_bytes: int, wanted: Wanted) -> bytes:
    """A self-contained page of captions or answers, HTML; arguments and errors as of `json_answer`."""
    from captioner.show.page import closing, entry, name_of, opening

    several = len(captions) != 1
    kind = "answers" if isinstance(captions[0], QuestionAnswer) else "captions"
    parts = [opening(f"{len(captions)} {kind}" if several else name_of(captions[0])).encode()]
    size = len(parts[0])
    for caption in captions:
        wanted.check()
        parts.append(entry(caption, several=several).encode())
        size += len(parts[-1])
        _check_size(size, max_bytes)
    parts.append(closing().encode())
    return b"".join(parts)


def figure(caption: Caption | Sequence[QuestionAnswer], wanted: Wanted) -> bytes:
    """The figure of a caption or of answers, PNG, of at most `FIGURE_PIXELS` a side.

    Raises:
        Stopped: nobody waits for it.
    """
    wanted.check()
    if isinstance(caption, Caption):
        drawn = caption.figure()
    else:
        from captioner.show.figure import draw_answers

        drawn = draw_answers(caption)
    wanted.check()
    _stop_when_unwanted(drawn, wanted)
    drawn.set_size_inches(*(min(side, FIGURE_PIXELS / _DPI) for side in drawn.get_size_inches()))
    buffer = io.BytesIO()
    drawn.savefig(buffer, format="png", dpi=_DPI)
    return buffer.getvalue()


def _stop_when_unwanted(drawn: "Figure", wanted: Wanted) -> None:
    """Let each panel ask, when it is drawn, whether the figure is still waited for."""
    from matplotlib.artist import Artist

    class Ask(Artist):
        def draw(self, renderer: object) -> None:
            wanted.check()

    for axes in drawn.axes:
        ask = Ask()
        ask.set_in_layout(False)
        axes.add_artist(ask)


def _check_size(size: int, max_bytes: int) -> None:
    if size > max_bytes:
        detail = f"the answer has more than {max_bytes // MEGABYTE} MB: ask for less, or send fewer pictures"
        raise Problem(413, "answer-too-large", detail)


class Answer(Response):
    """A response that counts as held until its client has read it.

    It goes to the connection in small pieces, each when there is room: a client that does not read keeps its answer
    in the server's own count, and not in the buffers of sockets, which nothing bounds together.

    Args:
        content: all of it.
        account: of the request; it is closed when the answer has been read.
        media_type: of the content.
        headers: further ones.
    """

    def __init__(
        self, content: bytes, account: Account, *, media_type: str, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(content, headers=dict(headers or {}), media_type=media_type)
        self._account = account
        account.hold_answer(len(content))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        connection = connection_of(scope)
        try:
            with connection.answer() if connection is not None else nullcontext():
                await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
                body = memoryview(self.body)
                for start in range(0, max(1, len(body)), _CHUNK):
                    end = start + _CHUNK
                    piece = bytes(body[start:end])
                    await send({"type": "http.response.body", "body": piece, "more_body": end < len(body)})
        finally:
            self._account.close()
