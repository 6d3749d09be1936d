"""What goes wrong with scans, each mildly and strongly: functions of an image (Z, Y, X), always the same numbers."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, zoom

Image = NDArray[np.float32]
MILD, STRONG = "mild", "strong"


def noise(image: Image, strength: str, rng: np.random.Generator) -> Image:
    """White noise of 10 or 40 % of the image's standard deviation."""
    share = {MILD: 0.1, STRONG: 0.4}[strength]
    return image + rng.normal(0, share * image.std(), image.shape)


def blur(image: Image, strength: str, rng: np.random.Generator) -> Image:
    """A Gaussian of 1 or 2.5 voxels."""
    return gaussian_filter(image, {MILD: 1.0, STRONG: 2.5}[strength])


def gamma(image: Image, strength: str, rng: np.random.Generator) -> Image:
    """The range of intensities bent by an exponent: 1.5 or 3."""
    low, high = image.min(), image.max()
    return low + (high - low) * ((image - low) / max(high - low, 1e-6)) ** {MILD: 1.5, STRONG: 3.0}[strength]


def bias_field(image: Image, strength: str, rng: np.random.Generator) -> Image:
    """Brightness that changes by a factor of 2 or 6 from one corner to the other."""
    factor = {MILD: 2.0, STRONG: 6.0}[strength]
    ramps = [np.linspace(-0.5, 0.5, n) for n in image.shape]
    place = (ramps[0][:, None, None] + ramps[1][:, None] + ramps[2]) / 3
    return image.min() + (image - image.min()) * factor**place


def ghost(image: Image, strength: str, rng: np.random.Generator) -> Image:
    """The image again, 15 or 50 % as bright, shifted by a third along the longest axis: as when a patient moves."""
    axis = int(np.argmax(image.shape))
    return image + {MILD: 0.15, STRONG: 0.5}[strength] * np.roll(image, image.shape[axis] // 3, axis=axis)


def thick_slices(image: Image, strength: str, rng: np.random.Generator) -> Image:
    """Every second or fifth slice along the first axis, the others interpolated between them."""
    n = image.shape[0]
    kept = max(2, round(n / {MILD: 2, STRONG: 5}[strength]))
    coarse = zoom(image, (kept / n, 1, 1), order=1, grid_mode=True, mode="nearest")
    return zoom(coarse, (n / coarse.shape[0], 1, 1), order=1, grid_mode=True, mode="nearest")


def cut_off(image: Image, strength: str, rng: np.random.Generator) -> Image:
    """The last quarter or half along the longest axis is lost: as dark as the darkest voxel."""
    axis = int(np.argmax(image.shape))
    kept = round(image.shape[axis] * {MILD: 0.75, STRONG: 0.5}[strength])
    lost = (slice(None),) * axis + (slice(kept, None),)
    cut = image.copy()
    cut[lost] = image.min()
    return cut


CORRUPTIONS: dict[str, Callable[[Image, str, np.random.Generator], Image]] = {
    function.__name__: function for function in (noise, blur, gamma, bias_field, ghost, thick_slices, cut_off)
}
