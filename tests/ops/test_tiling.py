from __future__ import annotations

from math import ceil, exp

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter

from autoseg.ops.tiling import gaussian_window, padding, summed_window, tile_starts

axis = st.tuples(st.integers(0, 200), st.integers(1, 40), st.floats(0.05, 1.0))


@settings(max_examples=300, deadline=None)
@given(axis)
def test_tiles_cover_the_axis_with_bounded_steps(case: tuple[int, int, float]) -> None:
    extra, patch, step = case
    starts = tile_starts(patch + extra, patch, step=step)
    gaps = np.diff(starts)
    assert starts[0] == 0
    assert starts[-1] == extra
    assert (gaps > 0).all()  # no tile lies twice in the same place
    # Positions are rounded to voxels, so a gap may be the next whole number.
    assert (gaps <= ceil(step * patch)).all()
    assert gaps.max(initial=0) - gaps.min(initial=0 if not gaps.size else gaps[0]) <= 1


@pytest.mark.parametrize(
    ("size", "patch", "step", "expected"),
    [
        (200, 128, 0.5, (0, 36, 72)),
        (128, 128, 0.5, (0,)),
        (256, 128, 0.5, (0, 64, 128)),
        (257, 128, 0.5, (0, 43, 86, 129)),
        (129, 128, 1.0, (0, 1)),
        (10, 1, 1.0, tuple(range(10))),
        (5, 1, 0.5, tuple(range(5))),  # slices of a 2d configuration
        (6, 2, 0.1, tuple(range(5))),
    ],
)
def test_tiles_lie_where_the_reference_puts_them(size: int, patch: int, step: float, expected: tuple[int, ...]) -> None:
    assert tile_starts(size, patch, step=step) == expected


@pytest.mark.parametrize("patch", [1, 2, 3, 7, 8, 20, 129])
def test_the_window_is_a_gaussian_symmetric_about_its_centre(patch: int) -> None:
    window, centre = gaussian_window(patch), patch // 2
    expected = [exp(-0.5 * ((i - centre) / (patch / 8)) ** 2) for i in range(patch)]
    assert window.shape == (patch,)
    assert window[centre] == window.max() == 1
    assert (window > 0).all()
    np.testing.assert_allclose(window, expected, rtol=1e-9)
    for i in range(1, patch - centre):
        assert window[centre - i] == window[centre + i]


def test_the_outer_product_is_the_window_of_a_tile() -> None:
    delta = np.zeros((4, 9, 6))
    delta[2, 4, 3] = 1
    expected = gaussian_filter(delta, (4 / 8, 9 / 8, 6 / 8), mode="constant")
    z, y, x = (gaussian_window(n) for n in delta.shape)
    np.testing.assert_allclose(z[:, None, None] * y[:, None] * x, expected / expected.max(), rtol=1e-9, atol=1e-15)


@settings(max_examples=60, deadline=None)
@given(axis)
def test_the_summed_window_adds_up_all_tiles(case: tuple[int, int, float]) -> None:
    extra, patch, step = case
    expected = np.zeros(patch + extra)
    for start in tile_starts(patch + extra, patch, step=step):
        for i in range(patch):
            expected[start + i] += gaussian_window(patch)[i]
    total = summed_window(patch + extra, patch, step=step)
    assert (total > 0).all()
    np.testing.assert_allclose(total, expected, rtol=1e-12)


@pytest.mark.parametrize("step", [0.05, 0.5, 0.9, 1.0])
def test_every_slice_counts_once(step: float) -> None:
    assert tile_starts(7, 1, step=step) == tuple(range(7))
    np.testing.assert_array_equal(summed_window(7, 1, step=step), np.ones(7))


def test_padding_centres_small_images_and_leaves_large_ones() -> None:
    assert padding((3, 8, 20), (8, 8, 8)) == ((2, 3), (0, 0), (0, 0))
    assert padding((1, 7), (8, 8)) == ((3, 4), (0, 1))
