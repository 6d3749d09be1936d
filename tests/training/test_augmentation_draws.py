"""Chance: reproducible per sample, with the probabilities and ranges of the reference rules."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from autoseg.training.augmentation.draws import SampleDraw, draw_sample, generator_for
from autoseg.training.augmentation.rules import AugmentationRules

N = 4000
CHANNELS = 2
RULES = AugmentationRules(
    patch_size=(8, 9, 10),
    rotation_rad=math.radians(30),
    dummy_2d=False,
    mirror_axes=(0, 2),
    mask_channels=(False,),
)


@cache
def draws() -> list[SampleDraw]:
    return [
        draw_sample(generator_for(seed=3, step=i // 8, sample=i % 8), rules=RULES, channels=CHANNELS) for i in range(N)
    ]


def assert_frequency(events: Iterable[object], p: float) -> None:
    """The share of true events lies within 4 standard errors of p (a fixed seed, so this never flickers)."""
    outcomes = np.array([bool(event) for event in events])
    assert abs(outcomes.mean() - p) < 4 * math.sqrt(p * (1 - p) / len(outcomes))


def assert_uniform(values: Iterable[float], low: float, high: float) -> None:
    """All within [low, high], reaching both ends, and spread evenly over four quarters."""
    found = np.array(list(values))
    assert len(found) > 200
    assert low <= found.min() < low + 0.05 * (high - low)
    assert high - 0.05 * (high - low) < found.max() <= high
    counts, _ = np.histogram(found, bins=4, range=(low, high))
    assert np.abs(counts / len(found) - 0.25).max() < 4 * math.sqrt(0.1875 / len(found))


def per_channel(field: str) -> list[tuple[object, ...]]:
    return [getattr(draw, field) for draw in draws()]


def present(field: str) -> list:
    return [value for channels in per_channel(field) for value in channels if value is not None]


def test_the_same_seed_step_and_sample_draw_the_same() -> None:
    first, second = (draw_sample(generator_for(seed=1, step=2, sample=3), rules=RULES, channels=2) for _ in range(2))
    assert first == second


def test_seed_step_and_sample_all_matter() -> None:
    keys = [{"seed": s, "step": t, "sample": u} for s in range(3) for t in range(3) for u in range(3)]
    assert len({generator_for(**key).random() for key in keys}) == len(keys)


def test_the_stream_differs_from_the_plain_one_of_the_same_key() -> None:
    plain = np.random.default_rng(np.random.SeedSequence((1, 2, 3))).random()
    assert generator_for(seed=1, step=2, sample=3).random() != plain


def test_rotation_and_scaling_are_independent_with_probability_a_fifth_each() -> None:
    affines = [draw.affine for draw in draws()]
    assert_frequency((a is not None for a in affines), 1 - 0.8 * 0.8)
    turned = [a is not None and any(a.rotation_rad) for a in affines]
    scaled = [a is not None and a.scale != 1 for a in affines]
    assert_frequency(turned, 0.2)
    assert_frequency(scaled, 0.2)
    assert_frequency((t and s for t, s in zip(turned, scaled, strict=True)), 0.04)
    for axis in range(3):
        angles = [a.rotation_rad[axis] for a in affines if a is not None and any(a.rotation_rad)]
        assert_uniform(angles, -math.radians(30), math.radians(30))
    assert_uniform([a.scale for a in affines if a is not None and a.scale != 1], 0.7, 1.4)


@pytest.mark.parametrize("flat", [True, False])
def test_in_a_plane_there_is_one_angle(flat: bool) -> None:
    rules = replace(RULES, dummy_2d=True) if flat else replace(RULES, patch_size=(8, 9), mirror_axes=(0, 1))
    found = [draw_sample(generator_for(seed=0, step=i, sample=0), rules=rules, channels=1) for i in range(60)]
    angles = [draw.affine.rotation_rad for draw in found if draw.affine]
    assert angles
    assert {len(angle) for angle in angles} == {1}
    sigmas = [sigma for draw in found for sigma in draw.blur if sigma]
    assert {len(sigma) for sigma in sigmas} == {len(rules.patch_size)}


def test_noise_has_one_strength_and_an_own_seed_for_each_channel() -> None:
    drawn = [channels for channels in per_channel("noise") if channels[0] is not None]
    assert_frequency((channels[0] is not None for channels in per_channel("noise")), 0.1)
    assert all(a[0] == b[0] and a[1] != b[1] for a, b in drawn)  # type: ignore[index]
    assert_uniform([channels[0][0] for channels in drawn], 0.0, 0.1)  # type: ignore[index]
    assert len({seed for _, seed in present("noise")}) == CHANNELS * len(drawn)


@pytest.mark.parametrize(("field", "p"), [("blur", 0.2), ("coarse_zoom", 0.25)])
def test_loss_of_detail_meets_half_of_the_channels_of_the_chosen_samples(field: str, p: float) -> None:
    both = [channels[0] is not None and channels[1] is not None for channels in per_channel(field)]
    for channel in range(CHANNELS):
        assert_frequency((channels[channel] is not None for channels in per_channel(field)), p * 0.5)
    assert_frequency(both, p * 0.25)


@pytest.mark.parametrize(
    ("field", "p"), [("brightness", 0.15), ("contrast", 0.15), ("inverted_gamma", 0.1), ("gamma", 0.3)]
)
def test_value_changes_meet_all_channels_with_values_of_their_own(field: str, p: float) -> None:
    assert_frequency((channels[0] is not None for channels in per_channel(field)), p)
    drawn = [channels for channels in per_channel(field) if channels[0] is not None]
    assert all(a is not None and b is not None and a != b for a, b in drawn)


@pytest.mark.parametrize(
    ("field", "low", "high"),
    [
        ("brightness", 0.75, 1.25),
        ("contrast", 0.75, 1.25),
        ("inverted_gamma", 0.7, 1.5),
        ("gamma", 0.7, 1.5),
    ],
)
def test_factors_lie_below_and_above_one_equally_often(field: str, low: float, high: float) -> None:
    values = present(field)
    assert_frequency((value < 1 for value in values), 0.5)
    assert_uniform([value for value in values if value < 1], low, 1.0)
    assert_uniform([value for value in values if value >= 1], 1.0, high)


def test_zoom_and_blur_are_uniform() -> None:
    assert_uniform(present("coarse_zoom"), 0.5, 1.0)
    for axis in range(3):
        assert_uniform([sigmas[axis] for sigmas in present("blur")], 0.5, 1.0)


def test_only_allowed_axes_are_mirrored_each_with_probability_a_half() -> None:
    mirrored = [draw.mirror for draw in draws()]
    assert_frequency((0 in axes for axes in mirrored), 0.5)
    assert_frequency((2 in axes for axes in mirrored), 0.5)
    assert_frequency((axes == (0, 2) for axes in mirrored), 0.25)
    assert not any(1 in axes for axes in mirrored)


def test_different_changes_are_drawn_independently() -> None:
    fields = ["noise", "blur", "brightness", "contrast", "coarse_zoom", "inverted_gamma", "gamma"]
    happened = np.array(
        [[any(value is not None for value in getattr(draw, field)) for field in fields] for draw in draws()]
    )
    correlation = np.corrcoef(happened.T) - np.eye(len(fields))
    assert np.abs(correlation).max() < 4.5 / math.sqrt(N)
