"""Where the tiles of a sliding window lie, and how much each of their voxels counts."""

from __future__ import annotations

from math import ceil

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d


def tile_starts(size: int, patch: int, *, step: float) -> tuple[int, ...]:
    """First voxels of the tiles along one axis: evenly spread, at most `step` * patch apart, covering all.

    Args:
        size: voxels of the image, at least `patch`.
        patch: voxels of a tile.
        step: share of the patch between neighbouring tiles, in (0, 1].
    """
    n_steps = ceil((size - patch) / (step * patch))
    starts = (round(i * (size - patch) / n_steps) for i in range(n_steps + 1)) if n_steps else (0,)
    return tuple(dict.fromkeys(starts))  # less than a voxel apart, some are the same: slices of a 2d configuration


def gaussian_window(patch: int) -> NDArray[np.float64]:
    """Weight of a tile's voxels along one axis, (patch,), 1 in the centre: a Gaussian of sigma patch / 8.

    The window of a whole tile is the outer product over its axes. Because tiles lie on a grid, the summed
    weight of all tiles is an outer product too, so no weight volume is needed.
    """
    delta = np.zeros(patch)
    delta[patch // 2] = 1.0
    window = gaussian_filter1d(delta, patch / 8, mode="constant")
    window[window == 0] = window[window > 0].min()
    weights: NDArray[np.float64] = window / window.max()
    return weights


def summed_window(size: int, patch: int, *, step: float) -> NDArray[np.float64]:
    """Weights of all tiles added up along one axis, (size,)."""
    total = np.zeros(size)
    for start in tile_starts(size, patch, step=step):
        total[start : start + patch] += gaussian_window(patch)
    return total


def padding(shape: tuple[int, ...], patch_size: tuple[int, ...]) -> tuple[tuple[int, int], ...]:
    """Voxels to add before and after each axis so that the patch fits, the image in the centre."""
    missing = [max(0, patch - size) for size, patch in zip(shape, patch_size, strict=True)]
    return tuple((m // 2, m - m // 2) for m in missing)
