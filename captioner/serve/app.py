"""The addresses of the server: the page, the API under /v1, its description at /docs, and its health."""

import asyncio
import importlib.util
from collections.abc import AsyncIterator, Callable, Collection, Coroutine
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import Annotated, Any, TypeVar

from fastapi import FastAPI, Path, Request
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp

from captioner.results import Caption
from captioner.serve import schemas
from captioner.serve.answers import Answer, problem_of_all
from captioner.serve.files import EXAMPLES, File, example, static_files
from captioner.serve.guard import Guard
from captioner.serve.problems import Problem, answer_with_problems
from captioner.serve.schemas import Options, form_schema, problem_responses, question_schema
from captioner.serve.service import Service
from captioner.serve.settings import MEGABYTE
from captioner.serve.uploads import Account, Form, read_form
from captioner.version import __version__

_ABOUT = """Captions for pictures, and with every word a map of where the model looked for that word.

    curl -F file=@photo.jpg -F beam=5 http://127.0.0.1:8000/v1/captions
    curl -F file=@photo.jpg -F question="what is the dog catching?" http://127.0.0.1:8000/v1/answers

Errors are problem objects (RFC 9457). Nothing that is sent is stored."""

_T = TypeVar("_T")


def create_app(service: Service, *, hosts: Collection[str] | None = None) -> ASGIApp:
    """The application.

    Args:
        service: what captions.
        hosts: names and addresses that requests may be for; None for all.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with service.running():
            yield

    app = FastAPI(
        title="captioner",
        version=__version__,
        description=_ABOUT,
        lifespan=lifespan,
        docs_url=None,  # FastAPI's own pages load scripts from elsewhere
        redoc_url=None,
        redirect_slashes=False,
    )
    answer_with_problems(app)
    _add_files(app)
    _add_api(app, service)
    _add_questions(app, service)
    _add_health(app, service)
    return Guard(app, hosts=hosts)


def _add_files(app: FastAPI) -> None:
    files = static_files()

    def answer(request: Request, file: File) -> Response:
        headers = {"ETag": file.tag, "Cache-Control": "no-cache"}
        if request.headers.get("if-none-match") == file.tag:
            return Response(status_code=304, headers=headers)
        return Response(file.content, headers=headers, media_type=file.kind)

    @app.get("/", include_in_schema=False)
    async def page(request: Request) -> Response:
        return answer(request, files["index.html"])

    @app.get("/docs", include_in_schema=False)
    async def docs(request: Request) -> Response:
        return answer(request, files["docs.html"])

    @app.get("/static/{name}", include_in_schema=False)
    async def static(request: Request, name: str) -> Response:
        if name not in files:  # these and no others: no path of a request is ever opened
            raise Problem(404, "not-found", f"there is no file called '{name[:60]}'")
        return answer(request, files[name])

    @app.get("/examples/{number}.png", include_in_schema=False)
    async def an_example(request: Request, number: Annotated[int, Path(ge=0, lt=EXAMPLES)]) -> Response:
        """A picture that the program draws, to try things with."""
        return answer(request, await asyncio.to_thread(example, number))


def _add_health(app: FastAPI, service: Service) -> None:
    @app.get("/health/live", tags=["health"])
    async def live() -> dict[str, str]:
        """The process runs."""
        return {"status": "live"}

    @app.get("/health/ready", tags=["health"], responses=problem_responses((503, "not ready, or stopping")))
    async def ready() -> dict[str, str]:
        """The model is loaded and has captioned a picture; the server is not stopping."""
        if service.held.closing:
            raise Problem(503, "closing", "the server is stopping", retry_after=5)
        if not service.ready:
            raise Problem(503, "not-ready", "the model is being warmed up", retry_after=1)
        return {"status": "ready", "model": service.models.default}


def _add_api(app: FastAPI, service: Service) -> None:
    @app.get("/v1/models", tags=["captions"], response_model=schemas.Offer)
    async def offer() -> Response:
        """The models that requests can choose from, and how much they may send."""
        limits = service.limits
        found = {
            "max_upload": limits.max_upload * MEGABYTE,
            "max_pixels": limits.max_pixels,
            "max_files": limits.max_files,
        }
        models = await asyncio.to_thread(service.models.describe)
        return JSONResponse({"version": __version__, "models": models, "limits": found})

    @app.post(
        "/v1/captions",
        tags=["captions"],
        response_model=schemas.Captions,
        openapi_extra=form_schema(),
        responses=problem_responses(
            (400, "the form is damaged or cut off"),
            (408, "the request arrives too slowly"),
            (413, "too many bytes, pixels or files"),
            (415, "no multipart form"),
            (422, "no picture, or options out of their range"),
            (503, "the queue is full; Retry-After holds when to try again"),
        ),
    )
    async def captions(request: Request) -> Response:
        """Caption pictures.

        Of several pictures, those that cannot be captioned have a `problem` in place of a caption. Where none can be
        captioned, the answer itself is a problem.
        """
        return await _answered(request, service, _answer)


def _add_questions(app: FastAPI, service: Service) -> None:
    @app.post(
        "/v1/answers",
        tags=["answers"],
        response_model=schemas.Answers,
        openapi_extra=question_schema(),
        responses=problem_responses(
            (400, "the form is damaged or cut off"),
            (408, "the request arrives too slowly"),
            (413, "too many bytes or pixels"),
            (415, "no multipart form"),
            (422, "no picture, no question, or one that the model cannot read"),
            (503, "the queue is full; Retry-After holds when to try again"),
        ),
    )
    async def answers(request: Request) -> Response:
        """Answer questions about a picture, with a map over the picture and weights over the question's words."""
        return await _answered(request, service, _answer_questions)


