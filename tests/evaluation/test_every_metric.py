"""Every metric of LabelScores against code that is not ours, on 1,000 random pairs of volumes and on real cases.

References: DeepMind's surface-distance (surfaces, Dice), SciPy (Jaccard, parts, their assignment, bins), NumPy's sets.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import surface_distance
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation, binary_erosion, find_objects, gaussian_filter, label
from scipy.optimize import linear_sum_assignment
from scipy.spatial import distance
from scipy.stats import binned_statistic

from autoseg.core.geometry import Geometry, Orientation
from autoseg.core.labels import LabelScheme
from autoseg.core.scores import METRICS, LabelScores
from autoseg.evaluation.calibration import calibration_errors
from autoseg.evaluation.score_case import Pair, score_pair, score_volumes
from autoseg.io.probability_file import LEVELS, ProbabilityFile, open_probabilities

pytestmark = pytest.mark.usefixtures("reference_areas_once")
Mask = NDArray[np.bool_]
WITHIN = 1e-6  # mm, or of a share
SURFACES = ("hd_mm", "hd95_mm", "mean_distance_mm")
LESIONS = ("lesions_truth", "lesions_predicted", "lesions_found", "lesion_f1", "panoptic_quality")


@dataclass(frozen=True, kw_only=True)
class Masks:
    """What one label is to be scored from: (Z, Y, X) each, without the voxels that are ignored."""

    truth: Mask
    predicted: Mask
    spacing_mm: tuple[float, float, float]
    tolerance_mm: float
    levels: NDArray[np.uint8]  # stored probabilities of the voxels that count, (n,), and the truth there
    level_truth: Mask

    @cached_property
    def shared(self) -> int:
        """Voxels in both."""
        return len(np.intersect1d(np.flatnonzero(self.truth), np.flatnonzero(self.predicted), assume_unique=True))

    @cached_property
    def surfaces(self) -> dict[str, NDArray[np.float64]]:
        return surface_distance.compute_surface_distances(self.truth, self.predicted, self.spacing_mm)

    @cached_property
    def parts(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Voxels that each true part shares with each predicted one, and voxels in either: (true, predicted)."""
        numbered = [label(mask, np.ones((3, 3, 3))) for mask in (self.truth, self.predicted)]
        either = (self.truth | self.predicted).ravel()
        members = [np.arange(1, n + 1)[:, None] == array.ravel()[either] for array, n in numbered]
        shared = members[0].astype(np.float64) @ members[1].T.astype(np.float64)
        together = members[0].sum(axis=1)[:, None] + members[1].sum(axis=1)[None] - shared
        return shared.astype(np.int64), together.astype(np.int64)

    @cached_property
    def n_found(self) -> int:
        """The assignment of parts with the most pairs whose IoU is above a tenth."""
        shared, together = self.parts
        near = 10 * shared > together
        return int(near[linear_sum_assignment(near, maximize=True)].sum())

    @property
    def ml(self) -> float:
        return math.prod(self.spacing_mm) / 1000


def mean_distance(masks: Masks) -> float:
    """Both directions' means, which the reference gives, weighted by the areas of the two surfaces."""
    means = surface_distance.compute_average_surface_distance(masks.surfaces)
    return float(np.average(means, weights=[masks.surfaces[f"surfel_areas_{who}"].sum() for who in ("gt", "pred")]))


def surface_dice(masks: Masks) -> float:
    """Zero with one mask empty, where the reference has no value; a tolerance holds what rounding adds to a spacing."""
    if not (masks.truth.any() and masks.predicted.any()):
        return 0.0
    return surface_distance.compute_surface_dice_at_tolerance(masks.surfaces, masks.tolerance_mm * (1 + 1e-6))


def f1(masks: Masks) -> float:
    """From recall and precision over lesions; 0 where nothing is found."""
    n_true, n_predicted = masks.parts[0].shape
    n = masks.n_found
    return 2 / (n_true / n + n_predicted / n) if n else 0.0


def panoptic_quality(masks: Masks) -> float:
    """Segmentation quality times recognition quality, as Kirillov et al. write it."""
    shared, together = masks.parts
    same = 2 * shared > together
    n_true, n_predicted = same.shape
    hits = int(same.sum())
    if not hits:
        return 0.0
    recognition = hits / (hits + (n_predicted - hits) / 2 + (n_true - hits) / 2)
    return float((shared[same] / together[same]).mean()) * recognition


def calibration_error(masks: Masks) -> float | None:
    """Mean certainty against accuracy in 15 bins of the voxels that count."""
    counted = masks.level_truth | (masks.levels > 0)
    if not counted.any():
        return None
    levels = masks.levels[counted].astype(float)
    values = [levels / LEVELS, masks.level_truth[counted].astype(float)]
    (certainty, accuracy), _, number = binned_statistic(levels, values, "mean", bins=15, range=(0, LEVELS))
    return float(np.abs(certainty - accuracy)[number - 1].mean())


