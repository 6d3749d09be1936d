from __future__ import annotations

import numpy as np
import pytest
from acvl_utils.cropping_and_padding.bounding_boxes import get_bbox_from_mask
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from scipy.ndimage import binary_fill_holes

from autoseg.ops.crop import bounding_box, crop, nonzero_mask, paste

masks = arrays(bool, array_shapes(min_dims=3, max_dims=3, max_side=6))


def shell(shape: tuple[int, int, int] = (7, 8, 9)) -> np.ndarray:
    """A closed box with hollow inside, one voxel away from the border of the volume."""
    volume = np.zeros(shape)
    volume[1:-1, 1:-1, 1:-1] = 1
    volume[2:-2, 2:-2, 2:-2] = 0
    return volume


def test_mask_is_any_channel_not_zero() -> None:
    image = np.zeros((3, 2, 3, 4), dtype=np.float32)
    image[0, 0, 0, 0], image[1, 1, 2, 3], image[2, 0, 1, 1] = -5, 0.1, np.nan
    assert np.argwhere(nonzero_mask(image)).tolist() == [[0, 0, 0], [0, 1, 1], [1, 2, 3]]


def test_holes_are_filled_and_open_hollows_are_not() -> None:
    closed = shell()
    opened = closed.copy()
    opened[1, 4, 4] = 0
    assert nonzero_mask(closed[None])[3, 4, 4]
    assert not nonzero_mask(opened[None])[3, 4, 4]


def test_a_hollow_closed_only_by_an_edge_is_a_hole() -> None:
    opened_by_an_edge = np.ones((5, 5, 5))
    opened_by_an_edge[2, 2, 2] = opened_by_an_edge[1, 1, 2] = opened_by_an_edge[0, 1, 2] = 0
    assert nonzero_mask(opened_by_an_edge[None])[2, 2, 2]
    assert not nonzero_mask(opened_by_an_edge[None])[1, 1, 2]


def test_channels_close_a_hole_together() -> None:
    halves = np.stack([shell(), shell()])
    halves[0, :, :4], halves[1, :, 4:] = 0, 0
    assert nonzero_mask(halves)[3, 4, 4]


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 4, 5), (3, 4, 5)])
def test_an_image_of_zeros_gives_the_whole_volume(shape: tuple) -> None:
    mask = nonzero_mask(np.zeros((2, *shape), dtype=np.int16))
    assert mask.shape == shape
    assert mask.dtype == bool
    assert mask.all()


@settings(max_examples=60, deadline=None)
@given(masks)
def test_mask_equals_scipy_fill_holes_and_leaves_the_image_alone(image: np.ndarray) -> None:
    before = image.copy()
    expected = binary_fill_holes(image) if image.any() else np.ones_like(image)
    assert np.array_equal(nonzero_mask(image[None]), expected)
    assert np.array_equal(image, before)


@settings(max_examples=60, deadline=None)
@given(masks.filter(lambda mask: mask.any()))
def test_bounding_box_equals_that_of_acvl_utils(mask: np.ndarray) -> None:
    assert [list(side) for side in bounding_box(mask)] == get_bbox_from_mask(mask)


def test_bounding_box_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="no bounding box"):
        bounding_box(np.zeros((2, 3, 4), dtype=bool))


def test_crop_is_a_view_of_the_last_three_axes() -> None:
    image = np.arange(2 * 4 * 5 * 6).reshape(2, 4, 5, 6)
    part = crop(image, ((1, 3), (0, 5), (2, 3)))
    assert np.array_equal(part, image[:, 1:3, :, 2:3])
    assert np.shares_memory(part, image)


@settings(max_examples=40, deadline=None)
@given(masks.filter(lambda mask: mask.any()), st.sampled_from([(), (1,), (3,), (2, 2)]), st.integers(-1, 7))
def test_crop_is_undone_by_paste(mask: np.ndarray, lead: tuple, fill: int) -> None:
    array = np.random.default_rng(0).integers(10, 99, (*lead, *mask.shape)).astype(np.int16)
    box = bounding_box(mask)
    inside = np.zeros(mask.shape, dtype=bool)
    crop(inside, box)[...] = True
    whole = paste(crop(array, box), box=box, shape=mask.shape, fill=fill)
    assert whole.dtype == array.dtype
    assert np.array_equal(whole, np.where(inside, array, fill))
