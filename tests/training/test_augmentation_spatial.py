"""Turning and scaling equal SciPy's interpolation about the same centre."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.ndimage import map_coordinates
from scipy.spatial.transform import Rotation

from autoseg.training.augmentation.draws import Affine
from autoseg.training.augmentation.spatial import cut_centre, cut_transformed, rotation_matrix, sample_labels

CASES = [
    # crop, patch, angles, scale
    ((11, 9, 12), (6, 5, 7), (0.4, -0.3, 0.5), 1.0),
    ((11, 9, 12), (6, 6, 6), (-0.5, 0.5, -0.2), 1.4),
    ((7, 7, 7), (7, 7, 7), (0.1, 0.2, 0.3), 1.37),
    ((5, 8, 1), (3, 8, 1), (0.2, -0.5, 0.3), 0.71),
    ((12, 13), (7, 6), (2.9,), 1.0),
    ((12, 13), (8, 9), (-1.1,), 0.7),
    ((9, 1), (9, 1), (0.7,), 1.3),
]


def scipy_coordinates(
    crop: tuple[int, ...], patch: tuple[int, ...], angles: tuple[float, ...], scale: float
) -> np.ndarray:
    """(d, *patch) voxel indices, by SciPy's rotations."""
    matrix = (
        Rotation.from_euler("xyz", angles).as_matrix()
        if len(patch) == 3
        else np.array(
            [
                [math.cos(angles[0]), -math.sin(angles[0])],
                [math.sin(angles[0]), math.cos(angles[0])],
            ]
        )
    )
    start = [(size - edge) // 2 for size, edge in zip(crop, patch, strict=True)]
    index = np.stack(np.meshgrid(*[np.arange(edge) for edge in patch], indexing="ij")).reshape(len(patch), -1)
    middle = (np.array(patch)[:, None] - 1) / 2
    return (scale * matrix @ (index - middle) + middle + np.array(start)[:, None]).reshape(-1, *patch)


def label_reference(labels: np.ndarray, where: np.ndarray) -> np.ndarray:
    """argmax over one-hot masks, each interpolated alone; outside is a mask of label -1."""
    values = np.unique([-1, *labels.ravel()])
    masks = [
        map_coordinates((labels == v).astype(float), where, order=1, mode="grid-constant", cval=float(v == -1))
        for v in values
    ]
    return values[np.argmax(masks, axis=0)]


@pytest.mark.parametrize(("crop", "patch", "angles", "scale"), CASES)
def test_image_equals_scipy_map_coordinates_with_zeros_outside(
    crop: tuple[int, ...], patch: tuple[int, ...], angles: tuple[float, ...], scale: float
) -> None:
    rng = np.random.default_rng(0)
    image = rng.normal(size=(1, 2, *crop)).astype(np.float32)
    labels = torch.zeros((1, 1, *crop), dtype=torch.int16)
    affine = Affine(rotation_rad=angles, scale=scale)
    found, _ = cut_transformed(torch.from_numpy(image), labels, affines=[affine], patch_size=patch, dummy_2d=False)
    where = scipy_coordinates(crop, patch, angles, scale)
    for channel in range(2):
        expected = map_coordinates(image[0, channel].astype(float), where, order=1, mode="grid-constant")
        np.testing.assert_allclose(found[0, channel].numpy(), expected, atol=2e-5)


@pytest.mark.parametrize("n_labels", [2, 5, 300])
@pytest.mark.parametrize(("crop", "patch", "angles", "scale"), CASES)
def test_labels_equal_the_argmax_of_one_hot_masks_with_minus_one_outside(
    crop: tuple[int, ...], patch: tuple[int, ...], angles: tuple[float, ...], scale: float, n_labels: int
) -> None:
    rng = np.random.default_rng(1)
    labels = rng.integers(-1, n_labels, size=(1, 2, *crop)).astype(np.int16)
    affine = Affine(rotation_rad=angles, scale=scale)
    _, found = cut_transformed(
        torch.zeros((1, 1, *crop)),
        torch.from_numpy(labels),
        affines=[affine],
        patch_size=patch,
        dummy_2d=False,
    )
    where = scipy_coordinates(crop, patch, angles, scale)
    assert found.dtype == torch.int16
    for channel in range(2):
        np.testing.assert_array_equal(found[0, channel].numpy(), label_reference(labels[0, channel], where))


def test_samples_of_a_batch_are_turned_each_by_its_own_angles() -> None:
    crop, patch = (10, 11, 12), (5, 6, 7)
    generator = torch.Generator().manual_seed(0)
    image = torch.randn((3, 1, *crop), generator=generator)
    labels = torch.randint(-1, 4, (3, 1, *crop), generator=generator, dtype=torch.int16)
    affines = [Affine(rotation_rad=(0.1 * i, 0.2, -0.3 * i), scale=0.8 + 0.2 * i) for i in range(3)]
    together = cut_transformed(image, labels, affines=affines, patch_size=patch, dummy_2d=False)
    for i, affine in enumerate(affines):
        alone = cut_transformed(image[i : i + 1], labels[i : i + 1], affines=[affine], patch_size=patch, dummy_2d=False)
        torch.testing.assert_close(together[0][i : i + 1], alone[0])
        assert torch.equal(together[1][i : i + 1], alone[1])


@pytest.mark.parametrize(
    ("crop", "patch"), [((9, 8, 7), (4, 5, 7)), ((6, 7, 8), (6, 6, 6)), ((9, 6), (4, 5)), ((5, 5), (5, 5))]
)
def test_without_rotation_and_scaling_it_is_the_centre_cut(crop: tuple[int, ...], patch: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    image = torch.randn((1, 2, *crop), generator=generator)
    labels = torch.randint(-1, 4, (1, 1, *crop), generator=generator, dtype=torch.int16)
    still = Affine(rotation_rad=(0.0,) * (3 if len(patch) == 3 else 1), scale=1.0)
    new_image, new_labels = cut_transformed(image, labels, affines=[still], patch_size=patch, dummy_2d=False)
    torch.testing.assert_close(new_image, cut_centre(image, patch), atol=1e-5, rtol=0)
    assert torch.equal(new_labels, cut_centre(labels, patch))


def test_turning_the_samples_by_a_quarter_turns_the_content_back_by_one() -> None:
    image = torch.arange(49.0).reshape(1, 1, 7, 7)
    labels = image.to(torch.int16)
    turn = Affine(rotation_rad=(math.pi / 2,), scale=1.0)
    new_image, new_labels = cut_transformed(image, labels, affines=[turn], patch_size=(7, 7), dummy_2d=False)
    torch.testing.assert_close(new_image, image.rot90(-1, (2, 3)), atol=1e-3, rtol=0)
    assert torch.equal(new_labels, labels.rot90(-1, (2, 3)))


def test_the_rotation_matrix_is_a_rotation() -> None:
    matrix = rotation_matrix((0.3, -1.0, 2.0))
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(matrix) == pytest.approx(1.0)


def test_dummy_2d_turns_every_slice_alike_and_mixes_none() -> None:
    crop, patch = (4, 12, 11), (4, 7, 6)
    generator = torch.Generator().manual_seed(0)
    image = torch.randn((2, 2, *crop), generator=generator)
    labels = torch.randint(-1, 3, (2, 1, *crop), generator=generator, dtype=torch.int16)
    affines = [Affine(rotation_rad=(2.0,), scale=1.2), Affine(rotation_rad=(-0.7,), scale=0.8)]
    new_image, new_labels = cut_transformed(image, labels, affines=affines, patch_size=patch, dummy_2d=True)
    assert new_image.shape == (2, 2, *patch)
    assert new_labels.shape == (2, 1, *patch)
    for depth in range(4):
        slice_image, slice_labels = cut_transformed(
            image[:, :, depth], labels[:, :, depth], affines=affines, patch_size=patch[1:], dummy_2d=False
        )
        torch.testing.assert_close(new_image[:, :, depth], slice_image)
        assert torch.equal(new_labels[:, :, depth], slice_labels)


def test_far_outside_is_zero_and_minus_one() -> None:
    image, labels = torch.ones((1, 1, 4, 4)), torch.ones((1, 1, 4, 4), dtype=torch.int16)
    away = Affine(rotation_rad=(0.0,), scale=50.0)
    new_image, new_labels = cut_transformed(image, labels, affines=[away], patch_size=(4, 4), dummy_2d=False)
    assert torch.equal(new_image, torch.zeros(1, 1, 4, 4))
    assert torch.equal(new_labels, torch.full((1, 1, 4, 4), -1, dtype=torch.int16))


def test_a_tie_goes_to_the_smaller_label() -> None:
    labels = torch.tensor([[[[3, 1]]]], dtype=torch.int16)
    where = torch.tensor([[[[0.0, 0.5]]]])
    assert sample_labels(labels, where).item() == 1


def test_a_crop_smaller_than_the_patch_is_refused() -> None:
    with pytest.raises(AssertionError, match="smaller than the patch"):
        cut_centre(torch.zeros(1, 1, 4, 4), (5, 4))
