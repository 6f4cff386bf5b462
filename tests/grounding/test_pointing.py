"""Pointing and mass, by hand, and the baselines beside them."""

import io
import math

import numpy as np
import pytest
from rich.console import Console

from captioner.errors import DataError, OptionError
from captioner.grounding.bootstrap import bootstrap_means
from captioner.grounding.pointing import GroundedNoun, score_pointing
from captioner.grounding.region import CellRegion, Region
from captioner.grounding.report import GroundReport, SourceReport, print_ground_report
from captioner.grounding.scores import average_scores
from captioner.image import Geometry

SQUARE = Geometry(size=(80, 80), side=32, grid=(4, 4))
WIDE = Geometry(size=(200, 100), side=80, grid=(4, 4), pad=True)  # the lower two rows are padding
UNEVEN = Geometry(size=(100, 60), side=100, grid=(4, 4), pad=True)  # rows of 25, 25, 10 and 0 pixels


def one(cells: dict[tuple[int, int], float], shape: tuple[int, int] = (4, 4)) -> np.ndarray:
    map_ = np.zeros(shape, dtype=np.float32)
    for cell, value in cells.items():
        map_[cell] = value
    return map_


def noun(
    map_: np.ndarray, region: Region, *others: np.ndarray, geometry: Geometry = SQUARE, **more: str
) -> GroundedNoun:
    stacked = np.stack(others) if others else np.zeros((0, *geometry.grid), dtype=np.float32)
    named = {"picture": "p", "category": "dog"} | more
    return GroundedNoun(position=0, map=map_, others=stacked, geometry=geometry, region=region, **named)


def test_a_peak_inside_the_box_points_and_the_mass_is_what_lies_there() -> None:
    region = Region.of_boxes([(0.0, 0.0, 0.5, 0.25)])  # the first two cells of the first row
    found = score_pointing(noun(one({(0, 0): 0.5, (0, 1): 0.2, (3, 3): 0.3}), region))
    assert found.map.pointing == 1
    assert found.map.mass == pytest.approx(0.7)
    found = score_pointing(noun(one({(0, 0): 0.4, (3, 3): 0.6}), region))
    assert found.map.pointing == 0
    assert found.map.mass == pytest.approx(0.4)


def test_a_cell_that_is_covered_in_part_counts_in_part_and_points_by_its_centre() -> None:
    map_ = one({(1, 1): 1.0})  # from 0.25 to 0.5 each way, its centre at 0.375
    assert score_pointing(noun(map_, Region.of_boxes([(0.25, 0.25, 0.4, 0.5)]))).map.pointing == 1
    assert score_pointing(noun(map_, Region.of_boxes([(0.25, 0.25, 0.4, 0.5)]))).map.mass == pytest.approx(0.6)
    assert score_pointing(noun(map_, Region.of_boxes([(0.25, 0.25, 0.35, 0.5)]))).map.pointing == 0
    assert score_pointing(noun(map_, Region.of_boxes([(0.25, 0.25, 0.375, 0.5)]))).map.pointing == 1, (
        "edges belong to a box"
    )


def test_overlapping_boxes_count_once() -> None:
    region = Region.of_boxes([(0.0, 0.0, 0.5, 0.5), (0.25, 0.25, 0.75, 0.75), (0.25, 0.25, 0.5, 0.5)])
    assert region.area == pytest.approx(0.25 + 0.25 - 0.0625)
    even = np.full((4, 4), 1 / 16, dtype=np.float32)
    assert score_pointing(noun(even, region)).map.mass == pytest.approx(7 / 16)


def test_cells_that_share_the_maximum_share_the_point() -> None:
    region = Region.of_boxes([(0.0, 0.0, 0.5, 0.25)])
    even = np.full((4, 4), 1 / 16, dtype=np.float32)
    found = score_pointing(noun(even, region))
    assert found.map.pointing == found.baselines["even"].pointing == pytest.approx(2 / 16)
    assert score_pointing(noun(one({(0, 0): 0.5, (2, 2): 0.5}), region)).map.pointing == 0.5


def test_the_centre_is_the_cells_that_meet_there() -> None:
    lower_right = Region.of_boxes([(0.5, 0.5, 1.0, 1.0)])
    found = score_pointing(noun(one({(0, 0): 1}), lower_right))
    assert found.baselines["centre"].pointing == found.baselines["centre"].mass == 0.25
    odd = Geometry(size=(90, 90), side=32, grid=(3, 3))
    found = score_pointing(noun(one({(0, 0): 1}, (3, 3)), Region.of_boxes([(0.4, 0.4, 0.6, 0.6)]), geometry=odd))
    assert found.baselines["centre"].pointing == 1


