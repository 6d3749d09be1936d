"""Cutting the patch out of the crop: straight, or turned and scaled."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from autoseg.training.augmentation.draws import Affine

OUTSIDE = -1  # label of a voxel that is not in the image


def cut_centre(array: Tensor, patch_size: Sequence[int]) -> Tensor:
    """The central patch (..., *patch) of (..., *crop), as a view; with an odd rest the smaller margin comes first."""
    for axis, edge in enumerate(patch_size, start=array.ndim - len(patch_size)):
        assert array.shape[axis] >= edge, f"crop {tuple(array.shape)} is smaller than the patch {tuple(patch_size)}"
        array = array.narrow(axis, (array.shape[axis] - edge) // 2, edge)
    return array


def cut_transformed(
    image: Tensor, labels: Tensor, *, affines: Sequence[Affine], patch_size: Sequence[int], dummy_2d: bool
) -> tuple[Tensor, Tensor]:
    """Cut patches that are turned and scaled about the crop's centre.

    Args:
        image: (n, C, *crop) float32, sampled linearly, 0 outside.
        labels: (n, L, *crop) integers; the label with the largest linear weight wins, -1 outside.
        affines: one per sample. Without rotation and scaling the result is `cut_centre`.
        patch_size: (z, y, x) or (y, x).
        dummy_2d: turn within planes: axis 0 is cut straight and its slices move as channels do.

    Returns:
        image (n, C, *patch) and labels (n, L, *patch), types unchanged.
    """
    if dummy_2d:
        depth, *plane = patch_size
        image, labels = (cut_centre(x, (depth, *x.shape[-2:])).flatten(1, 2) for x in (image, labels))
        image, labels = cut_transformed(image, labels, affines=affines, patch_size=plane, dummy_2d=False)
        return image.unflatten(1, (-1, depth)), labels.unflatten(1, (-1, depth))
    where = sampling_coordinates(affines, crop=image.shape[2:], patch_size=patch_size).to(image.device)
    return sample_image(image, where), sample_labels(labels, where)


def rotation_matrix(angles_rad: Sequence[float]) -> np.ndarray:
    """Rotation about array axes 0, 1 and 2 in this order (three angles), or within the plane (a single one)."""
    planes = [(1, 2), (0, 2), (0, 1)] if len(angles_rad) == 3 else [(0, 1)]
    size = 3 if len(angles_rad) == 3 else 2
    total = np.eye(size)
    for (a, b), angle in zip(planes, angles_rad, strict=True):
        one = np.eye(size)
        one[a, a] = one[b, b] = math.cos(angle)
        one[a, b], one[b, a] = -math.sin(angle), math.sin(angle)
        total = one @ total
    return total


def sampling_coordinates(affines: Sequence[Affine], *, crop: Sequence[int], patch_size: Sequence[int]) -> Tensor:
    """Where in the crop each patch voxel is read: (n, *patch, d) float32 voxel indices in array axis order.

    The patch's offsets from its centre are multiplied by scale and rotation; the centre is that of `cut_centre`.
    """
    dimensions = len(patch_size)
    matrices = torch.tensor(np.stack([a.scale * rotation_matrix(a.rotation_rad) for a in affines]), dtype=torch.float32)
    centre = [(size - edge) // 2 + (edge - 1) / 2 for size, edge in zip(crop, patch_size, strict=True)]
    where = torch.empty((len(affines), *patch_size, dimensions))
    # Sums of broadcast rows, not a matrix product: reduced matmul precision would move the samples by tenths of a voxel.
    for row in range(dimensions):
        where[..., row] = centre[row]
        for column, edge in enumerate(patch_size):
            offsets = torch.arange(edge, dtype=torch.float32) - (edge - 1) / 2
            shape = [edge if axis == column else 1 for axis in range(dimensions)]
            factor = matrices[:, row, column].reshape(-1, *[1] * dimensions)
            where[..., row] += factor * offsets.reshape(shape)
    return where


def sample_image(image: Tensor, where: Tensor) -> Tensor:
    """Linear interpolation of (n, C, *crop) at `where` (n, *patch, d): (n, C, *patch), fading to 0 outside."""
    sizes = torch.tensor(image.shape[2:], dtype=where.dtype, device=where.device)
    # Voxel index i of an axis with n voxels is (2 i + 1) / n - 1 for grid_sample, which also wants x first.
    grid = ((2 * where + 1) / sizes - 1).flip(-1)
    return functional.grid_sample(image, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def sample_labels(labels: Tensor, where: Tensor) -> Tensor:
    """The label with the largest linear weight at `where` (n, *patch, d); everything outside counts as label -1.

    Equals the argmax over linearly sampled one-hot masks, ties going to the smaller label. One pass whatever the number
    of labels: only where the surrounding voxels differ are there weights to compare.

    Args:
        labels: (n, L, *crop) integers.

    Returns:
        (n, L, *patch), same type.
    """
    patch = where.shape[1:-1]
    padded = functional.pad(labels, [1, 1] * len(patch), value=OUTSIDE)
    sizes, strides = padded.shape[2:], padded[0, 0].stride()
    lower = where.floor()
    # Per axis and side (below, above): that neighbour's share of the linear index; far outside is the padding.
    steps = [
        [((lower[..., axis] + side + 1).clamp(0, sizes[axis] - 1) * 1).long() * strides[axis] for side in (0, 1)]
        for axis in range(len(patch))
    ]
    corners = list(product((0, 1), repeat=len(patch)))
    values, flat = [], padded.flatten(2)
    for corner in corners:
        index = sum(steps[axis][side] for axis, side in enumerate(corner))
        assert isinstance(index, Tensor)
        values.append(flat.gather(2, index.flatten(1)[:, None].expand(-1, labels.shape[1], -1)))
    around = torch.stack(values)
    result = around[0].clone()
    mixed = (around != around[0]).any(0).nonzero(as_tuple=True)
    fraction = (where - lower).flatten(1, -2)[mixed[0], mixed[2]]
    weights = torch.stack(
        [torch.stack([fraction[:, a] if s else 1 - fraction[:, a] for a, s in enumerate(c)]).prod(0) for c in corners]
    )
    result[mixed] = _heaviest(around[:, *mixed], weights)
    return result.unflatten(2, patch)


def _heaviest(labels: Tensor, weights: Tensor) -> Tensor:
    """Per column of (corners, m): the label with the largest sum of weights."""
    best, best_weight = labels[0].clone(), torch.full_like(weights[0], -1.0)
    for candidate in labels:
        weight = torch.where(labels == candidate, weights, 0).sum(0)
        better = (weight > best_weight) | ((weight == best_weight) & (candidate < best))
        best, best_weight = torch.where(better, candidate, best), torch.where(better, weight, best_weight)
    return best
