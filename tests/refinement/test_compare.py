"""Which candidate to take, against SciPy and statsmodels-like corrections by hand."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import wilcoxon

from autoseg.core.errors import UsageError
from autoseg.core.scores import LabelScores, Scores
from autoseg.evaluation.summary import summarise
from autoseg.refinement.compare import compare

RNG = np.random.default_rng(0)
BASE = RNG.uniform(0.6, 0.9, 40)


def scores(dice: np.ndarray, *, first: int = 0) -> Scores:
    """One label in cases c0, c1, ..."""
    rows = {
        f"c{first + i}": {
            "a": LabelScores(
                dice=float(d), iou=None, hd95_mm=None, nsd=None, volume_truth_ml=1.0, volume_predicted_ml=1.0
            )
        }
        for i, d in enumerate(dice)
    }
    return summarise(rows, label_names=["a"], tolerance_mm=1.0, missing=[])


def test_differences_and_corrected_p_values() -> None:
    noise = RNG.normal(0, 0.01, (3, 40))
    candidates = [BASE, BASE - 0.02 + noise[0], BASE - 0.004 + noise[1], BASE - 0.001 + noise[2]]
    taken, found = compare([*"abcd"], [scores(c) for c in candidates], [4.0, 3.0, 2.0, 1.0])
    raw = [wilcoxon(c - BASE).pvalue for c in candidates[1:]]
    order = np.argsort(raw)
    corrected = np.maximum.accumulate(np.minimum(1, np.array(raw)[order] * [3, 2, 1]))
    for rank, number in enumerate(order):
        assert found[1 + number].p_value == pytest.approx(corrected[rank])
    for one, values in zip(found, candidates, strict=True):
        assert one.difference == pytest.approx((values - BASE).mean())
    assert found[1].ci95[0] < (candidates[1] - BASE).mean() < found[1].ci95[1]
    assert [one.tied for one in found] == [True, False, found[2].p_value >= 0.05, found[3].p_value >= 0.05]
    assert taken == max(i for i, one in enumerate(found) if one.tied)  # later ones are cheaper


def test_a_cheaper_one_that_cannot_be_told_apart_is_taken_but_not_a_clearly_worse_one() -> None:
    near, far = scores(BASE + np.linspace(-0.01, 0.01, 40) - 1e-5), scores(BASE + np.linspace(-0.2, 0.2, 40) - 0.011)
    names, costs = ["best", "near", "far"], [3.0, 2.0, 1.0]
    taken, found = compare(names, [scores(BASE), near, far], costs)
    assert found[2].p_value >= 0.05  # too few cases for a proof, and yet a hundredth lower
    assert (names[taken], [one.tied for one in found]) == ("near", [True, True, False])


def test_of_few_cases_nothing_is_concluded() -> None:
    taken, found = compare(["best", "cheap"], [scores(BASE[:5]), scores(BASE[:5] - 0.005)], [2.0, 1.0])
    assert (taken, found[1].tied) == (0, False)
    assert found[1].difference == pytest.approx(-0.005)


def test_only_shared_cases_are_compared_and_none_without_a_dice_is_taken() -> None:
    nothing = summarise({}, label_names=["a"], tolerance_mm=1.0, missing=[])
    taken, found = compare(
        ["one", "later", "none"], [scores(BASE), scores(BASE[20:] - 0.1, first=20), nothing], [2.0, 1.0, 0.5]
    )
    assert taken == 0
    assert found[1].difference == pytest.approx(-0.1)
    assert (found[2].tied, found[2].difference, found[2].p_value) == (False, None, None)
    with pytest.raises(UsageError, match="no cross-validation has a Dice"):
        compare(["none"], [nothing], [1.0])


def table(**labels: np.ndarray) -> Scores:
    """Labels with the Dice of the cases 0, 1, ...; NaN where a case has none."""
    n = len(next(iter(labels.values())))
    rows = {
        f"c{i}": {
            name: LabelScores(
                dice=float(dice[i]), iou=None, hd95_mm=None, nsd=None, volume_truth_ml=1.0, volume_predicted_ml=1.0
            )
            for name, dice in labels.items()
            if not np.isnan(dice[i])
        }
        for i in range(n)
    }
    return summarise(rows, label_names=[*labels], tolerance_mm=1.0, missing=[])


def test_a_label_in_few_cases_counts_as_much_as_one_in_all() -> None:
    """Its loss vanishes in the mean over cases, but not in the mean Dice that the margin is about."""
    rare = np.full(40, np.nan)
    rare[:2] = 1
    small = np.array([0.82, *np.linspace(0.80, 0.82, 38), 0.80])
    taken, found = compare(
        ["big", "small"],
        [table(organ=np.full(40, 0.81), tumour=0.80 * rare), table(organ=small, tumour=0.45 * rare)],
        [2.0, 1.0],
    )
    assert found[1].p_value >= 0.05
    assert (taken, found[1].tied) == (0, False)


def test_a_candidate_does_not_win_by_lacking_the_hard_case() -> None:
    dice = np.array([0.05, *RNG.uniform(0.8, 0.9, 19)])
    taken, found = compare(["all", "lacks"], [scores(dice), scores(dice[1:] - 0.009, first=1)], [2.0, 1.0])
    assert found[1].mean_dice > found[0].mean_dice
    assert taken == 0
