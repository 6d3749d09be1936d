"""The scores of one case, from two label files on the same grid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import find_objects

from autoseg.core.errors import DataError, Problem
from autoseg.core.geometry import Geometry
from autoseg.core.labels import LabelScheme
from autoseg.core.scores import LabelScores
from autoseg.evaluation.calibration import calibration_errors
from autoseg.evaluation.lesions import LesionMatches, match_lesions
from autoseg.io.images import read_volume
from autoseg.io.probability_file import open_probabilities
from autoseg.ops.surface_distance import surface_distances


@dataclass(frozen=True, kw_only=True)
class Pair:
    """One case to score: its prediction, its truth, how to read them, and the names to score (None: all)."""

    case: str
    prediction: Path
    truth: Path
    labels: LabelScheme
    tolerances_mm: Mapping[str, float]
    lesions: tuple[str, ...] = ()
    annotated: tuple[str, ...] | None = None
    probabilities: Path | None = None


@dataclass(frozen=True, kw_only=True)
class CaseResult:
    """Scores by label name, and what was noticed on the way."""

    scores: dict[str, LabelScores]
    warnings: tuple[str, ...] = ()


def score_pair(pair: Pair) -> CaseResult:
    """Read both files and score the prediction.

    Files in different orientations are compared in the canonical one.

    Raises:
        DataError: a file cannot be read or holds undeclared values, or the two lie on different grids.
    """
    truth, geometry = read_volume(pair.truth, case=pair.case)
    predicted, other = read_volume(pair.prediction, case=pair.case)
    errors, warnings = geometry.differences(other)
    turned = other.orientation if errors else None
    if errors:
        truth, predicted = geometry.orientation.apply(truth), other.orientation.apply(predicted)
        geometry, other = geometry.canonical, other.canonical
        errors, warnings = geometry.differences(other)
    if errors:
        todo = f"predict on the image that belongs to {pair.truth.name}"
        raise DataError(
            _problem(pair, pair.prediction, f"does not lie on the grid of its truth: {'; '.join(errors)}", todo)
        )
    inside = _encode(truth, pair=pair, file=pair.truth)
    scores = score_volumes(
        inside,
        _encode(predicted, pair=pair, file=pair.prediction),
        labels=pair.labels,
        geometry=geometry,
        tolerances_mm=pair.tolerances_mm,
        lesions=pair.lesions,
    )
    if pair.probabilities is not None:
        as_stored = inside if turned is None else turned.undo(inside)
        errors_by_name = _calibration(pair, as_stored)
        scores = {n: row.with_changes(calibration_error=errors_by_name[n]) for n, row in scores.items()}
    if pair.annotated is not None:
        scores = {name: row for name, row in scores.items() if name in pair.annotated}
    return CaseResult(scores=scores, warnings=tuple(warnings))


def _calibration(pair: Pair, truth: NDArray[np.int16]) -> dict[str, float | None]:
    """Calibration errors from the stored probabilities. Raises DataError: they are of another case or model."""
    assert pair.probabilities is not None
    stored = open_probabilities(pair.probabilities)
    if stored.shape != truth.shape or not stored.scheme.means_the_same(pair.labels):
        todo = "predict again with --save_probabilities, or move the file away"
        raise DataError(_problem(pair, pair.probabilities, "has another grid or other labels than the truth", todo))
    return calibration_errors(stored, truth, labels=pair.labels)


def score_volumes(
    truth: NDArray[np.int16],
    predicted: NDArray[np.int16],
    *,
    labels: LabelScheme,
    geometry: Geometry,
    tolerances_mm: Mapping[str, float],
    lesions: Sequence[str] = (),
) -> dict[str, LabelScores]:
    """Score two (Z, Y, X) arrays of values inside (see LabelScheme) for every label or region.

    Voxels that the truth ignores belong to no label in either array: they count in no overlap and no volume,
    and the surface of both masks is cut there alike.

    Args:
        truth: what is true.
        predicted: what was predicted.
        labels: what the values mean.
        geometry: of both arrays.
        tolerances_mm: per label, distance up to which surfaces count as the same in the normalised surface Dice (NSD).
        lesions: labels whose connected parts are scored one by one.
    """
    ignored = len(labels.values)
    if labels.ignore_value is not None:
        predicted = np.where(truth == ignored, np.int16(ignored), predicted)
    counts = confusion_counts(truth, predicted, n_values=ignored + 1)
    boxes = _boxes_per_value(truth, predicted, n_values=ignored)
    scores = {}
    for name, members in zip(labels.foreground, labels.regions_inside, strict=True):
        both = int(counts[np.ix_(members, members)].sum())
        n_truth, n_predicted = int(counts[[*members], :].sum()), int(counts[:, [*members]].sum())
        box = _enclosing([boxes[value] for value in members])
        masks = np.isin(truth[box], members), np.isin(predicted[box], members)
        distances = surface_distances(*masks, spacing_mm=geometry.spacing_mm)
        either = n_truth + n_predicted - both
        found = match_lesions(*masks) if name in lesions else None
        scores[name] = LabelScores(
            dice=2 * both / (n_truth + n_predicted) if either else None,
            iou=both / either if either else None,
            sensitivity=both / n_truth if n_truth else None,
            precision=both / n_predicted if n_predicted else None,
            hd_mm=distances.hausdorff_mm(),
            hd95_mm=distances.hausdorff_mm(95),
            mean_distance_mm=distances.mean_mm,
            nsd=distances.normalised_surface_dice(tolerances_mm[name]),
            volume_truth_ml=n_truth * geometry.voxel_volume_ml,
            volume_predicted_ml=n_predicted * geometry.voxel_volume_ml,
            volume_error_ml=(n_predicted - n_truth) * geometry.voxel_volume_ml,
            **({} if found is None else _lesion_scores(found)),
        )
    return scores


def _lesion_scores(found: LesionMatches) -> dict[str, Any]:
    return {
        "lesions_truth": found.n_truth,
        "lesions_predicted": found.n_predicted,
        "lesions_found": found.n_found,
        "lesion_f1": found.f1,
        "panoptic_quality": found.panoptic_quality,
    }


def confusion_counts(truth: NDArray[np.int16], predicted: NDArray[np.int16], *, n_values: int) -> NDArray[np.int64]:
    """Voxels per pair of values, (n_values, n_values): rows are the truth, columns the prediction.

    One pass whatever the number of labels, plane by plane so that no second volume is made.
    """
    counts = np.zeros(n_values * n_values, dtype=np.int64)
    for truth_plane, predicted_plane in zip(truth, predicted, strict=True):
        codes = truth_plane.astype(np.intp) * n_values + predicted_plane
        counts += np.bincount(codes.ravel(), minlength=n_values * n_values)
    return counts.reshape(n_values, n_values)


def _encode(volume: NDArray[Any], *, pair: Pair, file: Path) -> NDArray[np.int16]:
    """File values -> values inside, plane by plane. Raises DataError on fractional and undeclared values."""
    inside = np.empty(volume.shape, dtype=np.int16)
    undeclared: set[int] = set()
    for z, plane in enumerate(volume):
        integral = plane if np.issubdtype(plane.dtype, np.integer) else np.rint(plane)
        if not np.array_equal(integral, plane):
            example = plane[integral != plane].flat[0]
            found = f"holds {example:g}, which is no label value"
            raise DataError(_problem(pair, file, found, "save whole numbers, without interpolation"))
        unknown = pair.labels.undeclared(np.unique(integral))
        undeclared.update(unknown)
        if not unknown:
            inside[z] = pair.labels.encode(integral)
    if undeclared:
        listed = ", ".join(str(value) for value in sorted(undeclared)[:10])
        ignored = () if pair.labels.ignore_value is None else (pair.labels.ignore_value,)
        known = ", ".join(str(value) for value in (*pair.labels.values, *ignored))
        found = f"label {listed} is not in dataset.json (there: {known})"
        raise DataError(_problem(pair, file, found, "fix the mask or add the label"))
    return inside


def _problem(pair: Pair, file: Path, found: str, todo: str) -> Problem:
    return Problem(case=pair.case, file=str(file), found=found, next=todo)


Box = tuple[slice, ...]


def _boxes_per_value(truth: NDArray[np.int16], predicted: NDArray[np.int16], *, n_values: int) -> list[Box | None]:
    """Per value the box that holds it in both arrays; None for a value that is in neither."""
    whole = tuple(slice(0, size) for size in truth.shape)  # the background is everywhere, and find_objects skips it
    pairs = zip(*(find_objects(array, max_label=n_values - 1) for array in (truth, predicted)), strict=True)
    return [whole, *(_enclosing([*pair]) if any(pair) else None for pair in pairs)]


def _enclosing(boxes: list[Box | None]) -> Box:
    """Smallest box around those that are there; an empty one around none."""
    present = [box for box in boxes if box is not None]
    if not present:
        return (slice(0, 0),) * 3
    return tuple(
        slice(min(side.start for side in sides), max(side.stop for side in sides))
        for sides in zip(*present, strict=True)
    )
