"""Dev grids of a frozen encoder are computed once."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from captioner.checkpoint import Checkpoint
from captioner.data.records import Record
from captioner.data.scenes import draw_scene
from captioner.training import dev
from captioner.training.dev import DevGrids, encode_records

CPU = torch.device("cpu")


@pytest.fixture
def records(tmp_path: Path) -> list[Record]:
    found = []
    for i in range(35):
        draw_scene(i, size=(40, 30 + i)).image.save(tmp_path / f"{i}.png")
        found.append(Record(tmp_path / f"{i}.png", ("a",), "dev", f"{i}"))
    return found


@pytest.mark.parametrize("pad", [False, True])
def test_grids_of_a_frozen_encoder_are_computed_once(
    pad: bool, records: list[Record], make_checkpoint: Callable[..., Checkpoint], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, encoded = make_checkpoint("lstm", pad=pad).model, []
    encode = dev.encode_images

    def counted(*args: Any, **options: Any) -> Iterator[Any]:
        encoded.append(sum(len(keys) for keys in args[2]))
        return encode(*args, **options)

    monkeypatch.setattr(dev, "encode_images", counted)
    expected = list(encode_records(model, records, device=CPU))
    del encoded[:]

    def check(some: DevGrids, frozen: bool = True) -> None:
        found = list(some.refined(model, records, frozen=frozen, device=CPU))
        assert [len(grid) for grid in found] == [len(grid) for grid in expected] == [32, 3]
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one.features, other.features, atol=5e-3, rtol=5e-3)
            assert (one.mask is None) == (not pad) and (one.mask is None or torch.equal(one.mask, other.mask))

    grids = DevGrids()
    for _ in range(3):
        check(grids)
    assert encoded == [35]
    assert len(list(grids.refined(model, records[:2], frozen=True, device=CPU))) == 1, "another set of pictures"
    assert encoded == [35, 2]
    with torch.no_grad():  # the refiner may learn all the while
        for parameter in model.refiner.parameters():
            parameter.mul_(0.5)
    expected = list(encode_records(model, records, device=CPU))
    del encoded[:]
    check(grids)
    assert encoded == []
    check(grids, frozen=False)
    check(grids)
    assert encoded == [35, 35], "what an encoder made before it learned is gone"
    small = DevGrids(most=1000)
    for _ in range(2):
        check(small)
    assert encoded == [35] * 4
    monkeypatch.setattr(dev, "_in_half", lambda grid: replace(grid, features=grid.features.half() * 1e9))
    large = DevGrids()
    for _ in range(2):
        check(large)
    assert encoded == [35] * 6, "numbers beyond 16 bits are computed each time"


def test_pictures_of_another_data_set_with_the_same_ids_have_grids_of_their_own(
    records: list[Record], make_checkpoint: Callable[..., Checkpoint]
) -> None:
    model, some = make_checkpoint("lstm").model, DevGrids()
    first = records[0]
    for record in (first, replace(records[1], id=first.id)):
        (found,) = some.refined(model, [record], frozen=True, device=CPU)
        (expected,) = encode_records(model, [record], device=CPU)
        torch.testing.assert_close(found.features, expected.features, atol=5e-3, rtol=5e-3)
