"""Which spacing all images are resampled to."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from autoseg.core.fingerprint import Fingerprint

ANISOTROPY = 3.0


def target_spacing(fingerprint: Fingerprint) -> tuple[NDArray[np.float64], str]:
    """Target spacing in mm per axis (untransposed z, y, x), and the reason.

    The median spacing keeps most images nearly as they are. Where one axis is much coarser and much shorter
    than the others, its median would throw away detail of the finer images, so the 10th percentile is taken
    there (reference: nnU-Net's rule, 3.1).
    """
    spacings = np.array(fingerprint.spacings)
    sizes = np.median(np.array(fingerprint.shapes_after_crop), axis=0)
    target: NDArray[np.float64] = np.percentile(spacings, 50, axis=0)
    worst = int(np.argmax(target))
    others = [axis for axis in range(3) if axis != worst]
    coarse = target[worst] > ANISOTROPY * max(target[others])
    short = sizes[worst] * ANISOTROPY < min(sizes[others])
    if not (coarse and short):
        return target, f"{_spread(spacings)}; median shape {' x '.join(f'{n:g}' for n in sizes)}"
    finer = float(np.percentile(spacings[:, worst], 10))
    if finer < max(target[others]):
        finer = float(max(target[others])) + 1e-5
    target[worst] = finer
    return target, (
        f"{_spread(spacings)}; axis {worst} is over {ANISOTROPY:g} times coarser and "
        "shorter than the others, so its 10th percentile is taken"
    )


def _spread(spacings: NDArray[np.float64]) -> str:
    ends = zip(spacings.min(axis=0), spacings.max(axis=0), strict=True)
    return f"{len(spacings)} cases with {' x '.join(f'{a:.3g}-{b:.3g}' for a, b in ends)} mm (z, y, x)"


def resampled_shape(
    shape: NDArray[np.int64] | tuple[int, ...],
    spacing_mm: NDArray[np.float64],
    target_mm: NDArray[np.float64],
) -> tuple[int, ...]:
    """Shape after resampling: round(spacing / target * shape), halves to even, at least 1."""
    sizes = (round(float(old / new * n)) for old, new, n in zip(spacing_mm, target_mm, shape, strict=True))
    return tuple(max(1, size) for size in sizes)
