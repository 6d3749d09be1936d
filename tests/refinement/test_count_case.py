from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from autoseg.core.errors import DataError
from autoseg.core.labels import LabelScheme
from autoseg.refinement.apply import apply
from autoseg.refinement.count_case import PLAIN, TRIMMED, Pair, count_pair, count_volumes
from autoseg.refinement.options import OPTIONS

FILLED = next(i for i, option in enumerate(OPTIONS) if option.filled)


def largest(mask):
    """Independent of the code: scipy's components, all 26 neighbours."""
    parts, count = ndimage.label(mask, structure=np.ones((3, 3, 3)))
    return parts == 1 + np.argmax(ndimage.sum_labels(mask, parts, range(1, count + 1))) if count else mask


def dice(truth, predicted):
    total = truth.sum() + predicted.sum()
    return 2 * (truth & predicted).sum() / total if total else np.nan


def patchy(seed, shape=(9, 14, 11), values=5):
    """Random labels in patches, so that each has a few parts of different sizes."""
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=(values, *shape)), (0, 1, 1, 1))
    return np.where(noise.max(axis=0) > 0.25, noise.argmax(axis=0), 0).astype(np.int16)


@pytest.mark.parametrize("seed", range(6))
def test_all_states_equal_steps_carried_out_one_after_the_other(seed):
    labels = LabelScheme(declared={"background": 0, "d": 4, "a": 1, "c": 3, "b": 2})
    truth, predicted = patchy(seed), patchy(seed + 100)
    truth[2:7, 2:7, 2:7] = predicted[2:7, 2:7, 2:7] = 1
    predicted[4, 4, 4:6] = 0
    found = count_volumes(truth, predicted, labels=labels, voxel_ml=0.02).dice
    assert found.shape == (2, len(OPTIONS), 4)
    for union in (PLAIN, TRIMMED):
        base = np.where(largest(predicted > 0), predicted, 0) if union == TRIMMED else predicted
        for index, (name, (value,)) in enumerate(labels.foreground.items()):
            for number, option in enumerate(OPTIONS):
                treated = apply(option.steps(name), base, scheme=labels, voxel_ml=0.02)
                expected = dice(truth == value, treated == value)
                assert found[union, number, index] == pytest.approx(expected, nan_ok=True)
                if not option.filled:
                    others = (base != value) & (base > 0)
                    assert np.array_equal(treated[others], base[others])
    options_of_a = found[PLAIN, :, [*labels.foreground].index("a")]
    assert options_of_a[FILLED] > options_of_a[0]
    assert len({*options_of_a}) > 3


def test_ignored_voxels_count_nowhere_but_connect_the_parts_beside_them():
    labels = LabelScheme(declared={"background": 0, "a": 1, "ignore": 2})
    truth, predicted = np.zeros((2, 3, 3, 12), np.int16)
    truth[1, 1, 0:3] = 1
    truth[:, :, 3:6] = 2
    predicted[1, 1, 0:8] = 1  # one part, the middle of which is ignored
    predicted[1, 1, 10:12] = 1
    counts = count_volumes(truth, predicted, labels=labels, voxel_ml=1.0)
    assert counts.truth.tolist() == [3]
    assert counts.predicted[:, :2, 0].tolist() == [[7, 5], [5, 5]]
    assert counts.both[:, :2, 0].tolist() == [[3, 3], [3, 3]]


def test_names_that_a_case_was_not_annotated_for_have_no_dice(tmp_path, blobs, write, scheme):
    volume = blobs((6, 7, 8), (3, (0, 2, 0, 2, 0, 2)), (7, (3, 5, 3, 5, 3, 5)))
    files = {"truth": write(tmp_path / "t.nii.gz", volume), "prediction": write(tmp_path / "p.nii.gz", volume)}
    names = [*scheme.foreground]
    found = count_pair(Pair(case="a", **files, labels=scheme, annotated=(names[1],))).dice
    whole = count_pair(Pair(case="a", **files, labels=scheme)).dice
    assert np.isnan(found[..., 0]).all()
    np.testing.assert_array_equal(found[..., 1], whole[..., 1])


def test_regions_are_counted_by_their_members_and_only_reduced_together():
    labels = LabelScheme(declared={"background": 0, "whole": (1, 2), "core": (2,)}, regions_class_order=(1, 2))
    truth, predicted = np.zeros((2, 3, 3, 12), np.int16)
    truth[1, 1, 0:4] = 1
    truth[1, 1, 1:3] = 2
    predicted[1, 1, 0:3] = 1
    predicted[1, 1, 1] = 2
    predicted[1, 1, 6] = 2
    counts = count_volumes(truth, predicted, labels=labels, voxel_ml=1.0)
    assert counts.truth.tolist() == [4, 2]
    assert counts.predicted.tolist() == [[[4, 2]] * len(OPTIONS), [[3, 1]] * len(OPTIONS)]
    assert counts.both.tolist() == [[[3, 1]] * len(OPTIONS)] * 2


def test_label_that_is_nowhere_has_no_dice_and_one_that_is_only_predicted_has_zero(scheme):
    truth, predicted = np.zeros((2, 2, 3, 4), np.int16)
    assert np.isnan(count_volumes(truth, predicted, labels=scheme, voxel_ml=1.0).dice).all()
    predicted[0, 0, 0] = 1
    assert count_volumes(truth, predicted, labels=scheme, voxel_ml=1.0).dice[PLAIN, 0].tolist()[1] == 0


@pytest.mark.parametrize("orientation", ["RPI", "ASL", "SRP"])
def test_files_in_other_orientations_and_with_spread_values_count_the_same(tmp_path, blobs, write, scheme, orientation):
    truth = blobs((4, 9, 8), (3, (1, 3, 2, 7, 1, 4)), (7, (1, 3, 2, 7, 4, 7)))
    predicted = blobs((4, 9, 8), (3, (1, 3, 2, 6, 1, 4)), (7, (0, 1, 0, 1, 0, 1)), (7, (2, 3, 3, 7, 5, 8)))
    files = {"prediction": write(tmp_path / "p.nii.gz", predicted, orientation)}
    files["truth"] = write(tmp_path / "t.nii.gz", truth.astype(np.float32))
    found = count_pair(Pair(case="a", labels=scheme, **files))
    expected = count_volumes(
        scheme.encode(truth), scheme.encode(predicted), labels=scheme, voxel_ml=0.7 * 0.9 * 2.5 / 1000
    )
    for name in ("truth", "predicted", "both"):
        assert np.array_equal(getattr(found, name), getattr(expected, name))


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda v: v[:3], "shape 3x9x8 instead of 4x9x8"),
        (lambda v: v + np.uint8(1), "label 1, 4 is not declared"),
        (lambda v: v * np.float32(0.5), "1.5"),
    ],
)
def test_file_that_cannot_be_compared_is_refused_with_its_case(tmp_path, blobs, write, scheme, damage, reason):
    truth = blobs((4, 9, 8), (3, (1, 3, 2, 7, 1, 4)))
    prediction = write(tmp_path / "p.nii.gz", damage(truth))
    with pytest.raises(DataError) as caught:
        count_pair(Pair(case="a", prediction=prediction, truth=write(tmp_path / "t.nii.gz", truth), labels=scheme))
    (problem,) = caught.value.problems
    assert problem.case == "a"
    assert str(prediction) == problem.file
    assert reason in problem.found
