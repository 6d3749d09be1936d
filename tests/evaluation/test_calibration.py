"""The expected calibration error, against its definition over single voxels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from autoseg.core.errors import DataError
from autoseg.core.geometry import Geometry
from autoseg.core.labels import LabelScheme
from autoseg.evaluation.calibration import calibration_errors
from autoseg.evaluation.score_case import Pair, score_pair
from autoseg.io.images import write_labels
from autoseg.io.probability_file import ProbabilityFile, open_probabilities

LABELS = LabelScheme(declared={"background": 0, "a": 3, "b": 7, "ignore": 9})
REGIONS = LabelScheme(declared={"background": 0, "whole": (1, 2), "core": 2}, regions_class_order=(1, 2))
SHAPE = (3, 17, 40)


def stored(path: Path, scheme: LabelScheme, levels: np.ndarray) -> Path:
    geometry = Geometry(shape=levels.shape[1:], spacing_mm=(1.0, 1.0, 1.0))
    box = tuple((0, n) for n in levels.shape[1:])
    with ProbabilityFile(
        path, scheme=scheme, shape=levels.shape[1:], box=box, orientation=geometry.orientation
    ) as file:
        file.add((levels / 255).astype(np.float32))
    return path


def by_voxels(levels: np.ndarray, truth: np.ndarray) -> float:
    probability = levels / 255
    counted = truth | (levels > 0)
    bins = np.minimum((probability * 15).astype(int), 14)
    error = 0.0
    for number in range(15):
        inside = counted & (bins == number)
        if inside.any():
            error += inside.sum() * abs(probability[inside].mean() - truth[inside].mean())
    return error / counted.sum()


@pytest.mark.parametrize("scheme", [LABELS, REGIONS], ids=["labels", "regions"])
def test_errors_equal_the_definition(tmp_path: Path, scheme: LabelScheme) -> None:
    rng = np.random.default_rng(0)
    levels = rng.integers(0, 256, (scheme.n_outputs, *SHAPE))
    levels[:, 0] = 0
    truth = rng.integers(0, len(scheme.values), SHAPE).astype(np.int16)
    ignored = np.zeros(SHAPE, bool)
    if scheme.ignore_value is not None:
        ignored = rng.random(SHAPE) < 0.2
    opened = open_probabilities(stored(tmp_path / "p_probabilities.b2nd", scheme, levels))
    found = calibration_errors(opened, np.where(ignored, np.int16(len(scheme.values)), truth), labels=scheme)
    for name, members in zip(scheme.foreground, scheme.regions_inside, strict=True):
        wanted = by_voxels(levels[scheme.outputs[name]][~ignored], np.isin(truth, members)[~ignored])
        assert found[name] == pytest.approx(wanted)


def test_sure_and_right_costs_nothing_and_absent_has_no_error(tmp_path: Path) -> None:
    truth = np.zeros(SHAPE, np.int16)
    truth[:, 3:9] = 1
    levels = np.stack([255 * (truth == value) for value in range(3)])
    opened = open_probabilities(stored(tmp_path / "p_probabilities.b2nd", LABELS, levels))
    assert calibration_errors(opened, truth, labels=LABELS) == {"a": 0, "b": None}


def test_a_case_is_scored_with_its_probabilities_in_any_orientation(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    levels, values = rng.integers(0, 256, (3, 4, 5, 6)), np.array([0, 3, 7], np.uint8)
    truth = values[rng.integers(0, 3, (4, 5, 6))]
    flipped = (-1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)
    here = Geometry(shape=(4, 5, 6), spacing_mm=(1.0, 2.0, 3.0))
    there = Geometry(shape=(4, 5, 6), spacing_mm=(1.0, 2.0, 3.0), direction=flipped, origin_mm=(15.0, 0.0, 0.0))
    names = LABELS.names_of_values
    write_labels(tmp_path / "truth.nii.gz", truth, like=here, names=names)
    predicted = values[levels.argmax(axis=0)]  # as stored, x to the right
    write_labels(tmp_path / "p.nii.gz", there.orientation.apply(predicted), like=there, names=names)
    files = {"prediction": tmp_path / "p.nii.gz", "truth": tmp_path / "truth.nii.gz"}
    probabilities = stored(tmp_path / "p_probabilities.b2nd", LABELS, levels)
    pair = Pair(case="p", **files, labels=LABELS, tolerances_mm={"a": 1.0, "b": 1.0}, probabilities=probabilities)
    scores = score_pair(pair).scores
    as_stored = there.orientation.undo(truth)
    for name, value in (("a", 3), ("b", 7)):
        wanted = by_voxels(levels[LABELS.outputs[name]], as_stored == value)
        assert scores[name].calibration_error == pytest.approx(wanted)


def test_probabilities_of_something_else_are_refused(tmp_path: Path) -> None:
    names, here = LABELS.names_of_values, Geometry(shape=(2, 3, 4), spacing_mm=(1.0, 1.0, 1.0))
    for name in ("p", "truth"):
        write_labels(tmp_path / f"{name}.nii.gz", np.zeros((2, 3, 4), np.uint8), like=here, names=names)
    path = stored(tmp_path / "p_probabilities.b2nd", LABELS, np.zeros((3, 2, 3, 5)))
    files = {"prediction": tmp_path / "p.nii.gz", "truth": tmp_path / "truth.nii.gz"}
    pair = Pair(case="p", **files, labels=LABELS, tolerances_mm={"a": 1.0, "b": 1.0}, probabilities=path)
    with pytest.raises(DataError, match="another grid"):
        score_pair(pair)
