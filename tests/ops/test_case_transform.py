"""The way in against the rules written down with scikit-image, and the way back as its exact inverse."""

from __future__ import annotations

from collections.abc import Callable
from itertools import permutations

import numpy as np
import pytest
from scipy.ndimage import binary_fill_holes, map_coordinates
from skimage.transform import resize

from autoseg.core.plan import Plan
from autoseg.ops.case_transform import Grids, PreparedCase, prepare, restore_labels

MakePlan = Callable[..., Plan]
SHAPE = (9, 11, 10)
LABELS = {"background": 0, "blob": 1, "spot": 2}


def body(channels: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """An image that is empty around (and in an open notch of) the body, and labels, some of them in the void."""
    rng = np.random.default_rng(7)
    image = np.zeros((channels, *SHAPE), dtype=np.float32)
    image[:, 2:8, 1:9, 3:10] = rng.normal(3, 2, size=(channels, 6, 8, 7))
    image[:, 4, 4, 5] = 0  # a hole
    image[:, 2:5, 1:3, 3:5] = 0  # an open notch at a corner
    label = np.zeros(SHAPE, dtype=np.int16)
    label[3:6, 4:8, 5:8] = 1
    label[5:7, 5:7, 4:6] = 2
    label[2, 1, 3] = 2  # marked although the image is empty there
    return image, label


def run(plan: Plan, image: np.ndarray, label: np.ndarray | None, spacing_mm: tuple) -> PreparedCase:
    return prepare(image, label, spacing_mm=spacing_mm, plan=plan, configuration=plan.configuration("small"))


def expected_way_in(
    image: np.ndarray,
    label: np.ndarray,
    *,
    transpose: tuple[int, ...],
    new_shape: tuple[int, ...],
    slices_apart: bool,
) -> tuple[np.ndarray, np.ndarray]:
    """transpose -> crop -> z-score inside the body -> resize, with -1 in the void around the body."""
    image, label = image.transpose(0, *(1 + a for a in transpose)), label.transpose(transpose).copy()
    mask = binary_fill_holes((image != 0).any(axis=0))
    box = tuple(slice(np.argwhere(mask)[:, a].min(), np.argwhere(mask)[:, a].max() + 1) for a in range(3))
    label[(label == 0) & ~mask] = -1
    image, label, mask = image[(slice(None), *box)].astype(np.float64), label[box], mask[box]
    for channel in image:
        inside = channel[mask]
        channel[...] = 0
        channel[mask] = (inside - inside.mean()) / inside.std()
    options = {"mode": "edge", "anti_aliasing": False}

    def resized(volume: np.ndarray, order: int) -> np.ndarray:
        if not slices_apart:
            return resize(volume, new_shape, order=order, **options)
        planes = np.stack([resize(plane, new_shape[1:], order=order, **options) for plane in volume])
        z = len(volume) / new_shape[0] * (np.arange(new_shape[0]) + 0.5) - 0.5
        grid = np.meshgrid(z, *(np.arange(n) for n in new_shape[1:]), indexing="ij")
        return map_coordinates(planes, grid, order=0, mode="nearest")

    new_label = np.zeros(new_shape, dtype=np.int16)
    for value in np.unique(label):
        new_label[resized((label == value).astype(float), 1) >= 0.5] = value
    return np.stack([resized(channel, 3) for channel in image]), new_label


@pytest.mark.parametrize(
    ("transpose", "spacing", "target", "slices_apart"),
    [
        ((0, 1, 2), (1.0, 1.0, 1.0), (0.7, 1.3, 0.8), False),
        ((1, 0, 2), (2.0, 1.0, 1.5), (1.0, 1.0, 1.0), False),
        ((2, 0, 1), (1.0, 1.0, 4.0), (3.0, 0.8, 0.9), True),
        ((0, 1, 2), (1.0, 1.0, 1.0), (5.0, 1.2, 0.9), True),
        ((0, 1, 2), (4.0, 1.0, 1.0), (1.5, 1.0, 5.0), True),
    ],
)
def test_the_way_in_follows_the_rules(
    make_plan: MakePlan, transpose: tuple, spacing: tuple, target: tuple, slices_apart: bool
) -> None:
    image, label = body(channels=2)
    plan = make_plan(spacing_mm=target, transpose=transpose, normalization=("zscore", "zscore"), use_mask=True)
    case = run(plan, image, label, spacing)
    moved = [spacing[a] for a in transpose]
    new_shape = tuple(round(n * old / new) for n, old, new in zip(case.grids.cropped_shape, moved, target, strict=True))
    expected_image, expected_label = expected_way_in(
        image, label, transpose=transpose, new_shape=new_shape, slices_apart=slices_apart
    )
    assert case.grids.target_shape == case.image.shape[1:] == new_shape
    np.testing.assert_allclose(case.image, expected_image, atol=2e-5)
    assert case.label is not None
    assert np.array_equal(case.label, expected_label)
    assert (case.image.dtype, case.label.dtype) == (np.float32, np.int16)


@pytest.mark.parametrize("transpose", list(permutations(range(3))))
def test_restored_labels_lie_exactly_where_they_were(make_plan: MakePlan, transpose: tuple) -> None:
    image, label = body()
    spacing = (2.0, 1.0, 1.5)
    plan = make_plan(spacing_mm=[spacing[a] for a in transpose], transpose=transpose)
    case = run(plan, image, label, spacing)
    assert case.label is not None
    assert case.image.shape[1:] == case.grids.cropped_shape
    back = restore_labels(np.maximum(case.label, 0).astype(np.uint8), case.grids)
    assert back.dtype == np.uint8
    assert np.array_equal(back, label)


def test_restored_labels_are_background_outside_the_body() -> None:
    grids = Grids(
        shape=(5, 4, 3),
        box=((1, 2), (0, 3), (2, 4)),
        spacing_mm=(1, 1, 1),
        target_spacing_mm=(1, 1, 1),
        target_shape=(1, 3, 2),
        transpose=(2, 0, 1),
    )
    cropped = np.arange(1, 7, dtype=np.uint16).reshape(1, 3, 2)
    back = restore_labels(cropped, grids)
    assert back.shape == (5, 4, 3)
    assert back.sum() == cropped.sum()
    # transposed (x, z, y): box x 1..2, z 0..3, y 2..4
    assert np.array_equal(back[0:3, 2:4, 1], cropped[0])


def test_voxels_outside_the_body_get_minus_one_unless_they_are_marked(make_plan: MakePlan) -> None:
    image, label = body()
    case = run(make_plan(), image, label, (1.0, 1.0, 1.0))
    assert case.label is not None
    assert case.grids.box == ((2, 8), (1, 9), (3, 10))
    notch = case.label[:3, :2, :2]
    assert notch[0, 0, 0] == 2
    assert (notch.ravel()[1:] == -1).all()
    assert (case.label == -1).sum() == 11
    assert case.label[2, 3, 2] == 1  # the hole is inside


def test_2d_configurations_keep_the_slice_axis(make_plan: MakePlan) -> None:
    image, label = body()
    plan = make_plan(patch_size=(8, 8), spacing_mm=(0.5, 2.0), transpose=(1, 0, 2))
    case = run(plan, image, label, (1.0, 6.0, 1.0))
    assert case.grids.cropped_shape == (8, 6, 7)
    assert case.grids.target_shape == (8, 12, 4)
    assert case.grids.target_spacing_mm == (6.0, 0.5, 2.0)


def test_ct_is_clipped_and_scaled_by_the_data_set(make_plan: MakePlan) -> None:
    image, _ = body()
    case = run(make_plan(normalization=("ct",)), image, None, (1.0, 1.0, 1.0))
    expected = (np.clip(image[:, 2:8, 1:9, 3:10], -1.0, 4.0) - 2.0) / 1.5
    np.testing.assert_allclose(case.image, expected, atol=1e-6)
    assert case.label is None


def test_an_axis_never_vanishes(make_plan: MakePlan) -> None:
    image = np.ones((1, 1, 2, 5), dtype=np.float32)
    case = run(make_plan(spacing_mm=(9.0, 9.0, 9.0)), image, None, (1.0, 1.0, 1.0))
    assert case.image.shape == (1, 1, 1, 1)


def test_an_empty_image_is_kept_whole(make_plan: MakePlan) -> None:
    empty = np.zeros((1, 3, 4, 5), dtype=np.float32)
    case = run(make_plan(), empty, np.zeros((3, 4, 5), dtype=np.int16), (1.0, 1.0, 1.0))
    assert case.image.shape == empty.shape
    assert case.label is not None
    assert not case.label.any()


def test_the_arrays_that_came_in_stay_as_they_were(make_plan: MakePlan) -> None:
    image, label = body()
    before = image.copy(), label.copy()
    run(make_plan(normalization=("zscore",)), image, label, (1.0, 1.0, 1.0))
    assert np.array_equal(image, before[0])
    assert np.array_equal(label, before[1])
