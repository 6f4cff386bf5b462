"""Training processes for the tests, forked from one process that has imported torch: each import takes seconds.

What a launcher tells a process through its environment, they are told. They write to files of their own.
"""

import multiprocessing
import os
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path

_server = multiprocessing.get_context("forkserver")
_server.set_forkserver_preload(["tests.preloaded"])

TOGETHER = {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}


@dataclass(frozen=True)
class Done:
    """How a process ended, and what it wrote."""

    returncode: int
    stdout: str
    stderr: str


def start(run: Callable[..., object], *arguments: object, name: Path, **environment: str) -> BaseProcess:
    """Start ``run(*arguments)``, whose result is the exit code; it writes to ``name.out`` and ``name.err``."""
    process = _server.Process(target=_child, args=(run, arguments, name, environment), daemon=True)
    process.start()
    return process


def launch(run: Callable[..., object], *arguments: object, folder: Path, **environment: str) -> list[Done]:
    """Run ``run(*arguments)`` in two processes of one group, as ``torchrun --nproc-per-node 2`` would."""
    folder.mkdir(parents=True, exist_ok=True)
    told = {**TOGETHER, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": "2", **environment}
    names = [folder / f"process-{rank}" for rank in range(2)]
    running = [
        start(run, *arguments, name=name, **told, RANK=str(rank), LOCAL_RANK=str(rank))
        for rank, name in enumerate(names)
    ]
    done = []
    for process, name in zip(running, names, strict=True):
        process.join(300)
        if process.exitcode is None:
            process.kill()
            process.join()
        assert process.exitcode is not None
        written = [name.with_name(f"{name.name}.{stream}").read_text() for stream in ("out", "err")]
        done.append(Done(process.exitcode, *written))
    return done


def command(words: Sequence[str]) -> int:
    """A command line of `captioner`."""
    from captioner.cli import main

    return main(words)


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def _child(run: Callable[..., object], arguments: Sequence[object], name: Path, environment: Mapping[str, str]) -> None:
    import torch

    os.environ.update(environment)
    torch.set_num_threads(1)  # as in the process of the tests: sums of several threads differ
    for number, stream in ((1, "out"), (2, "err")):
        os.dup2(os.open(name.with_name(f"{name.name}.{stream}"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    sys.exit(run(*arguments))
