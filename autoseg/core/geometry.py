"""Where the voxels of an array lie in the patient, and the way to the canonical orientation and back."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import permutations
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Relative differences up to ROUNDING come from writing numbers with few digits and mean nothing.
ROUNDING = 1e-3


@dataclass(frozen=True, kw_only=True)
class Orientation:
    """How a stored array becomes canonical: stored axis per canonical axis, and which are then reversed."""

    axes: tuple[int, int, int]
    flipped: tuple[bool, bool, bool]

    def apply(self, array: NDArray) -> NDArray:
        """Stored (..., Z, Y, X) array -> view with canonical axes."""
        lead = array.ndim - 3
        canonical: NDArray = array.transpose(*range(lead), *(lead + axis for axis in self.axes))[self._turns]
        return canonical

    def undo(self, array: NDArray) -> NDArray:
        """Canonical (..., Z, Y, X) array -> view with the stored axes: the exact inverse of `apply`."""
        lead = array.ndim - 3
        order = (int(axis) for axis in np.argsort(self.axes))
        stored: NDArray = array[self._turns].transpose(*range(lead), *(lead + axis for axis in order))
        return stored

    @property
    def code(self) -> str:
        """Where the stored axes point, that of x first: LPS is to the left, the back, the head."""
        letters = ["", "", ""]
        for axis, flip, ends in zip(self.axes, self.flipped, ("SI", "PA", "LR"), strict=True):
            letters[2 - axis] = ends[int(flip)]
        return "".join(letters)

    @property
    def inverse(self) -> Orientation:
        """The orientation whose `apply` is this one's `undo`."""
        back = tuple(int(axis) for axis in np.argsort(self.axes))
        return Orientation(axes=back, flipped=tuple(self.flipped[axis] for axis in back))  # type: ignore[arg-type]

    def then(self, other: Orientation) -> Orientation:
        """Both one after the other: `a.then(b).apply(x)` is `b.apply(a.apply(x))`."""
        return Orientation(
            axes=tuple(self.axes[axis] for axis in other.axes),  # type: ignore[arg-type]
            flipped=tuple(  # type: ignore[arg-type]
                self.flipped[axis] != flip for axis, flip in zip(other.axes, other.flipped, strict=True)
            ),
        )

    def undo_box(self, box: Iterable[tuple[int, int]], shape: Sequence[int]) -> tuple[slice, ...]:
        """Where a box, (start, stop) per axis of the turned array, lies in the stored array of `shape` (Z, Y, X)."""
        place = [slice(None)] * 3
        for (start, stop), axis, flip in zip(box, self.axes, self.flipped, strict=True):
            place[axis] = slice(shape[axis] - stop, shape[axis] - start) if flip else slice(start, stop)
        return tuple(place)

    @property
    def _turns(self) -> tuple[Any, ...]:
        return (..., *(slice(None, None, -1 if flip else 1) for flip in self.flipped))


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """Shape and position of a volume.

    shape and spacing_mm are in array order (z, y, x). origin_mm is (x, y, z) and direction is row-major 3 x 3
    with one column per index axis (i, j, k), both in the LPS frame, as SimpleITK and DICOM have them.
    """

    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    origin_mm: tuple[float, float, float] = (0.0, 0.0, 0.0)
    direction: tuple[float, ...] = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)

    @cached_property
    def orientation(self) -> Orientation:
        """The permutation and flips that bring this volume closest to identity (x left, y back, z up)."""
        matrix = self._matrix
        index_axes = max(permutations(range(3)), key=lambda order: sum(abs(matrix[p, order[p]]) for p in range(3)))
        return Orientation(
            axes=tuple(2 - index_axes[p] for p in (2, 1, 0)),  # type: ignore[arg-type]
            flipped=tuple(bool(matrix[p, index_axes[p]] < 0) for p in (2, 1, 0)),  # type: ignore[arg-type]
        )

    def orientation_to(self, frame: str) -> Orientation:
        """How the stored array comes into a frame: LPS (canonical), RAS (x and y reversed), or as it is stored."""
        if frame == "stored":
            return Orientation(axes=(0, 1, 2), flipped=(False, False, False))
        if frame == "RAS":
            return self.orientation.then(Orientation(axes=(0, 1, 2), flipped=(False, True, True)))
        return self.orientation

    @property
    def canonical(self) -> Geometry:
        """Geometry of the array after `orientation.apply`."""
        axes, flipped = self.orientation.axes, self.orientation.flipped
        columns, origin = [], np.array(self.origin_mm)
        for axis, flip in zip(axes, flipped, strict=True):
            column = self._matrix[:, 2 - axis]
            if flip:
                origin = origin + column * self.spacing_mm[axis] * (self.shape[axis] - 1)
            columns.append(-column if flip else column)
        return Geometry(
            shape=tuple(self.shape[axis] for axis in axes),  # type: ignore[arg-type]
            spacing_mm=tuple(self.spacing_mm[axis] for axis in axes),  # type: ignore[arg-type]
            origin_mm=tuple(float(value) for value in origin),  # type: ignore[arg-type]
            direction=tuple(float(value) for value in np.stack(columns[::-1], axis=1).ravel()),
        )

    @property
    def _matrix(self) -> NDArray[np.float64]:
        return np.array(self.direction, dtype=np.float64).reshape(3, 3)

    @property
    def tilt_deg(self) -> float:
        """The largest angle between an axis of the voxels and the axis of the patient that it is nearest to."""
        nearest = np.abs(self._matrix).max(axis=0)
        return float(np.degrees(np.arccos(min(1.0, nearest.min()))))

    @property
    def voxel_volume_ml(self) -> float:
        """Volume of one voxel in millilitres."""
        return float(np.prod(self.spacing_mm)) / 1000.0

    def differences(self, other: Geometry) -> tuple[list[str], list[str]]:
        """Compare with a volume that should lie on the same grid.

        Returns:
            (errors, warnings): sentences on shape, spacing and direction (relative 1e-3, cosines 1e-3), and
            on the origin (more than half a voxel is an error, between rounding and half a voxel a warning).
        """
        errors: list[str] = []
        warnings: list[str] = []
        if self.shape != other.shape:
            errors.append(f"shape {_text(other.shape)} instead of {_text(self.shape)} (z, y, x)")
        if not np.allclose(self.spacing_mm, other.spacing_mm, rtol=ROUNDING, atol=0):
            errors.append(f"spacing {_text(other.spacing_mm)} instead of {_text(self.spacing_mm)} mm (z, y, x)")
        if not np.allclose(self.direction, other.direction, rtol=0, atol=ROUNDING):
            errors.append(f"direction {_text(other.direction)} instead of {_text(self.direction)}")
        if not errors:
            shift_mm = np.linalg.solve(self._matrix, np.subtract(other.origin_mm, self.origin_mm))
            shift_voxels = float(np.abs(shift_mm / np.array(self.spacing_mm[::-1])).max())
            if shift_voxels > ROUNDING:
                sentence = f"origin {_text(other.origin_mm)} instead of {_text(self.origin_mm)} mm"
                (errors if shift_voxels > 0.5 else warnings).append(f"{sentence} ({shift_voxels:.2g} voxels off)")
        return errors, warnings


def _text(values: tuple[float, ...]) -> str:
    return "x".join(str(v) for v in values) if isinstance(values[0], int) else " ".join(f"{v:.6g}" for v in values)
