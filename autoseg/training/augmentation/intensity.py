"""Changes of grey values.

All take planes (n, *space) float32, one per sample and channel, and as many values; all return new planes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

# Below this spread a plane counts as constant; dividing by less would blow rounding up.
EPSILON = 1e-7


def add_noise(planes: Tensor, noise: Sequence[tuple[float, int]]) -> Tensor:
    """Add Gaussian noise of one (standard deviation, seed) per plane: a field depends on nothing else."""
    generator = torch.Generator(planes.device)
    noisy = planes.clone()
    for plane, (sigma, seed) in zip(noisy, noise, strict=True):
        generator.manual_seed(seed)
        plane += sigma * torch.randn(plane.shape, generator=generator, device=planes.device)
    return noisy


def multiply(planes: Tensor, factors: Sequence[float]) -> Tensor:
    """Brightness: multiply each plane by its factor."""
    return planes * _per_plane(factors, planes)


def change_contrast(planes: Tensor, factors: Sequence[float]) -> Tensor:
    """Stretch each plane about its mean by its factor, clipped to the range it had."""
    space = tuple(range(1, planes.ndim))
    mean = planes.mean(space, keepdim=True)
    low, high = planes.amin(space, keepdim=True), planes.amax(space, keepdim=True)
    return torch.addcmul(mean, planes - mean, _per_plane(factors, planes)).clamp(low, high)


def change_gamma(planes: Tensor, exponents: Sequence[float]) -> Tensor:
    """Scale each plane to [0, 1], raise it to its exponent, restore mean and standard deviation."""
    space = tuple(range(1, planes.ndim))
    deviation, mean = torch.std_mean(planes, space, correction=0, keepdim=True)
    low = planes.amin(space, keepdim=True)
    span = planes.amax(space, keepdim=True) - low
    unit = (planes - low) / span.clamp(min=EPSILON)
    curved = unit ** _per_plane(exponents, planes) * span + low
    new_deviation, new_mean = torch.std_mean(curved, space, correction=0, keepdim=True)
    return (curved - new_mean) * (deviation / new_deviation.clamp(min=EPSILON)) + mean


def change_inverted_gamma(planes: Tensor, exponents: Sequence[float]) -> Tensor:
    """`change_gamma` of the negative image: bends the bright end instead of the dark one."""
    return -change_gamma(-planes, exponents)


def _per_plane(values: Sequence[float], planes: Tensor) -> Tensor:
    return torch.tensor(values, dtype=planes.dtype, device=planes.device).reshape(-1, *[1] * (planes.ndim - 1))
