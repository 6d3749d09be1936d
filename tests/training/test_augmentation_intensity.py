"""Changes of grey values equal batchgenerators and plain NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from batchgenerators.augmentations.color_augmentations import augment_contrast, augment_gamma
from hypothesis import given, settings
from hypothesis import strategies as st

from autoseg.training.augmentation.intensity import (
    add_noise,
    change_contrast,
    change_gamma,
    change_inverted_gamma,
    multiply,
)

SHAPES = [(7, 5, 6), (1, 9, 3), (8, 11), (1, 6)]


def some_planes(shape: tuple[int, ...], n: int = 3) -> np.ndarray:
    rng = np.random.default_rng(0)
    return (rng.gamma(2.0, size=(n, *shape)) * 3 - 4).astype(np.float32)


def fixed(factor: float) -> tuple[float, float]:
    """A range from which batchgenerators draws nothing but `factor`, which must be at least 1."""
    return (factor, factor)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("inverted", [False, True])
def test_gamma_equals_batchgenerators(shape: tuple[int, ...], inverted: bool) -> None:
    planes, exponents = some_planes(shape), [1.0, 1.23, 1.5]
    change = change_inverted_gamma if inverted else change_gamma
    found = change(torch.from_numpy(planes), exponents).numpy()
    for plane, exponent, mine in zip(planes, exponents, found, strict=True):
        reference = augment_gamma(
            plane[None].astype(float).copy(),
            gamma_range=fixed(exponent),
            invert_image=inverted,
            per_channel=True,
            retain_stats=True,
        )
        np.testing.assert_allclose(mine, reference[0], atol=2e-5)


@pytest.mark.parametrize("shape", SHAPES)
def test_gamma_below_one_equals_the_formula(shape: tuple[int, ...]) -> None:
    planes, exponents = some_planes(shape, n=2), [0.7, 0.95]
    found = change_gamma(torch.from_numpy(planes), exponents).numpy()
    for plane, exponent, mine in zip(planes.astype(float), exponents, found, strict=True):
        low, high = plane.min(), plane.max()
        curved = ((plane - low) / (high - low)) ** exponent
        expected = (curved - curved.mean()) / curved.std() * plane.std() + plane.mean()
        np.testing.assert_allclose(mine, expected, atol=2e-5)


def test_gamma_lifts_dark_values_and_inverted_gamma_bends_the_bright_end() -> None:
    ramp = torch.linspace(0, 1, 101)[None]
    bent, inverted = change_gamma(ramp, [0.7])[0], change_inverted_gamma(ramp, [0.7])[0]
    slope, inverted_slope = bent.diff(), inverted.diff()
    assert slope[0] > 2 * slope[-1]
    assert inverted_slope[-1] > 2 * inverted_slope[0]
    torch.testing.assert_close(inverted, 1 - bent.flip(0))


@given(
    value=st.floats(-1e4, 1e4, width=32),
    exponent=st.floats(0.7, 1.5),
    shape=st.sampled_from([(5, 4, 3), (6, 7), (1, 1)]),
)
@settings(max_examples=60, deadline=None)
def test_a_constant_plane_stays_constant_under_gamma_and_contrast(
    value: float, exponent: float, shape: tuple[int, ...]
) -> None:
    planes = torch.full((1, *shape), value)
    for change in (change_gamma, change_inverted_gamma, change_contrast):
        torch.testing.assert_close(change(planes, [exponent]), planes, atol=1e-3, rtol=1e-6)


@pytest.mark.parametrize("shape", SHAPES)
def test_contrast_equals_batchgenerators(shape: tuple[int, ...]) -> None:
    planes, factors = some_planes(shape), [1.0, 1.1, 1.25]
    found = change_contrast(torch.from_numpy(planes), factors).numpy()
    for plane, factor, mine in zip(planes, factors, found, strict=True):
        reference = augment_contrast(plane[None].astype(float).copy(), contrast_range=fixed(factor))
        np.testing.assert_allclose(mine, reference[0], atol=1e-5)


@pytest.mark.parametrize("shape", SHAPES)
def test_contrast_below_one_shrinks_towards_the_mean(shape: tuple[int, ...]) -> None:
    planes = some_planes(shape, n=2)
    found = change_contrast(torch.from_numpy(planes), [0.75, 0.9]).numpy()
    for plane, factor, mine in zip(planes, [0.75, 0.9], found, strict=True):
        mean = plane.mean(dtype=float)
        np.testing.assert_allclose(mine, mean + factor * (plane - mean), atol=1e-5)


def test_contrast_never_leaves_the_range_of_its_plane() -> None:
    planes = torch.from_numpy(some_planes((9, 9)))
    found = change_contrast(planes, [1.25] * 3)
    assert torch.equal(found.amin((1, 2)), planes.amin((1, 2)))
    assert (found <= planes.amax((1, 2), keepdim=True)).all()


def test_brightness_multiplies_each_plane_by_its_factor() -> None:
    planes = some_planes((4, 3, 5))
    found = multiply(torch.from_numpy(planes), [0.75, 1.0, 1.25]).numpy()
    np.testing.assert_allclose(found, planes * np.float32([0.75, 1.0, 1.25])[:, None, None, None])


def test_noise_has_the_given_standard_deviation_and_no_bias() -> None:
    planes = torch.full((2, 30, 30, 30), 5.0)
    field = add_noise(planes, [(0.1, 1), (0.02, 2)]) - planes
    for plane, sigma in zip(field, (0.1, 0.02), strict=True):
        assert plane.std().item() == pytest.approx(sigma, rel=0.03)
        assert abs(plane.mean().item()) < 4 * sigma / 27000**0.5


def test_noise_depends_on_its_own_seed_alone() -> None:
    planes = torch.zeros((3, 5, 6))
    together = add_noise(planes, [(1.0, 7), (1.0, 8), (1.0, 7)])
    alone = add_noise(planes[:1], [(1.0, 8)])
    assert torch.equal(together[1], alone[0])
    assert torch.equal(together[0], together[2])
    assert not torch.equal(together[0], together[1])


@pytest.mark.parametrize(
    ("change", "value"),
    [(add_noise, (0.1, 3)), (multiply, 1.2), (change_contrast, 1.2), (change_gamma, 1.2)],
)
def test_the_input_is_left_as_it_was(change, value) -> None:
    planes = torch.from_numpy(some_planes((4, 5), n=1))
    before = planes.clone()
    assert not torch.equal(change(planes, [value]), before)
    assert torch.equal(planes, before)
