"""Stored probabilities of several models -> the labels that they give together."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from autoseg.core.errors import DataError, Problem
from autoseg.io.images import read_geometry, write_labels
from autoseg.io.probability_file import LEVELS, open_probabilities
from autoseg.prediction.decode import decode

SLAB_BYTES = 2**26  # of the sums of a slab


@dataclass(frozen=True, kw_only=True)
class StoredCase:
    """Files of probabilities of one case, the label files that lie beside them, and where the labels go.

    The result has the grid of the first label file, from which the others must not differ.
    """

    case: str
    probabilities: tuple[Path, ...]
    like: tuple[Path, ...]
    target: Path


def ensemble_stored(job: StoredCase) -> dict[str, float]:
    """Average the probabilities of a case and write the labels; returns the millilitres of each.

    The sums are whole numbers, so the order of the files does not matter. Where the mean probabilities of
    two labels are within 0.004 of each other it may differ from an ensemble that is not stored in between.

    Raises:
        DataError: a file is damaged, or has other labels or another grid than the first.
    """
    stored = [open_probabilities(path) for path in job.probabilities]
    first, geometry = stored[0], read_geometry(job.like[0])
    for other in stored:
        _check(first.scheme.means_the_same(other.scheme), other.path, f"has other labels than {first.path}", job.case)
        _check(geometry.shape == other.shape, other.path, f"has another grid than {job.like[0]}", job.case)
    for path in job.like[1:]:
        errors, _ = geometry.differences(read_geometry(path))
        _check(not errors, path, f"{'; '.join(errors)} ({job.like[0]})", job.case)
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
    write_labels(job.target, labels, like=job.like[0], names=scheme.names_of_values)
    return scheme.volumes_ml(labels, voxel_ml=geometry.voxel_volume_ml)


def _check(fits: bool, path: Path, found: str, case: str) -> None:
    if not fits:
        todo = "average predictions of the same images by models with the same labels"
        raise DataError(Problem(case=case, file=str(path), found=found, next=todo))
