"""What the server does with an upload: open it, caption it, and show the caption as JSON, page or figure."""

import asyncio
import io
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

from PIL import Image

from captioner.decoding import Beam
from captioner.errors import CaptionerError, ImageError, OptionError, TooManyPixelsError
from captioner.pipeline import Captioner
from captioner.results import Caption
from captioner.serve.batches import Batcher
from captioner.serve.memory import give_back
from captioner.serve.models import Models
from captioner.serve.problems import Problem, fault
from captioner.serve.schemas import Options
from captioner.serve.settings import Limits
from captioner.serve.uploads import Held, Upload

KEPT_PIXELS = 1024  # longer side of the copy that pages and figures show

Outcome = Caption | Problem

_T = TypeVar("_T")


class Service:
    """The models, the queue before them, and the threads that open pictures and draw figures.

    Attributes:
        ready: the default model is loaded and has captioned a picture.
    """

    def __init__(self, models: Models, limits: Limits) -> None:
        self.models = models
        self.limits = limits
        self.batcher = Batcher(limits)
        self.held = Held(limits)
        self.ready = False
        self._done = 0  # pictures so far
        # Two pictures of the most pixels are as many as memory should hold at a time.
        self._opening = ThreadPoolExecutor(2, thread_name_prefix="pictures")
        self._drawing = ThreadPoolExecutor(1, thread_name_prefix="figures")

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Caption while the block runs."""
        batches = asyncio.create_task(self.batcher.run())
        warming = asyncio.create_task(self._warm_up())
        giving_back = asyncio.create_task(give_back(lambda: self._done))
        try:
            yield
        finally:
            for task in (batches, warming, giving_back):
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task
            self.batcher.close()
            self._opening.shutdown(cancel_futures=True)
            self._drawing.shutdown(cancel_futures=True)

    async def _warm_up(self) -> None:
        """The first caption takes longest: let it be one that nobody waits for."""
        model = await self.models.get(None)
        try:
            prepared = await self._in(self._opening, model.prepare, Image.new("RGB", (64, 48), "gray"))
            await self.batcher.caption(model, model.default_options, prepared)
            self.ready = True
        except Exception as error:  # the server stays up, and is not ready
            fault(error)

    async def decoding(self, options: Options) -> tuple[Captioner, Beam]:
        """The model and the search that a request asks for.

        Raises:
            Problem: 422, there is no such model, or its options exclude each other.
        """
        model = await self.models.get(options.model)
        try:
            return model, model.options(**options.of_search())
        except OptionError as error:
            raise Problem(422, "invalid-options", str(error)) from None

    @asynccontextmanager
    async def turn(self, pictures: int) -> AsyncIterator[None]:
        """Places for a request's pictures, and the time that it has, until it is answered.

        Raises:
            Problem: 503, the queue is full or the answer took too long.
        """
        with self.batcher.take_places(pictures):
            try:
                async with asyncio.timeout(self.limits.timeout):
                    yield
            except TimeoutError:
                detail = f"no answer after {self.limits.timeout} s: try again later"
                raise Problem(503, "too-busy", detail, retry_after=self.limits.timeout) from None

    async def caption_all(
        self, uploads: list[Upload], model: Captioner, search: Beam, *, keep_pictures: bool
    ) -> list[Outcome]:
        """The caption of each picture, or what is wrong with it; within a `turn`."""
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._caption(each, model, search, keep_pictures)) for each in uploads]
        return [task.result() for task in tasks]

    async def _caption(self, upload: Upload, model: Captioner, search: Beam, keep_picture: bool) -> Outcome:
        try:
            keep = KEPT_PIXELS if keep_picture else None
            prepared = await self._in(
                self._opening, model.prepare, upload.data, max_pixels=self.limits.max_pixels, keep=keep
            )
            caption = await self.batcher.caption(model, search, prepared)
            return replace(caption, image=upload.name)
        except TooManyPixelsError as error:
            width, height = error.size
            detail = f"{width} x {height} pixels are more than the {self.limits.max_pixels:,} that this server takes"
            return Problem(413, "too-many-pixels", _of(upload, detail))
        except ImageError as error:
            return Problem(422, "not-a-picture", _of(upload, str(error)))
        except CaptionerError as error:
            return Problem(422, "invalid-options", str(error))
        except Exception as error:
            return fault(error)
        finally:
            self._done += 1

    async def draw(self, caption: Caption) -> bytes:
        """The figure of a caption, PNG."""
        return await self._in(self._drawing, _draw, caption)

    async def page(self, captions: list[Caption]) -> bytes:
        """A self-contained page of captions, HTML."""
        return await self._in(self._drawing, _page, captions)

    async def for_viewer(self, caption: Caption) -> dict[str, Any]:
        """What the viewer shows, its picture included."""
        from captioner.show.page import payload

        return await self._in(self._opening, payload, caption)

    async def _in(self, pool: ThreadPoolExecutor, work: Callable[..., _T], *arguments: Any, **options: Any) -> _T:
        return await asyncio.get_running_loop().run_in_executor(pool, partial(work, *arguments, **options))


def _of(upload: Upload, what: str) -> str:
    return f"{upload.name or 'the picture'}: {what.removeprefix('the picture: ').removeprefix('the picture ')}"


def _draw(caption: Caption) -> bytes:
    buffer = io.BytesIO()
    caption.figure().savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()


def _page(captions: list[Caption]) -> bytes:
    from captioner.show.page import page

    return page(captions).encode()
