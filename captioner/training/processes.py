"""The end of a process that is one of several."""

import sys
from contextlib import suppress
from os import _exit


def leave(code: int = 0) -> None:
    """End this process at once, with this exit code, if it is in a group of processes; else return.

    Gloo's threads need the interpreter to let go of tensors. One that ends meanwhile aborts the process, and destroying
    the group first makes it wait for those threads, sometimes for ever. So there is no ordered end: what was printed is
    written out, and the process ends.
    """
    distributed = sys.modules.get("torch.distributed")
    if distributed is None or not (distributed.is_available() and distributed.is_initialized()):
        return
    for stream in (sys.stdout, sys.stderr):
        with suppress(BrokenPipeError):
            stream.flush()
    _exit(code)
