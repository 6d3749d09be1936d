from __future__ import annotations

import pickle
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from autoseg.core.errors import AutosegError, DataError
from autoseg.ops import normalise as module
from autoseg.ops.normalise import SCHEMES, normalise

CT = SimpleNamespace(mean=80.0, std=40.0, percentile_00_5=-100.0, percentile_99_5=300.0)


def one_channel(
    volume: np.ndarray, scheme: str, mask: np.ndarray | None = None, intensities: object = None
) -> np.ndarray:
    result = normalise(
        volume[None], schemes=[scheme], use_mask=[mask is not None], intensities=[intensities], mask=mask
    )
    assert result.dtype == np.float32
    return result[0]


def random_volume(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(50, 20, shape).astype(np.float32)


def test_ct_clips_and_standardises_with_the_statistics_of_the_data_set() -> None:
    volume = np.array([-1000, -100, 80, 120, 300, 3000], dtype=np.int16).reshape(1, 2, 3)
    result = one_channel(volume, "ct", intensities=CT)
    assert result.ravel().tolist() == [-4.5, -4.5, 0, 1, 5.5, 5.5]


def test_ct_with_equal_statistics_does_not_divide_by_zero() -> None:
    flat = SimpleNamespace(mean=7.0, std=0.0, percentile_00_5=7.0, percentile_99_5=7.0)
    assert not one_channel(random_volume(2, 3, 4), "ct", intensities=flat).any()


def test_zscore_uses_the_whole_image() -> None:
    volume = random_volume(5, 6, 7)
    expected = (volume.astype(float) - volume.mean(dtype=float)) / volume.std(dtype=float)
    np.testing.assert_allclose(one_channel(volume, "zscore"), expected, atol=1e-5)


def test_zscore_with_mask_stays_inside_and_leaves_zero_outside() -> None:
    volume = random_volume(5, 6, 7)
    mask = np.zeros(volume.shape, dtype=bool)
    mask[1:4, 2:, 3:6] = True
    inside = volume[mask].astype(float)
    result = one_channel(volume, "zscore", mask)
    np.testing.assert_allclose(result[mask], (inside - inside.mean()) / inside.std(), atol=1e-5)
    assert not result[~mask].any()


def test_only_the_channels_that_ask_for_it_use_the_mask() -> None:
    volume = random_volume(3, 4, 5)
    mask = volume > 50
    result = normalise(
        np.stack([volume, volume]),
        schemes=["zscore", "zscore"],
        use_mask=[False, True],
        intensities=[None, None],
        mask=mask,
    )
    assert np.array_equal(result[0], one_channel(volume, "zscore"))
    assert np.array_equal(result[1], one_channel(volume, "zscore", mask))


def test_statistics_of_many_voxels_stay_accurate() -> None:
    # 3 million voxels near 16 million: a float32 sum cannot hold them, and the spread is 5e-7 of the mean.
    volume = np.float32(2**24) - np.tile(np.float32([0, 8, 16, 24]), 750_000).reshape(100, 100, 300)
    np.testing.assert_allclose(
        one_channel(volume, "zscore")[0, 0, :4], np.array([3, 1, -1, -3]) / np.sqrt(5), atol=1e-6
    )


def test_the_size_of_the_blocks_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    volume = random_volume(5, 6, 7)
    whole = one_channel(volume, "zscore")
    monkeypatch.setattr(module, "BLOCK_VOXELS", 11)
    np.testing.assert_allclose(one_channel(volume, "zscore"), whole, atol=1e-6)


def test_rescale_goes_from_0_to_1() -> None:
    volume = random_volume(3, 4, 5)
    result = one_channel(volume, "rescale_0_1")
    assert (result.min(), result.max()) == (0, 1)
    np.testing.assert_allclose(result, (volume - volume.min()) / np.ptp(volume), atol=1e-6)


def test_rgb_is_divided_by_255() -> None:
    assert one_channel(np.array([[[0, 51, 255]]], dtype=np.uint8), "rgb_0_1").tolist() == [[[0, np.float32(0.2), 1]]]


@pytest.mark.parametrize("value", [-1, 256])
def test_rgb_outside_0_to_255_is_a_data_error_that_says_what_was_found(value: int) -> None:
    with pytest.raises(DataError, match=str(value)) as caught:
        one_channel(np.array([[[10, value]]]), "rgb_0_1")
    assert pickle.loads(pickle.dumps(caught.value)).problems == caught.value.problems


def test_none_only_casts() -> None:
    volume = np.array([[[-3, 0, 1200]]], dtype=np.int16)
    assert one_channel(volume, "none").tolist() == volume.tolist()


def test_each_channel_follows_its_own_scheme_and_the_image_is_left_alone() -> None:
    image = np.stack([random_volume(3, 4, 5)] * 5)
    before = image.copy()
    result = normalise(image, schemes=list(SCHEMES), use_mask=[False] * 5, intensities=[CT] + [None] * 4, mask=None)
    for channel, scheme in enumerate(SCHEMES):
        assert np.array_equal(result[channel], one_channel(image[channel], scheme, intensities=CT)), scheme
    assert np.array_equal(image, before)
    assert not np.shares_memory(result, image)


@pytest.mark.parametrize(("wrong", "hint"), [("z_score", "zscore"), ("qqqq", "rescale_0_1")])
def test_an_unknown_scheme_names_what_could_be_meant(wrong: str, hint: str) -> None:
    with pytest.raises(AutosegError, match=hint):
        one_channel(random_volume(2, 2, 2), wrong)


@pytest.mark.parametrize("value", [0.0, 0.1, 255.0, -1.7e6])
@pytest.mark.parametrize("scheme", ["zscore", "rescale_0_1"])
@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 5, 7)])
def test_a_constant_image_becomes_zero(value: float, scheme: str, shape: tuple) -> None:
    assert not one_channel(np.full(shape, value, dtype=np.float32), scheme).any()


volumes = arrays(np.float32, array_shapes(min_dims=3, max_dims=3, max_side=5), elements=st.floats(0, 255, width=32))


@settings(max_examples=40, deadline=None)
@given(volumes, st.sampled_from(list(SCHEMES)))
def test_results_are_finite_and_keep_the_order_of_intensities(volume: np.ndarray, scheme: str) -> None:
    result = one_channel(volume, scheme, intensities=CT)
    assert np.isfinite(result).all()
    assert (np.diff(result.ravel()[np.argsort(volume, axis=None)]) >= 0).all()
