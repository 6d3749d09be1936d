"""A structure that a case was not annotated for counts nowhere in that case."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch

from autoseg.core.plan import Plan
from autoseg.core.recipe import Recipe
from autoseg.training.losses import dice_bce, dice_ce, losses, region_losses
from autoseg.training.objective import Objective

MakePlan = Callable[..., Plan]
LABELS = {"background": 0, "b": 7, "a": 3}  # outputs: background, a, b
REGIONS = {"background": 0, "whole": [1, 2], "core": [2]}
KNOWN = torch.tensor([[True, True, True], [True, True, False], [True, False, True]])
SPACE = (4, 3, 5)


def example() -> tuple[torch.Tensor, torch.Tensor]:
    """Logits of three samples, and truths that hold no class that is not known there."""
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn((3, 3, *SPACE), generator=generator)
    target = torch.randint(0, 3, (3, 1, *SPACE), generator=generator)
    target[1][target[1] == 2] = 0
    target[2][target[2] == 1] = 0
    return logits, target


def merged_numpy(logits: torch.Tensor, target: torch.Tensor, *, batch_dice: bool) -> float:
    """The loss of probabilities in which unknown classes were added to the background."""
    x, y = logits.double().flatten(2).numpy(), target.flatten(2).numpy()[:, 0]
    p = np.exp(x) / np.exp(x).sum(1, keepdims=True)
    entropies, intersection, sizes = [], np.zeros((3, 2)), np.zeros((3, 2))
    for sample in range(3):
        for k in (1, 2):
            if not KNOWN[sample, k]:
                p[sample, 0] += p[sample, k]
                p[sample, k] = 0
            true = y[sample] == k
            intersection[sample, k - 1] = p[sample, k][true].sum()
            sizes[sample, k - 1] = p[sample, k].sum() + true.sum()
        entropies += [-math.log(p[sample, y[sample, v], v]) for v in range(y.shape[1])]
    if batch_dice:
        dice = np.mean((2 * intersection.sum(0) + 1e-5) / (sizes.sum(0) + 1e-5))
    else:
        dice = np.mean(((2 * intersection + 1e-5) / (sizes + 1e-5))[KNOWN[:, 1:].numpy()])
    return float(np.mean(entropies) - dice)


@pytest.mark.parametrize("batch_dice", [False, True])
def test_unknown_classes_are_background_and_have_no_dice(batch_dice: bool) -> None:
    logits, target = example()
    found = dice_ce(logits, target, batch_dice=batch_dice, known=KNOWN)
    assert found.item() == pytest.approx(merged_numpy(logits, target, batch_dice=batch_dice), abs=2e-6)


def test_a_class_that_nobody_in_the_batch_was_annotated_for_has_no_dice() -> None:
    logits, target = example()
    nobody = torch.tensor([[True, True, False]]).expand(3, 3)
    target = torch.where(target == 2, 0, target)
    merged = torch.stack([logits[:, [0, 2]].logsumexp(1), logits[:, 1]], dim=1)
    for batch_dice in (False, True):
        found = dice_ce(logits, target, batch_dice=batch_dice, known=nobody)
        torch.testing.assert_close(found, dice_ce(merged, target, batch_dice=batch_dice))


@pytest.mark.parametrize("batch_dice", [False, True])
def test_unknown_regions_count_nowhere(batch_dice: bool) -> None:
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn((2, 2, *SPACE), generator=generator).requires_grad_()
    masks = torch.rand((2, 2, *SPACE), generator=generator) > 0.5
    known = torch.tensor([[True, True], [True, False]])
    found = dice_bce(logits, masks, batch_dice=batch_dice, known=known)
    (gradient,) = torch.autograd.grad(found, logits)
    assert gradient[1, 1].abs().max() == 0
    x, t, m = logits.detach().double().numpy(), masks.numpy(), known.numpy()
    p = 1 / (1 + np.exp(-x))
    entropy = np.mean(-np.log(np.where(t, p, 1 - p))[m])
    top, bottom = (p * t).sum((2, 3, 4)) * m, (p + t).sum((2, 3, 4)) * m
    if batch_dice:
        dice = np.mean((2 * top.sum(0) + 1e-5) / (bottom.sum(0) + 1e-5))
    else:
        dice = np.mean(((2 * top + 1e-5) / (bottom + 1e-5))[m])
    assert found.item() == pytest.approx(entropy - dice, abs=2e-6)


@pytest.mark.parametrize("name", [*losses])
def test_every_loss_leaves_an_unknown_class_where_it_is_against_the_background(name: str) -> None:
    logits, target = example()
    logits.requires_grad_()
    loss = losses[name](logits, target, batch_dice=False, known=KNOWN)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert gradient.isfinite().all()
    # background and unknown class together are what is trained: both logits move alike per unit of probability
    probabilities = logits.detach().softmax(1)
    ratio = [gradient[1, k] / probabilities[1, k] for k in (0, 2)]
    torch.testing.assert_close(ratio[0], ratio[1], rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("name", [*region_losses])
def test_every_region_loss_takes_it(name: str) -> None:
    logits, _ = example()
    masks = logits > 1
    known = KNOWN.clone()
    before = region_losses[name](logits, masks, batch_dice=False, known=known)
    changed = logits.clone()
    changed[1, 2] += 3
    after = region_losses[name](changed, masks, batch_dice=False, known=known)
    torch.testing.assert_close(before, after)


def objective(plan: Plan) -> Objective:
    return Objective(plan.scheme, plan.configuration("small"), Recipe(), {"one": ("a",), "two": ("b",)})


def test_the_objective_finds_the_known_outputs_by_case_and_makes_stray_labels_background(make_plan: MakePlan) -> None:
    asked = objective(make_plan(labels=LABELS))
    logits, target = example()
    stray = target.clone()
    stray[1][logits[1, :1] > 1] = 2  # somebody drew a few voxels of b all the same
    found = asked([logits], stray, cases=["zero", "one", "two"])
    cleaned = torch.where((stray == 2) & (torch.arange(3) == 1).reshape(3, 1, 1, 1, 1), 0, stray)
    torch.testing.assert_close(found, dice_ce(logits, cleaned, batch_dice=False, known=KNOWN))
    torch.testing.assert_close(asked([logits], target, cases=["zero"] * 3), dice_ce(logits, target, batch_dice=False))


def test_the_ignore_label_stays_ignored_where_classes_are_unknown(make_plan: MakePlan) -> None:
    asked = objective(make_plan(labels={**LABELS, "ignore": 9}))
    logits, target = example()
    target[:, :, 0] = 3
    changed = logits.clone()
    changed[:, :, 0] = 5
    cases = ["zero", "one", "two"]
    torch.testing.assert_close(asked([logits], target, cases=cases), asked([changed], target, cases=cases))


def test_counts_leave_out_what_a_case_was_not_annotated_for(make_plan: MakePlan) -> None:
    asked = objective(make_plan(labels=LABELS))
    logits, target = example()
    found = asked.counts(logits, target, cases=["zero", "one", "two"])
    predicted = logits.argmax(1, keepdim=True)
    for column, (value, samples) in enumerate(((2, [0, 2]), (1, [0, 1]))):  # b, a: the order of the labels
        true, mask = target[samples] == value, predicted[samples] == value
        expected = [(true & mask).sum(), (mask & ~true).sum(), (true & ~mask).sum()]
        assert found[:, column].tolist() == [int(n) for n in expected]
    regions = make_plan(labels=REGIONS, regions_class_order=(1, 2))
    by_region = Objective(regions.scheme, regions.configuration("small"), Recipe(), {"one": ("whole",)})
    assert by_region.counts(logits[:, :2], target, cases=["one"] * 3)[:, 1].tolist() == [0, 0, 0]
