from __future__ import annotations

from itertools import pairwise
from math import cos, pi

import pytest
import torch

from autoseg.core.errors import UsageError
from autoseg.core.recipe import Recipe
from autoseg.training.optimizer import Bend, learning_rate, optimizers, progress, schedules

RECIPE = Recipe(epochs=10, iterations=20, learning_rate=0.01)


def test_poly_falls_from_the_full_rate_to_nothing() -> None:
    rates = [learning_rate(RECIPE, step) for step in range(200)]
    assert rates[0] == 0.01
    assert rates[100] == pytest.approx(0.01 * 0.5**0.9)
    assert rates[199] == pytest.approx(0.01 * (1 / 200) ** 0.9)
    assert rates == sorted(rates, reverse=True)


def test_cosine_is_half_a_wave() -> None:
    recipe = RECIPE.with_changes(schedule="cosine")
    for step in (0, 50, 100, 199):
        assert learning_rate(recipe, step) == pytest.approx(0.005 * (1 + cos(pi * step / 200)))


@pytest.mark.parametrize("schedule", ["poly", "cosine"])
def test_warm_up_rises_in_equal_steps_and_the_schedule_takes_what_is_left(schedule: str) -> None:
    recipe = RECIPE.with_changes(warmup_steps=40, schedule=schedule)
    rates = [learning_rate(recipe, step) for step in range(200)]
    assert rates[0] == pytest.approx(0.01 / 40)
    assert rates[39] == rates[40] == pytest.approx(0.01)
    assert torch.tensor(rates[:40]).diff().std() < 1e-9
    assert rates[120] == pytest.approx(0.01 * schedules[schedule](0.5))


def test_rates_beyond_the_last_step_are_defined() -> None:
    assert learning_rate(RECIPE, 10_000) == 0
    assert learning_rate(RECIPE.with_changes(warmup_steps=500), 499) == pytest.approx(0.01)


def two_steps(recipe: Recipe) -> list[float]:
    """A weight of 1 whose gradient is always 2, after each of two steps."""
    weight = torch.nn.Parameter(torch.tensor([1.0], dtype=torch.float64))
    optimizer = optimizers[recipe.optimizer]([weight], recipe)
    after = []
    for _ in range(2):
        optimizer.zero_grad()
        (2 * weight).sum().backward()
        optimizer.step()
        after.append(weight.item())
    return after


def test_sgd_is_nesterov_with_weight_decay() -> None:
    recipe = Recipe(learning_rate=0.1, momentum=0.9, weight_decay=0.01)
    weight, momentum, expected = 1.0, 0.0, []
    for step in range(2):
        gradient = 2 + 0.01 * weight
        momentum = gradient if step == 0 else 0.9 * momentum + gradient
        weight -= 0.1 * (gradient + 0.9 * momentum)
        expected.append(weight)
    assert two_steps(recipe) == pytest.approx(expected)


def test_sgd_works_without_momentum() -> None:
    assert two_steps(Recipe(learning_rate=0.1, momentum=0.0, weight_decay=0.0)) == pytest.approx([0.8, 0.6])


def test_adamw_decays_weights_apart_from_the_gradient() -> None:
    recipe = Recipe(optimizer="adamw", learning_rate=0.1, weight_decay=0.5)
    first = 1 - 0.1 * 0.5 * 1 - 0.1  # the first step has the length of the rate
    assert two_steps(recipe)[0] == pytest.approx(first)


def test_unknown_names_are_refused_with_a_hint() -> None:
    with pytest.raises(UsageError, match="did you mean 'adamw'"):
        optimizers["adam"]
    with pytest.raises(UsageError, match="cosine, poly"):
        learning_rate(RECIPE.with_changes(schedule="stairs"), 0)


@pytest.mark.parametrize(("old", "new"), [(10, 30), (30, 12), (10, 11)])
def test_another_length_bends_the_rate_without_a_jump(old: int, new: int) -> None:
    before, after = RECIPE.with_changes(epochs=old), RECIPE.with_changes(epochs=new)
    at = 9 * RECIPE.iterations
    bend = Bend(step=at, rate=learning_rate(before, at - 1))
    rates = [learning_rate(before, step) for step in range(at)]
    rates += [learning_rate(after, step, bend=bend) for step in range(at, new * RECIPE.iterations)]
    largest_step = max(abs(b - a) for a, b in pairwise(rates))
    assert largest_step < 0.01 / RECIPE.iterations
    # an epoch later it is the new schedule
    assert rates[at + RECIPE.iterations - 1 :] == [
        pytest.approx(learning_rate(after, step)) for step in range(at + RECIPE.iterations - 1, len(rates))
    ]


def test_progress_counts_steps_or_seconds() -> None:
    steps = RECIPE.epochs * RECIPE.iterations
    assert [progress(RECIPE, step, seconds=9e9) for step in (0, steps // 2, steps, 2 * steps)] == [0, 0.5, 1, 1]
    assert progress(RECIPE, 7, seconds=0.0, begun=7) == 0
    by_the_clock = RECIPE.with_changes(time_budget_s=10.0)
    assert [progress(by_the_clock, 10**9, seconds=s) for s in (0, 5, 10, 20)] == [0, 0.5, 1, 1]


def test_with_a_time_budget_the_schedule_follows_the_clock() -> None:
    recipe = RECIPE.with_changes(time_budget_s=100.0, warmup_steps=2)
    assert learning_rate(recipe, 0, seconds=50) == pytest.approx(0.005)
    for seconds in (0.0, 25.0, 99.0, 150.0):
        expected = 0.01 * max(0.0, 1 - seconds / 100) ** 0.9
        for step in (2, 10_000):
            assert learning_rate(recipe, step, seconds=seconds) == pytest.approx(expected)
