"""Pictures as they come: opened in threads, a batch ahead of the model, and captioned a batch at a time."""

import os
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from typing import Protocol

from captioner.backends.base import Encoded
from captioner.errors import CaptionerError, OptionError
from captioner.image import Picture
from captioner.prepared import KeptPicture, Prepared, detached
from captioner.results import Caption, Failure, Outcome

Given = Picture | KeptPicture  # a kept one is opened already
Ready = Prepared | KeptPicture


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
    pictures: Iterator[Given], prepare: Callable[[Given], Ready], caption: CaptionBatch, *, batch: int, threads: int
) -> Iterator[Outcome]:
    """Yield a `Caption` or a `Failure` for each picture, in order; arguments and errors as of `prefetch`. ``caption``
    is given the pictures of a batch together, and those that were encoded before one by one."""
    with closing(prefetch(pictures, prepare, batch=batch, threads=threads)) as batches:
        for opened in batches:
            captions = iter(caption([one for one in opened if isinstance(one, Prepared)]))
            for one in opened:
                if isinstance(one, KeptPicture):
                    yield caption([one.prepared], encoded=one.encoded)[0]
                else:
                    yield one if isinstance(one, Failure) else next(captions)


def prefetch(
    pictures: Iterator[Given], prepare: Callable[[Given], Ready], *, batch: int, threads: int
) -> Generator[list[Ready | Failure], None, None]:
    """Open pictures as they come: the next batch while the caller works on the one that it has.

    Args:
        pictures: any number of them.
        prepare: opens one; called in threads.
        batch: pictures of a batch; the last has fewer.
        threads: that open pictures.

    Yields:
        For each picture of a batch, in order, what ``prepare`` returned, or a `Failure` where it raised a
        `CaptionerError`. What the iterator of the pictures raises comes after the batches before.

    Raises:
        CaptionerError: the generator goes on in a process that was forked since.
    """
    process = os.getpid()
    raised: Exception | None = None
    with ThreadPoolExecutor(max_workers=threads) as pool:

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

        coming = submit()
        try:
            while coming:
                if os.getpid() != process:  # which has none of the threads, and would wait for them for ever
                    raise CaptionerError("captions are made in another process", remedy="call caption_all in each")
                now, coming = coming, submit()
                yield [_opened(picture, future) for picture, future in now]
        finally:
            for _, future in coming:  # whoever stops early does not wait for pictures that nobody will see
                future.cancel()
    if raised is not None:
        raise raised


def _opened(picture: Given, future: Future[Ready]) -> Ready | Failure:
    try:
        return future.result()
    except CaptionerError as error:
        return Failure.of(picture.prepared.picture if isinstance(picture, KeptPicture) else picture, error)
