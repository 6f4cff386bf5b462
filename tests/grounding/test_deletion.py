"""Areas under deletion and insertion curves."""

import math

import numpy as np
import pytest

from captioner.errors import DataError
from captioner.grounding.deletion import LEVELS, DeletionCurves, area_under, summarise


def test_the_area_is_the_mean_of_the_curve() -> None:
    assert area_under(np.ones(len(LEVELS))) == pytest.approx(1)
    assert area_under(np.asarray(LEVELS)) == pytest.approx(0.5)
    assert area_under(np.array([1.0] + [0.0] * (len(LEVELS) - 1))) == pytest.approx(0.025)


def curves(picture: str, own: float, chance: float) -> DeletionCurves:
    flat = np.ones(len(LEVELS))
    return DeletionCurves(
        picture=picture,
        deletion=own * flat,
        random_deletion=chance * flat,
        insertion=(1 - own) * flat,
        random_insertion=(1 - chance) * flat,
    )


def test_gains_are_paired_and_above_zero_where_the_map_is_better() -> None:
    found = summarise([curves("a", 0.2, 0.5), curves("b", 0.4, 0.6), curves("b", 0.3, 0.6)])
    assert (found.words, found.pictures) == (3, 2)
    assert found.deletion.value == pytest.approx(0.3)
    assert found.deletion_gain.value == pytest.approx((0.3 + 0.2 + 0.3) / 3)
    assert found.insertion_gain.value == pytest.approx((0.3 + 0.2 + 0.3) / 3)
    assert math.isnan(found.deletion_gain.interval.low), "two pictures have no interval"
    assert found.curves["deletion"] == pytest.approx([0.3] * len(LEVELS))


def test_gains_of_ten_pictures_have_an_interval() -> None:
    gain = summarise([curves(str(i), 0.2 + 0.02 * i, 0.5) for i in range(10)]).deletion_gain
    assert gain.value == pytest.approx(0.21)
    assert 0.1 < gain.interval.low < gain.value < gain.interval.high < 0.3


def test_no_curves_are_refused() -> None:
    with pytest.raises(DataError, match="there is no curve"):
        summarise([])
