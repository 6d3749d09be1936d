from __future__ import annotations

from collections.abc import Callable
from itertools import product

import numpy as np
import pytest
import torch

from autoseg.core.errors import UsageError
from autoseg.core.plan import Plan
from autoseg.core.recipe import Recipe
from autoseg.training.losses import dice_bce, dice_ce, sample_nearest
from autoseg.training.objective import Objective

MakePlan = Callable[..., Plan]
LABELS = {"background": 0, "a": 3, "b": 7}
IGNORING = {**LABELS, "ignore": 9}
REGIONS = {"background": 0, "whole": [1, 2, 4], "core": [2, 4], "tip": [4]}
SIZE = (6, 4, 8)


def objective_for(plan: Plan, **recipe: object) -> Objective:
    return Objective(plan.scheme, plan.configuration("small"), Recipe(**recipe))


def outputs_for(n: int, sizes: tuple = (SIZE, (3, 2, 4), (1, 1, 2))) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [2 * torch.randn((2, n, *size), generator=generator) for size in sizes]


def label_of(highest: int) -> torch.Tensor:
    return torch.randint(0, highest + 1, (2, 1, *SIZE), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("batch_dice", [True, False])
def test_labels_are_trained_with_dice_and_cross_entropy_on_all_but_the_coarsest(
    make_plan: MakePlan, batch_dice: bool
) -> None:
    objective = objective_for(make_plan(labels=LABELS, batch_dice=batch_dice))
    outputs, label = outputs_for(3), label_of(2)
    expected = 2 / 3 * dice_ce(outputs[0], label, batch_dice=batch_dice) + 1 / 3 * dice_ce(
        outputs[1], sample_nearest(label, (3, 2, 4)), batch_dice=batch_dice
    )
    torch.testing.assert_close(objective(outputs, label), expected)


def test_without_deep_supervision_only_the_full_resolution_counts(make_plan: MakePlan) -> None:
    objective = objective_for(make_plan(labels=LABELS), deep_supervision=False)
    outputs, label = outputs_for(3), label_of(2)
    torch.testing.assert_close(objective(outputs, label), dice_ce(outputs[0], label, batch_dice=False))


@pytest.mark.parametrize("balance", [0.0, 0.4, 1.0])
def test_balanced_classes_weigh_by_a_power_of_their_voxels(make_plan: MakePlan, balance: float) -> None:
    """Without balance it is the usual loss, so a training that ends there ends where others do."""
    objective = objective_for(make_plan(labels=LABELS), deep_supervision=False, class_balance=True)
    outputs, label = outputs_for(3), label_of(1)  # no voxel of the last class
    label[:, :, 1:] = 0
    counts = np.bincount(label.numpy().ravel(), minlength=3)
    weights = torch.tensor([*(counts[:2] ** (-balance / 2)), 0.0], dtype=torch.float32)
    expected = dice_ce(outputs[0], label, batch_dice=True, class_weights=weights)
    torch.testing.assert_close(objective(outputs, label, balance=balance), expected)
    if balance == 0:
        torch.testing.assert_close(expected, dice_ce(outputs[0], label, batch_dice=True))


def test_a_loss_of_ones_own_is_not_balanced(make_plan: MakePlan) -> None:
    objective = objective_for(make_plan(labels=LABELS), class_balance=True, loss="dice_ce")
    plain = objective_for(make_plan(labels=LABELS))
    outputs, label = outputs_for(3), label_of(2)
    assert torch.equal(objective(outputs, label, balance=1.0), plain(outputs, label))


def test_regions_are_trained_with_dice_and_binary_cross_entropy(make_plan: MakePlan) -> None:
    objective = objective_for(make_plan(labels=REGIONS, regions_class_order=(1, 2, 4)), deep_supervision=False)
    outputs, label = outputs_for(3), label_of(3)
    masks = torch.cat([label >= 1, label >= 2, label == 3], dim=1)
    torch.testing.assert_close(objective(outputs, label), dice_bce(outputs[0], masks, batch_dice=False))


@pytest.mark.parametrize("regions", [False, True])
def test_what_is_ignored_changes_neither_loss_nor_gradient_nor_counts(make_plan: MakePlan, regions: bool) -> None:
    declared = {**REGIONS, "ignore": 9} if regions else IGNORING
    plan = make_plan(labels=declared, regions_class_order=(1, 2, 4) if regions else ())
    objective, ignored = objective_for(plan), plan.scheme.ignore_inside
    assert ignored == (4 if regions else 3)
    outputs, label = outputs_for(3), label_of(ignored)
    for output in outputs:
        output.requires_grad_()
    loss = objective(outputs, label)
    loss.backward()
    assert outputs[0].grad is not None
    hidden = (label == ignored).expand_as(outputs[0])
    assert hidden.any()
    assert (outputs[0].grad[hidden] == 0).all()
    assert (outputs[0].grad[~hidden] != 0).any()
    changed = [output.detach().clone() for output in outputs]
    for output in changed:
        output[(sample_nearest(label, output.shape[2:]) == ignored).expand_as(output)] += 5
    torch.testing.assert_close(objective(changed, label), loss.detach())
    assert np.array_equal(objective.counts(changed[0], label), objective.counts(outputs[0].detach(), label))


def test_a_batch_without_annotation_has_a_finite_loss(make_plan: MakePlan) -> None:
    objective = objective_for(make_plan(labels=IGNORING))
    outputs = outputs_for(3)
    for output in outputs:
        output.requires_grad_()
    loss = objective(outputs, torch.full((2, 1, *SIZE), 3))
    loss.backward()
    assert bool(torch.isfinite(loss))
    assert outputs[0].grad is not None
    assert not outputs[0].grad.any()


def test_a_perfect_answer_is_cheaper_than_a_wrong_one(make_plan: MakePlan) -> None:
    objective, label = objective_for(make_plan(labels=LABELS)), label_of(2)
    right = 20.0 * torch.nn.functional.one_hot(label[:, 0], 3).movedim(-1, 1)
    assert float(objective([right], label)) == pytest.approx(-1, abs=1e-3)
    assert float(objective([right.roll(1, dims=1)], label)) > 5


def test_the_loss_is_chosen_by_name(make_plan: MakePlan) -> None:
    outputs, label = outputs_for(3), label_of(2)
    plan = make_plan(labels=LABELS)
    assert objective_for(plan, loss="dice_ce")(outputs, label) == objective_for(plan)(outputs, label)
    with pytest.raises(UsageError, match="did you mean 'dice_ce'"):
        objective_for(plan, loss="dice_cee")


def test_a_loss_for_exclusive_labels_is_refused_for_regions_and_the_other_way_round(make_plan: MakePlan) -> None:
    regions = make_plan(labels=REGIONS, regions_class_order=(1, 2, 4))
    with pytest.raises(UsageError, match=r"unknown loss for regions 'dice_ce'; .*dice_bce"):
        objective_for(regions, loss="dice_ce")
    with pytest.raises(UsageError, match="unknown loss 'dice_bce'"):
        objective_for(make_plan(labels=LABELS), loss="dice_bce")


@pytest.mark.parametrize(
    ("declared", "order"),
    [(LABELS, ()), (IGNORING, ()), (REGIONS, (1, 2, 4)), ({**REGIONS, "ignore": 9}, (1, 2, 4))],
    ids=["labels", "ignore", "regions", "regions with ignore"],
)
def test_counts_are_those_of_a_loop_over_voxels(make_plan: MakePlan, declared: dict, order: tuple) -> None:
    plan = make_plan(labels=declared, regions_class_order=order)
    scheme, objective = plan.scheme, objective_for(plan)
    logits = outputs_for(scheme.n_outputs)[0]
    label = label_of(len(scheme.values) - 1 + (scheme.ignore_inside is not None))
    expected = np.zeros((3, len(scheme.foreground)))
    for sample, *voxel in product(range(2), *(range(n) for n in SIZE)):
        true = int(label[(sample, 0, *voxel)])
        if true == scheme.ignore_inside:
            continue
        found = logits[(sample, slice(None), *voxel)]
        for position, members in enumerate(scheme.regions_inside):
            is_true = true in members
            is_found = bool(found[position] > 0) if order else int(found.argmax()) in members
            expected[0, position] += is_true and is_found
            expected[1, position] += is_found and not is_true
            expected[2, position] += is_true and not is_found
    assert np.array_equal(objective.counts(logits, label), expected)
