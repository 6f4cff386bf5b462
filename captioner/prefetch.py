"""Pictures opened in threads, a batch ahead of whoever computes."""

import os
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

from captioner.errors import CaptionerError
from captioner.image import Picture
from captioner.prepared import KeptPicture, Prepared, detached
from captioner.results import Failure

Given = Picture | KeptPicture  # a kept one is opened already
Ready = Prepared | KeptPicture


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
