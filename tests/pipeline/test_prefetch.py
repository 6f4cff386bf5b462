"""Pictures opened a batch ahead, and encoded beside the search of the batch before."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from captioner.errors import CaptionerError, ImageError
from captioner.pipeline import load
from captioner.pipeline.prefetch import prefetch
from captioner.results import Caption, Failure

BESIDE = pytest.mark.parametrize("beside", [False, True])


def opened(picture: Any) -> Any:
    if picture == "broken":
        raise ImageError("broken: no picture", remedy="leave it out")
    return picture.upper()


def names(batch: list[Any]) -> list[str]:
    return [one.image if isinstance(one, Failure) else one for one in batch]


def batches(pictures: Iterator[Any], work: Any = names, *, beside: bool) -> Any:
    return prefetch(pictures, opened, work, batch=2, threads=2, beside=beside)


@BESIDE
def test_batches_come_in_order_with_failures_in_their_places(beside: bool) -> None:
    found = list(batches(iter(["a", "b", "broken", "c", "d"]), beside=beside))
    assert found == [["A", "B"], ["broken", "C"], ["D"]]


@BESIDE
def test_what_the_iterator_raises_comes_after_the_batches_before(beside: bool) -> None:
    def pictures() -> Iterator[str]:
        yield from "abc"
        raise OSError("gone")

    found = []
    with pytest.raises(OSError, match="gone"):
        for batch in batches(pictures(), beside=beside):
            found.append(batch)
    assert found == [["A", "B"], ["C"]]


@BESIDE
def test_what_the_work_raises_comes_in_its_turn(beside: bool) -> None:
    def work(batch: list[Any]) -> list[str]:
        if "C" in batch:
            raise CaptionerError("C cannot be encoded")
        return names(batch)

    running = batches(iter("abcdef"), work, beside=beside)
    assert next(running) == ["A", "B"]
    with pytest.raises(CaptionerError, match="C cannot"):
        next(running)


@BESIDE
def test_no_more_than_a_batch_is_read_ahead(beside: bool) -> None:
    pictures = iter("abcdefgh")
    running = batches(pictures, beside=beside)
    assert next(running) == ["A", "B"]
    assert next(pictures) == "e"
    running.close()  # it waits for what is being worked on, and for nothing else
    assert list(pictures) == ["f", "g", "h"]


def test_the_next_batch_is_worked_on_while_the_caller_has_one() -> None:
    begun = {name: threading.Event() for name in "ACE"}

    def work(batch: list[Any]) -> list[str]:
        begun[batch[0]].set()
        return names(batch)

    running = batches(iter("abcde"), work, beside=True)
    for _, following in zip(running, "CE", strict=False):
        assert begun[following].wait(60)


def test_captions_are_those_of_each_picture_alone(quick_model: Path) -> None:
    model = load(quick_model, backend="onnx", device="cpu", threads=2)
    assert model.backend.encodes_beside  # type: ignore[attr-defined]
    random = np.random.default_rng(0)
    pictures = [random.integers(0, 256, (48, 64, 3), dtype=np.uint8) for _ in range(5)]
    together = list(model.caption_all([*pictures[:3], b"no picture", *pictures[3:]], batch=2))
    assert isinstance(together.pop(3), Failure)
    for one, picture in zip(together, pictures, strict=True):
        alone = model.caption(picture)
        assert isinstance(one, Caption) and one.text == alone.text
        np.testing.assert_allclose(one.maps, alone.maps, atol=1e-6)
    assert not load(quick_model, backend="onnx", device="cpu", threads=1).backend.encodes_beside  # type: ignore[attr-defined]
