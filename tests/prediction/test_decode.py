"""Streamed decoding against scikit-image's resize of the whole volume, label by label."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import map_coordinates
from skimage.transform import resize

from autoseg.core.labels import LabelScheme
from autoseg.prediction import decode as module
from autoseg.prediction.decode import averaged, decode, native_rows, probabilities

LABELS = LabelScheme(declared={"background": 0, "a": 1, "b": 2, "c": 3, "d": 4})
REGIONS = LabelScheme(
    declared={"background": 0, "whole": (1, 2, 3), "core": (2, 3), "tip": (3,)}, regions_class_order=(7, 900, 3)
)
RESIZE = {"order": 1, "mode": "edge", "anti_aliasing": False}


def logits_of(n: int, shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, *shape)).astype(np.float32)


def resized(channel: np.ndarray, shape: tuple[int, ...], separate_axis: int | None) -> np.ndarray:
    channel = channel.astype(np.float64)
    if separate_axis is None:
        return resize(channel, shape, **RESIZE)
    planes = np.moveaxis(channel, separate_axis, 0)
    in_plane = tuple(n for axis, n in enumerate(shape) if axis != separate_axis)
    planes = np.stack([resize(plane, in_plane, **RESIZE) for plane in planes])
    n_in, n_out = len(planes), shape[separate_axis]
    along = n_in / n_out * (np.arange(n_out) + 0.5) - 0.5
    grid = np.meshgrid(along, *(np.arange(n) for n in in_plane), indexing="ij")
    return np.moveaxis(map_coordinates(planes, grid, order=0, mode="nearest"), 0, separate_axis)


def whole_volume(logits: np.ndarray, shape: tuple[int, ...], axis: int | None, scheme: LabelScheme) -> np.ndarray:
    volume = np.stack([resized(channel, shape, axis) for channel in logits])
    if not scheme.has_regions:
        return volume.argmax(axis=0)
    labels = np.zeros(shape, dtype=int)
    for region, value in zip(volume, scheme.regions_class_order, strict=True):
        labels[1 / (1 + np.exp(-region)) > 0.5] = value
    return labels


def in_slabs(logits: np.ndarray, rows: int) -> Iterator[torch.Tensor]:
    for start in range(0, logits.shape[1], rows):
        yield torch.from_numpy(logits[:, start : start + rows])


def streamed(
    logits: np.ndarray, shape: tuple[int, ...], axis: int | None, scheme: LabelScheme, rows: int = 3
) -> np.ndarray:
    blocks = native_rows(in_slabs(logits, rows), shape_in=logits.shape[1:], shape_out=shape, separate_axis=axis)
    return np.concatenate([decode(block, scheme) for block in blocks])


SHAPES = [
    ((12, 13, 11), (12, 13, 11)),
    ((9, 10, 11), (17, 23, 30)),
    ((21, 25, 30), (8, 11, 13)),
    ((20, 9, 14), (7, 31, 15)),
    ((5, 24, 9), (23, 7, 9)),
    ((1, 10, 11), (4, 21, 5)),
    ((10, 1, 12), (3, 5, 1)),
    ((13, 14, 1), (1, 14, 8)),
    ((1, 1, 1), (3, 1, 2)),
    ((40, 30, 20), (1, 1, 1)),
]


@pytest.mark.parametrize("scheme", [LABELS, REGIONS], ids=["labels", "regions"])
@pytest.mark.parametrize("axis", [None, 0, 1, 2])
@pytest.mark.parametrize(("shape_in", "shape_out"), SHAPES)
def test_streamed_labels_are_those_of_the_whole_volume(
    shape_in: tuple, shape_out: tuple, axis: int | None, scheme: LabelScheme
) -> None:
    logits = logits_of(scheme.n_outputs, shape_in)
    labels = streamed(logits, shape_out, axis, scheme)
    assert labels.dtype == scheme.output_dtype
    assert np.array_equal(labels, whole_volume(logits, shape_out, axis, scheme))


@pytest.mark.parametrize("shape_out", [(60, 75, 80), (30, 150, 131), (77, 40, 33)])
def test_large_volumes_agree_at_every_voxel(shape_out: tuple) -> None:
    logits = logits_of(5, (41, 60, 57), seed=5)
    expected = whole_volume(logits, shape_out, None, LABELS)
    assert (streamed(logits, shape_out, None, LABELS, rows=7) != expected).sum() == 0


@settings(max_examples=60, deadline=None)
@given(
    st.tuples(*[st.integers(1, 9)] * 3),
    st.tuples(*[st.integers(1, 13)] * 3),
    st.sampled_from([None, 0, 1, 2]),
    st.integers(1, 9),
)
def test_any_sizes_and_slabs_give_the_same_labels(
    shape_in: tuple, shape_out: tuple, axis: int | None, rows: int
) -> None:
    logits = logits_of(5, shape_in, seed=1)
    labels = streamed(logits, shape_out, axis, LABELS, rows)
    assert np.array_equal(labels, whole_volume(logits, shape_out, axis, LABELS))


def test_slabs_that_exceed_the_chunk_are_taken_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    logits = logits_of(5, (14, 12, 13))
    expected = streamed(logits, (23, 20, 9), None, LABELS, rows=14)
    monkeypatch.setattr(module, "CHUNK_BYTES", 1)
    assert np.array_equal(streamed(logits, (23, 20, 9), None, LABELS, rows=14), expected)


def test_missing_rows_are_noticed() -> None:
    slabs = in_slabs(logits_of(5, (6, 4, 4)), 3)
    with pytest.raises(AssertionError, match="cover"):
        list(native_rows(slabs, shape_in=(7, 4, 4), shape_out=(7, 4, 4), separate_axis=None))


def test_regions_are_painted_in_their_order() -> None:
    logits = torch.tensor([[2.0, 2.0, -1.0, 0.0], [-1.0, 3.0, -1.0, -2.0], [-1.0, -1.0, 1.0, -2.0]])
    assert decode(logits, REGIONS).tolist() == [7, 900, 3, 0]


def test_region_values_beyond_16_bits_survive() -> None:
    scheme = LabelScheme(
        declared={"background": 0, "whole": (1, 40_000), "core": (70_000,)}, regions_class_order=(40_000, 70_000)
    )
    logits = np.full((2, 2, 2, 2), 1.0, dtype=np.float32)
    logits[1, 0] = -1
    labels = streamed(logits, (2, 2, 2), None, scheme)
    assert (labels[0] == 40_000).all()
    assert (labels[1] == 70_000).all()


@pytest.mark.parametrize("scheme", [LABELS, REGIONS], ids=["labels", "regions"])
def test_models_are_averaged_by_their_probabilities(scheme: LabelScheme) -> None:
    logits = [logits_of(scheme.n_outputs, (9, 5, 6), seed) * 3 for seed in range(3)]
    streams = [in_slabs(one, rows) for one, rows in zip(logits, (4, 2, 9), strict=True)]
    found = torch.cat(list(averaged(streams, scheme=scheme)), dim=1)
    if scheme.has_regions:
        expected = np.mean([1 / (1 + np.exp(-one.astype(np.float64))) for one in logits], axis=0)
        labels = np.zeros((9, 5, 6), dtype=int)
        for region, value in zip(expected, scheme.regions_class_order, strict=True):
            labels[region > 0.5] = value
    else:
        shares = [np.exp(one.astype(np.float64)) for one in logits]
        expected = np.mean([share / share.sum(axis=0) for share in shares], axis=0)
        labels = expected.argmax(axis=0)
    np.testing.assert_allclose(probabilities(found, scheme).numpy(), expected, atol=1e-6)
    assert np.array_equal(decode(found, scheme), labels)


def test_a_single_model_passes_unchanged() -> None:
    logits = logits_of(5, (7, 3, 2))
    found = torch.cat(list(averaged([in_slabs(logits, 3)], scheme=LABELS)), dim=1)
    assert np.array_equal(found.numpy(), logits)


def test_models_of_different_sizes_are_no_ensemble() -> None:
    streams = [in_slabs(logits_of(5, (n, 3, 2)), 3) for n in (6, 7)]
    with pytest.raises(AssertionError, match="different sizes"):
        list(averaged(streams, scheme=LABELS))
