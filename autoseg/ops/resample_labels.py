"""Resize label maps to another grid in one pass, whatever the number of labels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

Integer = TypeVar("Integer", bound=np.integer[Any])

# Voxels in flight: a chunk holds labels, flags and indices of voxels; a vote 8 labels and 8 weights each.
CHUNK_VOXELS = 2**20
VOTE_VOXELS = 2**16


@dataclass(frozen=True, kw_only=True)
class _Taps:
    """What each output position along one axis reads: one input position, or also the next one (`upper`)."""

    lower: NDArray[np.intp]
    upper: NDArray[np.intp] | None
    fraction: NDArray[np.float64]  # weight of `upper`

    def rows(self, start: int, stop: int) -> _Taps:
        part = slice(start, stop)
        upper = None if self.upper is None else self.upper[part]
        return _Taps(lower=self.lower[part], upper=upper, fraction=self.fraction[part])

    def sides(self, positions: NDArray[np.intp]) -> list[tuple[NDArray[np.intp], NDArray[np.float64]]]:
        """(input position, weight) per side, lower first, for some output positions."""
        fraction = self.fraction[positions]
        lower = (self.lower[positions], 1.0 - fraction)
        return [lower] if self.upper is None else [lower, (self.upper[positions], fraction)]


def _taps(n_in: int, n_out: int, *, nearest: bool) -> _Taps:
    """Linear (or nearest) sampling positions in SciPy's own arithmetic, so that ties fall as they do there.

    Past the ends SciPy keeps both weights and clamps the two input positions, not the point between them.
    """
    point = (np.arange(n_out) + 0.5) * (n_in / n_out) - 0.5
    lower = np.floor(point + 0.5 if nearest else point).astype(np.intp)
    fraction = np.zeros(n_out) if nearest else point - lower
    upper = np.clip(lower + 1, 0, n_in - 1) if fraction.any() else None
    return _Taps(lower=np.clip(lower, 0, n_in - 1), upper=upper, fraction=fraction)


def resample_labels(
    labels: NDArray[Integer], *, new_shape: Sequence[int], separate_axis: int | None = None
) -> NDArray[Integer]:
    """Resize the integer label map (Z, Y, X), which may hold -1, to `new_shape`; same dtype, new memory.

    Voxel for voxel this is: start from 0; for each label in ascending order resize its one-hot float64 map
    with `skimage.transform.resize(order=1, mode="edge", anti_aliasing=False)` and write the label where the
    result is at least 0.5. With `separate_axis` (0, 1 or 2) this holds within each 2-D slice across that
    axis, and the nearest slice is taken along it. Source: nnU-Net 2.8.1.

    Linear interpolation reads 8 corners: where all hold one label the answer is that label; only the other
    voxels are put to a vote. Temporary memory is about 64 MB.
    """
    assert np.issubdtype(labels.dtype, np.integer), labels.dtype
    if labels.shape == tuple(new_shape):
        return np.array(labels)
    labels = np.ascontiguousarray(labels)
    taps = [
        _taps(n_in, n_out, nearest=axis == separate_axis)
        for axis, (n_in, n_out) in enumerate(zip(labels.shape, new_shape, strict=True))
    ]
    resized = np.empty(tuple(new_shape), dtype=labels.dtype)
    plane = max(labels.shape[1], new_shape[1]) * max(labels.shape[2], new_shape[2])
    rows = max(1, int(CHUNK_VOXELS / (plane * max(1.0, labels.shape[0] / new_shape[0]))))
    for start in range(0, new_shape[0], rows):
        chunk_taps = [taps[0].rows(start, start + rows), *taps[1:]]
        chunk = resized[start : start + rows]
        chunk[...], agree = _lower_corner(labels, chunk_taps)
        for voxels in _voxels(~agree):
            chunk[voxels] = _vote(*_corners(labels, chunk_taps, voxels))
    return resized


def _lower_corner(labels: NDArray[Integer], taps: Sequence[_Taps]) -> tuple[NDArray[Integer], NDArray[np.bool_]]:
    """The label at the lower corner of each output voxel, and whether all its corners hold that label."""
    first = int(taps[0].lower[0])
    block = labels[first : int(taps[0].lower[-1]) + 2]
    agree = np.ones(block.shape, dtype=bool)
    # Shrinking axes first; then the last axis, whose gather is the slowest, while the block is small.
    for axis in sorted(range(3), key=lambda axis: (len(taps[axis].lower) / labels.shape[axis], -axis)):
        lower = taps[axis].lower - (first if axis == 0 else 0)
        if taps[axis].upper is not None:
            both, ahead = np.moveaxis(block, axis, 0), np.moveaxis(agree, axis, 0)
            pairs = both[:-1] == both[1:]
            pairs &= ahead[1:]
            ahead[:-1] &= pairs
        block, agree = block.take(lower, axis=axis), agree.take(lower, axis=axis)
    return block, agree


def _voxels(mask: NDArray[np.bool_]) -> Iterator[tuple[NDArray[np.intp], ...]]:
    """Indices (z, y, x) of the True voxels, some at a time."""
    voxels = np.nonzero(mask)
    for start in range(0, len(voxels[0]), VOTE_VOXELS):
        yield tuple(index[start : start + VOTE_VOXELS] for index in voxels)


def _corners(
    labels: NDArray[Integer], taps: Sequence[_Taps], voxels: tuple[NDArray[np.intp], ...]
) -> tuple[NDArray[Integer], NDArray[np.float64]]:
    """Labels and weights (corners, voxels) that the output `voxels` read, the corners in raster order."""
    sides = [axis_taps.sides(positions) for axis_taps, positions in zip(taps, voxels, strict=True)]
    corners = list(product(*sides))
    values = np.empty((len(corners), len(voxels[0])), dtype=labels.dtype)
    weights = np.empty(values.shape)
    flat = labels.reshape(-1)
    for corner, ((z, weight_z), (y, weight_y), (x, weight_x)) in enumerate(corners):
        values[corner] = flat[(z * labels.shape[1] + y) * labels.shape[2] + x]
        weights[corner] = weight_z * weight_y * weight_x
    return values, weights


def _vote(values: NDArray[Integer], weights: NDArray[np.float64]) -> NDArray[Integer]:
    """Per column of (corners, voxels): the highest label whose weights sum to at least 0.5, else 0."""
    winners = np.zeros(values.shape[1], dtype=values.dtype)
    lowest = np.iinfo(values.dtype).min
    open_voxels = np.arange(values.shape[1])
    while open_voxels.size:
        highest = values.max(axis=0)
        holds = values == highest
        mass = np.zeros(len(open_voxels))
        for corner_holds, corner_weights in zip(holds, weights, strict=True):  # in raster order, as SciPy adds
            mass += np.where(corner_holds, corner_weights, 0.0)
        wins = mass >= 0.5
        winners[open_voxels[wins]] = highest[wins]
        # The losing label leaves the vote: its corners take the lowest value of the dtype and no weight.
        going_on = ~wins & (highest != lowest)
        values = np.where(holds, lowest, values)[:, going_on]
        weights = np.where(holds, 0.0, weights)[:, going_on]
        open_voxels = open_voxels[going_on]
    return winners
