"""Resize label maps to another grid in one pass, whatever the number of labels, on the CPU or a GPU."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Integer = TypeVar("Integer", bound=np.integer[Any])

# Voxels in flight: a chunk holds labels, flags and indices of voxels; a vote 8 labels and 8 weights each.
CHUNK_VOXELS = {"cpu": 2**20, "cuda": 2**24}
VOTE_VOXELS = {"cpu": 2**16, "cuda": 2**20}
WIDER = {np.dtype(np.uint16): np.int32, np.dtype(np.uint32): np.int64}  # what torch hardly computes with


@dataclass(frozen=True, kw_only=True)
class _Taps:
    """What each output position along one axis reads: one input position, or also the next one (`upper`)."""

    lower: Tensor
    upper: Tensor | None
    fraction: Tensor  # weight of `upper`, float64

    def rows(self, start: int, stop: int) -> _Taps:
        part = slice(start, stop)
        upper = None if self.upper is None else self.upper[part]
        return _Taps(lower=self.lower[part], upper=upper, fraction=self.fraction[part])

    def sides(self, positions: Tensor) -> list[tuple[Tensor, Tensor]]:
        """(input position, weight) per side, lower first, for some output positions."""
        fraction = self.fraction[positions]
        lower = (self.lower[positions], 1.0 - fraction)
        return [lower] if self.upper is None else [lower, (self.upper[positions], fraction)]


def _taps(n_in: int, n_out: int, *, nearest: bool, device: torch.device) -> _Taps:
    """Linear (or nearest) sampling positions in SciPy's own arithmetic, so that ties fall as they do there.

    Past the ends SciPy keeps both weights and clamps the two input positions, not the point between them.
    """
    point = (np.arange(n_out) + 0.5) * (n_in / n_out) - 0.5
    lower = np.floor(point + 0.5 if nearest else point).astype(np.int64)
    fraction = np.zeros(n_out) if nearest else point - lower
    upper = torch.from_numpy(np.clip(lower + 1, 0, n_in - 1)).to(device) if fraction.any() else None
    lower = np.clip(lower, 0, n_in - 1)
    return _Taps(lower=torch.from_numpy(lower).to(device), upper=upper, fraction=torch.from_numpy(fraction).to(device))


def resample_labels(
    labels: NDArray[Integer],
    *,
    new_shape: Sequence[int],
    separate_axis: int | None = None,
    device: str | torch.device = "cpu",
) -> NDArray[Integer]:
    """Resize the integer label map (Z, Y, X), which may hold -1, to `new_shape`; same dtype, new memory.

    Voxel for voxel this is: start from 0; for each label in ascending order resize its one-hot float64 map
    with `skimage.transform.resize(order=1, mode="edge", anti_aliasing=False)` and write the label where the
    result is at least 0.5. With `separate_axis` (0, 1 or 2) this holds within each 2-D slice across that
    axis, and the nearest slice is taken along it. Source: nnU-Net 2.8.1.

    Linear interpolation reads 8 corners: where all hold one label the answer is that label; only the other
    voxels are put to a vote. The work is done on `device` (one without float64, such as mps, gives way to the CPU);
    temporary memory is about 64 MB on a CPU and, by arithmetic, below 1 GB on a GPU.
    """
    assert np.issubdtype(labels.dtype, np.integer), labels.dtype
    if labels.shape == tuple(new_shape):
        return np.array(labels)
    where = torch.device(device if torch.device(device).type in CHUNK_VOXELS else "cpu")
    source = torch.from_numpy(np.require(labels, WIDER.get(labels.dtype, labels.dtype), ["C", "W"])).to(where)
    taps = [
        _taps(n_in, n_out, nearest=axis == separate_axis, device=where)
        for axis, (n_in, n_out) in enumerate(zip(labels.shape, new_shape, strict=True))
    ]
    resized = np.empty(tuple(new_shape), dtype=labels.dtype)
    plane = max(labels.shape[1], new_shape[1]) * max(labels.shape[2], new_shape[2])
    rows = max(1, int(CHUNK_VOXELS[where.type] / (plane * max(1.0, labels.shape[0] / new_shape[0]))))
    for start in range(0, new_shape[0], rows):
        chunk_taps = [taps[0].rows(start, start + rows), *taps[1:]]
        chunk, agree = _lower_corner(source, chunk_taps)
        for voxels in _voxels(~agree):
            chunk[voxels] = _vote(*_corners(source, chunk_taps, voxels))
        resized[start : start + rows] = chunk.cpu().numpy()
    return resized


def _lower_corner(labels: Tensor, taps: Sequence[_Taps]) -> tuple[Tensor, Tensor]:
    """The label at the lower corner of each output voxel, and whether all its corners hold that label."""
    first = int(taps[0].lower[0])
    block = labels[first : int(taps[0].lower[-1]) + 2]
    agree = torch.ones(block.shape, dtype=torch.bool, device=labels.device)
    # Shrinking axes first; then the last axis, whose gather is the slowest, while the block is small.
    for axis in sorted(range(3), key=lambda axis: (len(taps[axis].lower) / labels.shape[axis], -axis)):
        lower = taps[axis].lower - (first if axis == 0 else 0)
        if taps[axis].upper is not None:
            n = block.shape[axis] - 1
            pairs = block.narrow(axis, 0, n) == block.narrow(axis, 1, n)
            pairs &= agree.narrow(axis, 1, n)
            agree.narrow(axis, 0, n).logical_and_(pairs)
        block, agree = block.index_select(axis, lower), agree.index_select(axis, lower)
    return block, agree


def _voxels(mask: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Indices (z, y, x) of the True voxels, some at a time."""
    voxels = mask.nonzero()
    at_once = VOTE_VOXELS[mask.device.type]
    for start in range(0, len(voxels), at_once):
        yield voxels[start : start + at_once].unbind(1)


def _corners(labels: Tensor, taps: Sequence[_Taps], voxels: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
    """Labels and weights (corners, voxels) that the output `voxels` read, the corners in raster order."""
    sides = [axis_taps.sides(positions) for axis_taps, positions in zip(taps, voxels, strict=True)]
    values, weights = [], []
    flat = labels.reshape(-1)
    for (z, weight_z), (y, weight_y), (x, weight_x) in product(*sides):
        values.append(flat[(z * labels.shape[1] + y) * labels.shape[2] + x])
        weights.append(weight_z * weight_y * weight_x)
    return torch.stack(values), torch.stack(weights)


def _vote(values: Tensor, weights: Tensor) -> Tensor:
    """Per column of (corners, voxels): the highest label whose weights sum to at least 0.5, else 0."""
    winners = torch.zeros(values.shape[1], dtype=values.dtype, device=values.device)
    lowest = torch.iinfo(values.dtype).min
    open_voxels = torch.arange(values.shape[1], device=values.device)
    while len(open_voxels):
        highest = values.amax(dim=0)
        holds = values == highest
        mass = torch.zeros(len(open_voxels), dtype=torch.float64, device=values.device)
        for corner_holds, corner_weights in zip(holds, weights, strict=True):  # in raster order, as SciPy adds
            mass += torch.where(corner_holds, corner_weights, 0.0)
        wins = mass >= 0.5
        winners[open_voxels[wins]] = highest[wins]
        # The losing label leaves the vote: its corners take the lowest value of the dtype and no weight.
        going_on = ~wins & (highest != lowest)
        values = torch.where(holds, lowest, values)[:, going_on]
        weights = torch.where(holds, 0.0, weights)[:, going_on]
        open_voxels = open_voxels[going_on]
    return winners
