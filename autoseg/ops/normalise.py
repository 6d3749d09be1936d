"""Bring the intensities of each channel to the range that networks learn from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from difflib import get_close_matches
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from autoseg.core.errors import AutosegError, DataError, Problem

# Constant channels have no spread to divide by.
SMALLEST_SPREAD = 1e-8
# Voxels whose float64 copies are held at once while statistics are summed.
BLOCK_VOXELS = 2**20

Float32 = NDArray[np.float32]


class Intensities(Protocol):
    """Statistics of one channel over the foreground of the whole data set."""

    @property
    def mean(self) -> float:
        """Mean."""

    @property
    def std(self) -> float:
        """Population standard deviation."""

    @property
    def percentile_00_5(self) -> float:
        """Half a percent of the voxels are darker."""

    @property
    def percentile_99_5(self) -> float:
        """Half a percent of the voxels are brighter."""


def _mean_and_std(values: Float32) -> tuple[float, float]:
    """Mean and population standard deviation in float64, summed in blocks to bound memory."""
    flat = values.reshape(-1)
    blocks = [flat[start : start + BLOCK_VOXELS] for start in range(0, flat.size, BLOCK_VOXELS)]
    mean = sum(float(block.sum(dtype=np.float64)) for block in blocks) / flat.size
    squares = sum(float(np.square(block.astype(np.float64) - mean).sum()) for block in blocks)
    return mean, float(np.sqrt(squares / flat.size))


def _standardise(values: Float32, mean: float, std: float) -> None:
    values -= np.float32(mean)
    values /= np.float32(max(std, SMALLEST_SPREAD))


def _ct(channel: Float32, intensities: Intensities | None, mask: NDArray[np.bool_] | None) -> None:
    assert intensities is not None, "scheme ct needs the intensities of the data set"
    np.clip(channel, intensities.percentile_00_5, intensities.percentile_99_5, out=channel)
    _standardise(channel, intensities.mean, intensities.std)


def _zscore(channel: Float32, intensities: Intensities | None, mask: NDArray[np.bool_] | None) -> None:
    if mask is None:
        _standardise(channel, *_mean_and_std(channel))
        return
    inside = channel[mask]
    _standardise(inside, *_mean_and_std(inside))
    channel[...] = 0.0
    channel[mask] = inside


def _rescale_0_1(channel: Float32, intensities: Intensities | None, mask: NDArray[np.bool_] | None) -> None:
    channel -= channel.min()
    channel /= max(channel.max(), np.float32(SMALLEST_SPREAD))


def _rgb_0_1(channel: Float32, intensities: Intensities | None, mask: NDArray[np.bool_] | None) -> None:
    lowest, highest = float(channel.min()), float(channel.max())
    if lowest < 0 or highest > 255:
        raise DataError(
            Problem(
                case="",
                found=f"an RGB channel holds values from {lowest:g} to {highest:g}, expected 0 to 255",
                next="store 8-bit values, or name the channel something else than rgb_to_0_1 in dataset.json",
            )
        )
    channel /= np.float32(255)


def _none(channel: Float32, intensities: Intensities | None, mask: NDArray[np.bool_] | None) -> None:
    return


# Each changes one float32 channel (Z, Y, X) in place, given the data set's statistics and the mask, if any.
SCHEMES: dict[str, Callable[[Float32, Intensities | None, NDArray[np.bool_] | None], None]] = {
    "ct": _ct,
    "zscore": _zscore,
    "rescale_0_1": _rescale_0_1,
    "rgb_0_1": _rgb_0_1,
    "none": _none,
}


def normalise(
    image: NDArray[Any],
    *,
    schemes: Sequence[str],
    use_mask: Sequence[bool],
    intensities: Sequence[Intensities | None],
    mask: NDArray[np.bool_] | None,
) -> Float32:
    """Normalise each channel of `image` (C, Z, Y, X) by its scheme into a new float32 array of that shape.

    schemes, use_mask and intensities have one entry per channel; mask is bool (Z, Y, X). The formulas are
    those of nnU-Net 2.8.1:

    ct           clip to the data set's 0.5 and 99.5 percentiles, subtract its mean, divide by its std
    zscore       subtract this image's mean, divide by its std; with use_mask both are taken inside `mask`,
                 and what lies outside becomes 0
    rescale_0_1  subtract the minimum, divide by the maximum of what results
    rgb_0_1      divide by 255
    none         as it is

    Divisors are at least 1e-8, so a constant channel becomes 0. Raises AutosegError for an unknown scheme and
    DataError where an rgb_0_1 channel leaves 0 to 255.
    """
    result = np.array(image, dtype=np.float32, order="C")
    for channel, scheme, masked, statistics in zip(result, schemes, use_mask, intensities, strict=True):
        if scheme not in SCHEMES:
            nearest = get_close_matches(scheme, SCHEMES, n=1)
            hint = f"did you mean {nearest[0]!r}?" if nearest else f"choose one of {', '.join(SCHEMES)}"
            raise AutosegError(f"normalization scheme {scheme!r} is unknown; {hint}")
        SCHEMES[scheme](channel, statistics, mask if masked else None)
    return result
