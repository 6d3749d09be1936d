"""What every step that may be tried does to the overlaps of one case, in one reading of its two files."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import find_objects

from autoseg.core.errors import DataError, Problem
from autoseg.core.labels import LabelScheme
from autoseg.core.strategy import Step
from autoseg.ops.components import keep_largest
from autoseg.refinement.apply import apply
from autoseg.refinement.label_volume import read_label_volume
from autoseg.refinement.options import OPTIONS, masks_of

PLAIN, TRIMMED = 0, 1  # first index of the counts: before and after all labels together were reduced


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A predicted and a true label file of one case; `annotated` are the names that count, None for all."""

    case: str
    prediction: Path
    truth: Path
    labels: LabelScheme
    annotated: tuple[str, ...] | None = None


@dataclass(frozen=True, kw_only=True)
class Counts:
    """Voxels per label, in the order of `LabelScheme.foreground`.

    `truth` is (labels). `predicted` and `both` are (2, options, labels): the first index says whether all labels
    together were reduced to their largest part, the second which of OPTIONS was done to the label after that. Labels
    do not overlap, so what is done to one leaves the counts of the others as they are, and these states answer every
    sequence of steps; only a hole that one step leaves and the next one fills is not seen. With regions, which do
    overlap, the second index changes nothing.
    """

    truth: NDArray[np.int64]
    predicted: NDArray[np.int64]
    both: NDArray[np.int64]

    @property
    def dice(self) -> NDArray[np.float64]:
        """(2, options, labels), NaN where neither mask has a voxel."""
        total = self.truth + self.predicted
        dice = np.full(total.shape, np.nan)
        np.divide(2 * self.both, total, out=dice, where=total > 0)
        return dice


def count_pair(pair: Pair) -> Counts:
    """Read both files and count.

    Raises:
        DataError: a file cannot be read or holds undeclared values, or the two are not of the same shape.
    """
    truth, geometry = read_label_volume(pair.truth, case=pair.case, labels=pair.labels)
    predicted, other = read_label_volume(pair.prediction, case=pair.case, labels=pair.labels)
    if errors := geometry.canonical.differences(other.canonical)[0]:
        found = f"does not lie on the grid of its truth: {'; '.join(errors)}"
        todo = "validate this fold again"
        raise DataError(Problem(case=pair.case, file=str(pair.prediction), found=found, next=todo))
    volumes = (pair.labels.encode(volume) for volume in (truth, predicted))
    counts = count_volumes(*volumes, labels=pair.labels, voxel_ml=geometry.voxel_volume_ml)
    if pair.annotated is None:
        return counts
    counted = np.array([name in pair.annotated for name in pair.labels.foreground], dtype=np.int64)
    return Counts(truth=counts.truth * counted, predicted=counts.predicted * counted, both=counts.both * counted)


@dataclass(frozen=True, kw_only=True)
class Applied:
    """A case, and the steps to apply to its prediction."""

    pair: Pair
    steps: tuple[Step, ...]

    @property
    def case(self) -> str:
        """Its id."""
        return self.pair.case


def dice_after(job: Applied) -> NDArray[np.float64]:
    """The Dice of every label once the steps are done, (labels) in the order of `LabelScheme.foreground`; as in Counts.

    Raises DataError as `count_pair` does.
    """
    pair, labels = job.pair, job.pair.labels
    truth, geometry = read_label_volume(pair.truth, case=pair.case, labels=labels)
    predicted, _ = read_label_volume(pair.prediction, case=pair.case, labels=labels)
    treated = apply(job.steps, predicted, scheme=labels, voxel_ml=geometry.voxel_volume_ml)
    counted = labels.encode(truth) != len(labels.values)
    found = []
    for name, values in labels.foreground.items():
        a, b = (np.isin(volume, [*values]) & counted for volume in (truth, treated))
        total = np.count_nonzero(a) + np.count_nonzero(b)
        known = total > 0 and (pair.annotated is None or name in pair.annotated)
        found.append(2 * np.count_nonzero(a & b) / total if known else np.nan)
    return np.array(found)


def count_volumes(
    truth: NDArray[np.int16], predicted: NDArray[np.int16], *, labels: LabelScheme, voxel_ml: float
) -> Counts:
    """Count in two (Z, Y, X) arrays of values inside. Voxels that the truth ignores count nowhere."""
    counted = truth != len(labels.values)  # the ignore label comes after all others
    result = np.zeros((2, 2, len(OPTIONS), len(labels.foreground)), dtype=np.int64)
    result[:, PLAIN] = _count_states(truth, predicted, counted, labels, voxel_ml)
    removed = (predicted > 0) & ~keep_largest(predicted > 0)
    if removed.any():
        trimmed = np.where(removed, np.int16(0), predicted)
        result[:, TRIMMED] = _count_states(truth, trimmed, counted, labels, voxel_ml)
    else:
        result[:, TRIMMED] = result[:, PLAIN]
    per_value = np.zeros(len(labels.values) + 1, dtype=np.int64)
    for plane in truth:  # by plane: bincount needs 8 bytes per voxel
        per_value += np.bincount(plane.ravel(), minlength=per_value.size)
    n_truth = np.array([per_value[[*members]].sum() for members in labels.regions_inside], dtype=np.int64)
    return Counts(truth=n_truth, predicted=result[0], both=result[1])


def _count_states(
    truth: NDArray[np.int16],
    predicted: NDArray[np.int16],
    counted: NDArray[np.bool_],
    labels: LabelScheme,
    voxel_ml: float,
) -> NDArray[np.int64]:
    """(2, options, labels): voxels predicted and those also true, after each option."""
    boxes = find_objects(predicted, max_label=len(labels.values) - 1)
    result = np.zeros((2, len(OPTIONS), len(labels.foreground)), dtype=np.int64)
    for index, members in enumerate(labels.regions_inside):
        box = boxes[members[0] - 1] if len(members) == 1 else (slice(None),) * 3
        if box is None:
            continue
        mask, true = _mask(predicted[box], members), _mask(truth[box], members)
        if labels.has_regions:
            states: Iterable[NDArray[np.bool_]] = [mask] * len(OPTIONS)
        else:
            states = masks_of(mask, predicted[box] == 0, voxel_ml=voxel_ml)
        for option, state in enumerate(states):
            seen = state & counted[box]
            result[:, option, index] = np.count_nonzero(seen), np.count_nonzero(seen & true)
    return result


def _mask(volume: NDArray[np.int16], members: tuple[int, ...]) -> NDArray[np.bool_]:
    return volume == members[0] if len(members) == 1 else np.isin(volume, members)
