"""The page of ``captioner review``: a folder of pictures, one after the other, each caption to accept, edit or flag.

Every decision, and every text that is being typed, is on the disk before the page goes on.
"""

import asyncio
import hashlib
import os
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

from fastapi import FastAPI
from fastapi import Path as PathParameter
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp

from captioner.data.writers.edits import Edit, EditsFile
from captioner.errors import CaptionerError, ImageError, OptionError
from captioner.results import Caption
from captioner.serve.edited import read_edited
from captioner.serve.files import File, static_files
from captioner.serve.guard import Guard, hosts_of
from captioner.serve.problems import Problem, answer_with_problems
from captioner.serve.settings import Limits
from captioner.serve.uploads import Held
from captioner.version import __version__

if TYPE_CHECKING:
    from captioner.pipeline import Captioner
    from captioner.prepared import Prepared

_KEPT = 8  # pictures whose captions stay in memory
_LONGEST_TEXT = 2000  # characters
_KEY = 32  # characters
_T = TypeVar("_T")


@dataclass(frozen=True, eq=False)
class _Opened:
    prepared: "Prepared"
    caption: Caption


class Decision(BaseModel):
    """What the page sends about a picture, with the picture's key."""

    model_config = ConfigDict(extra="forbid")

    key: str = Field(max_length=_KEY)
    status: Literal["accepted", "edited", "flagged", "draft"]
    caption: str = Field(max_length=_LONGEST_TEXT)


class Text(BaseModel):
    """A caption to read, with the key of its picture."""

    model_config = ConfigDict(extra="forbid")

    key: str = Field(max_length=_KEY)
    text: str = Field(max_length=_LONGEST_TEXT)


class Review:
    """Pictures, a model that captions them when they are asked for, and the file of edits.

    Args:
        pictures: paths.
        model: captions them.
        edits: where decisions go.
    """

    def __init__(self, pictures: Sequence[Path], model: "Captioner", edits: EditsFile) -> None:
        self.pictures, self.model, self.edits = list(pictures), model, edits
        self.held = Held(Limits())  # nothing is uploaded
        found = [edits.get(picture) for picture in pictures]
        self._of_edits = os.path.abspath(edits.path)  # noqa: PTH100  (links stay what they are)
        self._statuses = ["" if edit is None else edit.status for edit in found]
        self._opened: OrderedDict[int, asyncio.Future[_Opened]] = OrderedDict()
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="review")  # the model, and the file

    def close(self) -> None:
        """End the thread after what it is doing."""
        self._worker.shutdown(wait=True, cancel_futures=True)

    def status(self, number: int) -> str:
        """What was decided about a picture; "" for nothing."""
        return self._statuses[number]

    def key(self, number: int) -> str:
        """By which a page that stayed open while the program was started again knows a picture: its number may be
        another's then, or the folder another one."""
        path = os.path.abspath(self.pictures[number])  # noqa: PTH100
        return hashlib.sha256(os.fsencode(f"{self._of_edits}\n{path}")).hexdigest()[:_KEY]

    def progress(self) -> dict[str, Any]:
        """How many pictures there are, and how many of them have each status."""
        counts = Counter(self._statuses)
        done = sum(counts[status] for status in ("accepted", "edited", "flagged"))
        return {
            "pictures": len(self.pictures),
            "done": done,
            **{s: counts[s] for s in ("accepted", "edited", "flagged")},
        }

    def next_open(self, after: int) -> int | None:
        """The next picture after one, in a circle, about which nothing was decided."""
        count = len(self.pictures)
        turns = ((after + 1 + i) % count for i in range(count))
        return next((i for i in turns if self.status(i) in ("", "draft")), None)

    async def opened(self, number: int) -> _Opened:
        """A picture with its caption.

        Raises:
            ImageError: it does not open.
        """
        future = self._opened.get(number)
        if future is None or (future.done() and (future.cancelled() or future.exception() is not None)):
            loop = asyncio.get_running_loop()
            future = self._opened[number] = asyncio.ensure_future(
                loop.run_in_executor(self._worker, self._open, number)
            )
            while len(self._opened) > _KEPT:
                self._opened.popitem(last=False)
        self._opened.move_to_end(number)
        return await asyncio.shield(future)

    async def read(self, number: int, text: str) -> Caption:
        """A text as the model reads it on a picture.

        Raises:
            OptionError: it has no words, or too many.
        """
        opened = await self.opened(number)
        return await self._in_worker(partial(read_edited, self.model, opened.prepared, text))

    async def decide(self, number: int, status: str, text: str) -> None:
        """Write a decision.

        Raises:
            OptionError: it cannot be written.
        """
        before = self.edits.get(self.pictures[number])
        try:
            original = (await self.opened(number)).caption.text
        except CaptionerError:
            original = "" if before is None else before.original
        edit = Edit(
            image=os.fspath(self.pictures[number]),
            caption=text,
            status=status,
            original=original,
            model=self.model.name,
        )
        await self._in_worker(partial(self.edits.write, edit))
        self._statuses[number] = status

    async def _in_worker(self, work: Callable[[], _T]) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._worker, work)

    def _open(self, number: int) -> _Opened:
        from captioner.show.page import PAGE_PIXELS

        prepared = self.model.prepare(os.fspath(self.pictures[number]), keep=PAGE_PIXELS)
        (caption,) = self.model.caption_prepared([prepared])
        return _Opened(prepared, caption)


