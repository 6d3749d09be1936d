"""A strategy's steps on label arrays and on label files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autoseg.core.labels import LabelScheme
from autoseg.core.strategy import Step, Strategy
from autoseg.io.images import write_labels
from autoseg.ops.components import keep_largest, without_small_parts
from autoseg.ops.crop import bounding_box, crop, holes, paste
from autoseg.refinement.label_volume import read_label_volume


def apply(steps: Sequence[Step], labels: NDArray[Any], *, scheme: LabelScheme, voxel_ml: float) -> NDArray[Any]:
    """Apply the steps one after the other.

    Args:
        steps: of a strategy.
        labels: integers (Z, Y, X), file values in canonical orientation; never changed.
        scheme: what the values mean.
        voxel_ml: volume of a voxel.

    Returns:
        Labels of the same type and shape; `labels` itself where no step changes anything.
    """
    for step in steps:
        values = [value for name in step.labels for value in scheme.foreground[name]]
        mask = np.isin(labels, values)
        if step.action == "fill_holes":
            labels = _filled(labels, mask, value=values[0])
        else:
            kept = keep_largest(mask) if step.than_ml is None else without_small_parts(mask, step.than_ml / voxel_ml)
            removed = mask & ~kept
            labels = np.where(removed, labels.dtype.type(0), labels) if removed.any() else labels
    return labels


def _filled(labels: NDArray[Any], mask: NDArray[np.bool_], *, value: int) -> NDArray[Any]:
    if not mask.any():
        return labels
    box = bounding_box(mask)
    inside = paste(holes(crop(mask, box)), box=box, shape=mask.shape) & (labels == 0)
    return np.where(inside, labels.dtype.type(value), labels) if inside.any() else labels


@dataclass(frozen=True, kw_only=True)
class FileJob:
    """One predicted label file to be written again with the strategy's steps applied."""

    case: str
    source: Path
    target: Path
    strategy: Strategy


def apply_to_file(job: FileJob) -> dict[str, float]:
    """Write the target, whole, on exactly the source's grid; returns the millilitres of each label in it.

    Raises:
        DataError: the source cannot be read or holds values that are not declared.
    """
    scheme = job.strategy.scheme
    labels, geometry = read_label_volume(job.source, case=job.case, labels=scheme)
    result = apply(job.strategy.steps, labels, scheme=scheme, voxel_ml=geometry.voxel_volume_ml)
    write_labels(job.target, result, like=job.source)
    return scheme.volumes_ml(result, voxel_ml=geometry.voxel_volume_ml)
