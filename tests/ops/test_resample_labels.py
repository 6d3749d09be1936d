from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.transform import resize

from autoseg.ops import resample_labels as module
from autoseg.ops.resample import resize_matrix
from autoseg.ops.resample_labels import resample_labels


def one_hot_reference(labels: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """One label after the other by scikit-image, in 2-D or 3-D."""
    result = np.zeros(shape, dtype=labels.dtype)
    if labels.shape == tuple(shape):
        return labels.copy()
    for label in np.unique(labels):
        share = resize((labels == label).astype(float), shape, 1, mode="edge", anti_aliasing=False)
        result[share >= 0.5] = label
    return result


def separate_reference(labels: np.ndarray, shape: tuple[int, ...], axis: int) -> np.ndarray:
    in_plane = tuple(n for a, n in enumerate(shape) if a != axis)
    slices = [one_hot_reference(plane, in_plane) for plane in np.moveaxis(labels, axis, 0)]
    nearest = resize_matrix(labels.shape[axis], shape[axis], order=0).argmax(axis=1)
    return np.stack([slices[index] for index in nearest], axis=axis)


def reference(labels: np.ndarray, shape: tuple[int, ...], axis: int | None) -> np.ndarray:
    return one_hot_reference(labels, shape) if axis is None else separate_reference(labels, shape, axis)


def random_labels(shape: tuple[int, ...], highest: int, *, seed: int = 0, blocks: int = 1) -> np.ndarray:
    labels = np.random.default_rng(seed).integers(-1, highest + 1, shape).astype(np.int16)
    for axis in range(3):
        labels = labels.repeat(blocks, axis=axis)
    return labels


@pytest.mark.parametrize("axis", [None, 0, 1, 2])
@pytest.mark.parametrize(
    ("shape", "new_shape"),
    [
        ((9, 10, 11), (12, 7, 11)),
        ((1, 13, 6), (4, 13, 15)),
        ((8, 1, 1), (3, 1, 5)),
        ((7, 5, 9), (1, 1, 1)),
        ((1, 1, 1), (3, 2, 4)),
        ((6, 8, 10), (12, 16, 20)),  # factors 2, 0.5, 1.25 and 3 make many exact ties
        ((12, 16, 20), (6, 8, 10)),
        ((8, 12, 16), (10, 15, 20)),
        ((10, 15, 20), (8, 12, 16)),
        ((9, 12, 6), (3, 4, 2)),
        ((3, 40, 5), (13, 8, 5)),
    ],
)
@pytest.mark.parametrize("highest", [1, 2, 40])
def test_every_voxel_equals_the_one_hot_resize(shape: tuple, new_shape: tuple, axis: int | None, highest: int) -> None:
    labels = random_labels(shape, highest)
    result = resample_labels(labels, new_shape=new_shape, separate_axis=axis)
    assert np.array_equal(result, reference(labels, new_shape, axis))
    assert result.dtype == labels.dtype


def test_300_labels_in_blocks_equal_the_one_hot_resize() -> None:
    labels = np.random.default_rng(3).permutation(343).reshape(7, 7, 7).astype(np.int16) % 300
    labels = labels.repeat(2, axis=0).repeat(3, axis=1).repeat(2, axis=2)
    for shape in ((18, 26, 10), (28, 42, 28)):
        assert np.array_equal(resample_labels(labels, new_shape=shape), one_hot_reference(labels, shape))


def test_the_higher_of_two_tied_labels_wins() -> None:
    labels = np.array([1, 3, 2, 2, -1, 0], dtype=np.int8).reshape(1, 1, 6)
    assert resample_labels(labels, new_shape=(1, 1, 3)).tolist() == [[[3, 2, 0]]]


def test_a_voxel_without_half_of_any_label_becomes_background() -> None:
    labels = np.array([[[1, 2], [3, 4]]], dtype=np.uint8)
    assert resample_labels(labels, new_shape=(1, 1, 1)).tolist() == [[[0]]]


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int16, np.uint16, np.int32, np.int64])
def test_every_integer_type_is_kept_up_to_its_limits(dtype: type) -> None:
    limits = np.iinfo(dtype)
    choices = np.array([limits.min, limits.max, limits.max - 1, 0, 1], dtype=dtype)
    labels = choices[np.random.default_rng(4).integers(0, 5, (5, 6, 7))]
    for shape in ((10, 12, 14), (4, 7, 3)):
        result = resample_labels(labels, new_shape=shape)
        assert result.dtype == dtype
        assert np.array_equal(result, one_hot_reference(labels, shape))


