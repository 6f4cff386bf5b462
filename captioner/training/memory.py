"""Memory that stays with the process while it trains on a CPU.

glibc gives each large block back to the system as soon as it is free, and fetches it anew, page by page and zeroed,
at the next step. Training frees and fetches gigabytes a step: without this, fine-tuning an encoder was seen to take
1.5 times as long, a quarter of it in the kernel.
"""

import ctypes
import sys

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3  # of mallopt(3)


def keep_memory() -> bool:
    """Ask the C library to keep what is freed; whether it agreed. Other libraries than glibc are left alone."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # musl has none
        return False
    settings = ((_MMAP_THRESHOLD, 1 << 30), (_TRIM_THRESHOLD, 2**31 - 1), (_TOP_PAD, 1 << 28))
    return all(mallopt(name, value) == 1 for name, value in settings)