def test_the_maps_of_other_words_are_averaged_and_need_not_be_there() -> None:
    region = Region.of_boxes([(0.0, 0.0, 0.25, 0.25)])
    hit, miss = one({(0, 0): 1.0}), one({(3, 3): 1.0})
    found = score_pointing(noun(miss, region, hit, miss, miss, one({(0, 0): 0.6, (1, 1): 0.4})))
    assert found.baselines["another word"].pointing == 0.5
    assert found.baselines["another word"].mass == pytest.approx(0.4)
    alone = score_pointing(noun(hit, region))
    assert np.isnan(alone.baselines["another word"].pointing) and np.isnan(alone.baselines["another word"].mass)


def test_padding_is_no_place_to_look_at() -> None:
    everything = Region.of_boxes([(0.0, 0.0, 1.0, 1.0)])
    even = WIDE.mask / 8
    found = score_pointing(noun(even.astype(np.float32), everything, geometry=WIDE))
    assert found.map.mass == pytest.approx(1)
    assert found.map.pointing == 1
    lower = Region.of_boxes([(0.0, 0.5, 1.0, 1.0)])
    assert score_pointing(noun(one({(1, 0): 1.0}), lower, geometry=WIDE)).map.mass == pytest.approx(1)
    assert score_pointing(noun(one({(1, 0): 1.0}), lower, geometry=WIDE)).map.pointing == 1
    # The centre of the picture is where its two rows meet, not the centre of the square input.
    assert score_pointing(noun(one({(0, 0): 1.0}), lower, geometry=WIDE)).baselines["centre"].pointing == 0.5


def test_a_cell_with_a_sliver_of_picture_stands_for_the_sliver() -> None:
    bottom = Region.of_boxes([(0.0, 50 / 60, 1.0, 1.0)])
    np.testing.assert_allclose(bottom.coverage(UNEVEN), [[0] * 4, [0] * 4, [1] * 4, [0] * 4], atol=1e-9)
    found = score_pointing(noun(one({(2, 1): 1.0}), bottom, geometry=UNEVEN))
    assert found.map.pointing == 1 and found.map.mass == pytest.approx(1)


@pytest.mark.parametrize("geometry", [SQUARE, WIDE, UNEVEN])
def test_shares_agree_with_counted_points(geometry: Geometry) -> None:
    random = np.random.default_rng(0)
    for _ in range(20):
        corners = np.sort(random.random((3, 2, 2)), axis=1)
        region = Region.of_boxes([(*lower, *upper) for lower, upper in corners])  # type: ignore[misc]
        x, y = random.random(50), random.random(50)
        expected = [
            [any(left <= a <= right and top <= b <= bottom for (left, top), (right, bottom) in corners) for a in x]
            for b in y
        ]
        np.testing.assert_array_equal(region.contains(x, y), expected)
        shares = region.coverage(geometry)
        for row, column in ((0, 0), (1, 2)):
            left, top, right, bottom = geometry.cell_box(row, column)
            width, height = geometry.size
            a, b = np.linspace(left, right, 401)[:-1] / width, np.linspace(top, bottom, 401)[:-1] / height
            assert shares[row, column] == pytest.approx(region.contains(a, b).mean(), abs=0.01)


def test_masks_measure_as_boxes_do() -> None:
    mask = np.zeros((60, 100), dtype=bool)
    mask[15:45, 20:80] = True
    box = Region.of_boxes([(0.2, 0.25, 0.8, 0.75)])
    np.testing.assert_allclose(Region.of_mask(mask).coverage(UNEVEN), box.coverage(UNEVEN), atol=1e-9)
    assert Region.of_mask(mask).area == pytest.approx(box.area)
    assert Region.of_mask(mask).contains(np.array([0.5]), np.array([0.5])).all()
    assert not Region.of_mask(mask).contains(np.array([0.1]), np.array([0.5])).any()
    assert Region.of_mask(np.zeros((6, 10), dtype=bool)).area == 0


def test_a_thing_in_the_padding_alone_cannot_be_hit() -> None:
    below = Region.of_boxes([(0.0, 0.9, 1.0, 1.0)])  # below the centres; the cells of padding lie on the lower edge
    found = CellRegion.of(below, WIDE)
    assert not found.reachable and not found.hits.any()


