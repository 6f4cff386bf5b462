"""Scores of phrases' maps: pointing, mass, the box around the half-maximum region, correctness; weight off the grid."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest

from captioner.errors import DataError
from captioner.grounding.phrase_scores import (
    MEASURES,
    PhraseScore,
    average_off_grid,
    average_phrases,
    expected_maximum,
    half_maximum_box,
    off_grid_by_class,
    overlaps,
    score_phrases,
)
from captioner.grounding.phrases import CaptionPhrase
from captioner.image import Geometry
from captioner.results import Caption, Word

GEOMETRY = Geometry(size=(80, 40), side=64, grid=(4, 4))
LEFT, RIGHT = (0.0, 0.0, 0.5, 1.0), (0.5, 0.0, 1.0, 1.0)


def map_of(cells: dict[tuple[int, int], float], *, off_grid: float = 0.0) -> np.ndarray:
    found = np.zeros((4, 4), np.float32)
    for cell, weight in cells.items():
        found[cell] = weight
    return found / found.sum() * (1 - off_grid)


def caption_of(*words: Word) -> Caption:
    return Caption(
        text=" ".join(word.text for word in words),
        words=words,
        score=-1.0,
        finished=True,
        image="a.jpg",
        model="m",
        source=None,
        geometry=GEOMETRY,
        explain="attention",
    )


HALF = {(r, c): 1.0 for r in range(4) for c in range(2)}
CAPTION = caption_of(
    Word("a", 1.0, map_of({(0, 3): 1}, off_grid=0.9), 0.9),
    Word("red", 1.0, map_of(HALF, off_grid=0.2), 0.2),
    Word("ball", 1.0, map_of({(1, 1): 3, (1, 3): 1}, off_grid=0.5), 0.5),
    Word("runs", 1.0, map_of({(0, 3): 1})),
)
BALL = CaptionPhrase((1, 2), (0, 1, 2), "7", ("other",), (LEFT,))


def test_a_phrase_is_scored_by_its_heads_map() -> None:
    (score,) = score_phrases(CAPTION, [BALL], "a")
    own, another, centre, even = (dict(zip(MEASURES, column, strict=True)) for column in score.values.T)
    assert own == {
        "pointing": 1,
        "mass": pytest.approx(0.375),  # three quarters of what is on the picture
        "box": 0,  # one cell of eight
        "correctness": pytest.approx(1.0),  # that of "red", the best word, of its attention on the picture
    }
    assert another == {"pointing": 0, "mass": 0, "box": 0, "correctness": 0}  # of "runs" alone
    assert even == dict.fromkeys(MEASURES, 0.5) | {"box": 0}  # the whole picture overlaps with a half by 0.5
    assert centre["pointing"] == 0.5
    assert (score.picture, score.types, score.reachable) == ("a", ("other",), True)


def test_words_of_the_same_entity_are_no_other_words() -> None:
    runner = replace(BALL, positions=(3,), words=(3,))
    scores = score_phrases(CAPTION, [BALL, runner, replace(BALL, boxes=())], "a")
    assert len(scores) == 2
    assert all(math.isnan(score.values[0, 1]) for score in scores)


def test_the_box_is_that_of_the_cells_that_hang_together_with_the_strongest() -> None:
    weights = map_of({(0, 0): 0.6, (2, 2): 1.0, (2, 3): 0.5, (3, 3): 0.5, (1, 2): 0.49, (3, 1): 0.9})
    assert half_maximum_box(weights, GEOMETRY) == (0.5, 0.5, 1.0, 1.0)
    assert half_maximum_box(map_of(HALF), GEOMETRY) == LEFT


def test_a_box_must_overlap_one_of_the_boxes_by_more_than_half() -> None:
    assert overlaps(LEFT, [RIGHT, (0.0, 0.0, 0.5, 0.6)])
    assert not overlaps(LEFT, [(0.0, 0.0, 0.5, 0.5)])
    assert not overlaps(LEFT, [(0.0, 0.0, 1.0, 1.0), RIGHT])


def test_each_word_has_a_class() -> None:
    assert off_grid_by_class(CAPTION, [BALL]) == [
        ("function words", 0.9),
        ("attributes", 0.2),
        ("things", 0.5),
        ("other words", 0.0),
    ]
    assert [name for name, _ in off_grid_by_class(CAPTION, [replace(BALL, boxes=())])][1:3] == ["other words"] * 2
    found = average_off_grid([("a", "things", 0.2), ("b", "things", 0.4), ("b", "function words", 1.0)], resamples=9)
    assert {name: (count, pictures, mean.value) for name, (count, pictures, mean) in found.items()} == {
        "things": (2, 2, pytest.approx(0.3)),
        "function words": (1, 1, 1.0),
    }


def test_means_are_over_phrases_and_by_each_of_their_types() -> None:
    def score(picture: str, types: tuple[str, ...], own: float) -> PhraseScore:
        return PhraseScore(picture, types, np.full((4, 4), 0.1) + np.eye(4)[0] * (own - 0.1), own > 0)

    scores = [score("a", ("people",), 1.0), score("a", ("people", "scene"), 0.0), score("b", ("scene",), 1.0)]
    every, by_type = average_phrases(scores, resamples=20)
    assert (every.phrases, every.pictures, every.reachable) == (3, 2, pytest.approx(2 / 3))
    assert every.measures["pointing"]["maps"].value == pytest.approx(2 / 3)
    assert every.measures["mass"]["centre"].value == pytest.approx(0.1)
    assert {name: (one.phrases, one.measures["pointing"]["maps"].value) for name, one in by_type.items()} == {
        "people": (2, 0.5),
        "scene": (2, 0.5),
    }
    assert not every.beats_baselines  # of two pictures nothing is said
    many = [score(str(i), ("people",), 1.0) for i in range(12)]
    assert average_phrases(many, resamples=20)[0].beats_baselines
    with pytest.raises(DataError, match="phrase"):
        average_phrases([])


def test_the_expected_maximum_is_the_mean_over_all_choices() -> None:
    values = [0.5, 0.1, 0.9, 0.3]
    for count in (1, 2, 3, 4):
        every = [max(some) for some in itertools.combinations(values, count)]
        assert expected_maximum(values, count) == pytest.approx(np.mean(every))
    assert expected_maximum(values, 9) == 0.9
    assert math.isnan(expected_maximum([], 2))


def test_another_word_is_one_outside_of_the_phrases_of_the_same_thing() -> None:
    """The words of other things' phrases are among them."""
    runs = CaptionPhrase((3,), (3,), "8", ("other",), (RIGHT,))
    alone, beside = (score_phrases(CAPTION, some, "a")[0] for some in ([BALL], [BALL, runs]))
    np.testing.assert_array_equal(alone.values, beside.values)
    again = CaptionPhrase((3,), (3,), "7", ("other",), (LEFT,))  # the same thing once more: its word is no other
    same = score_phrases(CAPTION, [BALL, again], "a")[0]
    assert not np.array_equal(alone.values, same.values)


