"""Choosing how maps are read."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from captioner import checkpoint
from captioner.backends.torch import TorchBackend
from captioner.checkpoint import Checkpoint
from captioner.data.readers import read
from captioner.data.records import of_split
from captioner.data.scenes import write_scenes
from captioner.explain.postprocess import postprocess
from captioner.grounding import select_heads
from captioner.grounding.ground_truth import find_ground_truth
from captioner.grounding.region import CellRegion, Region
from captioner.grounding.select_heads import (
    MARGIN,
    Candidate,
    HeadSample,
    Selection,
    read_heads,
    score_candidate,
    select,
    with_selection,
)
from captioner.image import Geometry
from captioner.options import MapOptions
from captioner.pipeline import Captioner

GEOMETRY = Geometry(size=(64, 64), side=64, grid=(4, 4))


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes")
    write_scenes(folder, count=1, dev=5, size=(96, 72))
    return folder


def case(number: int, steps: np.ndarray, position: int, cell: tuple[int, int]) -> HeadSample:
    """A noun at ``position`` whose thing is exactly one cell."""
    row, column = cell
    region = Region.of_boxes([(column / 4, row / 4, (column + 1) / 4, (row + 1) / 4)])
    return HeadSample(
        picture=str(number),
        heads=steps.astype(np.float16),
        gradient=None,
        regions={position: CellRegion.of(region, GEOMETRY)},
    )


def made(head_that_looks: int, *, late: int = 0, sink: float = 0.0, heads: int = 4) -> list[HeadSample]:
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
    selection = select(made(2), (0, 1, 2, 3), 4)
    best, tried = selection.attention, selection.scores
    assert best.heads == (2,)
    assert best.options.delay == 0
    assert selection.gradient is None and selection.default == "attention"
    assert tried[best].pointing.value == 1
    assert tried[Candidate(MapOptions(), (0, 1, 2, 3))].value < tried[best].value


def test_a_delay_and_a_sink_are_found() -> None:
    best = select(made(0, late=1, heads=1), (0,), 1).attention
    assert best.options.delay == 1
    # A model whose maps have a delay keeps it where nothing is clearly better.
    assert select(made(0, late=1, heads=1), (0,), 1, delay=1).attention == best
    alike = select([case(0, np.full((1, 4, 4, 4), 1 / 16), 1, (0, 0))], (0,), 1, delay=1)
    assert alike.attention.options == MapOptions(delay=1)
    selection = select(made(0, sink=3.0, heads=1), (0,), 1)
    best, tried = selection.attention, selection.scores
    assert best.options.sinks in ("subtract", "standardise")
    assert tried[Candidate(MapOptions(), (0,))].pointing.value < 0.2 < 0.9 < tried[best].pointing.value


def test_what_is_hardly_better_is_not_taken() -> None:
    random = np.random.default_rng(1)
    cases = []
    for number in range(40):
        one = random.dirichlet(np.ones(16) * 0.3, (1, 4)).reshape(1, 4, 4, 4)
        cases.append(case(number, np.repeat(one, 2, axis=0), 1, (1, 1)))
    plain = (0, 1)
    candidate, before = select(cases, plain, 2).attention, Candidate(MapOptions(), plain)
    gain = score_candidate(cases, candidate).value - score_candidate(cases, before).value
    assert candidate == before or gain >= MARGIN


@pytest.mark.parametrize("decoder", ["lstm", "transformer"])
def test_the_chosen_heads_are_those_that_the_model_then_reads(
    decoder: str, make_checkpoint: Callable[..., Checkpoint], scenes: Path, tmp_path: Path
) -> None:
    made_one = make_checkpoint(decoder)
    records, truth = of_split(read(scenes), "dev"), find_ground_truth(scenes, read(scenes))
    captioner = Captioner(TorchBackend(made_one))
    outcomes = read_heads(captioner, records, truth, captions=1, gradients=2)
    (first, *_) = cases = [sample for samples in outcomes if isinstance(samples, list) for sample in samples]
    plain, per_layer = made_one.model.decoder.map_heads, made_one.model.decoder.heads
    assert (plain, per_layer) == (((0,), 1) if decoder == "lstm" else ((2, 3), 2))
    assert len(first.heads) == (1 if decoder == "lstm" else 4)
    assert [c.gradient is None for c in cases] == [False, False, True, True, True]
    (read_plain,) = captioner.read(records[0].image, [records[0].captions[0]])
    np.testing.assert_allclose(first.heads[list(plain)].astype(float).mean(0)[:-1], read_plain.maps, atol=1e-3)

    best = Candidate(MapOptions(sinks="subtract"), (0,) if decoder == "lstm" else (1, 2))
    selection = Selection(attention=best, gradient=None, scores={}, default="attention", measured={"on": "scenes"})
    changed = with_selection(made_one, selection)
    checkpoint.save(tmp_path / "m.safetensors", changed, half=False)
    again = checkpoint.load(tmp_path / "m.safetensors")
    assert again.model.config.decoder.map_heads == ((0,) if decoder == "lstm" else ((0, 1), (1, 0)))
    assert again.about["maps_measured"] == {"on": "scenes"}
    assert again.about["note"] == "untrained"
    (chosen,) = Captioner(TorchBackend(again)).read(records[0].image, [records[0].captions[0]])
    steps = first.heads[list(best.heads)].astype(np.float32).mean(0)
    expected, _ = postprocess(steps, chosen.geometry.mask, best.options)
    assert np.abs(chosen.maps - expected).max() < 0.02  # heads were kept in 16 bits


def test_mass_is_that_of_the_words_map_which_lacks_what_is_off_the_grid() -> None:
    inside = made(2)
    away = [replace(sample, heads=sample.heads * np.float16(0.25)) for sample in inside]
    candidate = Candidate(MapOptions(), (2,))
    near, far = (score_candidate(samples, candidate, resamples=1) for samples in (inside, away))
    assert far.mass.value == pytest.approx(near.mass.value / 4, rel=0.01)
    assert far.pointing.value == near.pointing.value


@dataclass(frozen=True)
class Scored:
    value: float

    def as_dict(self) -> dict[str, float]:
        return {"value": self.value}


def scored_by(values: dict[Candidate, float]) -> Callable[..., Scored]:
    def score(_: object, candidate: Candidate, **more: object) -> Scored:
        return Scored(values.get(candidate, 0.1))

    return score


@pytest.mark.parametrize(("gain", "taken"), [(0.99, False), (1.01, True)])
def test_other_heads_are_taken_from_a_clear_margin_on(
    gain: float, taken: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, better = Candidate(MapOptions(), (0, 1)), Candidate(MapOptions(), (1,))
    values = {before: 0.5, better: 0.5 + gain * MARGIN}
    monkeypatch.setattr(select_heads, "score_candidate", scored_by(values))
    assert select(made(0, heads=2), (0, 1), 2).attention == (better if taken else before)


@pytest.mark.parametrize(("loss", "kept"), [(0.49, True), (0.51, False)])
def test_todays_options_are_kept_where_others_are_hardly_better(
    loss: float, kept: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    other, todays = Candidate(MapOptions(sinks="subtract"), (1,)), Candidate(MapOptions(), (1,))
    values = {other: 0.9, todays: 0.9 - loss * MARGIN}
    monkeypatch.setattr(select_heads, "score_candidate", scored_by(values))
    assert select(made(0, heads=2), (0, 1), 2).attention == (todays if kept else other)


@pytest.mark.parametrize(("gain", "default"), [(1.99, "attention"), (2.01, "gradient")])
def test_gradients_are_the_default_from_twice_the_margin_on(
    gain: float, default: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = [replace(sample, gradient=sample.heads[0]) for sample in made(0, heads=2)]

    def score(_: object, candidate: Candidate, **more: object) -> Scored:
        return Scored(0.5 + gain * MARGIN if candidate.options.explain == "gradient" else 0.5)

    monkeypatch.setattr(select_heads, "score_candidate", score)
    assert select(samples, (0, 1), 2).default == default
