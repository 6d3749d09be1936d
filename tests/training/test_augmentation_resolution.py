"""Blur equals SciPy's; coarse sampling equals its definition."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter, map_coordinates

from autoseg.training.augmentation.resolution import blur, coarsen


def some_planes(shape: tuple[int, ...], n: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(n, *shape)).astype(np.float32)


@pytest.mark.parametrize("shape", [(9, 7, 11), (1, 8, 2), (3, 5, 4), (2, 2, 2), (1, 1, 1), (12, 10), (1, 7), (3, 2)])
def test_blur_equals_scipy_also_on_axes_shorter_than_the_kernel(shape: tuple[int, ...]) -> None:
    sigmas = [(0.5, 0.77, 1.0)[: len(shape)], (0.99, 0.51, 0.62)[: len(shape)]]
    planes = some_planes(shape, n=2)
    found = blur(torch.from_numpy(planes), sigmas).numpy()
    for plane, sigma, mine in zip(planes, sigmas, found, strict=True):
        expected = gaussian_filter(plane.astype(float), sigma, mode="mirror", truncate=4.0)
        np.testing.assert_allclose(mine, expected, atol=1e-6)


def test_blur_keeps_a_constant() -> None:
    planes = torch.full((1, 4, 5, 6), 3.25)
    torch.testing.assert_close(blur(planes, [(1.0, 0.5, 0.8)]), planes)


def coarse_reference(plane: np.ndarray, shape: list[int]) -> np.ndarray:
    """The voxels nearest to the coarse centres, then linear interpolation between coarse centres."""
    picks = [
        np.floor((np.arange(few) + 0.5) * full / few).astype(int) for few, full in zip(shape, plane.shape, strict=True)
    ]
    coarse = plane[np.ix_(*picks)].astype(float)
    back = [(np.arange(full) + 0.5) * few / full - 0.5 for few, full in zip(shape, plane.shape, strict=True)]
    return map_coordinates(coarse, np.meshgrid(*back, indexing="ij"), order=1, mode="nearest")


@pytest.mark.parametrize("shape", [(9, 7, 12), (1, 8, 3), (5, 1, 6), (13, 10), (1, 7)])
@pytest.mark.parametrize("keep", [False, True])
def test_coarsening_equals_picking_voxels_and_interpolating_back(shape: tuple[int, ...], keep: bool) -> None:
    zooms = [0.5, 0.73, 0.999]
    planes = some_planes(shape, n=3)
    found = coarsen(torch.from_numpy(planes), zooms, keep_axis_0=keep).numpy()
    assert found.shape == planes.shape
    for plane, zoom, mine in zip(planes, zooms, found, strict=True):
        few = [max(1, round(edge * zoom)) for edge in shape]
        if keep:
            few[0] = shape[0]
        np.testing.assert_allclose(mine, coarse_reference(plane, few), atol=2e-6)


def test_coarsening_to_full_size_changes_nothing() -> None:
    planes = torch.from_numpy(some_planes((6, 7, 5), n=1))
    assert torch.equal(coarsen(planes, [1.0]), planes)


def test_keeping_axis_0_leaves_slices_apart() -> None:
    planes = torch.zeros((1, 4, 8, 8))
    planes[0, 2] = torch.randn(8, 8, generator=torch.Generator().manual_seed(0))
    found = coarsen(planes, [0.5], keep_axis_0=True)
    assert found[0, [0, 1, 3]].abs().max() == 0
    assert found[0, 2].abs().max() > 0
