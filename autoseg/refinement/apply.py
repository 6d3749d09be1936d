"""A strategy's steps on label arrays and on label files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autoseg.core.labels import LabelScheme
from autoseg.core.strategy import Strategy
from autoseg.io.images import write_labels
from autoseg.ops.components import keep_largest
from autoseg.refinement.label_volume import read_label_volume


def apply(strategy: Strategy, labels: NDArray[Any], *, scheme: LabelScheme) -> NDArray[Any]:
    """Apply the steps one after the other.

    Args:
        strategy: the steps.
        labels: integers (Z, Y, X), file values in canonical orientation; never changed.
        scheme: what the values mean.

    Returns:
        Labels of the same type and shape; `labels` itself where no step removes anything.
    """
    for step in strategy.steps:
        labels = _without_small_parts(labels, step.keep_largest, scheme)
    return labels


def _without_small_parts(labels: NDArray[Any], names: Sequence[str], scheme: LabelScheme) -> NDArray[Any]:
    values = {value for name in names for value in scheme.foreground[name]}
    mask = np.isin(labels, [*values])
    removed = mask & ~keep_largest(mask)
    return np.where(removed, labels.dtype.type(0), labels) if removed.any() else labels


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
    result = apply(job.strategy, labels, scheme=scheme)
    write_labels(job.target, result, like=job.source)
    return scheme.volumes_ml(result, voxel_ml=geometry.voxel_volume_ml)