def corner(*cells: tuple[int, int]) -> np.ndarray:
    return map_of(dict.fromkeys(cells, 1.0))


def test_another_words_correctness_is_of_as_many_words_as_the_phrase_has() -> None:
    caption = caption_of(
        Word("red", 1.0, corner((0, 0))),
        Word("ball", 1.0, corner((0, 0))),
        Word("x", 1.0, corner((0, 0), (0, 3))),
        Word("y", 1.0, corner((0, 3))),
    )
    (score,) = score_phrases(caption, [CaptionPhrase((0, 1), (0, 1), "1", ("other",), (LEFT,))], "a")
    assert score.values[MEASURES.index("correctness"), 1] == pytest.approx(0.5)


def test_correctness_is_of_all_words_of_the_phrase() -> None:
    caption = caption_of(Word("a", 1.0, corner((0, 0))), Word("ball", 1.0, corner((0, 3))))
    (score,) = score_phrases(caption, [CaptionPhrase((1,), (0, 1), "1", ("other",), (LEFT,))], "a")
    assert score.values[MEASURES.index("correctness"), 0] == pytest.approx(1.0)


def test_a_phrase_beyond_the_caption_has_no_score_and_one_that_ends_there_has() -> None:
    short = replace(CAPTION, words=CAPTION.words[:2])
    assert score_phrases(replace(CAPTION, words=CAPTION.words[:1]), [replace(BALL, positions=(1,))], "a") == []
    (score,) = score_phrases(short, [replace(BALL, positions=(1,), words=(1, 2, 3))], "a")
    assert score.values[0, 0] == 1


def test_a_phrase_of_no_known_type_is_another() -> None:
    (score,) = score_phrases(CAPTION, [replace(BALL, types=("notvisual",))], "a")
    assert score.types == ("other",)


def test_of_cells_that_tie_the_first_has_the_box() -> None:
    assert half_maximum_box(corner((0, 0), (3, 3)), GEOMETRY) == (0.0, 0.0, 0.25, 0.25)


def test_nothing_of_the_even_map_lies_in_the_padding() -> None:
    wide = Geometry(size=(200, 100), side=80, grid=(4, 4), pad=True)  # the lower two rows are padding
    caption = replace(CAPTION, geometry=wide)
    (score,) = score_phrases(caption, [replace(BALL, boxes=((0.0, 0.0, 1.0, 1.0),))], "a")
    assert score.values[MEASURES.index("mass"), 3] == pytest.approx(1)


def test_only_an_interval_above_those_of_the_baselines_beats_them() -> None:
    def beats(baseline: float, pictures: int = 12) -> bool:
        values = np.full((4, 4), 0.1)
        values[0] = (1.0, baseline, 0.1, 0.1)
        some = [PhraseScore(str(i), ("people",), values, True) for i in range(pictures)]
        return average_phrases(some, resamples=20)[0].beats_baselines

    assert not beats(1.0), "the same"
    assert beats(math.nan), "no other word is no baseline"
    assert beats(0.1, pictures=10) and not beats(0.1, pictures=9)