def test_the_corners_of_a_union_belong_to_it() -> None:
    angle = Region.of_boxes([(0.0, 0.0, 0.25, 0.75), (0.0, 0.5, 0.75, 0.75)])  # an L
    x, y = np.array([0.0, 0.25, 0.5, 0.75]), np.array([0.0, 0.5, 0.75])
    expected = [[True, True, False, False], [True, True, True, True], [True, True, True, True]]
    np.testing.assert_array_equal(angle.contains(x, y), expected)
    right = Region.of_boxes([(0.5, 0.25, 1.0, 1.0)])
    np.testing.assert_array_equal(right.contains(np.array([0.5, 1.0]), np.array([0.25, 1.0])), np.ones((2, 2), bool))


def test_a_thing_between_the_centres_of_cells_cannot_be_hit() -> None:
    assert not score_pointing(noun(one({(0, 0): 1.0}), Region.of_boxes([(0.2, 0.2, 0.3, 0.3)]))).reachable
    assert score_pointing(noun(one({(0, 0): 1.0}), Region.of_boxes([(0.1, 0.1, 0.3, 0.3)]))).reachable


def test_averages_are_over_nouns_and_by_class() -> None:
    region = Region.of_boxes([(0.0, 0.0, 0.25, 0.25)])
    hit, miss = one({(0, 0): 1.0}), one({(3, 3): 1.0})
    nouns = [
        noun(hit, region, miss, picture="a"),
        noun(hit, region, miss, picture="a"),
        noun(miss, region, picture="b"),
        noun(hit, region, miss, picture="c", category="person"),
    ]
    scores, by_class = average_scores(nouns, [score_pointing(m) for m in nouns])
    assert (scores.nouns, scores.pictures) == (4, 3)
    assert scores.maps.pointing.value == 0.75
    assert scores.baselines["another word"].pointing.value == 0
    assert scores.baselines["even"].pointing.value == pytest.approx(1 / 16)
    assert list(by_class) == ["dog", "person"]
    assert by_class["dog"].maps.pointing.value == pytest.approx(2 / 3)
    assert math.isnan(by_class["person"].maps.pointing.interval.low), "one picture has no interval"
    assert by_class["person"].best_baseline == "even"
    assert not by_class["person"].beats_baselines, "one picture proves nothing"
    many = [noun(hit, region, miss, picture=str(i)) for i in range(12)]
    assert average_scores(many, [score_pointing(m) for m in many])[0].beats_baselines
    mixed = [noun(miss if i % 2 else hit, region, hit, miss, picture=str(i)) for i in range(12)]
    assert not average_scores(mixed, [score_pointing(m) for m in mixed])[0].beats_baselines


@pytest.mark.parametrize("pictures", [1, 9, 10])
def test_tables_have_intervals_from_ten_pictures_on(pictures: int) -> None:
    region = Region.of_boxes([(0.0, 0.0, 0.25, 0.25)])
    hit, miss = one({(0, 0): 1.0}), one({(3, 3): 1.0})
    nouns = [noun(hit, region, *[miss] * (i == 0), picture=str(i)) for i in range(pictures)]
    scores, by_class = average_scores(nouns, [score_pointing(m) for m in nouns], resamples=3)
    source = SourceReport(scores=scores, by_class=by_class, absent=0)
    report = GroundReport(model="m", data="d", map_options={}, masks=False, sources={"references": source})
    console = Console(width=160, file=io.StringIO())
    print_ground_report(report, console)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert ("100.0 to 100.0" in text) == (pictures == 10)
    assert "nan" not in text


