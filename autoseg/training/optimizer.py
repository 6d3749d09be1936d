"""Optimizers and learning rate schedules, by name."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from math import cos, pi

import torch

from autoseg.core.recipe import Recipe
from autoseg.core.registry import Registry

optimizers: Registry[Callable[[Iterable[torch.nn.Parameter], Recipe], torch.optim.Optimizer]] = Registry("optimizer")
schedules: Registry[Callable[[float], float]] = Registry("schedule")


@optimizers.register("sgd")
def sgd(parameters: Iterable[torch.nn.Parameter], recipe: Recipe) -> torch.optim.Optimizer:
    """Stochastic gradient descent with Nesterov momentum."""
    return torch.optim.SGD(
        parameters,
        recipe.learning_rate,
        momentum=recipe.momentum,
        nesterov=recipe.momentum > 0,
        weight_decay=recipe.weight_decay,
        foreach=True,
    )


@optimizers.register("adamw")
def adamw(parameters: Iterable[torch.nn.Parameter], recipe: Recipe) -> torch.optim.Optimizer:
    """Adam with decoupled weight decay."""
    return torch.optim.AdamW(parameters, recipe.learning_rate, weight_decay=recipe.weight_decay, foreach=True)


@schedules.register("poly")
def poly(progress: float) -> float:
    """(1 - progress)^0.9."""
    return float((1 - progress) ** 0.9)


@schedules.register("cosine")
def cosine(progress: float) -> float:
    """Half a cosine wave from 1 to 0."""
    return 0.5 * (1 + cos(pi * progress))


def learning_rate(recipe: Recipe, step: int) -> float:
    """Learning rate of a step, counted from 0: linear warm-up, then the recipe's schedule over the remaining steps."""
    if step < recipe.warmup_steps:
        return recipe.learning_rate * (step + 1) / recipe.warmup_steps
    remaining = max(1, recipe.epochs * recipe.iterations - recipe.warmup_steps)
    return recipe.learning_rate * schedules[recipe.schedule](min(1.0, (step - recipe.warmup_steps) / remaining))
