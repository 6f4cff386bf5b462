"""Captions in batches: pictures that wait at the same time go through the model together."""

import asyncio
import math
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from captioner.backends.base import EncodesBeside
from captioner.options import Greedy
from captioner.results import Caption
from captioner.serve.edited import read_edited
from captioner.serve.problems import Problem
from captioner.serve.settings import Limits

if TYPE_CHECKING:
    from captioner.pipeline import Captioner
    from captioner.prepared import Prepared


_MOST = 2
"""Batches at a time: while one is decoded, on one core, the other is encoded on all."""


def _most_beside(model: "Captioner") -> int:
    return _MOST if isinstance(model.backend, EncodesBeside) and model.backend.encodes_beside else 1


@dataclass(frozen=True)
class Request:
    """What is asked of a model for a picture.

    Attributes:
        options: of the search.
        text: a caption to read; None to make one.
        gain: whether words get their ``gain``.
    """

    options: Greedy
    text: str | None = None
    gain: bool = False

    def answered_by(self, model: "Captioner", ready: "list[Prepared]") -> list[Caption]:
        """The captions of pictures that `Captioner.prepare` opened.

        Raises:
            OptionError: the model cannot search so, or the text has no words, or too many.
        """
        if self.text is None:
            captions = model.caption_prepared(ready, options=self.options)
        else:
            captions = [read_edited(model, one, self.text) for one in ready]
        return model.with_gains(captions) if self.gain else captions


@dataclass(eq=False, repr=False)
class _Job:
    """A picture that waits for its caption; cancelling ``caption`` takes it out of the queue.

    Attributes:
        request: what is asked of the model; pictures of equal requests go through it together.
    """

    model: "Captioner"
    request: Request
    prepared: "Prepared"
    caption: "asyncio.Future[Caption]"
    since: float = field(default_factory=time.monotonic)

    def goes_with(self, other: "_Job") -> bool:
        return self.model is other.model and self.request == other.request


class Batcher:
    """A bounded queue of pictures, and threads that caption them: where the runtime gains from it, one batch is encoded
    while another is decoded.

    Everything but the captioning happens in the event loop, so nothing needs a lock.

    Attributes:
        places: taken by pictures that wait or are being captioned, or that are on their way to the queue.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.places = 0
        self._jobs: deque[_Job] = deque()
        self._arrived = asyncio.Event()
        self._workers = ThreadPoolExecutor(_MOST, thread_name_prefix="captions")
        self._seconds_each = 0.2  # of a picture, as measured lately

    @contextmanager
    def take_places(self, count: int) -> Iterator[None]:
        """Places for so many pictures, until the block ends.

        Raises:
            Problem: 503, there are no so many.
        """
        if self.places + count > self.limits.queue:
            raise self.full()
        self.places += count
        try:
            yield
        finally:
            self.places -= count

    @property
    def is_full(self) -> bool:
        return self.places >= self.limits.queue

    def full(self) -> Problem:
        """What is answered when there is no place; it names when some are likely to be free."""
        seconds = min(60, max(1, math.ceil(self.places * self._seconds_each / 2)))
        detail = f"{self.places} pictures are waiting and {self.limits.queue} may: try again in {seconds} s"
        return Problem(503, "queue-full", detail, retry_after=seconds)

    async def caption(self, model: "Captioner", request: Request, prepared: "Prepared") -> Caption:
        """The caption of a picture that has a place. Cancelling it takes the picture out of the queue."""
        job = _Job(model, request, prepared, asyncio.get_running_loop().create_future())
        self._jobs.append(job)
        self._arrived.set()
        try:
            return await job.caption
        finally:
            if job in self._jobs:  # it has not been taken
                self._jobs.remove(job)

    async def run(self) -> None:
        """Caption what comes, until cancelled; then who waits for a caption is cancelled too."""
        running: set[asyncio.Task[None]] = set()
        try:
            while True:
                await self._wait_for_batch()
                while self._jobs and len(running) >= _most_beside(self._jobs[0].model):
                    await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                if jobs := self._take_batch():
                    task = asyncio.create_task(self._caption(jobs, beside=len(running)))
                    running.add(task)
                    task.add_done_callback(running.discard)
        finally:
            for task in running:
                task.cancel()
            for job in self._jobs:
                job.caption.cancel()

    async def _caption(self, jobs: list[_Job], *, beside: int) -> None:
        """Caption a batch, beside so many others."""
        began = time.monotonic()
        work = partial(jobs[0].request.answered_by, jobs[0].model, [job.prepared for job in jobs])
        try:
            captions = await asyncio.get_running_loop().run_in_executor(self._workers, work)
            for job, caption in zip(jobs, captions, strict=True):
                if not job.caption.done():  # its client may have left meanwhile
                    job.caption.set_result(caption)
        except asyncio.CancelledError:
            for job in jobs:
                job.caption.cancel()
            raise
        except Exception as error:  # of this batch alone: the next one is to be captioned all the same
            for job in jobs:
                if not job.caption.done():
                    job.caption.set_exception(error)
            return
        each = (time.monotonic() - began) / len(jobs) / (1 + beside)
        self._seconds_each += 0.2 * (each - self._seconds_each)

    def close(self) -> None:
        """End the threads after what they are doing."""
        self._workers.shutdown(wait=True, cancel_futures=True)

    async def _wait_for_batch(self) -> None:
        """Until a batch is full, or its first picture has waited for others long enough."""
        while not self._jobs:
            self._arrived.clear()
            await self._arrived.wait()
        while self._jobs:
            first = self._jobs[0]
            left = first.since + self.limits.wait_ms / 1000 - time.monotonic()
            if left <= 0 or sum(first.goes_with(job) for job in self._jobs) >= self.limits.batch:
                return
            self._arrived.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._arrived.wait(), left)

    def _take_batch(self) -> list[_Job]:
        """The picture that has waited longest, and those that can go with it."""
        batch: list[_Job] = []
        for job in list(self._jobs):
            if len(batch) < self.limits.batch and (not batch or batch[0].goes_with(job)):
                self._jobs.remove(job)
                batch.append(job)
        return batch
