"""Stored probabilities of several models -> the labels that they give together."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from autoseg.core.errors import DataError, Problem
from autoseg.io.images import read_geometry, write_labels
from autoseg.io.probability_file import LEVELS, StoredProbabilities, open_probabilities
from autoseg.prediction.decode import decode

SLAB_BYTES = 2**26  # of the sums of a slab


@dataclass(frozen=True, kw_only=True)
class StoredCase:
    """Files of probabilities of one case, an image file on its grid, and where the labels go."""

    case: str
    probabilities: tuple[Path, ...]
    like: Path
    target: Path


def ensemble_stored(job: StoredCase) -> dict[str, float]:
    """Average the probabilities of a case and write the labels; returns the millilitres of each.

    The sums are whole numbers, so the result depends on the order of the files nowhere; where the mean probabilities of
    two labels are within 0.004 of each other it may differ from an ensemble that is not stored in between.

    Raises:
        DataError: a file is damaged, or has other labels or another grid than the first.
    """
    stored = [open_probabilities(path) for path in job.probabilities]
    first, geometry = stored[0], read_geometry(job.like)
    for other in stored:
        _check(other, first.scheme == other.scheme, "has other labels than", first.path, job.case)
        _check(other, geometry.shape == other.shape, "has another grid than", job.like, job.case)
    scheme, (axis, thickness) = first.scheme, first.rows
    labels = np.empty(first.shape, dtype=scheme.output_dtype)
    plane = 4 * scheme.n_outputs * labels.size // labels.shape[axis]
    thickness *= max(1, SLAB_BYTES // (plane * thickness))
    for start in range(0, labels.shape[axis], thickness):
        total = np.sum([file.block(axis, start, start + thickness) for file in stored], axis=0, dtype=np.int32)
        if scheme.has_regions:
            total = 2 * total - len(stored) * LEVELS  # above 0 where the mean is above 0.5
        place = (slice(None),) * axis + (slice(start, start + thickness),)
        labels[place] = decode(torch.from_numpy(total), scheme)
    labels = geometry.orientation.apply(labels)
    write_labels(job.target, labels, like=job.like, names=scheme.names_of_values)
    return scheme.volumes_ml(labels, voxel_ml=geometry.voxel_volume_ml)


def _check(file: StoredProbabilities, fits: bool, found: str, other: Path, case: str) -> None:
    if not fits:
        todo = "average predictions of the same images by models with the same labels"
        raise DataError(Problem(case=case, file=str(file.path), found=f"{found} {other}", next=todo))
