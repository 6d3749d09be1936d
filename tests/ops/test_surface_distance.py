from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from autoseg.ops.surface_distance import boundary, hd95_mm, normalised_surface_dice, surface_distances


def reference_boundary(mask: np.ndarray) -> np.ndarray:
    """Indices of boundary voxels, voxel by voxel from the definition."""
    found = []
    for index in np.argwhere(mask):
        for axis in range(3):
            for step in (-1, 1):
                neighbour = index.copy()
                neighbour[axis] += step
                inside = all(0 <= n < size for n, size in zip(neighbour, mask.shape, strict=True))
                if not inside or not mask[tuple(neighbour)]:
                    found.append(tuple(index))
    return np.array(sorted(set(found))).reshape(-1, 3)


def reference_distances(truth: np.ndarray, predicted: np.ndarray, spacing_mm: tuple) -> tuple[np.ndarray, np.ndarray]:
    table = cdist(reference_boundary(truth) * spacing_mm, reference_boundary(predicted) * spacing_mm)
    return table.min(axis=1), table.min(axis=0)


SHAPES = [(1, 1, 1), (1, 9, 7), (7, 5, 1), (6, 8, 11), (13, 4, 5)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("density", [0.05, 0.5, 0.97])
def test_distances_equal_brute_force_on_random_masks_with_anisotropic_spacing(shape, density):
    rng = np.random.default_rng(len(shape) * 1000 + sum(shape))
    truth, predicted = rng.random(shape) < density, rng.random(shape) < density
    truth.flat[0] = predicted.flat[-1] = True
    spacing_mm = (2.5, 0.7, 0.3)

    found = surface_distances(truth, predicted, spacing_mm=spacing_mm)

    expected = reference_distances(truth, predicted, spacing_mm)
    for one_way, reference in zip(found, expected, strict=True):
        np.testing.assert_allclose(np.sort(one_way), np.sort(reference), rtol=1e-12)
    assert hd95_mm(found) == pytest.approx(max(np.percentile(r, 95) for r in expected))
    within = sum((r <= 1.0).sum() for r in expected) / sum(len(r) for r in expected)
    assert normalised_surface_dice(found, tolerance_mm=1.0) == pytest.approx(within)


@pytest.mark.parametrize("shape", SHAPES)
def test_boundary_equals_its_definition(shape):
    mask = np.random.default_rng(0).random(shape) < 0.8
    np.testing.assert_array_equal(np.argwhere(boundary(mask)), reference_boundary(mask))


def test_distances_do_not_depend_on_the_space_around_the_masks():
    rng = np.random.default_rng(1)
    truth, predicted = rng.random((4, 6, 5)) < 0.7, rng.random((4, 6, 5)) < 0.7
    near = surface_distances(truth, predicted, spacing_mm=(3.0, 1.0, 2.0))
    room = ((2, 7), (0, 3), (5, 0))
    far = surface_distances(np.pad(truth, room), np.pad(predicted, room), spacing_mm=(3.0, 1.0, 2.0))
    for a, b in zip(near, far, strict=True):
        np.testing.assert_allclose(np.sort(a), np.sort(b))


def test_masks_are_left_as_they_were():
    rng = np.random.default_rng(2)
    truth, predicted = rng.random((5, 5, 5)) < 0.5, rng.random((5, 5, 5)) < 0.5
    before = truth.copy(), predicted.copy()
    surface_distances(truth, predicted, spacing_mm=(1.0, 1.0, 1.0))
    assert (truth == before[0]).all()
    assert (predicted == before[1]).all()


def test_cube_shifted_along_one_axis_has_the_shift_as_hd95():
    truth, predicted = np.zeros((20, 20, 20), bool), np.zeros((20, 20, 20), bool)
    truth[4:14, 4:14, 4:14] = True
    predicted[7:17, 4:14, 4:14] = True  # 3 voxels of 2 mm
    distances = surface_distances(truth, predicted, spacing_mm=(2.0, 1.0, 1.0))
    # The end plane of 100 of the 488 boundary voxels lies 6 mm from the other cube, the side walls on it.
    assert hd95_mm(distances) == pytest.approx(6.0)
    assert max(distances[0].max(), distances[1].max()) == pytest.approx(6.0)


def test_surface_dice_of_shifted_cubes_is_the_counted_share():
    truth, predicted = np.zeros((12, 12, 12), bool), np.zeros((12, 12, 12), bool)
    truth[2:6, 2:6, 2:6] = True
    predicted[2:6, 2:6, 3:7] = True
    distances = surface_distances(truth, predicted, spacing_mm=(1.0, 1.0, 1.0))
    # 56 boundary voxels each. Not on the other surface: the outer plane (16 voxels), and the middle 4 of the
    # plane on the far side, which lie inside the other cube.
    assert len(distances[0]) == len(distances[1]) == 56
    assert normalised_surface_dice(distances, tolerance_mm=0.5) == pytest.approx((56 - 16 - 4) / 56)
    assert normalised_surface_dice(distances, tolerance_mm=1.0) == 1.0


def test_concentric_spheres_are_their_difference_in_radius_apart():
    z, y, x = np.ogrid[-18:19, -36:37, -36:37]
    square_mm = (2.0 * z) ** 2 + y**2 + x**2
    distances = surface_distances(square_mm <= 33**2, square_mm <= 22**2, spacing_mm=(2.0, 1.0, 1.0))
    for one_way in distances:
        assert np.abs(one_way - 11).max() < 2.5  # a voxel diagonal is 2.45 mm
        assert one_way.mean() == pytest.approx(11, abs=0.5)
    assert hd95_mm(distances) == pytest.approx(11, abs=1.5)
    assert normalised_surface_dice(distances, tolerance_mm=8.0) == 0
    assert normalised_surface_dice(distances, tolerance_mm=14.0) == 1


def test_tolerance_holds_distances_that_only_float32_spacing_makes_longer():
    truth, predicted = np.zeros((1, 1, 9), bool), np.zeros((1, 1, 9), bool)
    truth[..., 1] = predicted[..., 6] = True
    spacing = float(np.float32(0.2))  # 0.20000000298
    distances = surface_distances(truth, predicted, spacing_mm=(1.0, 1.0, spacing))
    assert normalised_surface_dice(distances, tolerance_mm=1.0) == 1
    assert normalised_surface_dice(distances, tolerance_mm=0.99) == 0


def test_two_empty_masks_have_neither_distance_nor_surface_dice():
    nothing = np.zeros((3, 4, 5), bool)
    distances = surface_distances(nothing, nothing, spacing_mm=(1.0, 1.0, 1.0))
    assert hd95_mm(distances) is None
    assert normalised_surface_dice(distances, tolerance_mm=1.0) is None


@pytest.mark.parametrize("truth_is_empty", [True, False])
def test_one_empty_mask_has_surface_dice_zero_and_no_distance(truth_is_empty):
    nothing, something = np.zeros((3, 4, 5), bool), np.zeros((3, 4, 5), bool)
    something[1, 1:3, 2] = True
    pair = (nothing, something) if truth_is_empty else (something, nothing)
    distances = surface_distances(*pair, spacing_mm=(1.0, 1.0, 1.0))
    assert hd95_mm(distances) is None
    assert normalised_surface_dice(distances, tolerance_mm=1000.0) == 0


def test_identical_masks_score_perfectly():
    mask = np.random.default_rng(3).random((6, 7, 8)) < 0.4
    distances = surface_distances(mask, mask, spacing_mm=(5.0, 0.5, 0.5))
    assert hd95_mm(distances) == 0
    assert normalised_surface_dice(distances, tolerance_mm=0.0) == 1
