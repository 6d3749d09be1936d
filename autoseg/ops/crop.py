"""Cut away the empty surroundings of a volume, and put a result back where it came from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Scalar = TypeVar("Scalar", bound=np.generic)
Box = tuple[tuple[int, int], ...]


def nonzero_mask(image: NDArray[Any]) -> NDArray[np.bool_]:
    """Bool mask (Z, Y, X) of the voxels where any channel of `image` (C, Z, Y, X) is not 0, holes filled.

    A hole is background that no path over voxel faces connects to the border of the volume, as
    `scipy.ndimage.binary_fill_holes` has it. An image of zeros alone gives the whole volume. Source: nnU-Net
    2.8.1.
    """
    mask = np.zeros(image.shape[1:], dtype=bool)
    for channel in image:
        mask |= channel != 0
    if not mask.any():
        return np.ones_like(mask)
    inner = crop(mask, bounding_box(mask))
    inner |= holes(inner)
    return mask


def holes(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Voxels outside of a mask (Z, Y, X) from which no path over voxel faces leads out; bool, a new array."""
    # Labelling the background takes about a third of the time of scipy's binary_fill_holes, which grows the
    # outside inwards step by step.
    components, count = ndimage.label(~mask)
    is_hole = np.ones(count + 1, dtype=bool)
    is_hole[0] = False
    for axis in range(3):
        for face in (0, -1):
            is_hole[components.take(face, axis=axis)] = False
    holes: NDArray[np.bool_] = is_hole[components]
    return holes


def bounding_box(mask: NDArray[np.bool_]) -> Box:
    """The smallest box around the True voxels of `mask` (Z, Y, X): (start, stop) per axis, stop exclusive.

    Raises ValueError where no voxel is True: there is no box then.
    """
    plane = np.any(mask, axis=0)
    ranges = [np.flatnonzero(np.any(mask, axis=(1, 2)))]
    ranges += [np.flatnonzero(np.any(plane, axis=1)), np.flatnonzero(np.any(plane, axis=0))]
    if not ranges[0].size:
        raise ValueError(f"a mask of shape {mask.shape} without a True voxel has no bounding box")
    return tuple((int(indices[0]), int(indices[-1]) + 1) for indices in ranges)


def crop(array: NDArray[Scalar], box: Box) -> NDArray[Scalar]:
    """The part of `array` (..., Z, Y, X) inside `box`, as a view."""
    inside: tuple[Any, ...] = (..., *(slice(start, stop) for start, stop in box))
    part: NDArray[Scalar] = array[inside]
    return part


def paste(cropped: NDArray[Scalar], *, box: Box, shape: Sequence[int], fill: float = 0) -> NDArray[Scalar]:
    """Undo `crop`: a new array (..., *shape) of the same dtype, `cropped` inside `box` and `fill` outside.

    `shape` is that of the whole volume, (Z, Y, X).
    """
    whole = np.full((*cropped.shape[:-3], *shape), fill, dtype=cropped.dtype)
    crop(whole, box)[...] = cropped
    return whole
