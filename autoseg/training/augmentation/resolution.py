"""Loss of detail: blur and coarse sampling of planes (n, *space) float32, one per sample and channel."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

# Gaussian weights beyond this many sigma are dropped, as SciPy does.
TRUNCATE = 4.0


def blur(planes: Tensor, sigmas_voxels: Sequence[Sequence[float]]) -> Tensor:
    """Gaussian blur along each axis in turn, the image reflected about its outermost voxels.

    Equals scipy.ndimage.gaussian_filter(mode="mirror", truncate=4), also on axes shorter than the kernel.

    Args:
        planes: (n, *space) float32.
        sigmas_voxels: per plane, one positive sigma per spatial axis.
    """
    for axis in range(1, planes.ndim):
        planes = _blur_axis(planes, [sigmas[axis - 1] for sigmas in sigmas_voxels], axis)
    return planes


def _blur_axis(planes: Tensor, sigmas: Sequence[float], axis: int) -> Tensor:
    radii = [int(TRUNCATE * sigma + 0.5) for sigma in sigmas]
    radius, size = max(radii), planes.shape[axis]
    kernels = torch.tensor([_kernel(sigma, own, radius) for sigma, own in zip(sigmas, radii, strict=True)])
    kernels = kernels.to(planes).reshape(len(sigmas), -1, *[1] * (planes.ndim - 1))
    padded = planes.index_select(axis, _mirrored_index(size, radius).to(planes.device))
    blurred = torch.zeros_like(planes)
    for tap in range(2 * radius + 1):
        blurred.addcmul_(padded.narrow(axis, tap, size), kernels[:, tap])
    return blurred


def _kernel(sigma: float, radius: int, padded_radius: int) -> list[float]:
    """Gaussian weights -padded_radius .. padded_radius, zero beyond its own radius, with sum 1."""
    taps = range(-padded_radius, padded_radius + 1)
    weights = [math.exp(-0.5 * (tap / sigma) ** 2) if abs(tap) <= radius else 0.0 for tap in taps]
    total = sum(weights)
    return [weight / total for weight in weights]


def _mirrored_index(size: int, radius: int) -> Tensor:
    """Indices -radius .. size + radius - 1, folded back at voxels 0 and size - 1 as often as needed."""
    if size == 1:
        return torch.zeros(1 + 2 * radius, dtype=torch.long)
    position = torch.arange(-radius, size + radius) % (2 * size - 2)
    return torch.minimum(position, 2 * size - 2 - position)


def coarsen(planes: Tensor, zooms: Sequence[float], *, keep_axis_0: bool = False) -> Tensor:
    """Simulate a coarser scan: nearest sampling to `zoom` times as many voxels per edge, linear back.

    Args:
        planes: (n, *space) float32.
        zooms: one factor in (0, 1] per plane.
        keep_axis_0: leave the first spatial axis at full resolution (thick slices).
    """
    full = planes.shape[1:]
    smooth = "bilinear" if len(full) == 2 else "trilinear"
    results = []
    for plane, zoom in zip(planes[:, None, None], zooms, strict=True):
        coarse = [max(1, round(edge * zoom)) for edge in full]
        if keep_axis_0:
            coarse[0] = full[0]
        few = functional.interpolate(plane, coarse, mode="nearest-exact")
        results.append(functional.interpolate(few, full, mode=smooth, align_corners=False)[0, 0])
    return torch.stack(results)
