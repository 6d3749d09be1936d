from __future__ import annotations

import numpy as np
import pytest

from autoseg.refinement.count_case import Counts
from autoseg.refinement.decide import decide


def case(*labels) -> Counts:
    """From a row per label: truth, then (predicted, both) plain, alone, together, together then alone."""
    states = np.array([row[1:] for row in labels]).reshape(len(labels), 2, 2, 2)
    predicted, both = states.transpose(3, 1, 2, 0)
    return Counts(truth=np.array([row[0] for row in labels]), predicted=predicted, both=both)


SAME = (10, (10, 8), (10, 8), (10, 8), (10, 8))
TOGETHER_HELPS = (10, (14, 8), (12, 8), (10, 8), (10, 8))
TOGETHER_HARMS = (10, (12, 10), (12, 10), (8, 6), (8, 6))
ALONE_HELPS = (10, (14, 8), (10, 8), (14, 8), (10, 8))
ALONE_HARMS = (10, (12, 10), (6, 5), (12, 10), (6, 5))
ALONE_HELPS_UNLESS_TOGETHER = (10, (14, 8), (12, 8), (10, 8), (9, 7))


def steps(counts, names=("a", "b"), overlapping=False):
    trials = decide(counts, names=names, overlapping=overlapping)
    return [trial.keep_largest for trial in trials if trial.accepted]


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ((SAME, SAME), []),
        ((TOGETHER_HELPS, SAME), [["a", "b"]]),
        ((TOGETHER_HELPS, TOGETHER_HARMS), [["a"]]),  # refused for b, then a alone gains still
        ((ALONE_HELPS, SAME), [["a"]]),
        ((ALONE_HELPS, ALONE_HELPS), [["a"], ["b"]]),
        ((ALONE_HARMS, ALONE_HELPS), [["b"]]),
        ((TOGETHER_HELPS, ALONE_HELPS), [["a", "b"], ["b"]]),
        ((ALONE_HELPS_UNLESS_TOGETHER, SAME), [["a", "b"]]),  # after the first step the second harms
        ((ALONE_HARMS, ALONE_HARMS), []),
    ],
)
def test_steps_are_accepted_by_the_rule_and_tried_on_what_was_accepted_before(labels, expected):
    assert steps([case(*labels)]) == expected
    assert steps([case(SAME, SAME), case(*labels)]) == expected


def test_gain_of_the_mean_does_not_outweigh_a_loss_of_one_label():
    large_gain, small_loss = (10, (90, 9), (90, 9), (10, 9), (10, 9)), (10, (10, 9), (10, 9), (9, 8), (9, 8))
    (trial, *_) = decide([case(large_gain, small_loss)], names=("a", "b"), overlapping=False)
    assert trial.mean_dice.after > trial.mean_dice.before
    assert not trial.accepted


def test_loss_in_one_case_is_outweighed_by_gains_in_others_of_the_same_label():
    assert steps([case(TOGETHER_HARMS), *[case(TOGETHER_HELPS)] * 9], names=("a",)) == [["a"]]
    assert steps([case(TOGETHER_HELPS), *[case(TOGETHER_HARMS)] * 9], names=("a",)) == []


def test_evidence_holds_the_means_the_cases_and_how_many_change():
    trials = decide([case(SAME, TOGETHER_HELPS), case(SAME, SAME)], names=("a", "b"), overlapping=False)
    together, first, second = trials
    assert [trial.keep_largest for trial in trials] == [["a", "b"], ["a"], ["b"]]
    assert (together.cases, together.cases_changed) == (2, 1)
    assert together.dice["a"].before == together.dice["a"].after == pytest.approx(0.8)
    assert together.dice["b"].before == pytest.approx((16 / 24 + 0.8) / 2)
    assert together.dice["b"].after == pytest.approx(0.8)
    assert together.mean_dice.before == pytest.approx((0.8 + (16 / 24 + 0.8) / 2) / 2)
    assert first.mean_dice.before == second.mean_dice.before == together.mean_dice.after
    assert (first.cases_changed, second.cases_changed) == (0, 0)


def test_cases_without_a_label_do_not_count_in_its_mean():
    nowhere, only_predicted = (0, *[(0, 0)] * 4), (0, (3, 0), (2, 0), (0, 0), (0, 0))
    (together, *_) = decide(
        [case(SAME, nowhere), case(SAME, only_predicted), case(SAME, SAME)],
        names=("a", "b"),
        overlapping=False,
    )
    assert together.dice["b"].before == pytest.approx(0.4)  # 0 in one case, 0.8 in another, none in the third
    assert together.dice["b"].after == pytest.approx(0.8)
    assert together.accepted


def test_data_without_any_foreground_accept_nothing():
    nowhere = (0, *[(0, 0)] * 4)
    trials = decide([case(nowhere, nowhere)], names=("a", "b"), overlapping=False)
    assert not any(trial.accepted for trial in trials)
    assert trials[0].mean_dice.before is None


def test_single_label_and_regions_are_tried_together_only():
    assert len(decide([case(ALONE_HELPS)], names=("a",), overlapping=False)) == 1
    assert len(decide([case(ALONE_HELPS, SAME)], names=("a", "b"), overlapping=True)) == 1
