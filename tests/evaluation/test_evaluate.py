from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from autoseg.core.labels import LabelScheme
from autoseg.evaluation import evaluate

LABELS = LabelScheme(declared={"background": 0, "liver": 1, "tumour": 7})


def image_of(array, spacing_mm=(0.5, 0.7, 3.0), origin_mm=(5.0, -9.0, 40.0)) -> sitk.Image:
    image = sitk.GetImageFromArray(np.asarray(array))
    image.SetSpacing(spacing_mm)
    image.SetOrigin(origin_mm)
    return image


def write(folder: Path, case: str, image) -> Path:
    path = folder / f"{case}.nii.gz"
    folder.mkdir(exist_ok=True)
    sitk.WriteImage(image if isinstance(image, sitk.Image) else image_of(image), str(path))
    return path


@pytest.fixture
def volumes():
    rng = np.random.default_rng(0)
    return rng.choice([0, 1, 7], (5, 6, 8)).astype(np.uint8), rng.choice([0, 1, 7], (5, 6, 8)).astype(np.uint8)


@pytest.fixture
def pair(tmp_path, volumes):
    """Two good cases: file paths of predictions and truths."""
    truths = {case: write(tmp_path / "truth", case, volumes[0]) for case in ("a", "b")}
    predictions = {case: write(tmp_path / "predicted", case, volumes[1]) for case in ("a", "b")}
    return predictions, truths


def test_scores_of_files_with_spread_file_values_equal_direct_counting(pair, volumes):
    scores, problems = evaluate(*pair, labels=LABELS, workers=0)
    truth, predicted = volumes
    assert problems == []
    assert scores.missing == []
    dice = {}
    for name, value in (("liver", 1), ("tumour", 7)):
        both = ((truth == value) & (predicted == value)).sum()
        dice[name] = 2 * both / ((truth == value).sum() + (predicted == value).sum())
        assert scores.cases["a"][name].dice == pytest.approx(dice[name])
        assert scores.cases["a"][name].volume_truth_ml == pytest.approx((truth == value).sum() * 0.5 * 0.7 * 3 / 1000)
    assert scores.mean_dice == pytest.approx(np.mean([*dice.values()]))


def test_processes_give_the_same_scores_as_none(pair):
    assert evaluate(*pair, labels=LABELS, workers=2) == evaluate(*pair, labels=LABELS, workers=0)


def test_what_a_case_was_not_annotated_for_is_not_scored(pair):
    whole, _ = evaluate(*pair, labels=LABELS, workers=0)
    partly, problems = evaluate(*pair, labels=LABELS, annotated_classes={"a": ("tumour",)}, workers=0)
    assert problems == []
    assert [*partly.cases["a"]] == ["tumour"]
    assert partly.cases["b"] == whole.cases["b"]
    assert partly.summary["liver"]["dice"].cases == 1
    assert partly.summary["tumour"] == whole.summary["tumour"]


def test_missing_prediction_is_a_problem_and_the_others_are_scored(pair):
    predictions, truths = pair
    del predictions["a"]
    scores, problems = evaluate(predictions, truths, labels=LABELS, workers=0)
    assert [problem.case for problem in problems] == ["a"]
    assert "no prediction" in problems[0].found
    assert scores.missing == ["a"]
    assert [*scores.cases] == ["b"]
    assert scores.summary["liver"]["dice"].cases == 1


def test_prediction_without_truth_is_named_in_a_warning(pair, caplog):
    predictions, truths = pair
    del truths["b"]
    with caplog.at_level(logging.WARNING):
        scores, problems = evaluate(predictions, truths, labels=LABELS, workers=0)
    assert [*scores.cases] == ["a"]
    assert not problems
    assert "b" in caplog.text


@pytest.mark.parametrize("order", ["RPI", "LPS", "ASL", "SRP"])
def test_orientation_of_the_prediction_does_not_change_the_scores(pair, volumes, tmp_path, order):
    predictions, truths = pair
    expected, _ = evaluate(predictions, truths, labels=LABELS, workers=0)
    turned = sitk.DICOMOrient(image_of(volumes[1]), order)
    scores, problems = evaluate(
        {**predictions, "a": write(tmp_path / "turned", "a", turned)}, truths, labels=LABELS, workers=0
    )
    assert problems == []
    for name, row in scores.cases["a"].items():
        for metric, value in row:
            wanted = getattr(expected.cases["a"][name], metric)
            assert value == (None if wanted is None else pytest.approx(wanted, rel=1e-5))


