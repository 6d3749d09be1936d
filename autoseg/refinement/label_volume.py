"""A label file as an array of file values that is known to hold only declared ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autoseg.core.errors import DataError, Problem
from autoseg.core.geometry import Geometry
from autoseg.core.labels import LabelScheme
from autoseg.io.images import read_volume


def read_label_volume(path: Path, *, case: str, labels: LabelScheme) -> tuple[NDArray[Any], Geometry]:
    """Read a label file.

    Returns:
        (volume, geometry): integers (Z, Y, X), file values in canonical orientation, and the stored geometry.

    Raises:
        DataError: the file cannot be read, or holds fractions or values that are not declared.
    """
    volume, geometry = read_volume(path, case=case)
    present = np.unique(np.concatenate([np.unique(plane) for plane in volume]))
    if (fractions := present[present != np.rint(present)]).size:
        raise DataError(_problem(path, case, f"holds {fractions[0]:g}, which is no label value"))
    if undeclared := labels.undeclared(present):
        raise DataError(_problem(path, case, f"label {', '.join(map(str, undeclared[:10]))} is not declared"))
    if volume.dtype.kind not in "iu":
        volume = volume.astype(np.min_scalar_type(int(present.max())))
    return geometry.orientation.apply(volume), geometry


def _problem(path: Path, case: str, found: str) -> Problem:
    return Problem(case=case, file=str(path), found=found, next="give label files of this data set")
