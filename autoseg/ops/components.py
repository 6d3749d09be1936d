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
    parts, sizes = component_sizes(crop(mask, box))
    sizes[0] = 0
    is_largest = sizes == sizes.max()
    winner = parts.flat[is_largest[parts].argmax()]  # argmax finds the first voxel of all that are in a largest part
    return paste(parts == winner, box=box, shape=mask.shape)


def component_sizes(mask: NDArray[np.bool_]) -> tuple[NDArray[np.integer], NDArray[np.int64]]:
    """Number the connected parts of a bool (Z, Y, X) mask, from 1.

    Returns:
        (number of the part of each voxel, 0 outside; voxels per number).
    """
    # cc3d 4.1 runs out of numbers where single voxels fill a volume to its corners; an empty rim spares some.
    numbered = cc3d.connected_components(np.pad(mask, 1), connectivity=26)[1:-1, 1:-1, 1:-1]
    return numbered, np.bincount(numbered.ravel())


def without_small_parts(mask: NDArray[np.bool_], least_voxels: float) -> NDArray[np.bool_]:
    """The connected parts (26 neighbours) of a mask (Z, Y, X) that have at least so many voxels; a new array."""
    if not mask.any():
        return np.zeros_like(mask)
    box = bounding_box(mask)
    parts, sizes = component_sizes(crop(mask, box))
    # volumes in ml come from float32 spacings: a part of exactly the wanted size is not small
    large = sizes >= least_voxels * (1 - 1e-6)
    large[0] = False
    return paste(large[parts], box=box, shape=mask.shape)
