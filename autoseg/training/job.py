"""What a fold is trained from and to, and whether what its folder holds fits that."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from inspect import signature
from pathlib import Path
from typing import Any

import torch

from autoseg.core.errors import DataError, Problem, UsageError
from autoseg.core.files import content_key
from autoseg.core.plan import Plan
from autoseg.core.recipe import Recipe
from autoseg.core.records import parse
from autoseg.core.splits import Split
from autoseg.io.case_store import CaseStore, StageStore
from autoseg.io.weights import load_weights
from autoseg.training import processes
from autoseg.training.log import check_tensorboard
from autoseg.training.objective import class_weights, loss_for
from autoseg.training.optimizer import optimizers, schedules
from autoseg.training.run import LOST_STATE

STATE = "state_latest.safetensors"


@dataclass(frozen=True, kw_only=True)
class FoldJob:
    """What to train: preprocessed cases, the plan's configuration, the recipe, the cases of the fold, and where to.

    A new fold begins with the weights in the file `pretrained`, where one is given. With `profile` the first epoch is
    timed part by part into profile.json; with `tensorboard` the log goes to events as well. `annotated_classes` are the
    names that cases were annotated for, where not for all. `stage` is the folder of an earlier stage's segmentations of
    all cases, which a cascade takes as input.
    """

    store: Path
    plan: Plan
    configuration: str
    recipe: Recipe
    split: Split
    folder: Path
    device: torch.device
    loaders: int | None = None
    pretrained: Path | None = None
    profile: bool = False
    tensorboard: bool = False
    annotated_classes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    stage: Path | None = None


def check_fold(job: FoldJob) -> None:
    """Refuse what `train_fold` would refuse, without starting anything.

    Raises:
        UsageError: an unknown optimizer, schedule, loss or label, a loss that is not for these labels or knows nothing
            of cases annotated for some of them, a missing package, or a folder that holds a fold of other settings or
            data.
    """
    recipe = job.recipe
    _ = optimizers[recipe.optimizer], schedules[recipe.schedule], loss_for(job.plan.scheme, recipe)
    class_weights(job.plan.scheme, recipe)
    parameters = signature(loss_for(job.plan.scheme, recipe)).parameters
    takes_known = "known" in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    if job.annotated_classes and not takes_known:
        raise UsageError(
            f"the loss '{recipe.loss}' takes no `known`, without which annotated_classes cannot be "
            "heeded; train with another loss (--set loss=dice_ce), or let it take `known`"
        )
    if job.tensorboard:
        check_tensorboard()
    is_finished(job.folder, recipe, made_from=facts_of(job)["made_from"])


def facts_of(job: FoldJob) -> dict[str, Any]:
    """What is stored with the weights: where they come from, and a hash of all they depend on but the recipe."""
    store = CaseStore(job.store)
    cases = {case: store.open(case).meta.key for case in (*job.split.train, *job.split.val)}
    decisions = job.plan.configuration(job.configuration).decisions()
    partly = {case: sorted(names) for case, names in job.annotated_classes.items() if case in cases}
    stage = None if job.stage is None else StageStore(job.stage)
    earlier = {} if stage is None else {case: stage.key_of(case) for case in cases}
    if lost := [case for case, key in earlier.items() if key is None]:
        found = "the segmentation of the earlier stage is missing"
        raise DataError([Problem(case=case, found=found, next="run the same command again") for case in lost])
    further = [facts for facts in (partly, earlier) if facts]
    return {
        "configuration": job.configuration,
        "dataset": job.plan.dataset,
        "train": job.split.train,
        "val": job.split.val,
        "processes": processes.size(),
        "made_from": content_key(job.split.model_dump(), cases, decisions, *further),
    }


def is_finished(folder: Path, recipe: Recipe, *, made_from: str) -> bool:
    """Whether the fold in a folder is finished.

    Raises:
        UsageError: it was begun with other settings (their length apart) or from other data, or is to be made longer
            or shorter, and its saved state is gone.
        DataError: weights or state are damaged.
    """
    weights, state = folder / "weights.safetensors", folder / STATE
    ways = {
        weights: f"delete it: it is written again from {STATE}" if state.is_file() else LOST_STATE,
        state: LOST_STATE,
    }
    saved = next((load_weights(path, todo=todo)[1] for path, todo in ways.items() if path.is_file()), None)
    if saved is None:  # not one step is kept that other settings could spoil
        return False
    recipe_file = folder / "recipe.json"
    begun = Recipe.read(recipe_file) if recipe_file.is_file() else parse(Recipe, saved["recipe"], source=str(folder))
    length = {"epochs": recipe.epochs, "time_budget_s": recipe.time_budget_s}
    if begun.with_changes(**length) != recipe:
        old, new = begun.model_dump(), recipe.model_dump()
        changed = ", ".join(f"{k} {old[k]} -> {new[k]}" for k in old if k not in length and old[k] != new[k])
        raise UsageError(
            f"{folder} holds a fold trained with other settings ({changed}); repeat the old settings to continue it, "
            "or move that folder away to train anew"
        )
    if saved.get("made_from", made_from) != made_from:
        raise UsageError(
            f"{folder} holds a fold trained by another plan, with other cases or other images (or annotated_classes, "
            "or answers of an earlier stage); move that folder away to train anew"
        )
    done = weights.is_file() and parse(Recipe, saved["recipe"], source=str(folder)).length == recipe.length
    if not done and not state.is_file():
        raise UsageError(
            f"{folder} holds a finished fold that cannot be made longer or shorter, because {STATE} is gone; repeat "
            "the old length to keep it, or move that folder away to train anew"
        )
    return done
