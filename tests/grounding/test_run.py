"""Grounding of models: generated and reference captions, deletion and insertion, the worst cases."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import captioner
from captioner.backends.torch import TorchBackend
from captioner.checkpoint import Checkpoint
from captioner.data.readers import read
from captioner.data.records import Record, of_split
from captioner.data.scenes import write_scenes
from captioner.errors import OptionError
from captioner.explain.occlusion import blurred, mean_colour, occlude, orders_of
from captioner.grounding.deletion import LEVELS, deletion_curves, summarise
from captioner.grounding.ground_truth import BoxGroundTruth, GroundTruth, find_ground_truth
from captioner.grounding.grounded import GroundedCaption, GroundedPicture, score_caption
from captioner.grounding.run import ground
from captioner.grounding.scores import average_scores
from captioner.grounding.worst_cases import worst_cases
from captioner.options import MapOptions
from captioner.pipeline import Captioner
from captioner.prepared import Prepared
from captioner.results import Failure


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Scenes with a dog or a cat, words that the tiny untrained models know, among them."""
    folder = tmp_path_factory.mktemp("scenes")
    write_scenes(folder, count=2, dev=8, first_seed=24, size=(96, 72))
    return folder


@pytest.fixture(params=["lstm", "transformer"])
def model(request: pytest.FixtureRequest, make_checkpoint: Callable[..., Checkpoint]) -> Captioner:
    return Captioner(TorchBackend(make_checkpoint(request.param)), name="tiny")


def truth_of(folder: Path) -> GroundTruth:
    return find_ground_truth(folder, read(folder))


def captions_of(outcomes: Iterable[GroundedPicture | Failure]) -> list[GroundedCaption]:
    return [c for outcome in outcomes if isinstance(outcome, GroundedPicture) for c in outcome.captions]


def test_references_are_read_and_every_noun_with_a_box_is_scored(model: Captioner, scenes: Path) -> None:
    records = of_split(read(scenes), "dev")
    found = captions_of(ground(model, records, truth_of(scenes), sources=("references",)))
    assert [grounded.record for grounded in found] == records
    for grounded, record in zip(found, records, strict=True):
        (boxes,) = record.boxes
        assert [noun.position for noun in grounded.nouns] == sorted(boxes)
        assert len(grounded.scores) == len(boxes)
        assert grounded.source == "references" and grounded.absent == 0
        for noun in grounded.nouns:
            np.testing.assert_array_equal(noun.map, grounded.caption.words[noun.position].map)
            same = sum(word.text == noun.category for word in grounded.caption.words)
            assert len(noun.others) == len(grounded.caption.words) - same


def test_generated_captions_are_scored_where_they_name_what_is_there(model: Captioner, scenes: Path) -> None:
    records = of_split(read(scenes), "dev")
    classes = {r.captions[0].split()[position] for r in read(scenes) for position in r.boxes[0]}
    found = captions_of(ground(model, records, truth_of(scenes), sources=("generated",), batch=3))
    assert [grounded.caption.text for grounded in found] == [str(c) for c in model.caption([r.image for r in records])]
    for grounded, record in zip(found, records, strict=True):
        nouns = {record.captions[0].split()[position] for position in record.boxes[0]}
        words = [word.text for word in grounded.caption.words]
        assert [words[noun.position] for noun in grounded.nouns] == [word for word in words if word in nouns]
        assert grounded.absent == sum(word in classes - nouns for word in words)


@pytest.mark.parametrize("sources", [("generated",), ("references",), ("generated", "references")])
def test_outcomes_are_aligned_with_the_records(
    model: Captioner, scenes: Path, tmp_path: Path, sources: tuple[str, ...]
) -> None:
    (tmp_path / "broken.png").write_text("no picture")
    first, second, third, *_ = of_split(read(scenes), "dev")
    bad = replace(second, image=tmp_path / "broken.png", id="broken")
    outcomes = list(ground(model, [first, bad, third], truth_of(scenes), sources=sources, batch=2))
    assert [type(outcome) for outcome in outcomes] == [GroundedPicture, Failure, GroundedPicture]
    good, failure, last = outcomes
    assert isinstance(good, GroundedPicture) and isinstance(last, GroundedPicture) and isinstance(failure, Failure)
    assert (good.record, last.record) == (first, third)
    assert [caption.source for caption in good.captions] == list(sources)
    assert "broken.png" in str(failure) and failure.image.endswith("broken.png")


