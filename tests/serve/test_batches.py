"""How many batches go through a model at a time."""

import asyncio
import threading
from types import SimpleNamespace
from typing import Any

import pytest

from captioner.options import Greedy
from captioner.serve.batches import Batcher, Request
from captioner.serve.settings import Limits

from .conftest import run


class Waiting:
    """A model whose batches wait until so many of them run side by side; one fails."""

    def __init__(self, backend: object, together: int) -> None:
        self.backend = backend
        self._barrier = threading.Barrier(together)
        self._lock = threading.Lock()
        self._running = self.most = 0

    @property
    def waits(self) -> bool:
        return self._barrier.n_waiting > 0

    def let_go(self) -> None:
        self._barrier.abort()

    def caption_prepared(self, ready: list[Any], *, options: object) -> list[Any]:
        with self._lock:
            self._running += 1
            self.most = max(self.most, self._running)
        self._barrier.wait(60)
        with self._lock:
            self._running -= 1
        if 3 in ready:
            raise ValueError("3")
        return ready


@pytest.mark.parametrize(
    ("backend", "together"),
    [(SimpleNamespace(encodes_beside=True), 2), (SimpleNamespace(encodes_beside=False), 1), (SimpleNamespace(), 1)],
)
def test_a_batch_is_encoded_beside_another_where_the_runtime_gains(backend: object, together: int) -> None:
    model: Any = Waiting(backend, together)

    async def six() -> list[Any]:
        batcher = Batcher(Limits(batch=1, wait_ms=0))
        worker = asyncio.create_task(batcher.run())
        try:
            asked: Any = [batcher.caption(model, Request(options=Greedy()), number) for number in range(6)]  # type: ignore[arg-type]
            return await asyncio.gather(*asked, return_exceptions=True)
        finally:
            worker.cancel()
            batcher.close()

    *before, failed, fourth, fifth = run(six())
    assert (before, fourth, fifth) == ([0, 1, 2], 4, 5)
    assert isinstance(failed, ValueError)
    assert model.most == together


def test_who_waits_when_the_batches_end_is_told() -> None:
    model: Any = Waiting(SimpleNamespace(), 2)  # a batch alone waits for another, which does not come

    async def ended() -> list[Any]:
        batcher = Batcher(Limits(batch=1, wait_ms=0))
        worker = asyncio.create_task(batcher.run())
        asked: Any = [
            asyncio.create_task(batcher.caption(model, Request(options=Greedy()), number))  # type: ignore[arg-type]
            for number in range(3)
        ]
        while not model.waits:
            await asyncio.sleep(0.01)
        worker.cancel()
        try:
            return await asyncio.wait_for(asyncio.gather(*asked, return_exceptions=True), 30)
        finally:
            model.let_go()
            batcher.close()

    assert [type(outcome) for outcome in run(ended())] == [asyncio.CancelledError] * 3
