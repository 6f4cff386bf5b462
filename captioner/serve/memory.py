"""Returns freed memory to the system, so that the server does not keep the memory of its largest picture."""

import asyncio
import ctypes
from collections.abc import Callable

_SECONDS = 10.0


def find_trim() -> Callable[[int], int] | None:
    """glibc's ``malloc_trim``; None where the C library has none.

    glibc keeps what a thread has freed for that thread. Pictures and batches come in many sizes, so that
    this memory grows to several times what is in use: 1.4 GB after some pictures of 50 megapixels.
    """
    try:
        trim: Callable[[int], int] = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):
        return None
    return trim


async def give_back(count: Callable[[], int]) -> None:
    """Give freed memory back every few seconds while work is done, until cancelled.

    Args:
        count: how much has been done so far; nothing is given back where it stands still.
    """
    trim, before = find_trim(), count()
    while trim is not None:
        await asyncio.sleep(_SECONDS)
        if count() != before:
            before = count()
            await asyncio.to_thread(trim, 0)
