"""Areas under deletion and insertion curves."""

import numpy as np
import pytest

from captioner.errors import DataError
from captioner.grounding.deletion import LEVELS, Trial, area, summarise


def test_the_area_is_the_mean_of_the_curve() -> None:
    assert area(np.ones(len(LEVELS))) == pytest.approx(1)
    assert area(np.asarray(LEVELS)) == pytest.approx(0.5)
    assert area(np.array([1.0] + [0.0] * (len(LEVELS) - 1))) == pytest.approx(0.025)


def trial(picture: str, own: float, chance: float) -> Trial:
    flat = np.ones(len(LEVELS))
    return Trial(picture, own * flat, chance * flat, (1 - own) * flat, (1 - chance) * flat)


def test_gains_are_paired_and_above_zero_where_the_map_is_better() -> None:
    found = summarise([trial("a", 0.2, 0.5), trial("b", 0.4, 0.6), trial("b", 0.3, 0.6)])
    assert (found.words, found.pictures) == (3, 2)
    assert found.deletion.value == pytest.approx(0.3)
    assert found.deletion_gain.value == pytest.approx((0.3 + 0.2 + 0.3) / 3)
    assert found.insertion_gain.value == pytest.approx((0.3 + 0.2 + 0.3) / 3)
    assert 0.2 < found.deletion_gain.interval.low <= found.deletion_gain.value <= found.deletion_gain.interval.high
    assert found.curves["deletion"] == pytest.approx([0.3] * len(LEVELS))


def test_no_trials_are_refused() -> None:
    with pytest.raises(DataError, match="no word was tried"):
        summarise([])