BAD = {
    "shape": (lambda v: v[:4], "shape 4x6x8 instead of 5x6x8"),
    "spacing": (lambda v: image_of(v, spacing_mm=(0.5, 0.7, 2.5)), "spacing"),
    "origin": (lambda v: image_of(v, origin_mm=(5.0, -9.0, 43.0)), "origin"),
    "fraction": (lambda v: v * np.float32(0.5), "0.5"),
    "undeclared": (lambda v: v + np.uint8(1), "label 2, 8 is not in dataset.json (there: 0, 1, 7)"),
    "negative": (lambda v: -v.astype(np.int16), "label -7, -1"),
}


@pytest.mark.parametrize("defect", BAD)
def test_bad_prediction_is_reported_with_its_reason_and_does_not_lose_the_other_case(pair, volumes, tmp_path, defect):
    damage, reason = BAD[defect]
    predictions, truths = pair
    predictions["a"] = write(tmp_path / "bad", "a", damage(volumes[1]))
    scores, problems = evaluate(predictions, truths, labels=LABELS, workers=0)
    assert [*scores.cases] == ["b"]
    assert scores.missing == ["a"]
    assert [problem.case for problem in problems] == ["a"]
    assert reason in problems[0].found
    assert problems[0].file == str(predictions["a"])
    assert problems[0].next


def test_unreadable_prediction_is_reported(pair):
    predictions, truths = pair
    predictions["a"].write_bytes(b"no image")
    scores, problems = evaluate(predictions, truths, labels=LABELS, workers=0)
    assert [*scores.cases] == ["b"]
    assert problems[0].case == "a"


def test_origin_within_half_a_voxel_is_scored_with_a_warning(pair, volumes, tmp_path, caplog):
    predictions, truths = pair
    expected, _ = evaluate(predictions, truths, labels=LABELS, workers=0)
    predictions["a"] = write(tmp_path / "near", "a", image_of(volumes[1], origin_mm=(5.0, -9.0, 41.0)))
    with caplog.at_level(logging.WARNING):
        scores, problems = evaluate(predictions, truths, labels=LABELS, workers=0)
    assert scores == expected
    assert problems == []
    assert "a: origin" in caplog.text


def test_float_files_with_whole_numbers_are_accepted(pair, volumes, tmp_path):
    predictions, truths = pair
    expected, _ = evaluate(predictions, truths, labels=LABELS, workers=0)
    truths["a"] = write(tmp_path / "float", "a", volumes[0].astype(np.float32))
    assert evaluate(predictions, truths, labels=LABELS, workers=0)[0] == expected


def test_ignored_part_of_the_truth_does_not_count(pair, volumes, tmp_path):
    labels = LabelScheme(declared={**LABELS.declared, "ignore": 9})
    predictions, truths = pair
    truth = volumes[1].copy()
    truth[:2] = 9
    truths["a"] = write(tmp_path / "partly", "a", truth)
    scores, _ = evaluate(predictions, truths, labels=labels, workers=0)
    assert scores.cases["a"]["liver"].dice == 1
    assert "ignore" not in scores.cases["a"]
    assert scores.cases["a"]["liver"].volume_predicted_ml == pytest.approx((volumes[1][2:] == 1).sum() * 1.05 / 1000)


def test_real_hippocampus_labels_score_perfectly_against_themselves(real_data):
    folder = real_data / "Dataset004_Hippocampus" / "labelsTr"
    files = {path.name[:-7]: path for path in sorted(folder.glob("*.nii.gz"))[:3]}
    labels = LabelScheme(declared={"background": 0, "Anterior": 1, "Posterior": 2})
    scores, problems = evaluate(files, files, labels=labels, workers=0)
    assert problems == []
    assert scores.mean_dice == 1
    assert scores.summary["Anterior"]["hd95_mm"].max == 0
    assert scores.summary["Anterior"]["volume_truth_ml"].min > 0.5
