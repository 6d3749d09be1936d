"""Resize images to another grid: the numbers of scikit-image's resize, as three small matrix products."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import lru_cache
from itertools import permutations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

# Above this ratio of largest to smallest spacing the coarse axis is resampled on its own.
ANISOTROPY_THRESHOLD = 3.0
# Far from its voxel a spline weight decays into denormals, which slow a product tenfold and add nothing.
SMALLEST_WEIGHT = 1e-10
# Rows of a matrix multiplied at once: few, to skip the zeros around the band, but enough to be efficient.
BAND_ROWS = 64


def separate_axis(current_spacing_mm: Sequence[float], new_spacing_mm: Sequence[float]) -> int | None:
    """The axis to resample on its own (nearest neighbour by default), or None when all axes go together.

    Both spacings are (z, y, x) in millimetres. The current spacing decides where its largest value is more
    than 3 times its smallest, otherwise the new one where that holds; the answer is the axis of the largest
    value, None where two or three axes share it. Source: nnU-Net 2.8.1.
    """
    for spacing_mm in (current_spacing_mm, new_spacing_mm):
        coarsest = max(spacing_mm)
        if coarsest / min(spacing_mm) > ANISOTROPY_THRESHOLD:
            axes = [axis for axis, value in enumerate(spacing_mm) if value == coarsest]
            return axes[0] if len(axes) == 1 else None
    return None


@lru_cache(maxsize=32)
def resize_matrix(n_in: int, n_out: int, *, order: int) -> NDArray[np.float64]:
    """The linear operator that resizes `n_in` samples to `n_out`, read-only float64 of shape (n_out, n_in).

    It is spline interpolation of the given order (0 to 5) with edge mode and no anti-aliasing at the
    coordinates (i + 0.5) * n_in / n_out - 0.5, as `skimage.transform.resize` has it before clipping: column j
    is what `scipy.ndimage.zoom` makes of the j-th unit vector. Entries below 1e-10 in magnitude are zero.
    """
    matrix = np.empty((n_out, n_in))
    unit = np.zeros(n_in)
    for column in range(n_in):
        unit[column] = 1.0
        matrix[:, column] = ndimage.zoom(unit, n_out / n_in, order=order, mode="nearest", grid_mode=True)
        unit[column] = 0.0
    matrix[np.abs(matrix) < SMALLEST_WEIGHT] = 0.0
    matrix.flags.writeable = False
    return matrix


class _FullFloat32Products:
    """Keeps matrix products in true float32 where a program has allowed TF32 or bf16 ones.

    The switch belongs to the whole process: of threads that resample at the same time the first one turns it, and the
    last one turns it back.
    """

    def __init__(self) -> None:
        self._lock, self._users, self._before = threading.Lock(), 0, ""

    def __enter__(self) -> None:
        with self._lock:
            if self._users == 0:
                self._before = torch.get_float32_matmul_precision()
                torch.set_float32_matmul_precision("highest")
            self._users += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._users -= 1
            if self._users == 0:
                torch.set_float32_matmul_precision(self._before)


_full_float32_products = _FullFloat32Products()


def resize_axis(
    volume: torch.Tensor, matrix: NDArray[np.float64], *, axis: int, out: torch.Tensor | None = None
) -> torch.Tensor:
    """Multiply one axis (>= 0) of a tensor of any rank by `matrix` (n_out, n_in), into a new tensor or into `out`.

    The products run on the tensor's device in its dtype, float32 without TF32. The matrix may be some rows of
    a resize matrix, none of them all zero: then only that part of the result is made.
    """
    shape = list(volume.shape)
    lead, n_in, trail = int(np.prod(shape[:axis])), shape[axis], int(np.prod(shape[axis + 1 :]))
    source = volume.reshape(lead, n_in, trail)
    result = volume.new_empty((lead, len(matrix), trail)) if out is None else out.view(lead, len(matrix), trail)
    with _full_float32_products:
        for start in range(0, len(matrix), BAND_ROWS):
            rows = slice(start, start + BAND_ROWS)
            used = np.flatnonzero(matrix[rows].any(axis=0))
            columns = slice(int(used[0]), int(used[-1]) + 1)
            weights = torch.from_numpy(matrix[rows, columns].copy()).to(device=volume.device, dtype=volume.dtype)
            if trail == 1:
                torch.mm(source[:, columns, 0], weights.T, out=result[:, rows, 0])
            elif lead == 1:
                torch.mm(weights, source[0, columns], out=result[0, rows])
            else:
                result[:, rows] = torch.bmm(weights.expand(lead, -1, -1), source[:, columns])
    return result.reshape(*shape[:axis], len(matrix), *shape[axis + 1 :])


def _cheapest_order(shape: Sequence[int], new_shape: Sequence[int], axes: Sequence[int]) -> tuple[int, ...]:
    """The order of `axes` that needs the fewest multiplications: what shrinks goes first."""

    def cost(order: Sequence[int]) -> int:
        current, total = list(shape), 0
        for axis in order:
            n_in, current[axis] = current[axis], new_shape[axis]
            total += n_in * int(np.prod(current))
        return total

    return min(permutations(axes), key=cost)


def _resize_clipped(
    volume: torch.Tensor, new_shape: Sequence[int], *, axes: tuple[int, ...], order: int
) -> torch.Tensor:
    """Resize along `axes`, each group of voxels that shares the other indices clipped to its own range."""
    changing = [axis for axis in axes if volume.shape[axis] != new_shape[axis]]
    if not changing:
        return volume
    lowest, highest = volume.amin(axes, keepdim=True), volume.amax(axes, keepdim=True)
    for axis in _cheapest_order(volume.shape, new_shape, changing):
        volume = resize_axis(volume, resize_matrix(volume.shape[axis], new_shape[axis], order=order), axis=axis)
    return volume.clamp_(lowest, highest)


def _resize_separately(
    volume: torch.Tensor, new_shape: Sequence[int], *, separate_axis: int, order: int, order_separate: int
) -> torch.Tensor:
    """Resize each 2-D slice across `separate_axis` on its own, then along that axis with `order_separate`."""
    in_plane = tuple(axis for axis in range(3) if axis != separate_axis)
    n_in, n_out = volume.shape[separate_axis], new_shape[separate_axis]
    if n_in == n_out:
        return _resize_clipped(volume, new_shape, axes=in_plane, order=order)
    along = resize_matrix(n_in, n_out, order=order_separate)
    if order_separate > 0:
        return resize_axis(_resize_clipped(volume, new_shape, axes=in_plane, order=order), along, axis=separate_axis)
    nearest = torch.from_numpy(along.argmax(axis=1)).to(volume.device)
    if n_out < n_in:
        # Slices that nothing reads need no resizing.
        return _resize_clipped(volume.index_select(separate_axis, nearest), new_shape, axes=in_plane, order=order)
    return _resize_clipped(volume, new_shape, axes=in_plane, order=order).index_select(separate_axis, nearest)


def resample_image(
    image: NDArray[np.float32],
    *,
    new_shape: Sequence[int],
    separate_axis: int | None = None,
    order: int = 3,
    order_separate: int = 0,
    device: str | torch.device = "cpu",
) -> NDArray[np.float32]:
    """Resize the float32 image (C, Z, Y, X) to a new float32 array (C, *new_shape).

    Without `separate_axis`, each channel equals `skimage.transform.resize(order=order, mode="edge",
    anti_aliasing=False, clip=True)` up to float32 rounding. With it (0, 1 or 2, see the function of that
    name), each 2-D slice across that axis is resized so, clipped to its own range, and then the axis is
    resampled with `order_separate` at the coordinates (i + 0.5) * n_in / n_out - 0.5 (0: nearest). An axis
    that keeps its length is left alone. Orders are 0 to 5; every value must be finite. The work is done on
    `device`, channel by channel; memory beyond input and output is about one channel of the output. Source:
    nnU-Net 2.8.1.
    """
    if tuple(image.shape[1:]) == tuple(new_shape):
        return np.array(image, dtype=np.float32)

    def resized(channel: NDArray[np.float32]) -> NDArray[np.float32]:
        volume = torch.from_numpy(np.require(channel, np.float32, ["C", "W"])).to(device)
        if separate_axis is None:
            volume = _resize_clipped(volume, new_shape, axes=(0, 1, 2), order=order)
        else:
            volume = _resize_separately(
                volume, new_shape, separate_axis=separate_axis, order=order, order_separate=order_separate
            )
        result: NDArray[np.float32] = volume.cpu().numpy()
        return result

    if len(image) == 1:  # as it is: copying a large volume takes as long as a product
        return resized(image[0])[None]
    result = np.empty((len(image), *new_shape), dtype=np.float32)
    for channel, target in zip(image, result, strict=True):
        target[...] = resized(channel)
    return result
