"""What chance decides about one sample: drawn here from numbers alone, applied elsewhere.

Probabilities and ranges are nnU-Net's default augmentation (reference rules, section 5), in its order.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from autoseg.training.augmentation.rules import AugmentationRules

T = TypeVar("T")

ROTATION_P = 0.2
SCALE_P, SCALE_RANGE = 0.2, (0.7, 1.4)
NOISE_P, NOISE_SIGMA_RANGE = 0.1, (0.0, 0.1)
BLUR_P, BLUR_CHANNEL_P, BLUR_SIGMA_RANGE = 0.2, 0.5, (0.5, 1.0)
BRIGHTNESS_P, BRIGHTNESS_RANGE = 0.15, (0.75, 1.25)
CONTRAST_P, CONTRAST_RANGE = 0.15, (0.75, 1.25)
COARSE_P, COARSE_CHANNEL_P, COARSE_ZOOM_RANGE = 0.25, 0.5, (0.5, 1.0)
INVERTED_GAMMA_P, GAMMA_P, GAMMA_RANGE = 0.1, 0.3, (0.7, 1.5)
MIRROR_P = 0.5

# Sets these random numbers apart from others that are drawn for the same (seed, step, sample), as for where
# to crop: equal streams would tie the augmentation of a sample to its case and place.
STREAM = 0xA06


@dataclass(frozen=True, kw_only=True)
class Affine:
    """Rotation angles (one per axis in 3-D, a single one in a plane) and the factor on sampling distances."""

    rotation_rad: tuple[float, ...]
    scale: float


@dataclass(frozen=True, kw_only=True)
class SampleDraw:
    """All decisions for one sample; None where a change was not drawn. Tuples have one entry per channel.

    noise holds (sigma, seed of the noise field), blur one sigma per spatial axis in voxels, coarse_zoom the
    factor on the number of voxels per edge, mirror the spatial axes to flip.
    """

    affine: Affine | None
    noise: tuple[tuple[float, int] | None, ...]
    blur: tuple[tuple[float, ...] | None, ...]
    brightness: tuple[float | None, ...]
    contrast: tuple[float | None, ...]
    coarse_zoom: tuple[float | None, ...]
    inverted_gamma: tuple[float | None, ...]
    gamma: tuple[float | None, ...]
    mirror: tuple[int, ...]


def generator_for(*, seed: int, step: int, sample: int, stream: int = STREAM) -> np.random.Generator:
    """The one source of chance for a sample, whatever batch, worker or device it meets. All are >= 0."""
    return np.random.default_rng(np.random.SeedSequence((seed, step, sample), spawn_key=(stream,)))


def draw_sample(rng: np.random.Generator, *, rules: AugmentationRules, channels: int) -> SampleDraw:
    """Draw everything that will happen to one sample with `channels` image channels."""
    dimensions = len(rules.patch_size)

    def per_channel(p: float, value: Callable[[], T], channel_p: float = 1.0) -> tuple[T | None, ...]:
        if rng.random() >= p:
            return (None,) * channels
        return tuple(value() if rng.random() < channel_p else None for _ in range(channels))

    return SampleDraw(
        affine=_draw_affine(rng, rules),
        noise=_draw_noise(rng, channels),
        blur=per_channel(
            BLUR_P, lambda: tuple(rng.uniform(*BLUR_SIGMA_RANGE) for _ in range(dimensions)), BLUR_CHANNEL_P
        ),
        brightness=per_channel(BRIGHTNESS_P, lambda: _around_one(rng, *BRIGHTNESS_RANGE)),
        contrast=per_channel(CONTRAST_P, lambda: _around_one(rng, *CONTRAST_RANGE)),
        coarse_zoom=per_channel(COARSE_P, lambda: rng.uniform(*COARSE_ZOOM_RANGE), COARSE_CHANNEL_P),
        inverted_gamma=per_channel(INVERTED_GAMMA_P, lambda: _around_one(rng, *GAMMA_RANGE)),
        gamma=per_channel(GAMMA_P, lambda: _around_one(rng, *GAMMA_RANGE)),
        mirror=tuple(axis for axis in rules.mirror_axes if rng.random() < MIRROR_P),
    )


def _draw_affine(rng: np.random.Generator, rules: AugmentationRules) -> Affine | None:
    rotates, scales = rng.random() < ROTATION_P, rng.random() < SCALE_P
    if not (rotates or scales):
        return None
    angles = 3 if len(rules.patch_size) == 3 and not rules.dummy_2d else 1
    limit = rules.rotation_rad if rotates else 0.0
    return Affine(
        rotation_rad=tuple(float(angle) for angle in rng.uniform(-limit, limit, angles)),
        scale=rng.uniform(*SCALE_RANGE) if scales else 1.0,
    )


def _draw_noise(rng: np.random.Generator, channels: int) -> tuple[tuple[float, int] | None, ...]:
    if rng.random() >= NOISE_P:
        return (None,) * channels
    sigma = rng.uniform(*NOISE_SIGMA_RANGE)  # one strength for all channels, an own field for each
    return tuple((sigma, int(rng.integers(2**63))) for _ in range(channels))


def _around_one(rng: np.random.Generator, low: float, high: float) -> float:
    """Below 1 as often as above 1, though the range is longer on one side."""
    return rng.uniform(low, 1.0) if rng.random() < 0.5 else rng.uniform(max(low, 1.0), high)
