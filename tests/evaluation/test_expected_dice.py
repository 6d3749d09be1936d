"""The calibration of agreement against weighted least squares of numpy and SciPy's rank correlation."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr

from autoseg.core.scores import LabelScores
from autoseg.core.trust import LabelCalibration, logit, share
from autoseg.evaluation.expected_dice import calibrate, leave_one_out, spearman


def row(dice: float | None, *, truth_ml: float = 1.0) -> LabelScores:
    return LabelScores(dice=dice, iou=None, hd95_mm=None, nsd=None, volume_truth_ml=truth_ml, volume_predicted_ml=1.0)


def straight(n: int, *, offset: float, slope: float, noise: float = 0.0) -> tuple[dict, dict]:
    """Cases whose Dice follows from their agreement by a line in logits."""
    rng = np.random.default_rng(0)
    x = rng.uniform(0.0, 3.0, n)
    dice = share(offset + slope * x + noise * rng.normal(0, 1, n))
    scores = {f"c{i}": {"a": row(float(value))} for i, value in enumerate(dice)}
    return scores, {f"c{i}": {"a": float(value)} for i, value in enumerate(share(x))}


@settings(max_examples=50, deadline=None)
@given(st.floats(0, 1))
def test_logit_and_share_undo_each_other(value: float) -> None:
    assert float(share(logit(value))) == pytest.approx(min(max(value, 1e-3), 1 - 1e-3), abs=1e-12)


def test_many_cases_give_their_line_and_few_are_shrunk_towards_equality() -> None:
    scores, agreements = straight(2000, offset=-1.0, slope=0.7, noise=0.3)
    trust = calibrate(scores, agreements)
    assert trust is not None
    found = trust.labels["a"]
    assert (found.offset, found.slope, found.spread) == pytest.approx((-1.0, 0.7, 0.3), abs=0.05)
    assert (found.cases, found.always_present) == (2000, True)
    scores, agreements = straight(1, offset=-4.0, slope=0.0)
    few = calibrate(scores, agreements)
    assert few is not None
    x, y = float(logit(agreements["c0"]["a"])), -4.0
    expected = few.labels["a"].offset + few.labels["a"].slope * x
    assert expected == pytest.approx((4 * x + y) / 5, abs=1e-4)  # four pseudo-cases on the diagonal, and one case
    assert few.quality.cases == 0
    assert few.quality.mean_absolute_error is None


def test_the_line_is_least_squares_over_cases_and_pseudo_cases() -> None:
    scores, agreements = straight(6, offset=-0.5, slope=0.4, noise=0.5)
    x = logit(np.array([rows["a"] for rows in agreements.values()]))
    y = logit(np.array([rows["a"].dice for rows in scores.values()]))
    more = x.mean() + np.array([-1, -1, 1, 1])
    slope, offset = np.polyfit([*x, *more], [*y, *more], 1)
    trust = calibrate(scores, agreements)
    assert trust is not None
    assert (trust.labels["a"].offset, trust.labels["a"].slope) == pytest.approx((offset, slope), abs=1e-5)
    without = [
        np.polyval(
            np.polyfit(
                [*np.delete(x, i), *(np.delete(x, i).mean() + np.array([-1, -1, 1, 1]))],
                [*np.delete(y, i), *(np.delete(x, i).mean() + np.array([-1, -1, 1, 1]))],
                1,
            ),
            x[i],
        )
        for i in range(6)
    ]
    np.testing.assert_allclose(leave_one_out(x, y), without, atol=1e-9)
    errors = np.abs(share(np.array(without)) - share(y))
    assert trust.quality.mean_absolute_error == pytest.approx(errors.mean(), abs=1e-4)


def test_a_line_never_falls() -> None:
    scores, agreements = straight(60, offset=3.0, slope=-2.0)
    trust = calibrate(scores, agreements)
    assert trust is not None
    assert trust.labels["a"].slope == 0


def test_the_interval_holds_four_fifths() -> None:
    scores, agreements = straight(500, offset=0.2, slope=0.8, noise=0.6)
    trust = calibrate(scores, agreements)
    assert trust is not None
    assert trust.quality.in_interval == pytest.approx(0.8, abs=0.04)
    assert trust.quality.rank_correlation is not None
    assert trust.quality.mean_absolute_error < trust.quality.error_without


def test_what_cannot_be_paired_is_left_out() -> None:
    scores = {"p": {"a": row(0.8), "b": row(None)}, "q": {"a": row(0.0, truth_ml=0.0), "b": row(None)}}
    agreements = {"p": {"a": 0.9, "b": 0.3}, "q": {"a": 0.2, "b": None}}
    trust = calibrate(scores, agreements)
    assert trust is not None
    assert [*trust.labels] == ["a"]
    assert not trust.labels["a"].always_present
    assert calibrate(scores, {}) is None


def test_a_label_that_is_not_found_but_was_always_there_is_expected_to_fail() -> None:
    known = LabelCalibration(offset=0, slope=1, spread=0.5, cases=9, always_present=True)
    assert known.expected(None).dice == 0
    assert known.with_changes(always_present=False).expected(None) is None
    found = known.expected(0.9)
    assert found.dice == pytest.approx(0.9, abs=1e-4)
    assert (found.low, found.high) == pytest.approx(
        tuple(share(logit(0.9) + np.array([-1, 1]) * 1.2816 * 0.5)), abs=1e-4
    )


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=3, max_size=12))
def test_rank_correlation_is_spearmans(pairs: list[tuple[int, int]]) -> None:
    first, second = ([float(v) for v in column] for column in zip(*pairs, strict=True))
    found = spearman(first, second)
    if len({*first}) < 2 or len({*second}) < 2:
        assert found is None
    else:
        assert found == pytest.approx(spearmanr(first, second).statistic, abs=1e-9)
