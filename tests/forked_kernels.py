"""Kernels of notebooks, forked from one process that has imported what they import: each import takes seconds."""

import multiprocessing
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from jupyter_client.manager import AsyncKernelManager

_server = multiprocessing.get_context("forkserver")
_server.set_forkserver_preload(["tests.preloaded"])


class _Forked:
    """The part of `subprocess.Popen` that a manager of kernels uses."""

    stdin = stdout = stderr = None

    def __init__(self, command: Sequence[str], folder: str, environment: Mapping[str, str]) -> None:
        self._process = _server.Process(target=_kernel, args=(list(command), folder, dict(environment)), daemon=True)
        self._process.start()
        assert self._process.pid is not None
        self.pid = self._process.pid

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self) -> int | None:
        self._process.join()
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)


class ForkedKernelManager(AsyncKernelManager):
    """Starts its kernel by a fork."""

    async def _async_launch_kernel(self, kernel_cmd: list[str], **options: Any) -> None:
        provisioner: Any = self.provisioner
        provisioner.process = _Forked(kernel_cmd, options["cwd"], options["env"])
        provisioner.pid = provisioner.process.pid


def _kernel(command: list[str], folder: str, environment: dict[str, str]) -> None:
    import torch
    from ipykernel.kernelapp import IPKernelApp

    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    torch.set_num_threads(int(environment["OMP_NUM_THREADS"]))  # which was read before the fork
    sys.path[:0] = environment["PYTHONPATH"].split(os.pathsep)
    IPKernelApp.launch_instance(argv=command[command.index("-f") :])