@pytest.mark.parametrize("axis", [None, 0, 2])
def test_the_size_of_the_chunks_changes_nothing(monkeypatch: pytest.MonkeyPatch, axis: int | None) -> None:
    labels = random_labels((6, 5, 4), 3, blocks=2)
    for shape in ((17, 13, 9), (5, 4, 7)):
        expected = reference(labels, shape, axis)
        for chunk, vote in ((1, 3), (300, 50), (700, 1000)):
            monkeypatch.setattr(module, "CHUNK_VOXELS", {"cpu": chunk})
            monkeypatch.setattr(module, "VOTE_VOXELS", {"cpu": vote})
            assert np.array_equal(resample_labels(labels, new_shape=shape, separate_axis=axis), expected)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("axis", [None, 0, 1, 2])
@pytest.mark.parametrize("highest", [2, 300])
def test_a_gpu_gives_the_same_labels(axis: int | None, highest: int) -> None:
    labels = random_labels((60, 33, 70), highest)
    for shape in ((90, 50, 41), (30, 80, 70)):
        expected = resample_labels(labels, new_shape=shape, separate_axis=axis)
        found = resample_labels(labels, new_shape=shape, separate_axis=axis, device="cuda")
        assert np.array_equal(found, expected)


def test_a_device_without_float64_gives_way_to_the_cpu() -> None:
    labels = random_labels((6, 5, 4), 3)
    expected = resample_labels(labels, new_shape=(9, 4, 4))
    assert np.array_equal(resample_labels(labels, new_shape=(9, 4, 4), device="mps"), expected)


def test_views_in_any_memory_order_are_read_right() -> None:
    labels = random_labels((8, 9, 20), 3)
    for view in (labels.T, labels[::-1, :, ::2], np.asfortranarray(labels)):
        assert np.array_equal(resample_labels(view, new_shape=(7, 11, 12)), one_hot_reference(view, (7, 11, 12)))


def test_equal_shape_gives_a_copy() -> None:
    labels = random_labels((3, 4, 5), 3)
    result = resample_labels(labels, new_shape=(3, 4, 5), separate_axis=1)
    assert np.array_equal(result, labels)
    assert not np.shares_memory(result, labels)


def test_temporary_memory_stays_below_64_mb_even_for_noise() -> None:
    labels = random_labels((40, 40, 40), 1)
    tracemalloc.start()
    try:
        result = resample_labels(labels, new_shape=(110, 120, 120))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak - result.nbytes < 64e6


shapes = st.tuples(*[st.integers(1, 9)] * 3)


@settings(max_examples=40, deadline=None)
@given(shapes, shapes, st.sampled_from([None, 0, 1, 2]), st.integers(0, 6), st.integers(1, 3), st.integers(0, 99))
def test_any_shape_and_axis_equal_the_reference(
    shape: tuple, new_shape: tuple, axis: int | None, highest: int, blocks: int, seed: int
) -> None:
    labels = random_labels(shape, highest, seed=seed, blocks=blocks)
    result = resample_labels(labels, new_shape=new_shape, separate_axis=axis)
    assert np.array_equal(result, reference(labels, new_shape, axis))


@pytest.mark.parametrize(
    ("file", "new_shape", "axis"),
    [
        ("Dataset004_Hippocampus/labelsTr/hippocampus_001.nii.gz", (46, 66, 46), None),
        ("single_cases/totalsegmentator_tests/example_seg.nii.gz", (36, 80, 122), None),
        ("Dataset801_SpinalCordGM/labelsTr/sc_9709Ses1.nii.gz", (26, 150, 210), 0),
    ],
)
def test_real_label_maps_equal_the_reference(real_data: Path, file: str, new_shape: tuple, axis: int | None) -> None:
    sitk = pytest.importorskip("SimpleITK")
    labels = sitk.GetArrayFromImage(sitk.ReadImage(str(real_data / file)))
    assert labels.any()
    result = resample_labels(labels, new_shape=new_shape, separate_axis=axis)
    assert np.array_equal(result, reference(labels, new_shape, axis))
