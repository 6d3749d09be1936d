from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from skimage.transform import resize

from autoseg.ops import resample
from autoseg.ops.resample import resample_image, resize_axis, resize_matrix, separate_axis

# From the size of the data to the largest difference: float32 rounding through three products.
ROUNDING = 1e-5

SHAPES = [
    ((9, 10, 11), (12, 7, 11)),
    ((1, 13, 6), (4, 13, 15)),
    ((8, 1, 1), (3, 1, 5)),
    ((7, 5, 9), (1, 1, 1)),
    ((1, 1, 1), (3, 2, 4)),
    ((6, 8, 10), (12, 16, 20)),
    ((12, 16, 20), (6, 8, 10)),
    ((3, 70, 5), (3, 141, 5)),
    ((140, 2, 3), (67, 2, 4)),
    ((2, 3, 150), (5, 4, 201)),
]


def skimage_resize(image: np.ndarray, shape: tuple[int, ...], order: int) -> np.ndarray:
    return np.stack([resize(c.astype(float), shape, order, mode="edge", anti_aliasing=False) for c in image])


def separate_reference(
    image: np.ndarray, shape: tuple[int, ...], axis: int, order: int, order_separate: int
) -> np.ndarray:
    """Every 2-D slice by scikit-image, then the remaining axis by SciPy's map_coordinates."""
    in_plane = tuple(n for a, n in enumerate(shape) if a != axis)
    channels = []
    for channel in image.astype(float):
        slices = [resize(s, in_plane, order, mode="edge", anti_aliasing=False) for s in np.moveaxis(channel, axis, 0)]
        stack = np.stack(slices, axis=axis)
        if stack.shape != shape:
            coordinates = np.indices(shape, dtype=float)
            coordinates[axis] = stack.shape[axis] / shape[axis] * (coordinates[axis] + 0.5) - 0.5
            stack = ndimage.map_coordinates(stack, coordinates, order=order_separate, mode="nearest")
        channels.append(stack)
    return np.stack(channels)


