"""Distances between the surfaces of two masks, in millimetres.

The surface of a mask is its boundary voxels: those with a background voxel among their 6 face neighbours,
where everything outside the array is background. Each boundary voxel is a point at its centre, counted once.
This is the convention of MONAI; DeepMind's surface-distance instead weights each surface element by its area,
so that its numbers differ slightly where voxels are anisotropic.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt

Distances = tuple[NDArray[np.float64], NDArray[np.float64]]


def surface_distances(
    truth: NDArray[np.bool_], predicted: NDArray[np.bool_], *, spacing_mm: tuple[float, float, float]
) -> Distances:
    """Distance from each boundary voxel of one mask to the nearest boundary voxel of the other.

    Args:
        truth: (Z, Y, X) bool.
        predicted: (Z, Y, X) bool, same shape.
        spacing_mm: voxel size (z, y, x).

    Returns:
        (truth to predicted, predicted to truth): 1D float64 arrays in mm, one entry per boundary voxel of the
        first-named mask, in no meaningful order. A mask without voxels has no boundary: its own array is
        empty, and the distances to it are infinite.
    """
    assert truth.shape == predicted.shape, (truth.shape, predicted.shape)
    box = _bounding_box(truth, predicted)
    edge_truth, edge_predicted = boundary(truth[box]), boundary(predicted[box])
    return (
        _distances(edge_truth, to=edge_predicted, spacing_mm=spacing_mm),
        _distances(edge_predicted, to=edge_truth, spacing_mm=spacing_mm),
    )


def boundary(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Voxels of a (Z, Y, X) mask with a face neighbour outside the mask or the array; bool, same shape."""
    inner = mask.copy()
    for axis in range(3):
        before, after = np.moveaxis(mask, axis, 0), np.moveaxis(inner, axis, 0)
        after[1:] &= before[:-1]
        after[:-1] &= before[1:]
        after[:1] = False
        after[-1:] = False
    edge: NDArray[np.bool_] = mask & ~inner
    return edge


def hd95_mm(distances: Distances) -> float | None:
    """95th percentile of the distances, the larger of the two directions; None when a mask is empty."""
    if any(len(one_way) == 0 for one_way in distances):
        return None
    return max(float(np.percentile(one_way, 95)) for one_way in distances)


def normalised_surface_dice(distances: Distances, *, tolerance_mm: float) -> float | None:
    """Share of both surfaces that lies within `tolerance_mm` of the other surface (Nikolov et al. 2018).

    1 when all boundary voxels do, 0 when none does or exactly one mask is empty; None when both are.
    """
    # NIfTI stores spacings as float32: five voxels of 0.2 mm are 1.00000001 mm, which is within 1 mm.
    tolerance_mm *= 1 + 1e-6
    total = sum(len(one_way) for one_way in distances)
    if total == 0:
        return None
    return sum(int(np.count_nonzero(one_way <= tolerance_mm)) for one_way in distances) / total


def _bounding_box(*masks: NDArray[np.bool_]) -> tuple[slice, slice, slice]:
    """Smallest box that holds all masks, empty when all are. Distances within it are those of the whole."""
    ranges = []
    for axis in range(3):
        others = tuple(other for other in range(3) if other != axis)
        occupied = np.flatnonzero(np.logical_or.reduce([mask.any(axis=others) for mask in masks]))
        ranges.append(slice(int(occupied[0]), int(occupied[-1]) + 1) if len(occupied) else slice(0, 0))
    return ranges[0], ranges[1], ranges[2]


def _distances(
    edge: NDArray[np.bool_], *, to: NDArray[np.bool_], spacing_mm: tuple[float, float, float]
) -> NDArray[np.float64]:
    points = np.array(np.nonzero(edge))
    if not to.any():
        return np.full(points.shape[1], np.inf)
    # Asked for the nearest voxels, the transform takes half the time and a quarter of the memory.
    nearest = distance_transform_edt(~to, sampling=spacing_mm, return_distances=False, return_indices=True)
    here = (slice(None), *points)
    steps_mm = (nearest[here] - points) * np.array(spacing_mm)[:, None]
    distances_mm: NDArray[np.float64] = np.sqrt(np.square(steps_mm).sum(axis=0))
    return distances_mm
