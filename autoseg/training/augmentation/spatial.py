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
    """The central patch (..., *patch) of (..., *crop), a view; an odd margin's smaller half comes first."""
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
        shape = (len(affines), -1, depth, *plane)
        return image.reshape(shape), labels.reshape(shape)
    where = sampling_coordinates(affines, crop=image.shape[2:], patch_size=patch_size, device=image.device)
    return sample_image(image, where), sample_labels(labels, where)


def rotation_matrix(angles_rad: Sequence[float]) -> np.ndarray:
    """Rotation about array axes 0, 1 and 2 in this order (three angles), or within the plane (one angle)."""
    planes = [(1, 2), (2, 0), (0, 1)] if len(angles_rad) == 3 else [(0, 1)]
    size = 3 if len(angles_rad) == 3 else 2
    total = np.eye(size)
    for (a, b), angle in zip(planes, angles_rad, strict=True):
        one = np.eye(size)
        one[a, a] = one[b, b] = math.cos(angle)
        one[a, b], one[b, a] = -math.sin(angle), math.sin(angle)
        total = one @ total
    return total


def sampling_coordinates(
    affines: Sequence[Affine], *, crop: Sequence[int], patch_size: Sequence[int], device: torch.device
) -> Tensor:
    """Where in the crop each patch voxel is read: (n, *patch, d) float32 voxel indices in array axis order.

    Offsets from the patch's centre are multiplied by scale and rotation; the centre is that of `cut_centre`.
    """
    dimensions = len(patch_size)
    matrices = np.stack([affine.scale * rotation_matrix(affine.rotation_rad) for affine in affines])
    factors = torch.tensor(matrices, dtype=torch.float32, device=device)
    centre = [(size - edge) // 2 + (edge - 1) / 2 for size, edge in zip(crop, patch_size, strict=True)]
    where = torch.empty((len(affines), *patch_size, dimensions), device=device)
    # Sums of broadcast rows, not a matrix product: reduced matmul precision would shift up to 0.1 voxel.
    for row in range(dimensions):
        where[..., row] = centre[row]
        for column, edge in enumerate(patch_size):
            offsets = torch.arange(edge, dtype=torch.float32, device=device) - (edge - 1) / 2
            along = offsets.reshape([edge if axis == column else 1 for axis in range(dimensions)])
            where[..., row] += factors[:, row, column].reshape(-1, *[1] * dimensions) * along
    return where


def sample_image(image: Tensor, where: Tensor) -> Tensor:
    """Linear interpolation of (n, C, *crop) at `where` (n, *patch, d): (n, C, *patch), 0 outside."""
    sizes = torch.tensor(image.shape[2:], dtype=where.dtype, device=where.device)
    # Voxel index i of an axis with n voxels is (2 i + 1) / n - 1 for grid_sample, which also wants x first.
    grid = ((2 * where + 1) / sizes - 1).flip(-1)
    return functional.grid_sample(image, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def sample_labels(labels: Tensor, where: Tensor) -> Tensor:
    """The label with the largest linear weight at `where` (n, *patch, d); all voxels outside have label -1.

    Equals the argmax over linearly sampled one-hot masks, ties going to the smaller label. One pass whatever
    the number of labels: only where the surrounding voxels differ are there weights to compare.

    Args:
        labels: (n, L, *crop) integers.
        where: (n, *patch, d) voxel indices in array axis order, from `sampling_coordinates`.

    Returns:
        (n, L, *patch), same type.
    """
    patch = where.shape[1:-1]
    padded = functional.pad(labels, [1, 1] * len(patch), value=OUTSIDE)
    sizes, strides = padded.shape[2:], padded[0, 0].stride()
    lower = where.floor()
    # Per axis and side (below, above): that neighbour's share of the linear index, the padding if outside.
    shares = [
        [(lower[..., axis] + side + 1).clamp(0, sizes[axis] - 1).long().flatten(1) * strides[axis] for side in (0, 1)]
        for axis in range(len(patch))
    ]
    corners = list(product((0, 1), repeat=len(patch)))
    values, flat = [], padded.flatten(2)
    for corner in corners:
        index = torch.zeros_like(shares[0][0])
        for axis, side in enumerate(corner):
            index += shares[axis][side]
        values.append(flat.gather(2, index[:, None].expand(-1, labels.shape[1], -1)))
    around = torch.stack(values)
    result = around[0].clone()
    sample, channel, place = (around != around[0]).any(0).nonzero(as_tuple=True)
    fraction = (where - lower).flatten(1, -2)[sample, place]
    above = torch.tensor(corners, dtype=torch.bool, device=labels.device)
    weights = torch.where(above[:, None], fraction, 1 - fraction).prod(2)
    result[sample, channel, place] = _heaviest(around[:, sample, channel, place], weights)
    return result.reshape(*labels.shape[:2], *patch)


def _heaviest(labels: Tensor, weights: Tensor) -> Tensor:
    """Per column of (corners, m): the label with the largest sum of weights."""
    best, best_weight = labels[0].clone(), torch.full_like(weights[0], -1.0)
    for candidate in labels:
        weight = ((labels == candidate) * weights).sum(0)
        better = (weight > best_weight) | ((weight == best_weight) & (candidate < best))
        best, best_weight = torch.where(better, candidate, best), torch.where(better, weight, best_weight)
    return best
