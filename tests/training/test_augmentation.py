"""The whole of it: types, reproducibility, order, and samples that do not see each other."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from autoseg.training.augmentation import AugmentationRules, augment, centre_crop, crop_size, rules_for
from autoseg.training.augmentation import draws as draws_module
from autoseg.training.augmentation.draws import SampleDraw, draw_sample, generator_for
from autoseg.training.augmentation.intensity import (
    add_noise,
    change_contrast,
    change_gamma,
    change_inverted_gamma,
    multiply,
)
from autoseg.training.augmentation.mirror import exchange
from autoseg.training.augmentation.resolution import blur, coarsen
from autoseg.training.augmentation.spatial import cut_centre, cut_transformed

PATCHES = [(6, 7, 5), (2, 9, 8), (9, 8), (11, 6)]
PROBABILITIES = [name for name in vars(draws_module) if name.endswith("_P")]


def rules(patch: tuple[int, ...], channels: int = 2) -> AugmentationRules:
    axes = tuple(range(len(patch)))
    return rules_for(
        patch,
        mirror_axes=axes,
        mirror_label_pairs={axes[-1]: ((1, 3),)},
        mask_channels=(True,) + (False,) * (channels - 1),
    )


def batch(patch: tuple[int, ...], n: int, channels: int = 2) -> tuple[Tensor, Tensor]:
    limits = rules(patch, channels)
    crop = crop_size(patch, rotation_rad=limits.rotation_rad, dummy_2d=limits.dummy_2d)
    generator = torch.Generator().manual_seed(0)
    image = torch.randn((n, channels, *crop), generator=generator)
    labels = torch.randint(-1, 4, (n, 1, *crop), generator=generator, dtype=torch.int16)
    return image, labels


def set_probabilities(monkeypatch: pytest.MonkeyPatch, p: float) -> None:
    for name in PROBABILITIES:
        monkeypatch.setattr(draws_module, name, p)


@pytest.mark.parametrize("patch", PATCHES)
def test_result_has_the_patch_size_training_types_and_no_negative_label(patch: tuple[int, ...]) -> None:
    image, labels = batch(patch, 12)
    before = image.clone(), labels.clone()
    new_image, new_labels = augment(image, labels, rules=rules(patch), seed=0, step=0)
    assert new_image.shape == (12, 2, *patch)
    assert new_labels.shape == (12, 1, *patch)
    assert new_image.dtype == torch.float32
    assert new_labels.dtype == torch.int64
    assert set(new_labels.unique().tolist()) <= {0, 1, 2, 3}
    assert new_image.isfinite().all()
    assert torch.equal(image, before[0])
    assert torch.equal(labels, before[1])


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_any_float_type_is_accepted(dtype: torch.dtype) -> None:
    image, labels = batch((6, 7, 5), 8)
    new_image, _ = augment(image.to(dtype), labels, rules=rules((6, 7, 5)), seed=0, step=0)
    assert new_image.dtype == torch.float32


@pytest.mark.parametrize("patch", PATCHES)
def test_the_same_step_gives_the_same_and_another_step_or_seed_another_result(patch: tuple[int, ...]) -> None:
    image, labels = batch(patch, 6)
    first, again, later, other = (
        augment(image, labels, rules=rules(patch), seed=seed, step=step)
        for seed, step in ((5, 9), (5, 9), (5, 10), (6, 9))
    )
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    assert not torch.equal(first[0], later[0])
    assert not torch.equal(first[0], other[0])


@pytest.mark.parametrize("patch", PATCHES)
@pytest.mark.parametrize("p", [None, 0.6])
def test_a_sample_does_not_depend_on_the_rest_of_the_batch(
    patch: tuple[int, ...], p: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if p is not None:
        set_probabilities(monkeypatch, p)
    image, labels = batch(patch, 9)
    together = augment(image, labels, rules=rules(patch), seed=1, step=2)
    for begin, end in ((0, 4), (4, 5), (5, 9)):
        part = augment(image[begin:end], labels[begin:end], rules=rules(patch), seed=1, step=2, first_sample=begin)
        torch.testing.assert_close(part[0], together[0][begin:end], rtol=1e-5, atol=1e-5)
        assert torch.equal(part[1], together[1][begin:end])


def by_hand(image: Tensor, labels: Tensor, draw: SampleDraw, limits: AugmentationRules) -> tuple[Tensor, Tensor]:
    """One sample (C, *crop), (1, *crop), in the order of the reference rules, written out step by step."""
    if draw.affine is None:
        image, labels = cut_centre(image, limits.patch_size), cut_centre(labels, limits.patch_size)
    else:
        image, labels = (
            x[0]
            for x in cut_transformed(
                image[None],
                labels[None],
                affines=[draw.affine],
                patch_size=limits.patch_size,
                dummy_2d=limits.dummy_2d,
            )
        )
    channels = []
    for c, channel in enumerate(image):
        plane = channel[None]
        for change, value in (
            (add_noise, draw.noise[c]),
            (blur, draw.blur[c]),
            (multiply, draw.brightness[c]),
            (change_contrast, draw.contrast[c]),
            (lambda x, zoom: coarsen(x, zoom, keep_axis_0=limits.dummy_2d), draw.coarse_zoom[c]),
            (change_inverted_gamma, draw.inverted_gamma[c]),
            (change_gamma, draw.gamma[c]),
        ):
            if value is not None:
                plane = change(plane, [value])
        channels.append(plane[0])
    image = torch.stack(channels)
    for axis in draw.mirror:
        image = image.flip(axis + 1)
        labels = exchange(labels.flip(axis + 1), limits.mirror_label_pairs.get(axis, ()))
    for c, masked in enumerate(limits.mask_channels):
        if masked:
            image[c][labels[0] < 0] = 0
    return image, labels.clamp(min=0).long()


@pytest.mark.parametrize("patch", PATCHES)
@pytest.mark.parametrize("p", [0.0, 0.5, 1.0])
def test_the_changes_are_applied_in_the_order_of_the_reference_rules(
    patch: tuple[int, ...], p: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_probabilities(monkeypatch, p)
    limits = rules(patch)
    image, labels = batch(patch, 5)
    found = augment(image, labels, rules=limits, seed=4, step=0)
    for i in range(5):
        draw = draw_sample(generator_for(seed=4, step=0, sample=i), rules=limits, channels=2)
        expected = by_hand(image[i], labels[i], draw, limits)
        torch.testing.assert_close(found[0][i], expected[0], rtol=1e-5, atol=1e-5)
        assert torch.equal(found[1][i], expected[1])


def test_a_further_label_channel_moves_with_the_target(monkeypatch: pytest.MonkeyPatch) -> None:
    set_probabilities(monkeypatch, 0.7)
    image, labels = batch((6, 7, 5), 6)
    alone = augment(image, labels, rules=rules((6, 7, 5)), seed=0, step=0)
    twice = augment(image, labels.repeat(1, 2, 1, 1, 1), rules=rules((6, 7, 5)), seed=0, step=0)
    assert torch.equal(twice[1][:, :1], alone[1])
    assert torch.equal(twice[1][:, 1:], alone[1])
    assert torch.equal(twice[0], alone[0])


def test_masked_channels_are_zero_outside_the_body_and_only_they() -> None:
    image = torch.ones((8, 2, 20, 20))
    labels = torch.full((8, 1, 20, 20), -1, dtype=torch.int16)
    labels[..., 8:12, 8:12] = 1
    limits = replace(rules((9, 8)), mirror_axes=())
    new_image, new_labels = augment(image, labels, rules=limits, seed=0, step=0)
    assert torch.equal(new_image[:, 0] == 0, new_labels[:, 0] == 0)
    assert (new_image[:, 1] != 0).float().mean() > 0.9


def test_mirroring_alone_keeps_sides(monkeypatch: pytest.MonkeyPatch) -> None:
    set_probabilities(monkeypatch, 0.0)
    monkeypatch.setattr(draws_module, "MIRROR_P", 1.0)
    labels = torch.tensor([[1, 1, 0, 2, 3, 3]], dtype=torch.int16).expand(1, 1, 4, 6)
    image = labels.float()
    limits = AugmentationRules(
        patch_size=(4, 6),
        rotation_rad=math.pi,
        dummy_2d=False,
        mirror_axes=(1,),
        mirror_label_pairs={1: ((1, 3),)},
        mask_channels=(False,),
    )
    new_image, new_labels = augment(image, labels, rules=limits, seed=0, step=0)
    assert new_image[0, 0, 0].tolist() == [3, 3, 2, 0, 1, 1]
    assert new_labels[0, 0, 0].tolist() == [1, 1, 2, 0, 3, 3]


def test_no_gradient_and_no_alias_of_the_input() -> None:
    image, labels = batch((6, 7, 5), 4)
    new_image, _ = augment(image.requires_grad_(), labels, rules=rules((6, 7, 5)), seed=0, step=0)
    assert not new_image.requires_grad
    assert new_image.is_contiguous()
    assert new_image.untyped_storage().data_ptr() != image.untyped_storage().data_ptr()


@pytest.mark.parametrize(("crop", "patch"), [((9, 8, 7), (4, 5, 7)), ((8, 9), (3, 4))])
def test_centre_crop_is_the_middle_with_background_for_outside(crop: tuple[int, ...], patch: tuple[int, ...]) -> None:
    image = torch.randn((2, 3, *crop), dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    labels = torch.randint(-1, 3, (2, 1, *crop), generator=torch.Generator().manual_seed(1)).to(torch.int16)
    new_image, new_labels = centre_crop(image, labels, patch_size=patch)
    window = tuple(slice((c - p) // 2, (c - p) // 2 + p) for c, p in zip(crop, patch, strict=True))
    assert torch.equal(new_image, image[(..., *window)].float())
    assert torch.equal(new_labels, labels[(..., *window)].long().clamp(min=0))
    assert new_labels.dtype == torch.int64


def test_samples_that_keep_their_sides_are_flipped_along_the_other_axes_only() -> None:
    rules = rules_for((6, 6, 6), mirror_axes=(0, 1, 2), mirror_label_pairs={2: ((1, 2),)}, mask_channels=[False])
    image = torch.zeros(64, 1, 6, 6, 6)
    labels = torch.zeros(64, 1, 6, 6, 6, dtype=torch.int16)
    labels[..., :1, :1, :1] = 1
    keep = [sample % 2 == 0 for sample in range(64)]
    _, found = augment(image, labels, rules=rules, seed=0, step=0, keep_sides=keep)
    _, free = augment(image, labels, rules=rules, seed=0, step=0)
    for sample in range(64):
        exchanged = bool((found[sample] == 2).any())
        assert exchanged is (False if keep[sample] else bool((free[sample] == 2).any()))
    assert (free == 2).any()
    assert any((found[sample, 0, 5] == 1).any() for sample in range(0, 64, 2))  # along the first axis
