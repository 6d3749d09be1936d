"""The median spacing, and its exception for thick slices."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from autoseg.core.fingerprint import Fingerprint
from autoseg.planning.target_spacing import resampled_shape, target_spacing

Target = Callable[..., tuple[list[float], str]]
THICK = [(float(z), 1.0, 1.0) for z in range(1, 12)]  # median 6, 10th percentile 2


@pytest.fixture
def target(make_fingerprint: Callable[..., Fingerprint]) -> Target:
    """target(spacings, shape of all cases) -> (target spacing, reason)."""

    def decide(spacings: list[tuple[float, ...]], shape: tuple[int, ...]) -> tuple[list[float], str]:
        shapes = [shape] * len(spacings)
        spacing, reason = target_spacing(make_fingerprint(spacings=spacings, shapes_after_crop=shapes))
        return spacing.tolist(), reason

    return decide


def test_the_median_counts_per_axis(target: Target) -> None:
    spacing, reason = target([(1, 2, 9), (2, 3, 8), (3, 7, 1)], (100, 100, 100))
    assert spacing == [2, 3, 8]
    assert reason == "3 cases with 1-3 x 2-7 x 1-9 mm (z, y, x); median shape 100 x 100 x 100"


def test_thick_and_few_slices_take_the_tenth_percentile(target: Target) -> None:
    spacing, reason = target(THICK, (30, 100, 100))
    assert spacing == [2, 1, 1]
    assert "10th percentile" in reason


@pytest.mark.parametrize("shape", [(34, 100, 100), (30, 100, 89)])
def test_thick_but_not_few_slices_keep_the_median(target: Target, shape: tuple[int, ...]) -> None:
    assert target(THICK, shape)[0] == [6, 1, 1]


def test_the_axis_stays_the_coarsest(target: Target) -> None:
    spacing, _ = target([(s, 1.0, 2.0) for s in (0.1, 0.1, 7.0, 7.0, 7.0)], (10, 100, 100))
    assert spacing == pytest.approx([2 + 1e-5, 1, 2], abs=1e-12)


def test_any_axis_may_be_the_thick_one(target: Target) -> None:
    assert target([(1.0, 1.0, float(x)) for x in range(1, 12)], (100, 100, 30))[0] == [1, 1, 2]


def test_resampled_sizes_round_halves_to_even_and_stay_positive() -> None:
    assert resampled_shape((5, 7, 3), np.array([1.0, 1.0, 1.0]), np.array([2.0, 2.0, 2.0])) == (2, 4, 2)
    assert resampled_shape((5, 7, 3), np.array([1.0, 1.0, 1.0]), np.array([99.0, 0.5, 1.0])) == (1, 14, 3)
