"""Connected parts of a mask."""

from __future__ import annotations

import cc3d
import numpy as np
from numpy.typing import NDArray

from autoseg.ops.crop import bounding_box, crop, paste


def keep_largest(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The largest connected part of a mask; voxels that share a face, an edge or a corner are connected.

    Of several parts of the same size the one whose first voxel comes first in array order stays.

    Args:
        mask: bool (Z, Y, X).

    Returns:
        bool (Z, Y, X), a new array; without a True voxel where `mask` has none.
    """
    assert mask.dtype == np.bool_, mask.dtype
    assert mask.ndim == 3, mask.shape
    if not mask.any():
        return np.zeros_like(mask)
    box = bounding_box(mask)
    return paste(largest_of(*component_sizes(crop(mask, box))), box=box, shape=mask.shape)


def largest_of(parts: NDArray[np.integer], sizes: NDArray[np.int64]) -> NDArray[np.bool_]:
    """The largest of numbered parts (what `component_sizes` gives) as a mask; as `keep_largest` chooses."""
    is_largest = sizes == sizes[1:].max(initial=0)
    is_largest[0] = False
    if not is_largest.any():
        return np.zeros(parts.shape, dtype=bool)
    winner = parts.flat[is_largest[parts].argmax()]  # argmax finds the first voxel of all that are in a largest part
    largest: NDArray[np.bool_] = parts == winner
    return largest


def large_of(parts: NDArray[np.integer], sizes: NDArray[np.int64], least_voxels: float) -> NDArray[np.bool_]:
    """Those of numbered parts that have at least so many voxels, as a mask."""
    # volumes in ml come from float32 spacings: a part of exactly the wanted size is not small
    large = sizes >= least_voxels * (1 - 1e-6)
    large[0] = False
    mask: NDArray[np.bool_] = large[parts]
    return mask


def component_sizes(mask: NDArray[np.bool_]) -> tuple[NDArray[np.integer], NDArray[np.int64]]:
    """Number the connected parts of a bool (Z, Y, X) mask, from 1.

    Returns:
        (number of the part of each voxel, 0 outside; voxels per number).
    """
    # cc3d 4.1 runs out of numbers where single voxels fill a volume to its corners; an empty rim spares some.
    numbered = cc3d.connected_components(np.pad(mask, 1), connectivity=26)[1:-1, 1:-1, 1:-1]
    sizes = np.zeros(int(numbered.max(initial=0)) + 1, dtype=np.int64)
    for plane in numbered:  # all at once it would be copied as 64-bit numbers
        sizes += np.bincount(plane.ravel(), minlength=len(sizes))
    return numbered, sizes


def without_small_parts(mask: NDArray[np.bool_], least_voxels: float) -> NDArray[np.bool_]:
    """The connected parts (26 neighbours) of a mask (Z, Y, X) that have at least so many voxels; a new array."""
    if not mask.any():
        return np.zeros_like(mask)
    box = bounding_box(mask)
    return paste(large_of(*component_sizes(crop(mask, box)), least_voxels), box=box, shape=mask.shape)
