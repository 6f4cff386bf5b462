"""Questions about an upload: the answering model, in a thread of its own."""

import asyncio
from typing import TYPE_CHECKING, Any

from captioner.errors import CaptionerError, CheckpointError, ImageError, OptionError, TooManyPixelsError
from captioner.results import Answer
from captioner.serve.problems import Problem, fault
from captioner.serve.schemas import Question
from captioner.serve.settings import KEPT_PIXELS, Limits
from captioner.serve.uploads import Upload
from captioner.serve.workers import Wanted, Workers

if TYPE_CHECKING:
    from captioner.asking import Asker


class Asking:
    """The answering model that ships, loaded at the first question.

    Args:
        limits: of the server.
        how: device, backend and threads, as of `captioner.asking.load_answering`.
    """

    def __init__(self, limits: Limits, **how: Any) -> None:
        self.limits = limits
        self._how = how
        self._asker: Asker | None = None
        self._loading: asyncio.Task[Asker] | None = None
        self._working = Workers(1, "questions")
        self.done = 0  # pictures so far

    def close(self) -> None:
        """End the thread after what it is doing."""
        self._working.close()

    async def answer(self, upload: Upload, asked: Question) -> list[Answer]:
        """Answers to the questions about a picture, in their order.

        Raises:
            Problem: 413, too many pixels; 422, no picture, or a question that the model cannot read; 500, the model's
                file is damaged or missing; 501, it does not run with this server's options.
        """
        asker = await self._load()
        keep = KEPT_PIXELS if asked.viewer or asked.format != "json" else None

        def work(wanted: Wanted) -> list[Answer]:
            for question in asked.questions:
                asker.split(question)  # a question that cannot be read is refused before the picture is opened
            wanted.check()
            encoded = asker.encode(upload.data, max_pixels=self.limits.max_pixels, keep=keep)
            self.done += 1
            wanted.check()
            return asker.ask(encoded, asked.questions, n_best=asked.n_best)

        try:
            return await self._working.run_while_wanted(work)
        except OptionError as error:
            raise Problem(422, "invalid-options", str(error)) from None
        except TooManyPixelsError as error:
            width, height = error.size
            detail = f"{width} x {height} pixels are more than the {self.limits.max_pixels:,} that this server takes"
            raise Problem(413, "too-many-pixels", detail) from None
        except ImageError as error:
            line = str(error).removeprefix("the picture: ").removeprefix("the picture ")
            raise Problem(422, "not-a-picture", f"{upload.name or 'the picture'}: {line}") from None
        except CaptionerError as error:
            raise fault(error) from None

    async def _load(self) -> "Asker":
        if self._asker is not None:
            return self._asker
        if self._loading is None:
            self._loading = asyncio.create_task(self._load_once())
            self._loading.add_done_callback(lambda task: task.cancelled() or task.exception())  # its clients may leave
        return await asyncio.shield(self._loading)  # others may wait for it too

    async def _load_once(self) -> "Asker":
        from captioner.asking import load_answering

        try:
            self._asker = await asyncio.to_thread(load_answering, **self._how)
            return self._asker
        except CheckpointError as error:
            fault(error)
            raise Problem(500, "damaged-model", "the answering model is missing or damaged") from None
        except OptionError as error:
            raise Problem(501, "not-available", f"this server cannot answer questions: {error}") from None
        finally:
            self._loading = None
