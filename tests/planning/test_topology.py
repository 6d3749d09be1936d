"""Strides and kernels follow spacing and size; every stride divides the patch."""

from __future__ import annotations

from math import prod

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoseg.planning.topology import MIN_EDGE, topology

ISO = (1, 1, 1)
AXES = st.integers(2, 3)


def test_prostate_becomes_isotropic_on_the_way_down() -> None:
    shape = topology((3.6, 0.62, 0.62), (20, 320, 256))
    assert shape.patch_size == (20, 320, 256)
    assert shape.strides == (ISO, (1, 2, 2), (1, 2, 2), (2, 2, 2), (2, 2, 2), (1, 2, 2), (1, 2, 2))
    assert shape.kernel_sizes == ((1, 3, 3), (1, 3, 3), *[(3, 3, 3)] * 5)


def test_hippocampus_has_four_stages_and_a_padded_patch() -> None:
    shape = topology(ISO, (36, 50, 35))
    assert shape.patch_size == (40, 56, 40)
    assert shape.strides == (ISO, (2, 2, 2), (2, 2, 2), (2, 2, 2))
    assert shape.kernel_sizes == ((3, 3, 3),) * 4
    assert shape.divisor == (8, 8, 8)


def test_lung_has_six_stages() -> None:
    shape = topology((1.24, 0.785, 0.785), (80, 192, 160))
    assert len(shape.strides) == 6
    assert shape.divisor == (16, 32, 32)


@pytest.mark.parametrize(
    ("patch", "strides"),
    [
        ((7, 7, 7), [ISO]),
        ((8, 7, 7), [ISO]),  # alone, an axis is halved from 12 voxels on
        ((11, 4, 1), [ISO]),
        ((12, 7, 7), [ISO, (2, 1, 1)]),
        ((8, 8, 7), [ISO, (2, 2, 1)]),
        ((1, 1, 1), [ISO]),
    ],
)
def test_small_axes_are_not_halved(patch: tuple[int, ...], strides: list[tuple[int, ...]]) -> None:
    shape = topology(ISO, patch)
    assert [*shape.strides] == strides
    assert all(padded >= size for padded, size in zip(shape.patch_size, patch, strict=True))


def test_an_axis_twice_as_coarse_waits_with_pooling_and_with_its_kernel() -> None:
    just_below, just_at = (topology((ratio, 1, 1), (64, 64, 64)) for ratio in (1.999, 2.0))
    assert just_below.strides[1] == (2, 2, 2)
    assert just_below.kernel_sizes[0] == (3, 3, 3)
    assert just_at.strides[1] == (1, 2, 2)
    assert just_at.kernel_sizes[0] == (1, 3, 3)
    assert just_at.kernel_sizes[1] == (3, 3, 3)


@settings(max_examples=300, deadline=None)
@given(st.data(), AXES)
def test_strides_divide_the_patch_and_leave_a_bottleneck(data: st.DataObject, dimensions: int) -> None:
    spacing = data.draw(st.lists(st.floats(0.05, 12), min_size=dimensions, max_size=dimensions))
    size = data.draw(st.lists(st.integers(1, 700), min_size=dimensions, max_size=dimensions))
    shape = topology(spacing, size)
    assert len(shape.kernel_sizes) == len(shape.strides)
    assert set(shape.strides[0]) == {1}
    assert {k for kernel in shape.kernel_sizes for k in kernel} <= {1, 3}
    assert set(shape.kernel_sizes[-1]) == {3}
    for axis in range(dimensions):
        along = prod(stride[axis] for stride in shape.strides)
        assert shape.divisor[axis] == along
        assert shape.patch_size[axis] % along == 0
        assert 0 <= shape.patch_size[axis] - size[axis] < along
        assert along == 1 or shape.patch_size[axis] // along >= MIN_EDGE
        once_three = [kernel[axis] == 3 for kernel in shape.kernel_sizes]
        assert once_three == sorted(once_three)  # a kernel never shrinks again
