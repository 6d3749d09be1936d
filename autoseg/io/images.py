"""Image files to arrays and back: one volume, all files of a case, a label volume."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autoseg.core.dataset import Case
from autoseg.core.errors import DataError, Problem
from autoseg.core.geometry import Geometry
from autoseg.core.labels import LabelScheme
from autoseg.io.label_file import write_labels
from autoseg.io.text_header import with_data_files
from autoseg.io.volume_file import read_geometry, read_volume

__all__ = [
    "LoadedCase",
    "loaded_case",
    "read_case",
    "read_geometry",
    "read_volume",
    "with_data_files",
    "write_labels",
]

MOST_LISTED = 8


@dataclass(frozen=True, kw_only=True)
class LoadedCase:
    """All files of a case in canonical orientation.

    image is float32 (C, Z, Y, X); label is int16 (Z, Y, X) with values inside the pipeline
    (LabelScheme.encode), or None; geometry is the stored one of channel 0.
    """

    id: str
    image: NDArray[np.float32]
    label: NDArray[np.int16] | None
    geometry: Geometry
    warnings: tuple[Problem, ...] = ()


def read_case(case: Case, *, labels: LabelScheme | None) -> LoadedCase:
    """Read all channels of a case, and its label file if it has one and `labels` tells what the values mean.

    Raises:
        DataError: every defect of every file of the case, not only the first.
    """
    findings = _Findings(case=case.id)
    channels: list[NDArray[Any]] = []
    for path in case.images:
        voxels = findings.read(path)
        if voxels is not None:
            _check_range(voxels, path, findings)
            channels.append(voxels)
    label = None
    if case.label is not None and labels is not None:
        voxels = findings.read(case.label)
        if voxels is not None:
            label = _encoded(voxels, case.label, labels, findings)
    if findings.problems or findings.reference is None:
        raise DataError(findings.problems)
    return loaded_case(case.id, channels, findings.reference[1], label=label, warnings=findings.warnings)


def loaded_case(
    case: str,
    channels: list[NDArray[Any]],
    geometry: Geometry,
    *,
    label: NDArray[np.int16] | None = None,
    warnings: Iterable[Problem] = (),
) -> LoadedCase:
    """Stored channels (Z, Y, X), which are taken out of the list, and a label map in canonical orientation."""
    orientation = geometry.orientation
    image = np.empty((len(channels), *geometry.canonical.shape), dtype=np.float32)
    for channel in reversed(range(len(channels))):
        image[channel] = orientation.apply(channels.pop())  # freed one by one: a case may fill the memory
    return LoadedCase(
        id=case,
        image=image,
        label=None if label is None else np.ascontiguousarray(orientation.apply(label)),
        geometry=geometry,
        warnings=tuple(warnings),
    )


@dataclass(kw_only=True)
class _Findings:
    """What is wrong with a case so far, and the file that the others must fit (channel 0, if readable)."""

    case: str
    problems: list[Problem] = field(default_factory=list)
    warnings: list[Problem] = field(default_factory=list)
    reference: tuple[Path, Geometry] | None = None

    def error(self, path: Path, found: str, todo: str) -> None:
        self.problems.append(Problem(case=self.case, file=path.name, found=found, next=todo))

    def warn(self, path: Path, found: str, todo: str) -> None:
        self.warnings.append(Problem(case=self.case, file=path.name, found=found, next=todo))

    def read(self, path: Path) -> NDArray[Any] | None:
        """Voxels (Z, Y, X) as stored, None if the file cannot be read; it is compared with the reference."""
        voxels: NDArray[Any] | None = None
        try:
            voxels, geometry = read_volume(path, case=self.case)
        except DataError as error:
            self.problems += error.problems
            try:  # its grid may be wrong as well
                geometry = read_geometry(path)
            except DataError:
                return None
        self.reference = self.reference or (path, geometry)
        errors, doubts = self.reference[1].differences(geometry)
        for found in errors:
            self.error(path, found, f"resample it onto the grid of {self.reference[0].name}")
        for found in doubts:
            self.warn(path, found, f"it is taken to lie on the grid of {self.reference[0].name}")
        return voxels


def _check_range(voxels: NDArray[Any], path: Path, findings: _Findings) -> None:
    low, high = voxels.min(), voxels.max()
    if max(abs(float(low)), abs(float(high))) > float(np.finfo(np.float32).max):
        found = f"holds values from {low:g} to {high:g}, beyond the range of 32-bit floats"
        findings.error(path, found, "rescale the intensities")
    elif low == high:
        findings.warn(path, f"all voxels are {low:g}", "check that this is the right image")


def _encoded(voxels: NDArray[Any], path: Path, labels: LabelScheme, findings: _Findings) -> NDArray[np.int16] | None:
    """File values -> values inside; None when some have no meaning."""
    present = np.unique(np.concatenate([np.unique(plane) for plane in voxels]))
    fractional = present[present != np.rint(present)]
    if fractional.size:
        todo = "save whole numbers (masks are resampled with nearest neighbour)"
        findings.error(path, f"label {fractional[0]:g} is no whole number", todo)
        return None
    if undeclared := labels.undeclared(present):
        subject = f"label {undeclared[0]} is" if len(undeclared) == 1 else f"labels {_listed(undeclared)} are"
        declared = [*labels.values, *([] if labels.ignore_value is None else [labels.ignore_value])]
        found = f"{subject} not in dataset.json ({_listed(declared)})"
        findings.error(path, found, "fix the mask or add the label")
        return None
    if not np.isin(present, labels.values[1:]).any():
        findings.warn(path, "has no foreground", "check that this is intended")
    inside = np.empty(voxels.shape, dtype=np.int16)
    for target, plane in zip(inside, voxels, strict=True):  # by plane: the mapping takes 8 bytes per voxel
        target[...] = labels.encode(plane.astype(np.int64))
    return inside


def _listed(values: list[int]) -> str:
    """0-3 for values without gaps, else 0, 2, 5, ..."""
    if len(values) > 2 and values == list(range(values[0], values[-1] + 1)):
        return f"{values[0]}-{values[-1]}"
    return ", ".join(map(str, values[:MOST_LISTED])) + (", ..." if len(values) > MOST_LISTED else "")
