"""The processes of a run and the device of each, by `torch.distributed`.

One process is a group of one: the same calls work, and communicate nothing.
"""

import os
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from inspect import signature
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from captioner.backends.torch import find_device
from captioner.errors import OptionError

T = TypeVar("T")

_FORWARD_SYNC = "forward_sync_buffers"
"""What recent versions of torch call ``broadcast_buffers``, of which they warn."""


class Processes:
    """The group of processes that share a run; `join` makes it.

    Attributes:
        rank: of this process, from 0.
        count: of processes.
        device: that this process computes on.
    """

    def __init__(self, *, rank: int, count: int, device: torch.device) -> None:
        self.rank, self.count, self.device = rank, count, device

    @classmethod
    def join(cls, device: str | torch.device = "auto") -> "Processes":
        """Enter the group that ``torchrun`` started this process in; a group of one without a launcher.

        Args:
            device: see `captioner.backends.torch.find_device`; of several processes on GPUs, each takes the one of its
                local rank.

        Raises:
            OptionError: there is no such device, or all processes would share one GPU.
        """
        count, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
        if count == 1:
            return cls(rank=0, count=1, device=torch.device(find_device(str(device))))
        named = str(device)
        if named.startswith("cuda:"):
            raise OptionError(
                f"--device {named} is one GPU, and {count} processes share this run",
                remedy="give --device cuda: each process takes a GPU of its own",
            )
        found = torch.device(find_device(str(device)))
        if found.type == "cuda":
            local = int(os.environ.get("LOCAL_RANK", "0"))
            found = torch.device(find_device(f"cuda:{local}"))
            torch.cuda.set_device(found)
        if not dist.is_initialized():
            dist.init_process_group("cpu:gloo,cuda:nccl" if found.type == "cuda" else "gloo")
        return cls(rank=rank, count=count, device=found)

    @property
    def is_first(self) -> bool:
        """Whether this process writes the files and prints."""
        return self.rank == 0

    def wait(self) -> None:
        """Return when every process has called this."""
        if self.count > 1:
            dist.barrier()

    def sum(self, values: Sequence[float]) -> list[float]:
        """The sums over the processes, value by value."""
        if self.count == 1:
            return list(values)
        total = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(total)
        return list(total.tolist())

    def any(self, vote: bool) -> bool:
        """Whether any process votes yes; the same answer in all of them."""
        return self.sum([float(vote)])[0] > 0

    def gather(self, value: T) -> list[T]:
        """The value of each process, by rank."""
        if self.count == 1:
            return [value]
        values: list[Any] = [None] * self.count
        dist.all_gather_object(values, value)
        return values

    def wrap(self, model: nn.Module) -> nn.Module:
        """A module whose backward pass averages the gradients over the processes; the model itself if it is one.

        Buffers are equal in all processes and stay so. Forward passes do not broadcast them: that would write into
        tensors that an earlier pass of the same step still needs.
        """
        if self.count == 1:
            return model
        devices = [self.device] if self.device.type == "cuda" else None
        sync = _FORWARD_SYNC if _FORWARD_SYNC in signature(DistributedDataParallel).parameters else "broadcast_buffers"
        options: dict[str, Any] = {sync: False}
        return DistributedDataParallel(model, device_ids=devices, **options)

    def no_sync(self, wrapped: nn.Module) -> AbstractContextManager[Any]:
        """A context in which a backward pass of a module of `wrap` accumulates gradients without communication."""
        return wrapped.no_sync() if isinstance(wrapped, DistributedDataParallel) else nullcontext()


def autocast(device: torch.device, precision: str) -> AbstractContextManager[Any]:
    """The context of a forward pass in "float32" or "bfloat16"."""
    return torch.autocast(device.type, torch.bfloat16) if precision == "bfloat16" else nullcontext()
