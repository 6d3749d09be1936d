"""Optimizers and learning rate schedules, by name."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from math import cos, pi

import torch

from autoseg.core.recipe import Recipe
from autoseg.core.registry import Registry
from autoseg.training.muon import Muon

optimizers: Registry[Callable[[Iterable[torch.nn.Parameter], Recipe], torch.optim.Optimizer]] = Registry("optimizer")
schedules: Registry[Callable[[float], float]] = Registry("schedule")


@optimizers.register("sgd")
def sgd(parameters: Iterable[torch.nn.Parameter], recipe: Recipe) -> torch.optim.Optimizer:
    """Stochastic gradient descent with Nesterov momentum."""
    parameters = [*parameters]
    return torch.optim.SGD(
        parameters,
        recipe.learning_rate,
        momentum=recipe.momentum,
        nesterov=recipe.momentum > 0,
        weight_decay=recipe.weight_decay,
        **_at_once(parameters),
    )


@optimizers.register("adamw")
def adamw(parameters: Iterable[torch.nn.Parameter], recipe: Recipe) -> torch.optim.Optimizer:
    """Adam with decoupled weight decay."""
    parameters = [*parameters]
    rates = {"lr": recipe.learning_rate, "weight_decay": recipe.weight_decay}
    return torch.optim.AdamW(parameters, **rates, **_at_once(parameters))


@optimizers.register("muon")
def muon(parameters: Iterable[torch.nn.Parameter], recipe: Recipe) -> torch.optim.Optimizer:
    """Orthogonalised momentum, see `autoseg.training.muon`."""
    return Muon(parameters, lr=recipe.learning_rate, momentum=recipe.momentum, weight_decay=recipe.weight_decay)


def _at_once(parameters: list[torch.nn.Parameter]) -> dict[str, bool]:
    """All weights in few operations: on a GPU in one kernel."""
    return {"fused" if all(p.device.type == "cuda" for p in parameters) else "foreach": True}


@schedules.register("poly")
def poly(progress: float) -> float:
    """(1 - progress)^0.9."""
    return float((1 - progress) ** 0.9)


@schedules.register("cosine")
def cosine(progress: float) -> float:
    """Half a cosine wave from 1 to 0."""
    return 0.5 * (1 + cos(pi * progress))


@dataclass(frozen=True, kw_only=True)
class Bend:
    """Where training went on with another length than before, and the learning rate of the step before that."""

    step: int
    rate: float


def progress(recipe: Recipe, step: int, *, seconds: float, begun: int = 0) -> float:
    """Share of the recipe's time, else of its steps after the first `begun`, that is used up, from 0 to 1."""
    if recipe.time_budget_s is not None:
        return min(1.0, seconds / recipe.time_budget_s)
    return min(1.0, (step - begun) / max(1, recipe.epochs * recipe.iterations - begun))


def learning_rate(recipe: Recipe, step: int, *, seconds: float = 0.0, bend: Bend | None = None) -> float:
    """Learning rate of a step, counted from 0: linear warm-up, then the recipe's schedule over the remaining steps.

    With a time budget the schedule follows the `seconds` trained so far. After a bend the rate moves from where it was
    to the schedule of the new length within an epoch, without a jump.
    """
    if step < recipe.warmup_steps:
        rate = recipe.learning_rate * (step + 1) / recipe.warmup_steps
    else:
        begun = 0 if recipe.time_budget_s is not None else recipe.warmup_steps
        rate = recipe.learning_rate * schedules[recipe.schedule](progress(recipe, step, seconds=seconds, begun=begun))
    if bend is None:
        return rate
    return bend.rate + (rate - bend.rate) * min(1.0, (step - bend.step + 1) / recipe.iterations)
