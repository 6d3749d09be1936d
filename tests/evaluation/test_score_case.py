from __future__ import annotations

import numpy as np
import pytest

from autoseg.core.geometry import Geometry
from autoseg.core.labels import LabelScheme
from autoseg.evaluation.score_case import confusion_counts, score_volumes

TWO = LabelScheme(declared={"background": 0, "liver": 1, "tumour": 2})


def geometry(shape, spacing_mm=(3.0, 0.5, 2.0)) -> Geometry:
    return Geometry(shape=shape, spacing_mm=spacing_mm)


def score(truth, predicted, labels=TWO, *, tolerance_mm=1.0, **options):
    truth, predicted = np.asarray(truth, np.int16), np.asarray(predicted, np.int16)
    return score_volumes(
        truth,
        predicted,
        labels=labels,
        geometry=geometry(truth.shape),
        tolerances_mm=dict.fromkeys(labels.foreground, tolerance_mm),
        **options,
    )


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 6, 5), (4, 7, 3)])
def test_overlap_and_volume_equal_counting_voxel_sets(shape):
    rng = np.random.default_rng(0)
    truth, predicted = rng.integers(0, 3, shape), rng.integers(0, 3, shape)
    found = score(truth, predicted)
    for value, name in ((1, "liver"), (2, "tumour")):
        a, b = (
            {tuple(i) for i in np.argwhere(truth == value)},
            {tuple(i) for i in np.argwhere(predicted == value)},
        )
        assert found[name].volume_truth_ml == pytest.approx(len(a) * 0.003)
        assert found[name].volume_predicted_ml == pytest.approx(len(b) * 0.003)
        if a or b:
            assert found[name].dice == pytest.approx(2 * len(a & b) / (len(a) + len(b)))
            assert found[name].iou == pytest.approx(len(a & b) / len(a | b))
        assert found[name].sensitivity == (pytest.approx(len(a & b) / len(a)) if a else None)
        assert found[name].precision == (pytest.approx(len(a & b) / len(b)) if b else None)
        assert found[name].volume_error_ml == pytest.approx((len(b) - len(a)) * 0.003)


def test_confusion_counts_of_300_values_equal_pairwise_counting():
    rng = np.random.default_rng(1)
    truth, predicted = (
        rng.integers(0, 300, (3, 40, 30), dtype=np.int16),
        rng.integers(0, 300, (3, 40, 30), dtype=np.int16),
    )
    counts = confusion_counts(truth, predicted, n_values=300)
    assert counts.sum() == truth.size
    for a, b in [(0, 0), (17, 299), (299, 3), *zip(truth.flat[:20], predicted.flat[:20], strict=True)]:
        assert counts[a, b] == ((truth == a) & (predicted == b)).sum()


def test_label_absent_from_both_scores_null():
    found = score(np.ones((2, 3, 4)), np.ones((2, 3, 4)))
    assert found["liver"].dice == found["liver"].iou == found["liver"].nsd == 1
    assert found["liver"].hd95_mm == 0
    tumour = found["tumour"]
    known = {metric for metric, value in tumour if value is not None}
    assert known == {"volume_truth_ml", "volume_predicted_ml", "volume_error_ml"}
    assert tumour.volume_truth_ml == tumour.volume_predicted_ml == tumour.volume_error_ml == 0


@pytest.mark.parametrize("swap", [False, True])
def test_label_in_only_one_of_both_scores_zero_without_distance(swap):
    volumes = [np.zeros((2, 3, 4)), np.full((2, 3, 4), 2)]
    tumour = score(*(volumes[::-1] if swap else volumes))["tumour"]
    assert (tumour.dice, tumour.iou, tumour.nsd) == (0, 0, 0)
    assert (tumour.hd_mm, tumour.hd95_mm, tumour.mean_distance_mm) == (None, None, None)
    assert (tumour.sensitivity, tumour.precision) == ((None, 0) if not swap else (0, None))


def test_spacing_and_tolerance_decide_the_surface_scores():
    truth, predicted = np.zeros((3, 8, 8)), np.zeros((3, 8, 8))
    truth[1, 4, 4] = predicted[1, 6, 4] = 1  # 2 voxels of 0.5 mm
    assert score(truth, predicted)["liver"].hd95_mm == pytest.approx(1.0)
    assert score(truth, predicted, tolerance_mm=1.0)["liver"].nsd == 1
    assert score(truth, predicted, tolerance_mm=0.9)["liver"].nsd == pytest.approx(0.5)  # the far half of each voxel


def test_lesions_are_scored_one_by_one_for_labels_that_are_lesions():
    truth, predicted = np.zeros((3, 8, 8)), np.zeros((3, 8, 8))
    truth[1, 0:2, 0:2] = truth[1, 5:7, 5:7] = 2
    predicted[1, 0:2, 0:2] = predicted[1, 3, 0] = 2
    found = score(truth, predicted, lesions=["tumour"])
    tumour = found["tumour"]
    assert (tumour.lesions_truth, tumour.lesions_predicted, tumour.lesions_found) == (2, 2, 1)
    assert (tumour.lesion_f1, tumour.panoptic_quality) == (0.5, 0.5)
    assert found["liver"].lesion_f1 is None
    assert score(truth, predicted)["tumour"].lesions_truth is None


def test_a_lesion_label_that_is_nowhere_has_no_lesions_and_no_f1():
    found = score(np.ones((2, 3, 4)), np.ones((2, 3, 4)), lesions=["tumour"])["tumour"]
    assert (found.lesions_truth, found.lesions_predicted, found.lesions_found) == (0, 0, 0)
    assert (found.lesion_f1, found.panoptic_quality) == (None, None)


def test_region_scores_are_those_of_the_union_of_its_values():
    rng = np.random.default_rng(2)
    file_truth, file_predicted = rng.integers(0, 4, (4, 5, 6)), rng.integers(0, 4, (4, 5, 6))
    regions = LabelScheme(
        declared={"background": 0, "whole": (1, 2, 3), "core": (2, 3), "enhancing": 3},
        regions_class_order=(1, 2, 3),
    )
    found = score(file_truth, file_predicted, labels=regions)
    for name, values in (("whole", (1, 2, 3)), ("core", (2, 3)), ("enhancing", (3,))):
        alone = LabelScheme(declared={"background": 0, "it": 1})
        assert found[name] == score(np.isin(file_truth, values), np.isin(file_predicted, values), labels=alone)["it"]


def test_ignored_voxels_count_in_neither_mask():
    labels = LabelScheme(declared={"background": 0, "liver": 1, "tumour": 2, "ignore": 3})
    rng = np.random.default_rng(3)
    truth, predicted = rng.integers(0, 3, (5, 6, 7)), rng.integers(0, 3, (5, 6, 7))
    hidden = rng.random(truth.shape) < 0.4
    found = score(np.where(hidden, 3, truth), predicted, labels=labels)
    expected = score(np.where(hidden, 0, truth), np.where(hidden, 0, predicted))
    assert found == expected
    assert found != score(truth, predicted)


def test_inputs_are_left_as_they_were():
    labels = LabelScheme(declared={"background": 0, "liver": 1, "ignore": 2})
    truth, predicted = np.full((2, 2, 2), 2, np.int16), np.ones((2, 2, 2), np.int16)
    score(truth, predicted, labels=labels)
    assert (predicted == 1).all()
    assert (truth == 2).all()
