"""What the server does with an upload: open it, caption it, and show the caption as JSON, page or figure."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from PIL import Image

from captioner.errors import ImageError, OptionError, TooManyPixelsError
from captioner.results import Answer, Caption, Outcome
from captioner.serve import answers
from captioner.serve.asking import Asking
from captioner.serve.batches import Batcher, Request
from captioner.serve.memory import give_back
from captioner.serve.models import Models
from captioner.serve.problems import Problem, fault
from captioner.serve.schemas import Options
from captioner.serve.settings import KEPT_PIXELS, MEGABYTE, Limits
from captioner.serve.uploads import FailureKind, Held, Upload, UploadFailure
from captioner.serve.workers import Workers

if TYPE_CHECKING:
    from captioner.pipeline import Captioner


class Service:
    """The models, the queue before them, and the threads that open pictures and draw figures.

    Attributes:
        ready: the default model is loaded and has captioned a picture.
    """

    def __init__(self, models: Models, limits: Limits) -> None:
        self.models = models
        self.limits = limits
        self.batcher = Batcher(limits)
        self.asking = Asking(limits, **models.how)
        self.held = Held(limits)
        self.ready = False
        self._done = 0  # pictures so far
        # Two pictures of the most pixels are as many as memory should hold at a time.
        self._opening = Workers(2, "pictures")
        self._writing = Workers(1, "answers")  # JSON does not wait for figures
        self._drawing = Workers(1, "figures")

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Caption while the block runs."""
        batches = asyncio.create_task(self.batcher.run())
        warming = asyncio.create_task(self._warm_up())
        giving_back = asyncio.create_task(give_back(lambda: self._done + self.asking.done))
        try:
            yield
        finally:
            for task in (batches, warming, giving_back):
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task
            self.batcher.close()
            self.asking.close()
            for workers in (self._opening, self._writing, self._drawing):
                workers.close()

    async def _warm_up(self) -> None:
        """Caption a gray picture: the first caption takes longest, and no client should wait for it."""
        model = await self.models.get(None)
        try:
            prepared = await self._opening.run(model.prepare, Image.new("RGB", (64, 48), "gray"))
            await self.batcher.caption(model, Request(model.default_options), prepared)
            self.ready = True
        except Exception as error:  # the server stays up, and is not ready
            fault(error)

    async def asked(self, options: Options) -> "tuple[Captioner, Request]":
        """The model, and what a request asks of it.

        Raises:
            Problem: 422, there is no such model, or its options exclude each other.
        """
        model = await self.models.get(options.model)
        try:
            search = await asyncio.to_thread(partial(model.options, **options.of_search()))
            return model, Request(search, text=options.text, gain=options.picture_gain)
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
        self, uploads: Sequence[Upload], model: "Captioner", asked: Request, *, keep_pictures: bool
    ) -> list[Outcome]:
        """The caption of each picture, or what is wrong with it, in their order; within a `turn`.

        Raises:
            Problem: 422, the model cannot search with these options.
        """
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self._caption(each, model, asked, keep_pictures)) for each in uploads]
        except BaseExceptionGroup as errors:  # all of one request have the same options
            raise errors.exceptions[0] from None
        return [task.result() for task in tasks]

    async def _caption(self, upload: Upload, model: "Captioner", asked: Request, keep_picture: bool) -> Outcome:
        try:
            keep = KEPT_PIXELS if keep_picture else None
            prepared = await self._opening.run(model.prepare, upload.data, max_pixels=self.limits.max_pixels, keep=keep)
            caption = await self.batcher.caption(model, asked, prepared)
            return replace(caption, image=upload.name)
        except OptionError as error:
            raise Problem(422, "invalid-options", str(error)) from None
        except TooManyPixelsError as error:
            width, height = error.size
            what = f"{width} x {height} pixels are more than the {self.limits.max_pixels:,} that this server takes"
            return _failure(upload, what, "send it smaller", kind="too-many-pixels")
        except ImageError as error:
            return _failure(upload, str(error).removesuffix(f"; {error.remedy}"), error.remedy)
        except Exception as error:  # a fault of the program or of the model's numbers
            return _failure(upload, fault(error).detail, kind="internal-error")
        finally:
            self._done += 1

    async def json(self, outcomes: Sequence[Outcome] | Sequence[Answer], *, viewer: bool) -> bytes:
        """All outcomes as JSON; see `captioner.serve.answers.json_answer`."""
        most = self.limits.max_answer * MEGABYTE
        return await self._writing.run_while_wanted(answers.json_answer, outcomes, viewer, most)

    async def figure(self, caption: Caption | Sequence[Answer]) -> bytes:
        """The figure of a caption or of answers, PNG."""
        return await self._drawing.run_while_wanted(answers.figure, caption)

    async def page(self, captions: Sequence[Caption] | Sequence[Answer]) -> bytes:
        """A self-contained page of captions or answers, HTML."""
        most = self.limits.max_answer * MEGABYTE
        return await self._drawing.run_while_wanted(answers.page, captions, most)


def _failure(upload: Upload, what: str, remedy: str = "", *, kind: FailureKind = "not-a-picture") -> UploadFailure:
    """The failure of an upload; its line begins with the upload's name."""
    line = what.removeprefix("the picture: ").removeprefix("the picture ")
    return UploadFailure(upload.name, f"{upload.name or 'the picture'}: {line}", remedy, kind=kind)