def random_image(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(100, 50, shape).astype(np.float32)


def assert_close(result: np.ndarray, expected: np.ndarray) -> None:
    assert result.shape == expected.shape
    assert result.dtype == np.float32
    assert np.abs(result - expected).max() <= ROUNDING * np.abs(expected).max()


@pytest.mark.parametrize(
    ("current", "new", "axis"),
    [
        ((1.0, 1.0, 1.0), (1.0, 1.0, 1.0), None),
        ((3.0, 1.0, 1.0), (3.0, 1.0, 1.0), None),  # exactly 3 is not above 3
        ((3.1, 1.0, 1.0), (1.0, 1.0, 1.0), 0),
        ((1.0, 0.8, 5.0), (9.0, 1.0, 1.0), 2),  # the current spacing decides first
        ((1.0, 1.0, 1.0), (1.0, 4.0, 1.0), 1),
        ((4.0, 4.0, 1.0), (9.0, 1.0, 1.0), None),  # shared maximum: the new spacing is not asked
        ((1.0, 1.0, 1.0), (1.25, 0.24, 1.25), None),
    ],
)
def test_separate_axis_follows_the_rule(current: tuple, new: tuple, axis: int | None) -> None:
    assert separate_axis(current, new) == axis


@pytest.mark.parametrize("order", range(6))
@pytest.mark.parametrize(("n_in", "n_out"), [(1, 1), (1, 5), (5, 1), (7, 7), (7, 14), (14, 7), (33, 50), (50, 33)])
def test_resize_matrix_is_the_resize_of_scikit_image(n_in: int, n_out: int, order: int) -> None:
    signal = np.random.default_rng(1).normal(size=n_in)
    expected = resize(signal, (n_out,), order, mode="edge", anti_aliasing=False, clip=False)
    np.testing.assert_allclose(resize_matrix(n_in, n_out, order=order) @ signal, expected, atol=1e-8)


def test_nearest_matrix_is_map_coordinates_also_on_ties() -> None:
    for n_in in range(1, 25):
        for n_out in range(1, 25):
            coordinates = n_in / n_out * (np.arange(n_out) + 0.5) - 0.5
            expected = ndimage.map_coordinates(np.arange(float(n_in)), [coordinates], order=0, mode="nearest")
            matrix = resize_matrix(n_in, n_out, order=0)
            assert np.array_equal(matrix @ np.arange(n_in), expected), (n_in, n_out)
            assert np.array_equal(np.sort(matrix, axis=1)[:, -1], np.ones(n_out))


def test_resize_matrix_has_no_tiny_weights_and_cannot_be_changed() -> None:
    matrix = resize_matrix(200, 250, order=3)
    assert np.abs(matrix[matrix != 0]).min() >= 1e-10
    assert (matrix == 0).mean() > 0.5
    with pytest.raises(ValueError, match="read-only"):
        matrix[0, 0] = 1


@pytest.mark.parametrize("axis", [0, 1, 2, 3])
def test_resize_axis_multiplies_any_axis_of_any_rank(axis: int) -> None:
    volume = torch.from_numpy(random_image(3, 80, 4, 70))
    matrix = np.random.default_rng(2).normal(size=(150, volume.shape[axis]))
    matrix[:90, : volume.shape[axis] // 2] = 0
    expected = np.moveaxis(np.tensordot(matrix, volume.numpy().astype(float), (1, axis)), 0, axis)
    np.testing.assert_allclose(resize_axis(volume, matrix, axis=axis), expected, rtol=1e-4, atol=0.02)


def test_some_rows_of_a_matrix_give_that_part_of_the_result() -> None:
    volume, matrix = torch.from_numpy(random_image(5, 90, 6)), resize_matrix(90, 130, order=3)
    whole = resize_axis(volume, matrix, axis=1)
    torch.testing.assert_close(resize_axis(volume, matrix[70:101], axis=1), whole[:, 70:101])


def test_products_are_true_float32_whatever_training_has_set(monkeypatch: pytest.MonkeyPatch) -> None:
    seen, product = [], torch.mm

    def spy(*args, **kwargs):
        seen.append(torch.get_float32_matmul_precision())
        return product(*args, **kwargs)

    monkeypatch.setattr(resample.torch, "mm", spy)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        resample_image(random_image(1, 4, 5, 6), new_shape=(8, 5, 9))
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision(before)
    assert seen == ["highest", "highest"]


def test_threads_that_overlap_leave_the_precision_of_products_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    first_is_in, second_is_in, first_is_out = (threading.Event() for _ in range(3))
    product = torch.mm

    def staggered(*args, **kwargs):
        if threading.current_thread().name == "first":
            first_is_in.set()
            assert second_is_in.wait(30)
        else:
            second_is_in.set()
            assert first_is_out.wait(30)
            seen.append(torch.get_float32_matmul_precision())
        return product(*args, **kwargs)

    def resize() -> None:
        resize_axis(torch.ones(4, 5), resize_matrix(4, 6, order=1), axis=0)

    seen: list[str] = []
    monkeypatch.setattr(resample.torch, "mm", staggered)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        threads = [threading.Thread(target=resize, name=name) for name in ("first", "second")]
        threads[0].start()
        assert first_is_in.wait(30)
        threads[1].start()
        threads[0].join(30)
        first_is_out.set()
        threads[1].join(30)
        assert (seen, torch.get_float32_matmul_precision()) == (["highest"], "high")
    finally:
        torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize("order", [0, 1, 2, 3, 5])
@pytest.mark.parametrize(("shape", "new_shape"), SHAPES)
def test_resample_image_is_scikit_image_per_channel(shape: tuple, new_shape: tuple, order: int) -> None:
    image = random_image(2, *shape)
    image[1] -= 300
    assert_close(resample_image(image, new_shape=new_shape, order=order), skimage_resize(image, new_shape, order))


def test_result_is_clipped_to_the_range_of_each_channel() -> None:
    image = np.zeros((2, 6, 8, 8), dtype=np.float32)
    image[0, 2:4, 3:5, 3:6] = 1
    image[1] = image[0] * 10 - 5
    result = resample_image(image, new_shape=(13, 17, 15))
    assert (result[0].min(), result[0].max()) == (0, 1)
    assert (result[1].min(), result[1].max()) == (-5, 5)
    free = resize(image[0].astype(float), (13, 17, 15), 3, mode="edge", anti_aliasing=False, clip=False)
    assert free.min() < -0.01  # the step does overshoot: clipping had something to do
    assert free.max() > 1.01


@pytest.mark.parametrize("order_separate", [0, 1, 3])
@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize(("shape", "new_shape"), SHAPES)
def test_separate_axis_is_slices_first_then_that_axis(
    shape: tuple, new_shape: tuple, axis: int, order_separate: int
) -> None:
    image = random_image(2, *shape)
    result = resample_image(image, new_shape=new_shape, separate_axis=axis, order_separate=order_separate)
    assert_close(result, separate_reference(image, new_shape, axis, 3, order_separate))


def test_each_slice_keeps_its_own_range_along_a_separate_axis() -> None:
    image = np.zeros((1, 2, 8, 8), dtype=np.float32)
    image[0, 0, 3:5, 3:5] = 1
    image[0, 1] = 100 * image[0, 0]
    result = resample_image(image, new_shape=(4, 17, 15), separate_axis=0)
    assert [slice_.max() for slice_ in result[0]] == [1, 1, 100, 100]


@pytest.mark.parametrize("axis", [None, 0, 2])
def test_equal_shape_gives_a_copy(axis: int | None) -> None:
    image = random_image(2, 3, 4, 5)
    result = resample_image(image, new_shape=(3, 4, 5), separate_axis=axis)
    assert np.array_equal(result, image)
    assert not np.shares_memory(result, image)


@pytest.mark.parametrize("axis", [None, 0, 1])
def test_the_input_is_left_alone_and_may_be_a_read_only_view(axis: int | None) -> None:
    whole = random_image(2, 5, 6, 14)
    view = whole[..., ::2]
    view.flags.writeable = False
    before = whole.copy()
    expected = resample_image(view.copy(), new_shape=(9, 6, 5), separate_axis=axis)
    assert_close(resample_image(view, new_shape=(9, 6, 5), separate_axis=axis), expected)
    assert np.array_equal(whole, before)


def test_constant_stays_constant() -> None:
    result = resample_image(np.full((1, 4, 5, 6), 0.1, dtype=np.float32), new_shape=(7, 3, 11))
    assert np.array_equal(np.unique(result), np.array([0.1], dtype=np.float32))


shapes = st.tuples(*[st.integers(1, 9)] * 3)


@settings(max_examples=40, deadline=None)
@given(shapes, shapes, st.sampled_from([None, 0, 1, 2]), st.integers(0, 5), st.integers(0, 99))
def test_any_shape_order_and_axis_agree_with_the_reference(
    shape: tuple, new_shape: tuple, axis: int | None, order: int, seed: int
) -> None:
    image = random_image(1, *shape, seed=seed)
    result = resample_image(image, new_shape=new_shape, separate_axis=axis, order=order)
    if axis is None:
        assert_close(result, skimage_resize(image, new_shape, order))
    else:
        assert_close(result, separate_reference(image, new_shape, axis, order, 0))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("axis", [None, 0, 1, 2])
def test_a_gpu_gives_the_same_numbers(axis: int | None) -> None:
    image = random_image(2, 70, 33, 90)
    result = resample_image(image, new_shape=(40, 50, 120), separate_axis=axis, device="cuda")
    assert_close(result, resample_image(image, new_shape=(40, 50, 120), separate_axis=axis))


@pytest.mark.parametrize(
    ("file", "new_shape", "axis"),
    [
        ("Dataset004_Hippocampus/imagesTr/hippocampus_003_0000.nii.gz", (46, 68, 44), None),
        ("single_cases/totalsegmentator_tests/example_ct_sm.nii.gz", (40, 80, 130), None),
        ("Dataset801_SpinalCordGM/imagesTr/sc_9709Ses1_0000.nii.gz", (26, 150, 210), 0),
    ],
)
def test_real_volumes_agree_with_the_reference(real_data: Path, file: str, new_shape: tuple, axis: int | None) -> None:
    sitk = pytest.importorskip("SimpleITK")
    image = sitk.GetArrayFromImage(sitk.ReadImage(str(real_data / file)))[None].astype(np.float32)
    result = resample_image(image, new_shape=new_shape, separate_axis=axis)
    if axis is None:
        assert_close(result, skimage_resize(image, new_shape, 3))
    else:
        assert_close(result, separate_reference(image, new_shape, axis, 3, 0))
