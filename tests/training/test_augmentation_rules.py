"""Ranges and crop sizes follow nnU-Net's rules."""

from __future__ import annotations

import math

import numpy as np
import pytest
from batchgenerators.augmentations.utils import rotate_coords_2d, rotate_coords_3d

from autoseg.training.augmentation import AugmentationRules, crop_size, rules_for


def rules(patch: tuple[int, ...]) -> AugmentationRules:
    return rules_for(patch, mirror_axes=(0,), mirror_label_pairs={0: ((1, 2),)}, mask_channels=(True, False))


@pytest.mark.parametrize(
    ("patch", "degrees", "dummy_2d"),
    [
        ((40, 56, 40), 30, False),
        ((64, 192, 192), 30, False),  # exactly 3 times is not yet flat
        ((63, 192, 160), 180, True),
        ((20, 320, 256), 180, True),
        ((192, 20, 64), 30, False),  # flat along another axis does not count
        ((512, 512), 180, False),
        ((96, 64), 180, False),  # exactly 1.5 times is not yet elongated
        ((64, 97), 15, False),
        ((320, 200), 15, False),
    ],
)
def test_rotation_range_depends_on_the_shape_of_the_patch(
    patch: tuple[int, ...], degrees: float, dummy_2d: bool
) -> None:
    found = rules(patch)
    assert found.rotation_rad == pytest.approx(math.radians(degrees))
    assert found.dummy_2d is dummy_2d
    assert found.patch_size == patch
    assert found.mirror_label_pairs == {0: ((1, 2),)}
    assert found.mask_channels == (True, False)


def test_the_published_example_of_a_crop() -> None:
    assert crop_size((128, 128, 128), rotation_rad=math.radians(30), dummy_2d=False) == (205, 205, 205)


@pytest.mark.parametrize("degrees", [0, 15, 30, 90, 180])
@pytest.mark.parametrize("patch", [(40, 56, 40), (20, 320, 256), (112, 80, 192), (1, 7, 300)])
def test_3d_crop_equals_turning_the_edge_vector_about_each_axis(patch: tuple[int, int, int], degrees: float) -> None:
    angle = min(math.radians(degrees), math.pi / 2)
    edges = np.array(patch, dtype=float)
    turned = [rotate_coords_3d(edges, *(angle * row)) for row in np.eye(3)]
    expected = tuple((np.max(np.abs([edges, *turned]), axis=0) / 0.85).astype(int).tolist())
    assert crop_size(patch, rotation_rad=math.radians(degrees), dummy_2d=False) == expected
    flat = crop_size(patch, rotation_rad=math.radians(degrees), dummy_2d=True)
    assert flat == (patch[0], *expected[1:])


@pytest.mark.parametrize("degrees", [0, 15, 180])
@pytest.mark.parametrize("patch", [(512, 512), (40, 56), (320, 200)])
def test_2d_crop_equals_turning_the_edge_vector_once(patch: tuple[int, int], degrees: float) -> None:
    edges = np.array(patch, dtype=float)
    turned = rotate_coords_2d(edges, min(math.radians(degrees), math.pi / 2))
    expected = tuple((np.max(np.abs([edges, turned]), axis=0) / 0.85).astype(int).tolist())
    assert crop_size(patch, rotation_rad=math.radians(degrees), dummy_2d=False) == expected


def test_rules_that_contradict_the_patch_are_refused() -> None:
    with pytest.raises(AssertionError):
        rules_for((8, 8), mirror_axes=(2,), mirror_label_pairs={}, mask_channels=(False,))
    with pytest.raises(AssertionError, match="planes"):
        AugmentationRules(patch_size=(8, 8), rotation_rad=1, dummy_2d=True, mirror_axes=(), mask_channels=())
