"""How often and along which axes the network halves a patch, and how large its kernels are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, prod

MIN_EDGE = 4  # voxels: the bottleneck stays at least this large along every pooled axis


@dataclass(frozen=True, kw_only=True)
class Topology:
    """Strides and kernels per stage, and the patch rounded up so that every stride divides it."""

    patch_size: tuple[int, ...]
    strides: tuple[tuple[int, ...], ...]
    kernel_sizes: tuple[tuple[int, ...], ...]

    @property
    def divisor(self) -> tuple[int, ...]:
        """What the patch must be a multiple of, per axis."""
        return tuple(prod(along) for along in zip(*self.strides, strict=True))


def topology(spacing_mm: Sequence[float], patch_size: Sequence[float]) -> Topology:
    """Derive strides and kernels from spacing and patch size (reference rule 3.3).

    Only axes with a spacing within a factor 2 of the finest poolable one are halved, so that the voxels
    become isotropic on the way down; an axis gets kernel size 3 once its spacing is within a factor 2 of the
    finest axis.
    """
    spacing, size = list(spacing_mm), list(patch_size)
    axes = range(len(size))
    kernel = [1] * len(size)
    strides: list[tuple[int, ...]] = [(1,) * len(size)]
    kernels: list[tuple[int, ...]] = []
    while True:
        large = [axis for axis in axes if size[axis] >= 2 * MIN_EDGE]
        if not large:
            break
        finest = min(spacing[axis] for axis in large)
        pooled = [axis for axis in large if spacing[axis] / finest < 2]
        if len(pooled) == 1 and size[pooled[0]] < 3 * MIN_EDGE:
            break
        for axis in axes:
            if spacing[axis] / min(spacing) < 2:
                kernel[axis] = 3
        kernels.append(tuple(kernel))
        strides.append(tuple(2 if axis in pooled else 1 for axis in axes))
        for axis in pooled:
            spacing[axis] *= 2
            size[axis] = ceil(size[axis] / 2)
    kernels.append((3,) * len(size))
    divisors = [2 ** sum(stride[axis] == 2 for stride in strides) for axis in axes]
    padded = tuple(ceil(n / d) * d for n, d in zip(patch_size, divisors, strict=True))
    return Topology(patch_size=padded, strides=tuple(strides), kernel_sizes=tuple(kernels))
