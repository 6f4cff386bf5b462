"""Threads that work for requests, without work piling up for requests that have ended."""

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from threading import Event
from typing import Any, TypeVar

_T = TypeVar("_T")


class Stopped(Exception):  # noqa: N818 - no error: nobody waits for the work any more
    """Raised inside work that nobody waits for."""


class Wanted:
    """Whether somebody still waits for some work; the work asks between its steps."""

    def __init__(self) -> None:
        self._stopped = Event()

    def stop(self) -> None:
        """Nobody waits any more."""
        self._stopped.set()

    def check(self) -> None:
        """Raises `Stopped` where nobody waits any more."""
        if self._stopped.is_set():
            raise Stopped


class Workers:
    """A few threads. Work waits in the event loop for one that is free, and there cancelling it removes it.

    In the queue of a `ThreadPoolExecutor`, cancelled work would keep its pictures in memory until a thread comes to it,
    and a client that asks and leaves again and again would fill that queue.

    Args:
        threads: how many.
        name: theirs.
    """

    def __init__(self, threads: int, name: str) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix=name)
        self._free = asyncio.Semaphore(threads)

    async def run(self, work: Callable[..., _T], *arguments: Any, **options: Any) -> _T:
        """The result of some work. Cancelled before the work has begun, it never begins."""
        await self._free.acquire()
        loop = asyncio.get_running_loop()

        def release(_: "Future[_T]") -> None:
            loop.call_soon_threadsafe(self._free.release)

        try:
            future = self._pool.submit(partial(work, *arguments, **options))
        except RuntimeError:  # shut down
            self._free.release()
            raise
        future.add_done_callback(release)  # when the thread is free, which may be after this was cancelled
        return await asyncio.wrap_future(future)

    async def run_while_wanted(self, work: Callable[..., _T], *arguments: Any) -> _T:
        """As `run`, for work that takes a `Wanted` last and stops when this is cancelled."""
        wanted = Wanted()
        try:
            return await self.run(work, *arguments, wanted)
        finally:
            wanted.stop()

    def close(self) -> None:
        """End the threads after what they are doing."""
        self._pool.shutdown(wait=True, cancel_futures=True)
