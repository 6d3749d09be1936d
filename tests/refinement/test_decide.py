from __future__ import annotations

import numpy as np
import pytest

from autoseg.core.strategy import Step
from autoseg.refinement.count_case import Counts
from autoseg.refinement.decide import choose_steps, decide
from autoseg.refinement.options import OPTIONS

LARGEST = 1  # number of the option that keeps the largest part
FILLED = next(i for i, option in enumerate(OPTIONS) if option.filled)
HUGE = 10**6


def case(*labels) -> Counts:
    """From a row per label: truth, then (predicted, both) plain, largest, and both again after all together.

    What else may be done to the label removes all of it.
    """
    shape = (2, len(OPTIONS), len(labels))
    predicted, both = np.full(shape, HUGE), np.zeros(shape, dtype=int)
    for index, row in enumerate(labels):
        for state, pair in enumerate(row[1:]):
            predicted[state // 2, state % 2, index], both[state // 2, state % 2, index] = pair
    return Counts(truth=np.array([row[0] for row in labels]), predicted=predicted, both=both)


SAME = (10, (10, 8), (10, 8), (10, 8), (10, 8))
TOGETHER_HELPS = (10, (14, 8), (12, 8), (10, 8), (10, 8))
TOGETHER_HARMS = (10, (12, 10), (12, 10), (8, 6), (8, 6))
ALONE_HELPS = (10, (14, 8), (10, 8), (14, 8), (10, 8))
ALONE_HARMS = (10, (12, 10), (6, 5), (12, 10), (6, 5))
ALONE_HELPS_UNLESS_TOGETHER = (10, (14, 8), (12, 8), (10, 8), (9, 7))


def steps(counts, names=("a", "b"), overlapping=False, folds=None):
    found = decide(counts, folds or [0] * len(counts), names=names, overlapping=overlapping).steps
    assert all(step.action == "keep_largest" for step in found)
    return [step.labels for step in found]


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
    (trial, *_) = decide([case(large_gain, small_loss)], [0], names=("a", "b"), overlapping=False).trials
    assert trial.dice.after > trial.dice.before
    assert not trial.accepted


def test_loss_in_one_case_is_outweighed_by_gains_in_others_of_the_same_label():
    assert steps([case(ALONE_HARMS), *[case(ALONE_HELPS)] * 9], names=("a",)) == [["a"]]
    assert steps([case(ALONE_HELPS), *[case(ALONE_HARMS)] * 9], names=("a",)) == []


def test_a_label_gets_the_best_of_its_options_and_the_simplest_of_equals():
    counts = case(ALONE_HELPS)
    for option in (LARGEST, FILLED, FILLED + 1):
        counts.predicted[:, option, 0], counts.both[:, option, 0] = 10, 9
    assert steps([counts], names=("a",)) == [["a"]]
    counts.both[:, FILLED, 0] = 10
    found = decide([counts], [0], names=("a",), overlapping=False)
    assert found.steps == [Step(action="fill_holes", labels=["a"])]
    assert (found.trials[0].dice.before, found.trials[0].dice.after) == (pytest.approx(16 / 24), 1)
    assert found.promised == 1


def test_each_fold_is_measured_with_steps_that_were_chosen_without_it():
    """In fold 0 the step helps, in fold 1 it harms by more: chosen on each other's, both lose."""
    helps, harms = case(ALONE_HELPS), case(ALONE_HARMS)
    counts, folds = [helps, helps, helps, harms], [0, 0, 0, 1]
    found = decide(counts, folds, names=("a",), overlapping=False)
    dice = np.stack([one.dice for one in counts])
    assert choose_steps(dice, overlapping=False).options == (LARGEST,)  # looks good on all cases
    before = (3 * 16 / 24 + 20 / 22) / 4
    after = (3 * 16 / 24 + 10 / 16) / 4
    assert found.honest.before == pytest.approx(before)
    assert found.honest.after == pytest.approx(after)
    assert found.honest.ci95[0] < 0 <= found.honest.ci95[1]
    assert found.steps == []
    assert not any(trial.accepted for trial in found.trials)
    assert found.promised == pytest.approx(before)


def test_an_honest_gain_is_that_of_the_cases():
    counts = [case(ALONE_HELPS), case(SAME), case(ALONE_HELPS), case(SAME)]
    found = decide(counts, [0, 0, 1, 1], names=("a",), overlapping=False)
    assert found.honest.before == pytest.approx((16 / 24 + 0.8) / 2)
    assert found.honest.after == pytest.approx(0.8)
    assert found.honest.ci95[0] >= 0
    assert [step.labels for step in found.steps] == [["a"]]


def test_with_a_single_fold_nothing_is_called_honest():
    found = decide([case(ALONE_HELPS)], [0], names=("a",), overlapping=False)
    assert found.honest.before == pytest.approx(16 / 24)
    assert (found.honest.after, found.honest.ci95) == (None, None)
    assert [step.labels for step in found.steps] == [["a"]]


def test_cases_without_a_label_do_not_count_in_its_mean():
    nowhere, only_predicted = (0, *[(0, 0)] * 4), (0, (3, 0), (2, 0), (0, 0), (0, 0))
    counts = [case(SAME, nowhere), case(SAME, only_predicted), case(SAME, SAME)]
    (together, *_) = decide(counts, [0, 1, 2], names=("a", "b"), overlapping=False).trials
    assert together.dice.before == pytest.approx((0.8 + 0.4) / 2)  # of b 0 in one case, 0.8 in another
    assert together.dice.after == pytest.approx(0.8)
    assert together.accepted


def test_data_without_any_foreground_accept_nothing():
    nowhere = case((0, *[(0, 0)] * 4), (0, *[(0, 0)] * 4))
    nowhere.predicted[...] = 0
    found = decide([nowhere, nowhere], [0, 1], names=("a", "b"), overlapping=False)
    assert found.steps == []
    assert (found.promised, found.honest.before, found.honest.ci95) == (None, None, None)
    assert found.trials[0].dice.before is None


def test_single_labels_are_tried_alone_and_regions_together_only():
    assert len(decide([case(ALONE_HELPS)], [0], names=("a",), overlapping=False).trials) == 1
    regions = decide([case(ALONE_HELPS, SAME)], [0], names=("a", "b"), overlapping=True)
    assert (len(regions.trials), regions.steps) == (1, [])
