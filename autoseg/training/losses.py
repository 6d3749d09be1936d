"""Losses: cross-entropy plus soft Dice, for exclusive labels and overlapping regions, at several sizes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from autoseg.core.registry import Registry
from autoseg.training.processes import averaged, summed, total

SMOOTH = 1e-5
SMALLEST_DENOMINATOR = 1e-8
HARDEST_SHARE = 0.1
FOCAL_GAMMA = 2

losses: Registry[Callable[..., Tensor]] = Registry("loss")  # over exclusive labels
region_losses: Registry[Callable[..., Tensor]] = Registry("loss for regions")


def _softmax_parts(
    logits: Tensor,
    target: Tensor,
    *,
    ignore_index: int | None = None,
    class_weights: Tensor | None = None,
    known: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None, Tensor | None]:
    """Cross-entropy of each voxel (B, 1, *space); probabilities and truth of the foreground; where annotated; `known`.

    With class_weights (K,), each voxel's cross-entropy is multiplied by that of its class, divided by their mean.
    With known (B, K), what a sample was not annotated for counts as background: its probability is added to that of
    the background (the marginal loss of Fang and Yan, 2020), and it has no overlap.
    """
    if known is not None:
        shape = (*known.shape, *[1] * (logits.ndim - 2))
        in_background = ~known
        in_background[:, 0] = True
        background = logits.float().masked_fill(~in_background.reshape(shape), -torch.inf).logsumexp(1, keepdim=True)
        foreground = logits.float().masked_fill(~known.reshape(shape), -torch.inf)[:, 1:]
        logits = torch.cat([background, foreground], dim=1)
    log_probabilities = functional.log_softmax(logits.float(), dim=1)
    classes = torch.arange(logits.shape[1], device=logits.device).reshape(1, -1, *[1] * (logits.ndim - 2))
    hit = target == classes
    # A sum over the true classes instead of nll_loss, whose CUDA kernel has no deterministic form.
    entropy = -torch.where(hit, log_probabilities, 0.0).sum(1, keepdim=True)
    probabilities = log_probabilities.exp()
    annotated = None if ignore_index is None else target != ignore_index
    if annotated is not None:
        probabilities = torch.where(annotated, probabilities, 0.0)
    if class_weights is not None:
        shape = (1, -1, *[1] * (logits.ndim - 2))
        weights = torch.where(hit, class_weights.to(entropy).reshape(shape), 0.0).sum(1, keepdim=True)
        entropy = entropy * weights / _mean(weights, annotated).clamp(min=SMALLEST_DENOMINATOR)
    return entropy, probabilities[:, 1:], hit[:, 1:], annotated, None if known is None else known[:, 1:]


def _sigmoid_parts(
    logits: Tensor,
    regions: Tensor,
    *,
    mask: Tensor | None = None,
    class_weights: Tensor | None = None,
    known: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None, Tensor | None]:
    """Binary cross-entropy of each voxel and region (B, K, *space); probabilities and truth; where annotated; `known`.

    With known (B, K), a sample counts nowhere for the regions that it was not annotated for.
    """
    if known is not None:
        mask = known.reshape(*known.shape, *[1] * (logits.ndim - 2)) & (True if mask is None else mask)
    logits, inside = logits.float(), regions.bool()
    entropy = functional.binary_cross_entropy_with_logits(logits, inside.float(), reduction="none")
    probabilities = logits.sigmoid()
    if mask is not None:
        mask = mask.expand_as(logits)
        probabilities, inside = torch.where(mask, probabilities, 0.0), inside & mask
    if class_weights is not None:
        shape = (1, -1, *[1] * (logits.ndim - 2))
        entropy = entropy * (class_weights / class_weights.mean()).to(entropy).reshape(shape)
    return entropy, probabilities, inside, mask, known


def _mean(values: Tensor, counted: Tensor | None) -> Tensor:
    """Mean of the counted values, over all processes; 0 when none is."""
    if counted is None:
        return averaged(values.mean())
    return summed(torch.where(counted, values, 0.0).sum()) / total(counted.sum()).clamp(min=1)


def _hardest(values: Tensor, counted: Tensor | None) -> Tensor:
    """Mean of the highest tenth of the counted values (of each process, averaged); 0 when none is."""
    chosen = values.flatten() if counted is None else values[counted]
    if not chosen.numel():
        return averaged(values.sum() * 0)
    return averaged(chosen.topk(max(1, int(HARDEST_SHARE * chosen.numel())), sorted=False).values.mean())


def _overlap(
    probabilities: Tensor,
    inside: Tensor,
    known: Tensor | None,
    *,
    batch_dice: bool,
    false_positives: float,
    false_negatives: float,
) -> Tensor:
    """Mean over classes (and samples) of the Tversky index of (B, K, *space), both 0 where not annotated.

    I / (I + a FP + b FN), smoothed so that weights of 0.5 give the soft Dice (2 I + s) / (P + G + s). Where `known`
    (B, K) is False it counts in no mean.
    """
    space = tuple(range(2, probabilities.ndim))
    intersection = torch.where(inside, probabilities, 0.0).sum(space)
    predicted, true = probabilities.sum(space), inside.sum(space).float()
    if batch_dice:
        intersection, predicted, true = summed(torch.stack([intersection.sum(0), predicted.sum(0), true.sum(0)]))
        known = None if known is None else total(known.sum(0)) > 0
    denominator = 2 * (1 - false_positives - false_negatives) * intersection + SMOOTH
    denominator = denominator + 2 * false_positives * predicted + 2 * false_negatives * true
    return _mean((2 * intersection + SMOOTH) / denominator.clamp(min=SMALLEST_DENOMINATOR), known)


@dataclass(frozen=True, kw_only=True)
class OverlapAndEntropy:
    """A mean of the voxels' cross-entropy minus the mean overlap (soft Dice or Tversky index) of the classes.

    `parts` makes them of logits and truth, for exclusive labels (_softmax_parts) or regions (_sigmoid_parts).
    """

    parts: Callable[..., tuple[Tensor, Tensor, Tensor, Tensor | None, Tensor | None]]
    mean: Callable[[Tensor, Tensor | None], Tensor] = _mean
    false_positives: float = 0.5
    false_negatives: float = 0.5

    def __call__(self, logits: Tensor, target: Tensor, *, batch_dice: bool, **options: Any) -> Tensor:
        """The loss.

        Args:
            logits: (B, K, *space), any float type; computed in float32.
            target: (B, 1, *space) int64, 0 .. K - 1 or `ignore_index`; for regions (B, K, *space) bool or 0/1.
            batch_dice: one overlap per class over the whole batch instead of one per class and sample.
            **options: class_weights (K,), of the classes in the cross-entropy, scaled to mean 1; ignore_index, the
                label of voxels that count in neither part; for regions instead mask (B, 1 or K, *space), True where
                annotated; known (B, K), True where a sample was annotated for an output. Without any annotated voxel
                the cross-entropy is 0.

        Returns:
            Scalar float32, between -1 and infinity.
        """
        entropy, probabilities, inside, annotated, known = self.parts(logits, target, **options)
        overlap = _overlap(
            probabilities,
            inside,
            known,
            batch_dice=batch_dice,
            false_positives=self.false_positives,
            false_negatives=self.false_negatives,
        )
        return self.mean(entropy, annotated) - overlap


def _focal_mean(entropy: Tensor, counted: Tensor | None) -> Tensor:
    """Mean of (1 - p)^2 times the cross-entropy, p the probability of the truth (Lin et al., 2017, gamma 2)."""
    return _mean((-torch.expm1(-entropy)) ** FOCAL_GAMMA * entropy, counted)


dice_ce = losses.register("dice_ce")(OverlapAndEntropy(parts=_softmax_parts))
dice_bce = region_losses.register("dice_bce")(OverlapAndEntropy(parts=_sigmoid_parts))
for registry, parts, entropy in ((losses, _softmax_parts, "ce"), (region_losses, _sigmoid_parts, "bce")):
    registry.register("dice_topk")(OverlapAndEntropy(parts=parts, mean=_hardest))
    registry.register("dice_focal")(OverlapAndEntropy(parts=parts, mean=_focal_mean))
    # what is missed counts more than what is too much (Salehi et al., 2017)
    registry.register(f"tversky_{entropy}")(OverlapAndEntropy(parts=parts, false_positives=0.3, false_negatives=0.7))


@losses.register("dice_ce_balanced")
def dice_ce_balanced(
    logits: Tensor,
    target: Tensor,
    *,
    batch_dice: bool,
    ignore_index: int | None = None,
    class_weights: Tensor | None = None,
    known: Tensor | None = None,
    balance: float = 1.0,
) -> Tensor:
    """Like `dice_ce`, with class weights (times those given) of (voxels of the class in the batch)^(-balance / 2).

    Small structures are found within some dozen steps instead of after the background has been learnt; batch_dice is
    always on. With `balance` 0 all classes weigh the same. Other arguments and result as in `dice_ce`.
    """
    del batch_dice
    annotated = target if ignore_index is None else target[target != ignore_index]
    counts = total(torch.bincount(annotated.flatten(), minlength=logits.shape[1]).float())
    weights = torch.where(counts > 0, counts.clamp(min=1) ** (-balance / 2), 0.0)
    if class_weights is not None:
        weights = weights * class_weights.to(weights)
    options = {"ignore_index": ignore_index, "class_weights": weights, "known": known}
    return dice_ce(logits, target, batch_dice=True, **options)


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
