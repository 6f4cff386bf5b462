"""Memory is given back while work is done, and only then."""

import asyncio
from collections.abc import Callable

import pytest

from captioner.serve import memory

from .conftest import run


def test_memory_is_given_back_after_work(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    done = 0

    def find() -> Callable[[int], int]:
        return lambda keep: calls.append(keep) or 1  # type: ignore[func-returns-value]

    monkeypatch.setattr(memory, "find_trim", find)
    monkeypatch.setattr(memory, "_SECONDS", 0.01)

    async def idle_and_busy() -> None:
        nonlocal done
        task = asyncio.create_task(memory.give_back(lambda: done))
        await asyncio.sleep(0.1)
        assert calls == []  # nothing was done
        done = 5
        await asyncio.sleep(0.3)
        assert calls == [0]  # once, for nothing has been done since
        task.cancel()

    run(idle_and_busy())


def test_a_library_that_cannot_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ctypes.CDLL", lambda name: object())
    assert memory.find_trim() is None
    run(asyncio.wait_for(memory.give_back(lambda: 0), 5))  # returns at once