def test_each_picture_is_opened_once(model: Captioner, scenes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    records = of_split(read(scenes), "dev")[:3]
    opened = []
    prepare = Captioner.prepare

    def counted(self: Captioner, picture: Path, **options: int) -> Prepared:
        opened.append(picture)
        return prepare(self, picture, **options)

    monkeypatch.setattr(Captioner, "prepare", counted)
    assert len(captions_of(ground(model, records, truth_of(scenes)))) == 6
    assert sorted(opened) == sorted(record.image for record in records)


def test_unknown_sources_and_batches_are_refused(model: Captioner, scenes: Path) -> None:
    with pytest.raises(OptionError, match=r"written.*generated"):
        ground(model, [], truth_of(scenes), sources=("written",))
    with pytest.raises(OptionError, match="0"):
        ground(model, [], truth_of(scenes), batch=0)


def test_curves_are_the_words_probabilities_on_occluded_pictures(model: Captioner, scenes: Path) -> None:
    records = of_split(read(scenes), "dev")
    record = next(r for r in records if {"dog", "cat", "ball"} & set(r.captions[0].split()))  # words of the tiny models
    (grounded,) = captions_of(ground(model, [record], truth_of(scenes), sources=("references",)))
    known = [noun for noun in grounded.nouns if grounded.caption.words[noun.position].probability > 0]
    curves = deletion_curves(model, grounded, seed=3)
    assert len(curves) == len(known) > 0
    again = deletion_curves(model, grounded, seed=3)
    np.testing.assert_array_equal(curves[0].random_deletion, again[0].random_deletion)
    assert not np.array_equal(curves[0].random_deletion, deletion_curves(model, grounded, seed=4)[0].random_deletion)
    prepared = model.prepare(record.image)
    gray, blurry = (fill(prepared.pixels, prepared.geometry) for fill in (mean_colour, blurred))
    ids = model.vocabulary.encode_made([word.text for word in grounded.caption.words])
    for noun, curve in zip(known, curves, strict=True):
        word = grounded.caption.words[noun.position]
        assert curve.deletion[0] == pytest.approx(word.probability, rel=1e-3)
        assert curve.insertion[-1] == pytest.approx(word.probability, rel=1e-3)
        assert curve.deletion[-1] == curve.random_deletion[-1]
        assert curve.deletion.shape == curve.insertion.shape == (len(LEVELS),)
        # One level by hand.
        (cells,) = orders_of(word.map.astype(float), [round(0.2 * 64)])
        occluded = Image.fromarray(occlude(prepared.pixels, gray, cells))
        (read_again,) = model.read(occluded.resize((64, 64)), [record.captions[0]])
        assert curve.deletion[LEVELS.index(0.2)] == pytest.approx(read_again.words[noun.position].probability, rel=1e-3)
        for level, chosen in ((0.0, 0), (0.2, round(0.2 * 64))):  # the picture comes back into its blurred self
            (cells,) = orders_of(word.map.astype(float), [chosen])
            (log_p,) = model.log_probabilities([occlude(blurry, prepared.pixels, cells)], prepared.geometry, [ids])
            assert curve.insertion[LEVELS.index(level)] == pytest.approx(np.exp(log_p[0, noun.position]), rel=1e-3)


def test_curves_of_a_padded_picture_cover_no_padding(
    make_checkpoint: Callable[..., Checkpoint], scenes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = Captioner(TorchBackend(make_checkpoint("lstm", pad=True)), name="tiny")
    record = next(r for r in of_split(read(scenes), "dev") if {"dog", "cat", "ball"} & set(r.captions[0].split()))
    (grounded,) = captions_of(ground(model, [record], truth_of(scenes), sources=("references",)))
    mask = grounded.caption.geometry.mask
    assert not mask.all()
    covered: list[np.ndarray] = []

    def noted(pixels: np.ndarray, fill: np.ndarray, cells: np.ndarray) -> np.ndarray:
        covered.append(cells)
        return occlude(pixels, fill, cells)

    monkeypatch.setattr("captioner.grounding.deletion.occlude", noted)
    assert deletion_curves(model, grounded)
    assert covered and not any((cells & ~mask).any() for cells in covered)
    assert {int(cells.sum()) for cells in covered} == {round(level * mask.sum()) for level in LEVELS[1:-1]}


def test_the_worst_cases_come_first_with_their_boxes_drawn(model: Captioner, scenes: Path) -> None:
    records, truth = of_split(read(scenes), "dev"), truth_of(scenes)
    found = captions_of(ground(model, records, truth, sources=("references",)))
    cases = worst_cases(found, 3)
    assert 1 <= len(cases) <= 3
    masses = [float(case.image.split(", ")[1].split("%")[0]) for case in cases]
    assert masses == sorted(masses)
    assert len({case.image.split(", ")[0] for case in cases}) == len(cases), "a picture stands there once"
    before = next(g for g in found if g.caption.text == cases[0].text and g.record.image.name in cases[0].image).caption
    changed = np.any(np.asarray(before.picture) != np.asarray(cases[0].picture), axis=2)
    assert 0 < changed.mean() < 0.5


def test_a_caption_without_nouns_has_no_scores(model: Captioner, scenes: Path) -> None:
    record = of_split(read(scenes), "dev")[0]
    (caption,) = model.read(record.image, ["in the park"])
    grounded = score_caption(caption, record, [], "generated")
    assert grounded.nouns == grounded.scores == ()
    assert deletion_curves(model, grounded) == []
    assert worst_cases([grounded], 5) == []


# Trained models


@pytest.mark.slow
@pytest.mark.parametrize("decoder", ["lstm", "transformer"])
def test_maps_of_trained_models_point_at_what_they_name_and_the_model_needs_it(
    decoder: str, scenes_model: Callable[[str], Path], tmp_path: Path
) -> None:
    write_scenes(tmp_path, count=0, dev=40, first_seed=2_000_000, size=(192, 144))
    records, truth = read(tmp_path), truth_of(tmp_path)
    model = captioner.load(scenes_model(decoder))
    found = captions_of(ground(model, records, truth))
    for source in ("generated", "references"):
        some = [grounded for grounded in found if grounded.source == source]
        nouns = [noun for grounded in some for noun in grounded.nouns]
        scores, _ = average_scores(nouns, [score for grounded in some for score in grounded.scores])
        assert scores.maps.pointing.value >= 0.95
        assert scores.beats_baselines
        assert scores.maps.mass.interval.low > scores.baselines["even"].mass.interval.high
        assert scores.baselines["even"].pointing.value < 0.3
    tried = summarise([curve for grounded in found[:24] for curve in deletion_curves(model, grounded)])
    assert tried.deletion_gain.interval.low > 0
    assert tried.insertion_gain.interval.low > 0
    # Drawn things are two or three of these cells wide: a block of three would reach beyond them.
    single_cells = MapOptions(explain="occlusion", block=1)
    occluded = captions_of(ground(model, records[:10], truth, sources=("references",), explain=single_cells))
    hits = [score.map.pointing for grounded in occluded for score in grounded.scores]
    assert np.mean(hits) > 0.8


def test_a_picture_that_was_annotated_before_it_was_turned_fails(model: Captioner, tmp_path: Path) -> None:
    (quarter := Image.Exif())[0x0112] = 6
    Image.new("RGB", (96, 64)).save(tmp_path / "turned.jpg", exif=quarter)
    Image.new("RGB", (96, 64)).save(tmp_path / "plain.jpg")
    records = [
        Record(tmp_path / name, ("a dog",), "dev", name, ({1: ((0.0, 0.0, 0.5, 1.0),)},))
        for name in ("turned.jpg", "plain.jpg")
    ]

    class Annotated(BoxGroundTruth):
        size: tuple[int, int]

        def size_of(self, record: Record) -> tuple[int, int]:  # type: ignore[override]
            return self.size

    truth = Annotated()
    for truth.size, failing in (((96, 64), ["turned.jpg"]), ((64, 96), []), ((32, 32), [])):
        outcomes = list(ground(model, records, truth, sources=("references",)))
        failed = [outcome for outcome in outcomes if isinstance(outcome, Failure)]
        assert [Path(failure.image).name for failure in failed] == failing
        assert all("annotated at 96 x 64 pixels, and upright it has 64 x 96" in one.error for one in failed)
