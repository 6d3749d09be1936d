"""Losses equal their formulas, written anew in NumPy and checked where the answer is known."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from autoseg.training.losses import (
    deep_supervision_weights,
    dice_bce,
    dice_ce,
    losses,
    region_losses,
    sample_nearest,
    with_deep_supervision,
)

SPACES = [(4, 5, 3), (1, 6, 2), (7, 5), (1, 1)]
IGNORE = 3


def logits_and_target(space: tuple[int, ...], ignore: bool = False) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn((3, 3, *space), generator=generator)
    target = torch.randint(0, 4 if ignore else 3, (3, 1, *space), generator=generator)
    return logits, target


def numpy_dice(p: np.ndarray, t: np.ndarray, *, batch_dice: bool) -> float:
    """p, t: (B, K, voxels) float64, already 0 where not annotated."""
    if batch_dice:
        p, t = (x.swapaxes(0, 1).reshape(1, x.shape[1], -1) for x in (p, t))
    scores = []
    for sample in range(p.shape[0]):
        for k in range(p.shape[1]):
            top = 2 * float(np.dot(p[sample, k], t[sample, k])) + 1e-5
            scores.append(top / max(p[sample, k].sum() + t[sample, k].sum() + 1e-5, 1e-8))
    return float(np.mean(scores))


def numpy_dice_ce(logits: Tensor, target: Tensor, *, batch_dice: bool, ignore: int | None) -> float:
    x = logits.double().flatten(2).numpy()
    y = target.flatten(2).numpy()[:, 0]
    p = np.exp(x) / np.exp(x).sum(axis=1, keepdims=True)
    nll, hot = [], np.zeros_like(p)
    annotated = np.ones(y.shape) if ignore is None else (y != ignore).astype(float)
    for b, v in np.argwhere(annotated):
        nll.append(-math.log(p[b, y[b, v], v]))
        hot[b, y[b, v], v] = 1
    p = p * annotated[:, None]
    return (float(np.mean(nll)) if nll else 0.0) - numpy_dice(p[:, 1:], hot[:, 1:], batch_dice=batch_dice)


def numpy_dice_bce(logits: Tensor, regions: Tensor, *, batch_dice: bool, mask: Tensor | None) -> float:
    x, t = logits.double().flatten(2).numpy(), regions.double().flatten(2).numpy()
    m = np.ones_like(x) if mask is None else np.broadcast_to(mask.double().flatten(2).numpy(), x.shape)
    p = 1 / (1 + np.exp(-x))
    entropy = -(t * np.log(p) + (1 - t) * np.log(1 - p))
    return float((entropy * m).sum() / max(m.sum(), 1)) - numpy_dice(p * m, t * m, batch_dice=batch_dice)


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("batch_dice", [False, True])
@pytest.mark.parametrize("ignore", [None, IGNORE])
def test_dice_ce_equals_numpy(space: tuple[int, ...], batch_dice: bool, ignore: int | None) -> None:
    logits, target = logits_and_target(space, ignore=ignore is not None)
    found = dice_ce(logits, target, batch_dice=batch_dice, ignore_index=ignore)
    assert found.item() == pytest.approx(numpy_dice_ce(logits, target, batch_dice=batch_dice, ignore=ignore), abs=2e-6)


@pytest.mark.parametrize("ignore", [None, IGNORE])
def test_the_cross_entropy_part_and_its_gradient_equal_torch(ignore: int | None) -> None:
    logits, target = logits_and_target((4, 5, 3), ignore=ignore is not None)
    logits.requires_grad_()
    expected = functional.cross_entropy(logits, target[:, 0], ignore_index=-100 if ignore is None else ignore)
    probabilities = logits.softmax(1)[:, 1:]
    hot = functional.one_hot(target[:, 0], 4).movedim(-1, 1)[:, 1:3]
    mask = target != IGNORE
    top = 2 * (probabilities * hot * mask).sum((2, 3, 4)) + 1e-5
    expected = expected - (top / ((probabilities * mask).sum((2, 3, 4)) + hot.sum((2, 3, 4)) + 1e-5)).mean()
    (expected_gradient,) = torch.autograd.grad(expected, logits)
    found = dice_ce(logits, target, batch_dice=False, ignore_index=ignore)
    (gradient,) = torch.autograd.grad(found, logits)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(gradient, expected_gradient)


def test_a_perfect_prediction_costs_minus_one() -> None:
    target = torch.tensor([[[[0, 1, 2, 1]]]])
    logits = functional.one_hot(target[:, 0], 3).movedim(-1, 1) * 50.0
    for batch_dice in (False, True):
        assert dice_ce(logits, target, batch_dice=batch_dice).item() == pytest.approx(-1.0, abs=1e-6)


def test_equal_logits_have_the_closed_form() -> None:
    target = torch.tensor([[[[0, 0, 0, 1]]]])
    dice = (2 * 0.5 + 1e-5) / (4 * 0.5 + 1 + 1e-5)
    found = dice_ce(torch.zeros((1, 2, 1, 4)), target, batch_dice=False)
    assert found.item() == pytest.approx(math.log(2) - dice, abs=1e-6)


def test_a_class_that_is_absent_and_not_predicted_has_dice_one() -> None:
    target = torch.zeros((1, 1, 3, 3), dtype=torch.int64)
    logits = torch.tensor([100.0, 0.0]).reshape(1, 2, 1, 1).expand(1, 2, 3, 3)
    assert dice_ce(logits, target, batch_dice=False).item() == pytest.approx(-1.0, abs=1e-6)


def test_batch_dice_pools_samples_before_dividing() -> None:
    target = torch.tensor([[[[1, 1, 1, 1]]], [[[0, 0, 0, 0]]]])
    logits = torch.zeros((2, 2, 1, 4))
    per_sample = ((2 * 2 + 1e-5) / (2 + 4 + 1e-5) + 1e-5 / (2 + 1e-5)) / 2
    pooled = (2 * 2 + 1e-5) / (4 + 4 + 1e-5)
    assert dice_ce(logits, target, batch_dice=False).item() == pytest.approx(math.log(2) - per_sample, abs=1e-6)
    assert dice_ce(logits, target, batch_dice=True).item() == pytest.approx(math.log(2) - pooled, abs=1e-6)


def test_ignored_voxels_have_neither_influence_nor_gradient() -> None:
    logits, target = logits_and_target((4, 5, 3), ignore=True)
    ignored = (target == IGNORE).expand_as(logits)
    changed = torch.where(ignored, 40.0, logits).requires_grad_()
    before = dice_ce(logits, target, batch_dice=True, ignore_index=IGNORE)
    after = dice_ce(changed, target, batch_dice=True, ignore_index=IGNORE)
    torch.testing.assert_close(after, before)
    (gradient,) = torch.autograd.grad(after, changed)
    assert gradient[ignored].abs().max() == 0
    assert gradient[~ignored].abs().max() > 0


def test_a_batch_without_annotation_is_finite_and_moves_nothing() -> None:
    logits = torch.randn((2, 3, 4, 4), generator=torch.Generator().manual_seed(0)).requires_grad_()
    nothing = torch.full((2, 1, 4, 4), IGNORE)
    for loss in (
        dice_ce(logits, nothing, batch_dice=False, ignore_index=IGNORE),
        dice_bce(logits, nothing.expand(2, 3, 4, 4) == 0, batch_dice=True, mask=nothing != IGNORE),
    ):
        assert loss.item() == pytest.approx(-1.0)
        (gradient,) = torch.autograd.grad(loss, logits)
        assert gradient.abs().max() == 0


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("batch_dice", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_dice_bce_equals_numpy(space: tuple[int, ...], batch_dice: bool, masked: bool) -> None:
    logits, target = logits_and_target(space, ignore=masked)
    regions = torch.cat([target > 0, target == 2, target != 1], dim=1)  # overlapping
    mask = target != IGNORE if masked else None
    expected = numpy_dice_bce(logits, regions, batch_dice=batch_dice, mask=mask)
    for given in (regions, regions.float()):
        found = dice_bce(logits, given, batch_dice=batch_dice, mask=mask)
        assert found.item() == pytest.approx(expected, abs=2e-6)


def test_dice_bce_counts_every_region_also_the_first() -> None:
    regions = torch.tensor([[[[True, True]], [[False, False]]]])
    right, wrong = torch.full((1, 2, 1, 2), 30.0), torch.full((1, 2, 1, 2), 30.0)
    right[:, 1], wrong[:, 0] = -30.0, -30.0
    wrong[:, 1] = -30.0
    assert dice_bce(right, regions, batch_dice=False).item() == pytest.approx(-1.0, abs=1e-6)
    assert dice_bce(wrong, regions, batch_dice=False).item() == pytest.approx(15.0 - 0.5, abs=1e-4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_logits_are_computed_in_float32(dtype: torch.dtype) -> None:
    logits, target = logits_and_target((4, 5, 3))
    half = logits.to(dtype)
    assert dice_ce(half, target, batch_dice=True).dtype == torch.float32
    torch.testing.assert_close(dice_ce(half, target, batch_dice=True), dice_ce(half.float(), target, batch_dice=True))
    regions = target == torch.arange(3).reshape(1, 3, 1, 1, 1)
    torch.testing.assert_close(
        dice_bce(half, regions, batch_dice=True), dice_bce(half.float(), regions, batch_dice=True)
    )


def test_extreme_logits_give_finite_losses_and_gradients() -> None:
    logits, target = logits_and_target((4, 5, 3))
    logits = (logits * 1e4).requires_grad_()
    regions = target == torch.arange(3).reshape(1, 3, 1, 1, 1)
    for loss in (dice_ce(logits, target, batch_dice=False), dice_bce(logits, regions, batch_dice=False)):
        (gradient,) = torch.autograd.grad(loss, logits)
        assert loss.isfinite()
        assert gradient.isfinite().all()


@pytest.mark.parametrize(
    ("n", "expected"),
    [(1, (1.0,)), (2, (1.0, 0.0)), (3, (2 / 3, 1 / 3, 0.0)), (5, (8 / 15, 4 / 15, 2 / 15, 1 / 15, 0.0))],
)
def test_deep_supervision_weights_halve_and_end_with_zero(n: int, expected: tuple[float, ...]) -> None:
    assert deep_supervision_weights(n) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ((8, 6, 4), (4, 3, 2)),
        ((9, 7, 5), (5, 4, 5)),
        ((7, 13), (2, 3)),
        ((5, 1), (5, 1)),
        ((20, 30), (7, 11)),
    ],
)
def test_sampling_down_equals_torch_nearest_exact(old: tuple[int, ...], new: tuple[int, ...]) -> None:
    target = torch.randint(0, 9, (2, 1, *old), generator=torch.Generator().manual_seed(0))
    expected = functional.interpolate(target.float(), new, mode="nearest-exact").long()
    assert torch.equal(sample_nearest(target, new), expected)


def test_deep_supervision_is_the_weighted_sum_over_downsampled_targets() -> None:
    generator = torch.Generator().manual_seed(0)
    outputs = [torch.randn((2, 3, *space), generator=generator) for space in ((8, 12), (4, 6), (4, 3), (2, 2))]
    target = torch.randint(0, 3, (2, 1, 8, 12), generator=generator)
    weights = (4 / 7, 2 / 7, 1 / 7)
    expected = sum(
        weight
        * dice_ce(
            logits,
            functional.interpolate(target.float(), logits.shape[2:], mode="nearest-exact").long(),
            batch_dice=True,
        )
        for weight, logits in zip(weights, outputs, strict=False)
    )
    found = with_deep_supervision(dice_ce)(outputs, target, batch_dice=True)
    torch.testing.assert_close(found, expected)
    bound = with_deep_supervision(partial(dice_ce, batch_dice=True))
    torch.testing.assert_close(bound(outputs[:1], target), dice_ce(outputs[0], target, batch_dice=True))


def test_the_output_of_weight_zero_is_never_looked_at() -> None:
    outputs = [torch.zeros((1, 2, 4, 4)), torch.full((1, 2, 2, 2), float("nan"), requires_grad=True)]
    target = torch.zeros((1, 1, 4, 4), dtype=torch.int64)
    found = with_deep_supervision(dice_ce)(outputs, target, batch_dice=False)
    assert found.isfinite()
    assert not found.requires_grad


def test_deep_supervision_samples_the_mask_as_the_target() -> None:
    generator = torch.Generator().manual_seed(0)
    outputs = [torch.randn((2, 2, *space), generator=generator) for space in ((8, 6), (4, 3), (2, 2))]
    regions = torch.rand((2, 2, 8, 6), generator=generator) < 0.4
    mask = torch.rand((2, 1, 8, 6), generator=generator) < 0.7
    down = [x[:, :, 1::2, 1::2] for x in (regions, mask)]  # centre of 2 voxels, rounded up
    expected = 2 / 3 * dice_bce(outputs[0], regions, batch_dice=False, mask=mask)
    expected = expected + 1 / 3 * dice_bce(outputs[1], down[0], batch_dice=False, mask=down[1])
    found = with_deep_supervision(dice_bce)(outputs, regions, mask=mask, batch_dice=False)
    torch.testing.assert_close(found, expected)


def test_losses_are_found_by_name() -> None:
    assert losses["dice_ce"] is dice_ce
    assert region_losses["dice_bce"] is dice_bce


def numpy_parts(logits: Tensor, target: Tensor, *, regions: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Probability of the truth (voxels of all samples, or voxels and regions); probabilities, truth of the classes."""
    x = logits.double().flatten(2).numpy()
    if regions:
        p, t = 1 / (1 + np.exp(-x)), target.double().flatten(2).numpy()
        return np.where(t > 0, p, 1 - p).ravel(), p, t
    p = np.exp(x) / np.exp(x).sum(axis=1, keepdims=True)
    t = np.eye(x.shape[1])[target.flatten(2).numpy()[:, 0]].transpose(0, 2, 1)
    return (p * t).sum(axis=1).ravel(), p[:, 1:], t[:, 1:]


