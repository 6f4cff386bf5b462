"""Memory that the process keeps while it trains on a CPU.

glibc returns each large block to the system as soon as it is free, and requests it again, page by page and zeroed, at
the next step. Training frees and requests gigabytes per step: without this, fine-tuning an encoder took 1.5 times as
long, a quarter of it in the kernel.
"""

import ctypes
import sys

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3  # of mallopt(3)


def keep_memory() -> bool:
    """Make glibc keep freed memory; whether it accepted. Other C libraries are left as they are."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # musl has none
        return False
    settings = ((_MMAP_THRESHOLD, 1 << 30), (_TRIM_THRESHOLD, 2**31 - 1), (_TOP_PAD, 1 << 28))
    return all(mallopt(name, value) == 1 for name, value in settings)