def create_review(review: Review) -> ASGIApp:
    """The application."""
    from captioner.show.page import shown

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(review.close)

    app = FastAPI(
        title="captioner review",
        version=__version__,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
    )
    answer_with_problems(app)
    files = static_files()
    number = Annotated[int, PathParameter(ge=0, lt=len(review.pictures))]

    def answer(file: File) -> Response:
        return Response(file.content, media_type=file.kind, headers={"Cache-Control": "no-cache"})

    @app.get("/")
    async def page() -> Response:
        return answer(files["review.html"])

    @app.get("/static/{name}")
    async def static(name: str) -> Response:
        if name not in files:
            raise Problem(404, "not-found", f"there is no file called '{name[:60]}'")
        return answer(files[name])

    @app.get("/api/review")
    async def state() -> dict[str, Any]:
        first = review.next_open(-1)
        return {
            "output": shown(str(review.edits.path)),
            "model": shown(review.model.name),
            "progress": review.progress(),
            "start": 0 if first is None else first,
        }

    @app.get("/api/pictures/{i}")
    async def picture(i: number) -> Response:
        """A picture with its caption, and what was decided about it."""
        edit = review.edits.get(review.pictures[i])
        name = shown(os.fspath(review.pictures[i]))
        about: dict[str, Any] = {"key": review.key(i), "name": name, "status": review.status(i)}
        about["next_open"] = review.next_open(i)
        try:
            opened = await review.opened(i)
            about["original"] = opened.caption.text
            about["caption"] = edit.caption if edit is not None else opened.caption.text
            about["viewer"] = await asyncio.to_thread(_payload, opened.caption)
        except ImageError as error:
            about |= {"original": "", "caption": edit.caption if edit is not None else "", "problem": shown(str(error))}
        return JSONResponse(about)

    def require(i: int, key: str) -> None:
        if key != review.key(i):
            detail = "the program was started again with other pictures: copy your text, and load the page"
            raise Problem(409, "another-picture", detail)

    @app.post("/api/pictures/{i}/reading")
    async def reading(i: number, body: Text) -> Response:
        """A text as the model reads it."""
        require(i, body.key)
        try:
            caption = await review.read(i, body.text)
        except CaptionerError as error:
            raise Problem(422, "not-read", str(error)) from None
        viewer = await asyncio.to_thread(_payload, caption)
        unknown = [word.text for word in caption.words if word.unknown]
        return JSONResponse({"viewer": viewer, "unknown": list(dict.fromkeys(unknown))})

    @app.put("/api/pictures/{i}")
    async def decide(i: number, body: Decision) -> dict[str, Any]:
        """Write a decision."""
        require(i, body.key)
        text = " ".join(body.caption.split())
        if body.status in ("accepted", "edited") and not text:
            raise Problem(422, "no-words", "a caption that is accepted needs words")
        try:
            await review.decide(i, body.status, text)
        except OptionError as error:
            raise Problem(507, "not-written", str(error)) from None
        return {"progress": review.progress(), "next_open": review.next_open(i)}

    return Guard(app, hosts=hosts_of("127.0.0.1", ()))


def _payload(caption: Caption) -> dict[str, Any]:
    from captioner.show.page import payload

    return payload(caption)