def region_targets(space: tuple[int, ...]) -> Tensor:
    return torch.rand((3, 3, *space), generator=torch.Generator().manual_seed(1)) < 0.4


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("batch_dice", [False, True])
@pytest.mark.parametrize("regions", [False, True])
def test_variants_equal_numpy(space: tuple[int, ...], batch_dice: bool, regions: bool) -> None:
    logits, target = logits_and_target(space)
    target = region_targets(space) if regions else target
    registry = region_losses if regions else losses
    true, p, t = numpy_parts(logits, target, regions=regions)
    dice, entropy = numpy_dice(p, t, batch_dice=batch_dice), -np.log(true)
    hardest = np.sort(entropy)[::-1][: max(1, entropy.size // 10)]
    assert registry["dice_topk"](logits, target, batch_dice=batch_dice).item() == pytest.approx(
        hardest.mean() - dice, abs=3e-6
    )
    focal = ((1 - true) ** 2 * entropy).mean()
    assert registry["dice_focal"](logits, target, batch_dice=batch_dice).item() == pytest.approx(focal - dice, abs=3e-6)
    if batch_dice:
        p, t = (x.swapaxes(0, 1).reshape(1, x.shape[1], -1) for x in (p, t))
    hits, too_much, missed = (p * t).sum(-1), (p * (1 - t)).sum(-1), ((1 - p) * t).sum(-1)
    tversky = ((hits + 5e-6) / (hits + 0.3 * too_much + 0.7 * missed + 5e-6)).mean()
    name = "tversky_bce" if regions else "tversky_ce"
    found = registry[name](logits, target, batch_dice=batch_dice).item()
    assert found == pytest.approx(entropy.mean() - tversky, abs=3e-6)


@pytest.mark.parametrize("name", ["dice_ce", "dice_topk", "dice_focal", "tversky_ce"])
def test_what_is_not_annotated_changes_neither_value_nor_gradient(name: str) -> None:
    logits, target = logits_and_target((4, 5, 3), ignore=True)
    values, gradients = [], []
    for shift in (0.0, 7.0):
        moved = (logits + shift * (target == IGNORE) * torch.tensor([1.0, -1.0, 2.0]).reshape(1, 3, 1, 1, 1)).detach()
        moved.requires_grad_()
        value = losses[name](moved, target, batch_dice=False, ignore_index=IGNORE)
        values.append(value.detach())
        gradients.append(torch.autograd.grad(value, moved)[0])
    torch.testing.assert_close(values[0], values[1])
    torch.testing.assert_close(gradients[0], gradients[1])
    assert not gradients[0][(target == IGNORE).expand_as(logits)].any()
    nothing = losses[name](logits, torch.full_like(target, IGNORE), batch_dice=False, ignore_index=IGNORE)
    assert nothing.item() == pytest.approx(-1.0)


@pytest.mark.parametrize("ignore", [None, IGNORE])
def test_class_weights_weigh_the_cross_entropy_as_in_torch(ignore: int | None) -> None:
    logits, target = logits_and_target((4, 5, 3), ignore=ignore is not None)
    weights = torch.tensor([1.0, 5.0, 0.5])
    ignored = -100 if ignore is None else ignore
    plain = functional.cross_entropy(logits, target[:, 0], ignore_index=ignored)
    weighted = functional.cross_entropy(logits, target[:, 0], weight=weights, ignore_index=ignored)
    without = dice_ce(logits, target, batch_dice=True, ignore_index=ignore)
    found = dice_ce(logits, target, batch_dice=True, ignore_index=ignore, class_weights=weights)
    torch.testing.assert_close(found - without, weighted - plain)
    regions = region_targets((4, 5, 3))
    entropy = functional.binary_cross_entropy_with_logits(logits, regions.float(), reduction="none")
    per_region = entropy.mean(dim=(0, 2, 3, 4))
    found = dice_bce(logits, regions, batch_dice=True, class_weights=weights)
    expected = (weights * per_region).sum() / weights.sum() - per_region.mean()
    torch.testing.assert_close(found - dice_bce(logits, regions, batch_dice=True), expected)
