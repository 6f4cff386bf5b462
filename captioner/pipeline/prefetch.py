"""Pictures as they come: opened in threads, a batch ahead of the model, and captioned a batch at a time."""

import os
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing
from typing import Protocol, TypeVar

from captioner.backends.base import Encoded
from captioner.errors import CaptionerError, OptionError
from captioner.image import Picture
from captioner.prepared import KeptPicture, Prepared, detached
from captioner.results import Caption, Failure, Outcome

Given = Picture | KeptPicture  # a kept one is opened already
Ready = Prepared | KeptPicture
Worked = TypeVar("Worked")


class CaptionBatch(Protocol):
    """What captions prepared pictures, all in one batch: `captioner.pipeline.captioner.Captioner.caption_prepared`."""

    def __call__(self, ready: list[Prepared], *, encoded: Encoded | None = None) -> list[Caption]: ...


def iterator_of(pictures: Iterable[Given]) -> Iterator[Given]:
    """Pictures one by one; a sequence need not be an Iterable. Raises OptionError for one picture in their place."""
    try:
        if isinstance(pictures, (str, bytes, bytearray, memoryview)):
            raise TypeError
        return iter(pictures)
    except TypeError:
        raise OptionError(
            f"pictures are a list or an iterator, not {type(pictures).__name__}", remedy="put it into a list"
        ) from None


def caption_each(
    pictures: Iterator[Given],
    prepare: Callable[[Given], Ready],
    encode: Callable[[list[Prepared]], Encoded],
    caption: CaptionBatch,
    *,
    batch: int,
    threads: int,
    beside: bool,
) -> Iterator[Outcome]:
    """Yield a `Caption` or a `Failure` for each picture, in order; arguments and errors as of `prefetch`. ``caption``
    is given the pictures of a batch together, and those that were encoded before one by one."""

    def encoded(opened: list[Ready | Failure]) -> tuple[list[Ready | Failure], list[Prepared], Encoded | None]:
        ready = [one for one in opened if isinstance(one, Prepared)]
        return opened, ready, encode(ready) if ready else None

    with closing(prefetch(pictures, prepare, encoded, batch=batch, threads=threads, beside=beside)) as batches:
        for opened, ready, together in batches:
            captions = iter(caption(ready, encoded=together))
            for one in opened:
                if isinstance(one, KeptPicture):
                    yield caption([one.prepared], encoded=one.encoded)[0]
                else:
                    yield one if isinstance(one, Failure) else next(captions)


def prefetch(
    pictures: Iterator[Given],
    prepare: Callable[[Given], Ready],
    work: Callable[[list[Ready | Failure]], Worked],
    *,
    batch: int,
    threads: int,
    beside: bool = False,
) -> Generator[Worked, None, None]:
    """Open pictures as they come: the next batch while the caller works on the one that it has.

    Args:
        pictures: any number of them.
        prepare: opens one; called in threads.
        work: takes for each picture of a batch, in order, what ``prepare`` returned, or a `Failure` where it raised a
            `CaptionerError`.
        batch: pictures of a batch; the last has fewer.
        threads: that open pictures.
        beside: call ``work`` for the next batch in a thread of its own while the caller has the one before.

    Yields:
        What ``work`` returned for each batch. What the iterator of the pictures raises comes after the batches before.

    Raises:
        CaptionerError: the generator goes on in a process that was forked since.
    """
    process = os.getpid()
    raised: Exception | None = None
    with ExitStack() as pools:
        pool = pools.enter_context(ThreadPoolExecutor(max_workers=threads))
        worker: ThreadPoolExecutor | None = None

        def submit() -> list[tuple[Given, Future[Ready]]]:
            nonlocal raised
            some: list[tuple[Given, Future[Ready]]] = []
            while raised is None and len(some) < batch:
                try:
                    one = detached(next(pictures))
                except StopIteration:
                    break
                except Exception as error:  # the caller's own
                    raised = error
                    break
                some.append((one, pool.submit(prepare, one)))
            return some

        def finish(some: list[tuple[Given, Future[Ready]]]) -> Worked:
            return work([_opened(picture, future) for picture, future in some])

        coming = submit()
        ahead: Future[Worked] | None = None
        try:
            while coming:
                if os.getpid() != process:  # which has none of the threads, and would wait for them for ever
                    raise CaptionerError("captions are made in another process", remedy="call caption_all in each")
                now, coming = coming, submit()
                finished = finish(now) if ahead is None else ahead.result()
                if beside and coming:
                    worker = worker or pools.enter_context(ThreadPoolExecutor(1))
                    ahead = worker.submit(finish, coming)
                else:
                    ahead = None
                yield finished
        finally:
            for _, future in coming:  # whoever stops early does not wait for pictures that nobody will see
                future.cancel()
            if ahead is not None:
                ahead.cancel()
    if raised is not None:
        raise raised


def _opened(picture: Given, future: Future[Ready]) -> Ready | Failure:
    try:
        return future.result()
    except CaptionerError as error:
        return Failure.of(picture.prepared.picture if isinstance(picture, KeptPicture) else picture, error)
