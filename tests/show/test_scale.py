"""The colour scale is numpy alone, and gives what scipy and matplotlib give."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from matplotlib import colormaps
from scipy.interpolate import PchipInterpolator

from captioner.show.scale import colours, interpolate, opacity

SHARE = st.floats(0, 1, width=32)


@given(
    values=arrays.arrays(
        np.float32, st.tuples(st.integers(1, 9), st.integers(1, 6)), elements=st.floats(0, 1, width=32)
    ),
    pixels=st.integers(1, 70),
    share=st.floats(0.2, 1),
    axis=st.sampled_from([0, 1]),
)
def test_the_interpolation_is_that_of_scipy(values: np.ndarray, pixels: int, share: float, axis: int) -> None:
    """PCHIP, with the outermost values repeated, so that it stays level beyond the outermost centres."""
    cells = values.shape[axis]
    places = (np.arange(pixels) + 0.5) / pixels * cells * share
    ends = np.concatenate([values.take([0], axis), values, values.take([-1], axis)], axis)
    expected = PchipInterpolator(np.arange(-0.5, cells + 1), ends, axis)(places)
    found = interpolate(values, places, axis)
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_the_colours_are_those_of_inferno() -> None:
    strength = np.linspace(0, 1, 1001, dtype=np.float32).reshape(7, 143)
    expected = colormaps["inferno"](0.3 + 0.7 * strength)[..., :3] * 255
    np.testing.assert_allclose(colours(strength), expected, atol=0.501)
    assert colours(strength).dtype == np.float32
    assert (opacity(strength)[0, 0], float(opacity(strength)[-1, -1])) == (0, pytest.approx(0.82))


@pytest.mark.parametrize("module", ["captioner.show.scale", "captioner.show.page"])
def test_pages_need_neither_matplotlib_nor_scipy(module: str) -> None:
    code = f"import sys, {module}; print([n for n in ('matplotlib', 'scipy', 'torch') if n in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