def test_intervals_draw_pictures_with_all_their_nouns() -> None:
    random = np.random.default_rng(0)
    by_picture = random.random(200) < 0.6
    values = np.repeat(by_picture, 5).astype(float)[:, None]
    (together,) = bootstrap_means(values, [str(i // 5) for i in range(1000)], resamples=4000)
    (apart,) = bootstrap_means(values, [str(i) for i in range(1000)])
    assert together.value == apart.value == pytest.approx(by_picture.mean())
    wide = together.interval.high - together.interval.low
    # Five equal nouns of a picture tell no more than one: 2 x 1.96 standard errors of 200 draws.
    assert wide == pytest.approx(2 * 1.96 * np.sqrt(0.24 / 200), rel=0.08)
    assert (apart.interval.high - apart.interval.low) < 0.6 * wide
    again, _ = bootstrap_means(np.repeat(values, 2, axis=1), [str(i // 5) for i in range(1000)], resamples=4000)
    assert again == together


def test_missing_values_are_left_out() -> None:
    values = np.array([[1.0, np.nan], [0.0, np.nan], [np.nan, np.nan]])
    first, second = bootstrap_means(values, ["a", "b", "c"])
    assert first.value == 0.5
    assert np.isnan(second.value) and np.isnan(second.interval.low)


def test_nothing_to_measure_is_said() -> None:
    with pytest.raises(DataError, match="nothing to measure"):
        average_scores([], [])
    region = Region.of_boxes([(0.0, 0.0, 0.25, 0.25)])
    some = noun(one({(0, 0): 1.0}), region)
    with pytest.raises(OptionError, match="resamples must be at least 1, not 0"):
        average_scores([some], [score_pointing(some)], resamples=0)


def test_each_column_has_an_interval_by_its_own_pictures() -> None:
    values = np.ones((12, 2))
    values[3:, 1] = np.nan
    first, second = bootstrap_means(values, [str(i) for i in range(12)], resamples=50)
    assert (first.interval.low, first.interval.high) == (1, 1)
    assert second.value == 1 and math.isnan(second.interval.low), "three pictures have no interval"


def test_the_seed_decides_what_is_drawn() -> None:
    values, pictures = np.random.default_rng(0).random((40, 1)), [str(i) for i in range(40)]
    one_, same, other = (bootstrap_means(values, pictures, resamples=50, seed=seed)[0] for seed in (1, 1, 2))
    assert one_ == same != other


def test_pictures_weigh_as_much_as_they_have_nouns() -> None:
    """Thirty nouns of three pictures hit, one noun of each of ten others misses."""
    pictures = ["a"] * 11 + ["b"] * 10 + ["c"] * 9 + [str(i) for i in range(10)]
    (found,) = bootstrap_means(np.array([[1.0]] * 30 + [[0.0]] * 10), pictures)
    assert found.value == 0.75
    assert found.interval.low == 0 and 0.85 < found.interval.high < 0.95, "of means by picture it ends at about 0.46"


def test_only_an_interval_above_those_of_the_baselines_beats_them() -> None:
    region = Region.of_boxes([(0.0, 0.0, 0.25, 0.25)])
    hit, miss = one({(0, 0): 1.0}), one({(3, 3): 1.0})

    def beats(*others: np.ndarray, pictures: int = 12) -> bool:
        nouns = [noun(hit, region, *others, picture=str(i)) for i in range(pictures)]
        return average_scores(nouns, [score_pointing(m) for m in nouns], resamples=20)[0].beats_baselines

    assert not beats(hit), "the same"
    assert beats(), "no other word is no baseline"
    assert beats(miss, pictures=10) and not beats(miss, pictures=9)


def test_the_best_baseline_is_one_that_is_there() -> None:
    region = Region.of_boxes([(0.9, 0.9, 0.95, 0.95)])  # no cell's centre lies on it: the baselines have 0
    nouns = [noun(one({(0, 0): 1.0}), region)]
    assert average_scores(nouns, [score_pointing(m) for m in nouns])[0].best_baseline == "centre"


def test_pointing_mass_and_reach_are_averages_of_their_own() -> None:
    corner, nowhere = Region.of_boxes([(0.0, 0.0, 0.25, 0.25)]), Region.of_boxes([(0.9, 0.9, 0.95, 0.95)])
    map_ = one({(0, 0): 0.6, (3, 3): 0.4})
    nouns = [noun(map_, corner), noun(map_, nowhere), noun(map_, nowhere)]
    scores, _ = average_scores(nouns, [score_pointing(m) for m in nouns])
    assert scores.reachable == pytest.approx(1 / 3)
    scores, _ = average_scores(nouns[:1], [score_pointing(nouns[0])])
    assert (scores.maps.pointing.value, scores.maps.mass.value) == (1, pytest.approx(0.6))


def test_nothing_of_the_even_map_lies_in_the_padding() -> None:
    whole = noun(one({(0, 0): 1.0}), Region.of_boxes([(0.0, 0.0, 1.0, 1.0)]), geometry=WIDE)
    assert score_pointing(whole).baselines["even"].mass == pytest.approx(1)


def test_a_map_that_is_all_off_the_grid_points_at_the_picture_and_not_at_the_padding() -> None:
    whole = noun(np.zeros((4, 4), np.float32), Region.of_boxes([(0.0, 0.0, 1.0, 1.0)]), geometry=WIDE)
    assert score_pointing(whole).map.pointing == 1
