from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from autoseg.ops.components import keep_largest

FULL = np.ones((3, 3, 3))


def reference(mask):
    """The largest of scipy's components; of equals the one whose first voxel comes first."""
    parts, count = ndimage.label(mask, structure=FULL)
    if not count:
        return np.zeros_like(mask)
    sizes = ndimage.sum_labels(mask, parts, range(1, count + 1))
    firsts = [np.flatnonzero(parts.ravel() == number)[0] for number in range(1, count + 1)]
    best = min(range(count), key=lambda index: (-sizes[index], firsts[index]))
    return parts == best + 1


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 9, 11), (7, 1, 5), (13, 4, 1), (9, 10, 11), (2, 31, 17)])
@pytest.mark.parametrize("density", [0.03, 0.12, 0.3, 0.9])
def test_equals_scipy_on_random_masks(shape, density):
    for seed in range(5):
        mask = np.random.default_rng(seed).random(shape) < density
        assert np.array_equal(keep_largest(mask), reference(mask))


@settings(max_examples=60, deadline=None)
@given(
    shape=st.tuples(*[st.integers(1, 6)] * 3),
    seed=st.integers(0, 2**32 - 1),
    density=st.floats(0, 1),
    axes=st.permutations(range(3)),
)
def test_views_give_the_same_as_copies(shape, seed, density, axes):
    mask = (np.random.default_rng(seed).random(shape) < density).transpose(axes)[::-1, :, ::-1]
    assert np.array_equal(keep_largest(mask), reference(mask.copy()))


@pytest.mark.parametrize("step", [(0, 0, 1), (0, 1, 1), (1, 1, 1), (1, -1, 1)])
def test_voxels_that_touch_at_a_face_an_edge_or_a_corner_are_connected(step):
    mask = np.zeros((4, 4, 4), bool)
    mask[1, 1, 1] = mask[tuple(np.add((1, 1, 1), step))] = True
    assert keep_largest(mask).sum() == 2


def test_of_equal_parts_the_first_in_array_order_stays():
    mask = np.zeros((3, 9, 9), bool)
    mask[0, 8, 6:9] = mask[1, 0, 0:3] = mask[2, 4, 4:7] = True
    mask[2, 8, 0] = True
    kept = keep_largest(mask)
    assert kept.sum() == 3
    assert kept[0, 8, 6:9].all()
    turned = keep_largest(mask[::-1])
    assert turned[0, 4, 4:7].all()
    assert turned.sum() == 3


def test_empty_mask_stays_empty_and_the_input_is_not_changed():
    empty = np.zeros((2, 3, 4), bool)
    assert not keep_largest(empty).any()
    mask = np.zeros((2, 3, 9), bool)
    mask[0, 0, [0, 1, 5]] = True
    before = mask.copy()
    kept = keep_largest(mask)
    assert np.array_equal(mask, before)
    assert not np.shares_memory(kept, mask)


@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 3, 3), (3, 1, 3), (3, 3, 3), (5, 9, 7), (1, 1, 21), (11, 11, 11)])
def test_most_parts_that_a_volume_can_hold(shape):
    mask = np.zeros(shape, bool)
    mask[::2, ::2, ::2] = True
    assert np.argwhere(keep_largest(mask)).tolist() == [[0, 0, 0]]


def test_more_parts_than_sixteen_bits_count():
    mask = np.zeros((85, 85, 85), bool)
    mask[::2, ::2, ::2] = True
    mask[84, 84, 83] = True  # joins the last two of 43 * 43 * 43
    assert np.argwhere(keep_largest(mask)).tolist() == [[84, 84, 82], [84, 84, 83], [84, 84, 84]]
