"""Pooled statistics weigh every case the same, as nnU-Net's sampling does on average."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoseg.core.errors import DataError, Problem
from autoseg.fingerprinting.measure_case import CaseMeasure
from autoseg.fingerprinting.pooled import pooled, weighted_intensities

VALUES = st.lists(st.integers(-50, 50).map(float), min_size=1, max_size=12)


def measure(key: str, samples: np.ndarray, **changes: object) -> CaseMeasure:
    facts = {
        "key": key,
        "spacing_mm": (1.0, 2.0, 3.0),
        "shape_after_crop": (4, 5, 6),
        "relative_size_after_crop": 0.5,
        "labels": {},
        "warnings": (),
        "n_foreground": samples.shape[1],
        "ranges": tuple((0.0, 9.0 + c) for c in range(len(samples))),
        "orientation": "LPS",
        "tilt_deg": 0.0,
        "samples": samples.astype(np.float32),
        "signature": np.zeros(8, dtype=np.float32),
    }
    return CaseMeasure(**{**facts, **changes})


def percentile_by_hand(cases: list[list[float]], q: Fraction) -> float:
    """The value at which the exact masses, each 1 / (cases * voxels of its case), sum up to q."""
    passed, meets = Fraction(0), None
    for value, mass in sorted((v, Fraction(1, len(case) * len(cases))) for case in cases for v in case):
        passed += mass
        if meets is not None:
            return (meets + value) / 2
        if passed > q:
            return value
        if passed == q:
            meets = value
    raise AssertionError("the masses sum up to 1")


@settings(max_examples=150, deadline=None)
@given(st.lists(VALUES, min_size=1, max_size=5))
def test_statistics_equal_a_brute_force_computation(cases: list[list[float]]) -> None:
    found = weighted_intensities([np.array(case, dtype=np.float32) for case in cases])
    mean = sum(sum(case) / len(case) for case in cases) / len(cases)
    variance = sum(sum((v - mean) ** 2 for v in case) / len(case) for case in cases) / len(cases)
    assert found.mean == pytest.approx(mean, abs=1e-9)
    assert found.std == pytest.approx(variance**0.5, abs=1e-6)
    assert found.min == min(map(min, cases))
    assert found.max == max(map(max, cases))
    percentiles = found.percentile_00_5, found.median, found.percentile_99_5
    for value, permille in zip(percentiles, (5, 500, 995), strict=True):
        assert value == percentile_by_hand(cases, Fraction(permille, 1000))
    backwards = weighted_intensities([np.array(case[::-1], dtype=np.float32) for case in cases[::-1]])
    assert (backwards.percentile_00_5, backwards.median, backwards.percentile_99_5) == percentiles


def test_cases_of_one_size_give_the_plain_statistics() -> None:
    samples = np.random.default_rng(0).normal(size=(3, 1000)).astype(np.float32)
    found = weighted_intensities([*samples])
    plain = samples.astype(np.float64)
    assert found.mean == pytest.approx(plain.mean())
    assert found.std == pytest.approx(plain.std())
    expected = np.percentile(plain, [0.5, 50, 99.5], method="averaged_inverted_cdf")
    assert [found.percentile_00_5, found.median, found.percentile_99_5] == pytest.approx([*expected])


def test_statistics_agree_with_nnunets_sampling_within_its_noise() -> None:
    random = np.random.default_rng(2)
    cases = [random.gamma(2 + i, 20, size=size) for i, size in enumerate((30, 500, 9000, 70000, 1200))]
    found = weighted_intensities([case.astype(np.float32) for case in cases])
    n = 40_000
    drawn = []
    for _ in range(5):  # nnU-Net: as many voxels from each case, with replacement
        pooled = np.concatenate([random.choice(case, n, replace=True) for case in cases])
        low, median, high = np.percentile(pooled, [0.5, 50, 99.5])
        drawn.append([pooled.mean(), median, pooled.std(), low, high])
    ours = [found.mean, found.median, found.std, found.percentile_00_5, found.percentile_99_5]
    noise = np.std(drawn, axis=0, ddof=1)
    assert (np.abs(np.mean(drawn, axis=0) - ours) < 5 * noise + 1e-3).all()
    assert (noise < 0.3).all()  # so that the line above can fail
    assert (found.min, found.max) == pytest.approx((min(map(np.min, cases)), max(map(np.max, cases))))


def test_a_large_case_counts_as_much_as_a_small_one() -> None:
    found = weighted_intensities([np.zeros(1, dtype=np.float32), np.ones(100_000, dtype=np.float32)])
    assert found.mean == pytest.approx(0.5)
    assert found.std == pytest.approx(0.5)


def test_channels_are_pooled_apart_and_cases_without_foreground_only_give_their_shape() -> None:
    measures = {
        "b": measure("kb", np.array([[1, 3], [10, 30]]), relative_size_after_crop=0.2),
        "a": measure("ka", np.array([[5], [50]]), spacing_mm=(9, 9, 9), relative_size_after_crop=0.4),
        "c": measure("kc", np.empty((2, 0)), shape_after_crop=(1, 1, 1), relative_size_after_crop=0.9),
    }
    fingerprint = pooled(measures)
    assert fingerprint.cases == ["a", "b", "c"]
    assert fingerprint.spacings == [(9, 9, 9), (1, 2, 3), (1, 2, 3)]
    assert fingerprint.shapes_after_crop[2] == (1, 1, 1)
    assert fingerprint.median_relative_size_after_cropping == 0.4
    means = [fingerprint.foreground_intensity_properties_per_channel[c].mean for c in "01"]
    assert means == pytest.approx([(5 + 2) / 2, (50 + 20) / 2])


def test_label_statistics_are_means_over_the_cases_that_hold_the_label() -> None:
    one = np.ones((1, 1))
    measures = {
        "a": measure("k", one, labels={"liver": (10.0, -3.0), "tumour": (1.0, 5.0)}),
        "b": measure("k", one, labels={"liver": (20.0, -5.0)}),
    }
    labels = pooled(measures).labels
    assert (labels["liver"].cases, labels["liver"].mean_volume_ml, labels["liver"].mean_side_mm) == (
        2,
        15,
        -4,
    )
    assert (labels["tumour"].cases, labels["tumour"].mean_volume_ml) == (1, 1)


def test_the_key_changes_with_any_case() -> None:
    one = np.ones((1, 1))
    keys = {
        pooled({"a": measure("1", one), "b": measure("2", one)}).key,
        pooled({"a": measure("1", one), "b": measure("3", one)}).key,
        pooled({"a": measure("1", one)}).key,
    }
    assert len(keys) == 3


def test_nothing_can_be_learnt_without_foreground() -> None:
    with pytest.raises(DataError, match="no case has a foreground voxel"):
        pooled({"a": measure("k", np.empty((1, 0)), warnings=(Problem(case="a", found="x", next="y"),))})