async def _answered(
    request: Request, service: Service, work: Callable[[Service, Form, Account], Coroutine[Any, Any, Response]]
) -> Response:
    """What some work makes of the form of a request, which is read when there is room for its pictures."""
    if request.query_params:
        name = next(iter(request.query_params))
        raise Problem(422, "invalid-options", f"{name[:60]}: options are fields of the form, not of the address")
    if service.batcher.is_full:  # before anything of the upload is read
        raise service.batcher.full()
    account = Account(service.held)
    try:
        form = await read_form(request, account)
        return await _unless_client_leaves(request, work(service, form, account))
    except ClientDisconnect:
        account.close()
        return Response(status_code=499)  # nobody is left to read it
    except BaseException:
        account.close()
        raise


async def _answer_questions(service: Service, form: Form, account: Account) -> Response:
    asked = schemas.Question.of_form(form.fields)
    if len(form.files) != 1:
        detail = f"questions are about one picture in the field 'file', not about {len(form.files)}"
        raise Problem(422, "invalid-form", detail)
    if asked.format == "png" and importlib.util.find_spec("matplotlib") is None:
        raise Problem(422, "invalid-options", "format: this server draws no figures, because it has no matplotlib")
    async with service.turn(1):
        upload = form.files[0]
        found = [replace(answer, image=upload.name) for answer in await service.asking.answer(upload, asked)]
        if asked.format == "png":
            return _download(await service.figure(found), account, "image/png", "answers.png")
        if asked.format == "html":
            return _download(await service.page(found), account, "text/html; charset=utf-8", "answers.html")
        content = await service.json(found, viewer=asked.viewer)
        return Answer(content, account, media_type="application/json")


async def _answer(service: Service, form: Form, account: Account) -> Response:
    options = Options.of_form(form.fields)
    if not form.files:
        raise Problem(422, "invalid-form", "no picture: send at least one in the field 'file'")
    if options.format == "png" and importlib.util.find_spec("matplotlib") is None:
        raise Problem(422, "invalid-options", "format: this server draws no figures, because it has no matplotlib")
    if options.format == "png" and len(form.files) > 1:
        raise Problem(422, "invalid-options", f"format: a figure shows one picture, not {len(form.files)}")
    async with service.turn(len(form.files)):  # until the answer is drawn: figures and pages take time and memory too
        model, asked = await service.asked(options)
        keep = options.viewer or options.format != "json"
        outcomes = await service.caption_all(form.files, model, asked, keep_pictures=keep)
        good = [outcome for outcome in outcomes if isinstance(outcome, Caption)]
        if not good:
            raise problem_of_all(outcomes)
        if options.format == "png":
            return _download(await service.figure(good[0]), account, "image/png", "words.png")
        if options.format == "html":
            return _download(await service.page(good), account, "text/html; charset=utf-8", "words.html")
        content = await service.json(outcomes, viewer=options.viewer)
        return Answer(content, account, media_type="application/json")


def _download(content: bytes, account: Account, kind: str, name: str) -> Response:
    headers = {"Content-Disposition": f'attachment; filename="{name}"'}
    return Answer(content, account, media_type=kind, headers=headers)


async def _unless_client_leaves(request: Request, work: Coroutine[Any, Any, _T]) -> _T:
    """The result of some work, which is given up when the client hangs up.

    Raises:
        ClientDisconnect: the client has hung up.
    """
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_until_gone(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise ClientDisconnect
    finally:
        for each in (task, gone):
            each.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await each


async def _until_gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
