"""Losses: cross-entropy plus soft Dice, for exclusive labels and overlapping regions, at several sizes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from autoseg.core.registry import Registry

SMOOTH = 1e-5
SMALLEST_DENOMINATOR = 1e-8

losses: Registry[Callable[..., Tensor]] = Registry("loss")  # over exclusive labels
region_losses: Registry[Callable[..., Tensor]] = Registry("loss for regions")


@losses.register("dice_ce")
def dice_ce(logits: Tensor, target: Tensor, *, batch_dice: bool, ignore_index: int | None = None) -> Tensor:
    """Cross-entropy (mean over annotated voxels) minus the mean soft Dice of the foreground classes.

    Args:
        logits: (B, K, *space), any float type; computed in float32.
        target: (B, 1, *space) int64, 0 .. K - 1 or `ignore_index`.
        batch_dice: one Dice per class over the whole batch instead of one per class and sample.
        ignore_index: value, not one of the classes, of voxels that count in neither part. Without any
            annotated voxel the cross-entropy is 0.

    Returns:
        Scalar float32, between -1 and infinity.
    """
    log_probabilities = functional.log_softmax(logits.float(), dim=1)
    classes = torch.arange(logits.shape[1], device=logits.device).reshape(1, -1, *[1] * (logits.ndim - 2))
    hit = target == classes
    # A sum over the true classes instead of nll_loss, whose CUDA kernel has no deterministic form.
    log_likelihood = torch.where(hit, log_probabilities, 0.0).sum()
    probabilities = log_probabilities.exp()
    count: int | Tensor = target.numel()
    if ignore_index is not None:
        annotated = target != ignore_index
        count = annotated.sum().clamp(min=1)
        probabilities = torch.where(annotated, probabilities, 0.0)
    return -log_likelihood / count - _soft_dice(probabilities[:, 1:], hit[:, 1:], batch_dice=batch_dice)


@losses.register("dice_ce_balanced")
def dice_ce_balanced(logits: Tensor, target: Tensor, *, batch_dice: bool, ignore_index: int | None = None) -> Tensor:
    """Like `dice_ce`, but the cross-entropy weighs each class by 1 / sqrt(its voxels in the batch), mean weight 1.

    Small structures are found within some dozen steps instead of after the background has been learnt; batch_dice is
    always on. Arguments and result as in `dice_ce`.
    """
    del batch_dice
    classes = logits.shape[1]
    annotated = target if ignore_index is None else target[target != ignore_index]
    counts = torch.bincount(annotated.flatten(), minlength=classes).float()
    weights = torch.where(counts > 0, counts.clamp(min=1).rsqrt(), 0.0)
    weights = weights * counts.sum() / (weights * counts).sum().clamp(min=SMALLEST_DENOMINATOR)
    ignored = -100 if ignore_index is None else ignore_index
    cross_entropy = functional.cross_entropy(
        logits.float(), target[:, 0], weight=weights, ignore_index=ignored, reduction="sum"
    ) / counts.sum().clamp(min=1)
    unweighted = dice_ce(logits, target, batch_dice=True, ignore_index=ignore_index)
    plain = functional.cross_entropy(logits.float(), target[:, 0], ignore_index=ignored, reduction="sum")
    return unweighted - plain / counts.sum().clamp(min=1) + cross_entropy


@region_losses.register("dice_bce")
def dice_bce(logits: Tensor, target_regions: Tensor, *, batch_dice: bool, mask: Tensor | None = None) -> Tensor:
    """Binary cross-entropy (mean over annotated voxels and regions) minus the mean soft Dice of all regions.

    Args:
        logits: (B, K, *space), one channel per region, any float type; computed in float32.
        target_regions: (B, K, *space) bool or 0/1.
        batch_dice: one Dice per region over the whole batch instead of one per region and sample.
        mask: (B, 1, *space) bool, True where annotated; the rest counts in neither part. None: everything is.

    Returns:
        Scalar float32, between -1 and infinity.
    """
    logits, inside = logits.float(), target_regions.bool()
    cross_entropy = functional.binary_cross_entropy_with_logits(logits, inside.float(), reduction="none")
    probabilities = logits.sigmoid()
    if mask is None:
        return cross_entropy.mean() - _soft_dice(probabilities, inside, batch_dice=batch_dice)
    count = mask.sum().clamp(min=1) * logits.shape[1]
    cross_entropy_mean = torch.where(mask, cross_entropy, 0.0).sum() / count
    probabilities = torch.where(mask, probabilities, 0.0)
    return cross_entropy_mean - _soft_dice(probabilities, inside & mask, batch_dice=batch_dice)


def _soft_dice(probabilities: Tensor, inside: Tensor, *, batch_dice: bool) -> Tensor:
    """Mean of (2 I + s) / (P + G + s) over classes (and samples) of (B, K, *space), 0 where not annotated."""
    summed = (0, *range(2, probabilities.ndim)) if batch_dice else tuple(range(2, probabilities.ndim))
    intersection = torch.where(inside, probabilities, 0.0).sum(summed)
    denominator = probabilities.sum(summed) + inside.sum(summed) + SMOOTH
    return ((2 * intersection + SMOOTH) / denominator.clamp(min=SMALLEST_DENOMINATOR)).mean()


def deep_supervision_weights(n: int) -> tuple[float, ...]:
    """Weights of n outputs, highest resolution first: halving, the last 0, with sum 1; one alone has 1."""
    if n == 1:
        return (1.0,)
    raw = [*(2.0**-i for i in range(n - 1)), 0.0]
    return tuple(weight / sum(raw) for weight in raw)


def with_deep_supervision(loss: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The weighted sum of `loss` over a network's outputs.

    The result takes (outputs, target, *, mask=None, **options): outputs is a sequence of logits, highest
    resolution first; target and mask have full resolution and are sampled down (nearest) to each output's
    shape; options are passed on. An output of weight 0 costs nothing.
    """

    def over_outputs(
        outputs: Sequence[Tensor], target: Tensor, *, mask: Tensor | None = None, **options: Any
    ) -> Tensor:
        parts = []
        for logits, weight in zip(outputs, deep_supervision_weights(len(outputs)), strict=True):
            if weight > 0:
                shape = logits.shape[2:]
                masked = {} if mask is None else {"mask": sample_nearest(mask, shape)}
                parts.append(weight * loss(logits, sample_nearest(target, shape), **masked, **options))
        return torch.stack(parts).sum()

    return over_outputs


def sample_nearest(array: Tensor, shape: Sequence[int]) -> Tensor:
    """(B, C, *space) of any type -> (B, C, *shape): the old voxel at each new centre ("nearest-exact")."""
    for axis, new in enumerate(shape, start=2):
        old = array.shape[axis]
        if old != new:
            index = (2 * torch.arange(new, device=array.device) + 1) * old // (2 * new)
            array = array.index_select(axis, index)
    return array
