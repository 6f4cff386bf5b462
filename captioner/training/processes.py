"""The end of a process that is one of several."""

import sys
from contextlib import suppress
from os import _exit


def in_group() -> bool:
    """Whether this process is in a group of processes that `torch.distributed` knows."""
    distributed = sys.modules.get("torch.distributed")
    return distributed is not None and distributed.is_available() and distributed.is_initialized()


def leave(code: int = 0) -> None:
    """End this process at once, with this exit code, if it is in a group of processes; else return.

    Gloo's threads need the interpreter to release tensors. If the interpreter ends meanwhile, the process aborts, and
    destroying the group first waits for those threads, sometimes for ever. So there is no ordered end: the output is
    flushed, and the process ends.
    """
    if not in_group():
        return
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # a closed pipe, a full disk, or a closed stream
            stream.flush()
    _exit(code)
