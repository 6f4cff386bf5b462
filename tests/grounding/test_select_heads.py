"""Choosing how maps are read."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from captioner import checkpoint
from captioner.checkpoint import Checkpoint
from captioner.data.readers import read
from captioner.data.records import of_split
from captioner.data.scenes import write_scenes
from captioner.explain.maps import MapReading
from captioner.grounding import select_heads as maps
from captioner.grounding.ground_truth import find_truth
from captioner.grounding.pointing import Region, Target
from captioner.grounding.select_heads import Candidate, Case, choose, collect, plain_heads, score, with_reading
from captioner.image import Geometry
from captioner.pipeline import Captioner

GEOMETRY = Geometry(size=(64, 64), side=64, grid=(4, 4))


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes")
    write_scenes(folder, count=1, dev=5, size=(96, 72))
    return folder


def case(number: int, steps: np.ndarray, place: int, cell: tuple[int, int]) -> Case:
    """A noun at ``place`` whose thing is exactly one cell."""
    row, column = cell
    region = Region.of_boxes([(column / 4, row / 4, (column + 1) / 4, (row + 1) / 4)])
    return Case(str(number), steps.astype(np.float16), None, {place: Target.of(region, GEOMETRY)})


def made(head_that_looks: int, *, late: int = 0, sink: float = 0.0, heads: int = 4) -> list[Case]:
    """Captions of three words; one head looks at the noun's cell, the others anywhere."""
    random = np.random.default_rng(0)
    cases = []
    for number in range(30):
        steps = random.dirichlet(np.ones(16) * 0.3, (heads, 4)).reshape(heads, 4, 4, 4)
        cell = (int(random.integers(4)), int(random.integers(4)))
        steps[head_that_looks] = 0.02
        steps[head_that_looks, 1 + late][cell] = 1
        steps[head_that_looks, :, 0, 0] += sink
        cases.append(case(number, steps / steps.sum((2, 3), keepdims=True), 1, cell))
    return cases


def test_the_head_that_looks_is_found() -> None:
    best, gradient, tried = choose(made(2), (0, 1, 2, 3), 4)
    assert best.heads == (2,)
    assert best.reading.delay == 0
    assert gradient is None
    assert tried[best].pointing.value == 1
    assert tried[Candidate(MapReading(), (0, 1, 2, 3))].value < tried[best].value


def test_a_delay_and_a_sink_are_found() -> None:
    best, _, _ = choose(made(0, late=1, heads=1), (0,), 1)
    assert best.reading.delay == 1
    best, _, tried = choose(made(0, sink=3.0, heads=1), (0,), 1)
    assert best.reading.sinks in ("subtract", "standardise")
    assert tried[Candidate(MapReading(), (0,))].pointing.value < 0.2 < 0.9 < tried[best].pointing.value


def test_what_is_hardly_better_is_not_taken() -> None:
    random = np.random.default_rng(1)
    cases = []
    for number in range(40):
        one = random.dirichlet(np.ones(16) * 0.3, (1, 4)).reshape(1, 4, 4, 4)
        cases.append(case(number, np.repeat(one, 2, axis=0), 1, (1, 1)))
    plain = (0, 1)
    for candidate in choose(cases, plain, 2)[:1]:
        assert candidate is not None
        better = score(cases, candidate).value - score(cases, Candidate(MapReading(), plain)).value
        assert candidate == Candidate(MapReading(), plain) or better >= maps.CLEARLY


@pytest.mark.parametrize("decoder", ["lstm", "transformer"])
def test_the_chosen_heads_are_those_that_the_model_then_reads(
    decoder: str, make_checkpoint: Callable[..., Checkpoint], scenes: Path, tmp_path: Path
) -> None:
    made_one = make_checkpoint(decoder)
    records, truth = of_split(read(scenes), "dev"), find_truth(scenes)
    (first, *_) = cases = list(collect(Captioner(made_one), records, truth, captions=1, gradients=2))
    plain, per_layer = plain_heads(made_one)
    assert (plain, per_layer) == (((0,), 1) if decoder == "lstm" else ((2, 3), 2))
    assert len(first.heads) == (1 if decoder == "lstm" else 4)
    assert [c.gradient is None for c in cases] == [False, False, True, True, True]
    (read_plain,) = Captioner(made_one).read(records[0].image, [records[0].captions[0]])
    np.testing.assert_allclose(first.heads[list(plain)].astype(float).mean(0)[:-1], read_plain.maps, atol=1e-3)

    best = Candidate(MapReading(sinks="subtract"), (0,) if decoder == "lstm" else (1, 2))
    changed = with_reading(made_one, best, None, {"on": "scenes"}, default="attention")
    checkpoint.save(tmp_path / "m.safetensors", changed, half=False)
    again = checkpoint.load(tmp_path / "m.safetensors")
    assert again.model.config.decoder.map_heads == ((0,) if decoder == "lstm" else ((0, 1), (1, 0)))
    assert again.about["maps_measured"] == {"on": "scenes"}
    assert again.about["note"] == "untrained"
    (chosen,) = Captioner(again).read(records[0].image, [records[0].captions[0]])
    steps = first.heads[list(best.heads)].astype(np.float32).mean(0)
    expected = maps.finish(steps, chosen.geometry.mask, best.reading)
    assert np.abs(chosen.maps - expected).max() < 0.02  # heads were kept in 16 bits


def test_the_command_writes_a_model_with_its_reading(
    tiny_model: Path, scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out.safetensors"
    command = ["maps", str(tiny_model), "--data", str(scenes), "--output", str(output), "--gradients", "2"]
    monkeypatch.setattr(sys, "argv", command)
    assert maps.main() == 0
    captured = capsys.readouterr()
    measured = json.loads(captured.out)
    assert measured["pictures"] == 5
    assert 0 <= measured["plain"]["pointing"]["value"] <= 1
    assert "sinks standardise, delay 1" in captured.err and "gradient (on fewer pictures), sinks keep" in captured.err
    about = checkpoint.read_header(output)["about"]
    assert about["maps_measured"] == measured
    assert about["maps"]["explain"] == measured["default"]

    monkeypatch.setattr(sys, "argv", [*command, "--split", "test"])
    assert maps.main() == 2
    assert "no caption of the split 'test'" in capsys.readouterr().err
    monkeypatch.setattr(sys, "argv", ["maps", "nowhere.safetensors", *command[2:]])
    assert maps.main() == 2
    assert "nowhere.safetensors: no such model file" in capsys.readouterr().err