@dataclass(frozen=True)
class Reference:
    """How to compute a metric, and of which masks it needs: "either" is null with both empty, "both" with one."""

    compute: Callable[[Masks], float | None]
    needs: str = "nothing"

    def __call__(self, masks: Masks) -> float | None:
        truth, predicted = bool(masks.truth.any()), bool(masks.predicted.any())
        there = {
            "nothing": True,
            "either": truth or predicted,
            "both": truth and predicted,
            "truth": truth,
            "predicted": predicted,
        }
        return self.compute(masks) if there[self.needs] else None


def dice(masks: Masks) -> float:
    return float(surface_distance.compute_dice_coefficient(masks.truth, masks.predicted))


REFERENCES = {
    "dice": Reference(dice, "either"),
    "iou": Reference(lambda m: 1 - distance.jaccard(m.truth.ravel(), m.predicted.ravel()), "either"),
    "sensitivity": Reference(lambda m: m.shared / len(np.flatnonzero(m.truth)), "truth"),
    "precision": Reference(lambda m: m.shared / len(np.flatnonzero(m.predicted)), "predicted"),
    "hd_mm": Reference(lambda m: surface_distance.compute_robust_hausdorff(m.surfaces, 100), "both"),
    "hd95_mm": Reference(lambda m: surface_distance.compute_robust_hausdorff(m.surfaces, 95), "both"),
    "mean_distance_mm": Reference(mean_distance, "both"),
    "nsd": Reference(surface_dice, "either"),
    "volume_truth_ml": Reference(lambda m: len(np.argwhere(m.truth)) * m.ml),
    "volume_predicted_ml": Reference(lambda m: len(np.argwhere(m.predicted)) * m.ml),
    "volume_error_ml": Reference(lambda m: (m.predicted.astype(int) - m.truth).sum() * m.ml),
    "lesions_truth": Reference(lambda m: label(m.truth, np.ones((3, 3, 3)))[1]),
    "lesions_predicted": Reference(lambda m: label(m.predicted, np.ones((3, 3, 3)))[1]),
    "lesions_found": Reference(lambda m: m.n_found),
    "lesion_f1": Reference(f1, "either"),
    "panoptic_quality": Reference(panoptic_quality, "either"),
    "calibration_error": Reference(calibration_error),
}


def check(scores: LabelScores, masks: Masks, *, where: str) -> None:
    for metric in METRICS:
        wanted, got = REFERENCES[metric](masks), getattr(scores, metric)
        assert (got is None) == (wanted is None), (where, metric, got, wanted)
        if wanted is not None:
            assert got == pytest.approx(wanted, rel=0 if metric in SURFACES else 1e-9, abs=WITHIN), (where, metric)


def test_no_metric_is_without_a_reference() -> None:
    assert [*REFERENCES] == [*METRICS]


PLAIN = LabelScheme(declared={"background": 0, "a": 3, "b": 7, "ignore": 9})
NESTED = LabelScheme(declared={"background": 0, "whole": (1, 2), "core": 2}, regions_class_order=(1, 2))
SIZES = (1, 1, 2, 3, 7, 11)
KINDS = ("specks", "halves", "nearly full", "bodies", "moved", "equal", "no truth", "no prediction", "neither", "boxes")


def values_of(kind: str, shape: tuple[int, ...], rng: np.random.Generator) -> list[NDArray[np.int16]]:
    """Values 0, 1, 2 of a truth and a prediction."""
    shares = {"specks": (0.9, 0.05, 0.05), "nearly full": (0.04, 0.9, 0.06)}.get(kind, (0.4, 0.3, 0.3))
    if kind in ("bodies", "moved", "no truth", "no prediction"):
        volumes = [np.digitize(gaussian_filter(rng.normal(size=shape), 1), (0.0, 0.15)) for _ in "ab"]
    elif kind == "boxes":  # some touch the border
        volumes = [np.zeros(shape, int) for _ in "ab"]
        for volume, value in product(volumes, (1, 2, 1)):
            corner, size = rng.integers(-2, shape), rng.integers(1, 6, 3)
            volume[tuple(slice(max(c, 0), max(c, 0) + s) for c, s in zip(corner, size, strict=True))] = value
    else:
        volumes = [rng.choice(3, shape, p=shares) for _ in "ab"]
    empty = {"no truth": (0,), "no prediction": (1,), "neither": (0, 1)}.get(kind, ())
    for number in empty:
        volumes[number] = np.where(volumes[number] == 1, 0, volumes[number]) if rng.random() < 0.5 else volumes[0] * 0
    if kind == "moved":
        volumes[1] = np.roll(volumes[0], rng.integers(-2, 3, 3), axis=(0, 1, 2))
    if kind == "equal":
        volumes[1] = volumes[0].copy()
    return [volume.astype(np.int16) for volume in volumes]


