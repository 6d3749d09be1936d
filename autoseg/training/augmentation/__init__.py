"""Random changes to a batch of training patches, as tensor code that runs where the batch is.

What happens to a sample is drawn first (`draws`), from (seed, step, sample) alone; then each change is
applied to those samples and channels for which it was drawn. The rest of the batch pays nothing for it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeVar

import torch
from torch import Tensor

from autoseg.training.augmentation.draws import SampleDraw, draw_sample, generator_for
from autoseg.training.augmentation.intensity import (
    add_noise,
    change_contrast,
    change_gamma,
    change_inverted_gamma,
    multiply,
)
from autoseg.training.augmentation.mirror import flip
from autoseg.training.augmentation.resolution import blur, coarsen
from autoseg.training.augmentation.rules import AugmentationRules, crop_size, rules_for
from autoseg.training.augmentation.spatial import cut_centre, cut_transformed
from autoseg.training.augmentation.stage import perturb

__all__ = ["AugmentationRules", "augment", "centre_crop", "crop_size", "perturb", "rules_for"]

T = TypeVar("T")


@torch.no_grad()
def augment(
    image: Tensor,
    labels: Tensor,
    *,
    rules: AugmentationRules,
    seed: int,
    step: int,
    first_sample: int = 0,
    keep_sides: Sequence[bool] = (),
) -> tuple[Tensor, Tensor]:
    """Augment a batch of crops and cut the training patches out of them.

    Args:
        image: (B, C, *crop) of any float type; crop is at least the patch, see `crop_size`.
        labels: (B, L, *crop) integers, -1 outside the image. Channel 0 is the target (its -1 tells what
            `mask_channels` blanks); further ones, such as an earlier stage's segmentation, move with it.
        rules: limits of the changes, from `rules_for`.
        seed: of the run, >= 0.
        step: training step, >= 0.
        first_sample: number of this batch's first sample within the step, when several devices share a batch.
        keep_sides: per sample, whether it must not be mirrored along an axis that exchanges labels (default: none).

    Returns:
        image (B, C, *patch) float32 and labels (B, L, *patch) int64 without -1, on the device of the input.
        Equal (seed, step, sample) give equal results whatever else is in the batch.
    """
    batch, channels = image.shape[:2]
    samples = range(first_sample, first_sample + batch)
    draws = [
        draw_sample(generator_for(seed=seed, step=step, sample=sample), rules=rules, channels=channels)
        for sample in samples
    ]
    for sample, keep in enumerate(keep_sides):
        if keep:
            allowed = tuple(axis for axis in draws[sample].mirror if axis not in rules.mirror_label_pairs)
            draws[sample] = replace(draws[sample], mirror=allowed)
    image, labels = _cut_patches(image, labels, draws=draws, rules=rules)
    _change_values(image.flatten(0, 1), draws=draws, rules=rules)
    _mirror(image, labels, draws=draws, rules=rules)
    outside = labels[:, 0] < 0
    for channel, masked in enumerate(rules.mask_channels):
        if masked:
            image[:, channel].masked_fill_(outside, 0.0)
    return image, labels.long().clamp_(min=0)


def centre_crop(image: Tensor, labels: Tensor, *, patch_size: Sequence[int]) -> tuple[Tensor, Tensor]:
    """What `augment` does without chance, for validation.

    image (B, C, *crop) -> (B, C, *patch) float32, labels (B, L, *crop) -> (B, L, *patch) int64 with 0 for -1.
    """
    return cut_centre(image, patch_size).float(), cut_centre(labels, patch_size).long().clamp(min=0)


def _cut_patches(
    image: Tensor, labels: Tensor, *, draws: Sequence[SampleDraw], rules: AugmentationRules
) -> tuple[Tensor, Tensor]:
    patch = rules.patch_size
    new_image = torch.empty((*image.shape[:2], *patch), dtype=torch.float32, device=image.device)
    new_image.copy_(cut_centre(image, patch))
    new_labels = cut_centre(labels, patch).clone(memory_format=torch.contiguous_format)
    chosen, affines = _drawn([draw.affine for draw in draws])
    if chosen:
        new_image[chosen], new_labels[chosen] = cut_transformed(
            image[chosen].float(), labels[chosen], affines=affines, patch_size=patch, dummy_2d=rules.dummy_2d
        )
    return new_image, new_labels


def _change_values(planes: Tensor, *, draws: Sequence[SampleDraw], rules: AugmentationRules) -> None:
    """Apply the changes of grey values, in order, to planes (B * C, *patch) in place."""

    def apply(change: Callable[[Tensor, list[T]], Tensor], values: list[T | None]) -> None:
        chosen, drawn = _drawn(values)
        if chosen:
            planes[chosen] = change(planes[chosen], drawn)

    def coarsen_freely(some: Tensor, zooms: list[float]) -> Tensor:
        return coarsen(some, zooms, keep_axis_0=rules.dummy_2d)

    apply(add_noise, [value for draw in draws for value in draw.noise])
    apply(blur, [value for draw in draws for value in draw.blur])
    apply(multiply, [value for draw in draws for value in draw.brightness])
    apply(change_contrast, [value for draw in draws for value in draw.contrast])
    apply(coarsen_freely, [value for draw in draws for value in draw.coarse_zoom])
    apply(change_inverted_gamma, [value for draw in draws for value in draw.inverted_gamma])
    apply(change_gamma, [value for draw in draws for value in draw.gamma])


def _mirror(image: Tensor, labels: Tensor, *, draws: Sequence[SampleDraw], rules: AugmentationRules) -> None:
    """Flip samples in place; those with the same axes together."""
    for axes in sorted({draw.mirror for draw in draws if draw.mirror}):
        chosen = [sample for sample, draw in enumerate(draws) if draw.mirror == axes]
        pairs = [pair for axis in axes for pair in rules.mirror_label_pairs.get(axis, ())]
        image[chosen], labels[chosen] = flip(image[chosen], labels[chosen], axes=axes, pairs=pairs)


def _drawn(values: Sequence[T | None]) -> tuple[list[int], list[T]]:
    """Positions and values of the entries that are not None."""
    kept = [(position, value) for position, value in enumerate(values) if value is not None]
    return [position for position, _ in kept], [value for _, value in kept]
