"""The few best of rows, in numpy and in the arrays of an accelerator's library."""

import numpy as np
import pytest
import torch

from captioner.backends.arrays import top_k


@pytest.mark.parametrize("k", [1, 3, 12, 13, 40])
@pytest.mark.parametrize("convert", [np.asarray, torch.from_numpy])
def test_the_best_come_first_with_their_columns(k: int, convert) -> None:  # type: ignore[no-untyped-def]
    values = np.random.default_rng(0).normal(size=(5, 40)).astype(np.float32)
    values[1, 3:] = -np.inf
    found, columns = top_k(convert(values), k)
    np.testing.assert_array_equal(found, -np.sort(-values, axis=1)[:, :k])
    finite = np.isfinite(found)
    np.testing.assert_array_equal(np.take_along_axis(values, columns, 1)[finite], found[finite])


@pytest.mark.parametrize("k", [2, 20])
@pytest.mark.parametrize("convert", [np.asarray, torch.from_numpy])
def test_a_number_that_is_none_is_among_the_best(k: int, convert) -> None:  # type: ignore[no-untyped-def]
    values = np.random.default_rng(0).normal(size=(3, 30)).astype(np.float32)
    values[2, 17] = np.nan
    found, columns = top_k(convert(values), k)
    assert np.isnan(found[2]).any() and 17 in columns[2]
    assert np.isfinite(found[:2]).all()