def store(path: Path, scheme: LabelScheme, levels: NDArray[np.integer]) -> Path:
    """A file of probabilities, levels (n_outputs, Z, Y, X) from 0 to 255."""
    shape = levels.shape[1:]
    straight = Orientation(axes=(0, 1, 2), flipped=(False, False, False))
    with ProbabilityFile(
        path, scheme=scheme, shape=shape, box=tuple((0, n) for n in shape), orientation=straight
    ) as file:
        file.add((levels / LEVELS).astype(np.float32))
    return path


@pytest.mark.parametrize("seed", range(10))
def test_every_metric_of_a_thousand_random_pairs_equals_its_reference(seed: int, tmp_path: Path) -> None:
    """100 pairs of volumes a seed, two labels or two nested regions each; a third of the former with ignored voxels."""
    rng = np.random.default_rng(seed)
    nulls = dict.fromkeys(METRICS, 0)
    for number in range(100):
        kind, scheme = KINDS[number % len(KINDS)], (PLAIN, NESTED)[number // len(KINDS) % 2]
        shape = tuple(int(n) for n in rng.choice(SIZES, 3))
        if number % 5 == 0:
            spacing_mm = tuple(float(s) for s in np.exp(rng.uniform(np.log(0.2), np.log(6), 3)))
        truth, predicted = values_of(kind, shape, rng)
        if scheme is PLAIN and number % 3 == 0:
            truth[rng.random(shape) < 0.2] = len(scheme.values)
        tolerances_mm = {name: float(rng.choice([0.0, spacing_mm[0], rng.uniform(0, 5)])) for name in scheme.foreground}
        scores = score_volumes(
            truth,
            predicted,
            labels=scheme,
            geometry=Geometry(shape=shape, spacing_mm=spacing_mm),
            tolerances_mm=tolerances_mm,
            lesions=scheme.foreground,
        )
        levels = rng.integers(0, 256, (scheme.n_outputs, *shape)) * (rng.random(shape) < rng.choice([0, 0.3, 1]))
        stored = open_probabilities(store(tmp_path / "some.b2nd", scheme, levels))
        errors = calibration_errors(stored, truth, labels=scheme)
        counted = truth < len(scheme.values)
        for name, members in zip(scheme.foreground, ((1,), (2,)) if scheme is PLAIN else ((1, 2), (2,)), strict=True):
            masks = Masks(
                truth=np.isin(truth, members),
                predicted=np.isin(predicted, members) & counted,
                spacing_mm=spacing_mm,
                tolerance_mm=tolerances_mm[name],
                levels=levels[scheme.outputs[name]][counted].astype(np.uint8),
                level_truth=np.isin(truth, members)[counted],
            )
            row = scores[name].with_changes(calibration_error=errors[name])
            check(row, masks, where=f"pair {number} ({kind}, {shape}), {name}")
            for metric, value in row:
                nulls[metric] += value is None
    assert {metric for metric, count in nulls.items() if count} == {
        metric for metric, one in REFERENCES.items() if one.needs != "nothing"
    } | {"calibration_error"}


REAL = {
    **dict.fromkeys((f"Dataset004_Hippocampus/labelsTr #{i}" for i in range(24)), ".nii.gz"),
    **dict.fromkeys((f"Dataset801_SpinalCordGM/labelsTr #{i}" for i in range(6)), ".nii.gz"),
    "single_cases/totalsegmentator_tests/example_seg.nii.gz": ".nii.gz",  # CT, 41 labels
    "single_cases/totalsegmentator_tests/example_seg_mr.nii.gz": ".nii.gz",
    "single_cases/totalsegmentator_tests/pulmonary_ct_seg_pulmonary_artery.nii.gz": ".nii.gz",
    "single_cases/isles22_case9/sub-strokecase0009_ses-0001_msk.nii.gz": ".nii.gz",  # lesions
    "single_cases/pyradiomics/breast1_label.nrrd": ".nrrd",
    "single_cases/pyradiomics/prostate_phantom_subvolume-label.nrrd": ".nrrd",
    "single_cases/sct_testing/t2_seg-manual.nii.gz": ".nii.gz",  # permuted axes
}


def moved(values: NDArray[np.integer], _: NDArray[np.integer]) -> NDArray[np.integer]:
    return np.roll(values, (1, -2, 1), axis=(0, 1, 2))


def eroded(values: NDArray[np.integer], _: NDArray[np.integer]) -> NDArray[np.integer]:
    """Odd labels lose their rim, even ones gain one where nothing else is."""
    result = np.zeros_like(values)
    for value in np.unique(values[values > 0]):
        mask = values == value
        mask = binary_erosion(mask) if value % 2 else binary_dilation(mask)
        result[mask & (result == 0)] = value
    return result


def relabelled(values: NDArray[np.integer], _: NDArray[np.integer]) -> NDArray[np.integer]:
    """In the upper half each label is the next; the last of them is nowhere."""
    known = [*np.unique(values)]
    following = dict(zip(known, [*known[1:-1], known[0], known[0]], strict=True))
    result = values.copy()
    half = result[result.shape[0] // 2 :]
    half[:] = np.vectorize(following.__getitem__)(half)
    result[result == known[-1]] = 0
    return result


def noisy(values: NDArray[np.integer], _: NDArray[np.integer]) -> NDArray[np.integer]:
    """A tenth of all voxels that are drawn is lost, and one in a thousand is found elsewhere."""
    rng = np.random.default_rng(values.size)
    known = np.unique(values)
    return np.where(
        values > 0,
        np.where(rng.random(values.shape) < 0.1, 0, values),
        np.where(rng.random(values.shape) < 0.001, rng.choice(known, values.shape), 0),
    ).astype(values.dtype)


def another(values: NDArray[np.integer], other: NDArray[np.integer]) -> NDArray[np.integer]:
    """The labels of the next case, cut or filled up to this one's shape."""
    result = np.zeros_like(values)
    place = tuple(slice(0, min(a, b)) for a, b in zip(values.shape, other.shape, strict=True))
    result[place] = other[place]
    return result


PERTURBATIONS = (moved, eroded, relabelled, noisy, another)
STRETCHES = ((1.0, 1.0, 1.0), (1.0, 1.0, 1.0), (0.7, 1.3, 5.0))  # of the spacing (x, y, z), in turn


def real_file(folder: Path, name: str, *, further: int = 0) -> Path:
    place, _, number = name.partition(" #")
    if not number:
        return folder / place
    files = sorted(path for path in (folder / place).iterdir() if path.name[0] != ".")
    return files[(int(number) + further) % len(files)]


@pytest.mark.parametrize("number", range(len(REAL)), ids=[name.rpartition("/")[2] for name in REAL])
def test_every_metric_of_a_real_case_equals_its_reference(number: int, real_data: Path, tmp_path: Path) -> None:
    name, ending = [*REAL.items()][number]
    image = sitk.ReadImage(str(real_file(real_data, name)))
    image.SetSpacing([a * b for a, b in zip(image.GetSpacing(), STRETCHES[number % len(STRETCHES)], strict=True)])
    truth = sitk.GetArrayFromImage(image).astype(np.uint8)
    other = sitk.GetArrayFromImage(sitk.ReadImage(str(real_file(real_data, name, further=1)))).astype(np.uint8)
    predicted = PERTURBATIONS[number % len(PERTURBATIONS)](truth, other)
    values = [int(value) for value in np.unique([*np.unique(truth), *np.unique(predicted)])]
    files = {"truth": tmp_path / f"truth{ending}", "prediction": tmp_path / f"prediction{ending}"}
    for path, volume in zip(files.values(), (truth, predicted), strict=True):
        written = sitk.GetImageFromArray(volume)
        written.CopyInformation(image)
        sitk.WriteImage(written, str(path))
    scheme = LabelScheme(declared={"background": 0, **{f"label {v}": v for v in values if v}})
    blurred = np.stack([gaussian_filter((predicted == v).astype(np.float32), 1) for v in scheme.values])
    levels = np.rint(blurred * LEVELS).astype(np.uint8)
    tolerances_mm = {name: 1.0 if i % 2 else 2.3 for i, name in enumerate(scheme.foreground)}
    scores = score_pair(
        Pair(
            case="real",
            **files,
            labels=scheme,
            tolerances_mm=tolerances_mm,
            lesions=tuple(scheme.foreground),
            probabilities=store(tmp_path / "prediction_probabilities.b2nd", scheme, levels),
        )
    ).scores
    assert [*scores] == [*scheme.foreground]
    again = sitk.ReadImage(str(files["truth"]))  # what the file says of the spacing
    for value, name in zip(scheme.values[1:], scheme.foreground, strict=True):
        box = find_objects(((truth == value) | (predicted == value)).view(np.uint8))[0]
        masks = Masks(
            truth=truth[box] == value,
            predicted=predicted[box] == value,
            spacing_mm=again.GetSpacing()[::-1],
            tolerance_mm=tolerances_mm[name],
            levels=levels[scheme.outputs[name]].ravel(),
            level_truth=(truth == value).ravel(),
        )
        check(scores[name], masks, where=name)
