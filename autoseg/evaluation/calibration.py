"""Whether probabilities mean what they say: expected calibration error from stored probabilities."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from autoseg.core.labels import LabelScheme
from autoseg.io.probability_file import LEVELS, StoredProbabilities

BINS = 15


def calibration_errors(
    stored: StoredProbabilities, truth: NDArray[np.int16], *, labels: LabelScheme
) -> dict[str, float | None]:
    """Expected calibration error (Guo et al. 2017) of each label or region, against all that it is not.

    Over 15 bins of equal width: the mean distance between the mean probability and the share that is true, weighted by
    voxels. Counted are the voxels where the label is true or its stored probability is above 0: all the rest of a scan,
    of which everybody is sure, would hide the error. None where there is no such voxel.

    Args:
        stored: probabilities (n_outputs, Z, Y, X) of the same labels.
        truth: (Z, Y, X) values inside, stored like the image of the probabilities; ignored voxels do not count.
        labels: what the values mean.

    Raises:
        DataError: the file of probabilities is damaged.
    """
    counts = np.zeros((len(labels.foreground), 2, LEVELS + 1), dtype=np.int64)
    axis, thickness = stored.rows
    for start in range(0, stored.shape[axis], thickness):
        levels = stored.block(axis, start, start + thickness)
        part = truth[(slice(None),) * axis + (slice(start, start + thickness),)]
        annotated = part != len(labels.values)
        for row, (name, members) in enumerate(zip(labels.foreground, labels.regions_inside, strict=True)):
            codes = levels[labels.outputs[name]] + (LEVELS + 1) * np.isin(part, members)
            counts[row] += np.bincount(codes[annotated], minlength=2 * (LEVELS + 1)).reshape(2, -1)
    counts[:, 0, 0] = 0
    return dict(zip(labels.foreground, map(_error, counts), strict=True))


def _error(counts: NDArray[np.int64]) -> float | None:
    """From voxels per (false, true) and level."""
    voxels = counts.sum(axis=0)
    if not voxels.any():
        return None
    probabilities = np.arange(LEVELS + 1) / LEVELS
    bins = np.minimum((probabilities * BINS).astype(int), BINS - 1)
    certainty, truth = np.bincount(bins, probabilities * voxels), np.bincount(bins, counts[1])
    return float(np.abs(certainty - truth).sum() / voxels.sum())
