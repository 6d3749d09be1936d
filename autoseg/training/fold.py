"""Train one fold: the epoch loop."""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np
import torch

from autoseg.core.errors import DataError, Interrupted, Problem, UsageError
from autoseg.core.files import content_key, write_bytes, write_json
from autoseg.core.plan import Configuration, Plan
from autoseg.core.recipe import Recipe
from autoseg.core.records import parse
from autoseg.core.signals import remembered_signals
from autoseg.core.splits import Split
from autoseg.core.workers import available_cpus
from autoseg.io.case_store import CaseStore, StageStore
from autoseg.io.class_index import build_index
from autoseg.io.weights import load_weights
from autoseg.nets.device import keep_freed_memory
from autoseg.training import processes
from autoseg.training.augmentation import AugmentationRules, crop_size, rules_for
from autoseg.training.events import Events, check_tensorboard
from autoseg.training.guards import collapse, data_wait
from autoseg.training.loader import batches
from autoseg.training.objective import class_weights, loss_for
from autoseg.training.optimizer import optimizers, schedules
from autoseg.training.run import Diverged, Run
from autoseg.training.sampling import CropRules
from autoseg.training.stopwatch import Stopwatch

VALIDATION_STREAM = 1  # keeps validation crops apart from training crops of the same seed
SMOOTHING = 0.9
LONG_STEPS, LONG_S = 10_000, 3600.0
SHOWN_CLASSES = 6  # in the line of progress; the log has all
SLOWER, SLOWEST = 0.5, 0.1  # learning rate after a divergence; below that share it is given up
log = logging.getLogger(__name__)
STATE = "state_latest.safetensors"
STATE_SAVED = "interrupted, with the state of training saved"


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


Progress = Callable[[int, int, str], None]


def train_fold(
    job: FoldJob,
    *,
    progress: Progress = lambda done, total, text: None,
    epoch_done: Callable[[list[dict[str, Any]]], None] = lambda rows: None,
) -> bool:
    """Train a fold to the end of its recipe, from the last saved state if there is one.

    Writes into the fold's folder: recipe.json, log.jsonl (a row per epoch), state_latest.safetensors,
    weights_best.safetensors (best smoothed pseudo-Dice) and, when finished, weights.safetensors. `epoch_done` is called
    with the rows of the log after every epoch.

    Returns:
        False when the fold was finished before, with this recipe, and nothing was done.

    Raises:
        UsageError: the folder holds a fold of another recipe, plan, split or other images.
        DataError: a stored case or the saved state is missing or damaged.
        Interrupted: SIGTERM or SIGINT came; the state is saved.
    """
    recipe, folder = job.recipe, job.folder
    facts = _facts(job)
    if _is_finished(folder, recipe, made_from=facts["made_from"]):
        return False
    if recipe.deterministic:
        torch.use_deterministic_algorithms(True, warn_only=True)
    if job.device.type == "cpu":
        keep_freed_memory()
    torch.backends.cudnn.benchmark = not recipe.deterministic  # patches have one size: one search for fast kernels
    with processes.first_alone():
        build_index(CaseStore(job.store))
        if processes.rank() == 0:
            recipe.write(folder / "recipe.json")
    run, crops, val_crops = _prepare(job)
    while True:
        try:
            _train(run, crops, val_crops, job, facts, progress, epoch_done)
        except Diverged as error:
            factor = run.at.rate_factor * SLOWER
            if factor < SLOWEST:
                raise
            run, crops, val_crops = _prepare(job)
            run.at.rate_factor = factor
            log.warning("%s; going on from step %d with %g times the learning rate", error, run.step_number, factor)
        else:
            return True


def _train(
    run: Run,
    crops: CropRules,
    val_crops: CropRules,
    job: FoldJob,
    facts: dict[str, Any],
    progress: Progress,
    epoch_done: Callable[[list[dict[str, Any]]], None],
) -> None:
    """Train from where a run is to the end, saving its state. Raises Interrupted, Diverged."""
    recipe, folder = job.recipe, job.folder
    state = folder / STATE
    rows = _Log(folder / "log.jsonl", keep=run.at.epoch)
    if job.tensorboard and processes.rank() == 0:
        names = [*job.plan.scheme.foreground]
        rows.events = Events(folder / "tensorboard", label_names=names, first_epoch=run.at.epoch)
    workers = max(1, min(12, available_cpus() - 1)) if job.loaders is None else job.loaders
    val_step = run.at.epoch * recipe.validation_batches
    with (
        remembered_signals() as stopped,
        batches(crops, first_step=run.step_number, workers=workers) as train,
        batches(val_crops, first_step=val_step, workers=min(1, workers)) as val,
    ):
        saved = time.monotonic()
        fixed = recipe.deterministic or processes.size() > 1  # where compilation could differ between processes
        if job.device.type == "cuda" and recipe.compile and not fixed and _is_long(run):
            run.try_compiler()
        if job.profile:
            run.watch = Stopwatch(run.device)
        while not run.is_over:
            while run.at.iteration < recipe.iterations and not (run.at.iteration and run.is_over):
                _timed_step(run, train)
                progress(*_done_of(run), _state_line(run, rows))
                due = time.monotonic() - saved > recipe.save_every_minutes * 60
                own = [stopped[0] if stopped else 0, due, run.at.trained_s]
                signal, due, run.at.trained_s = processes.most(own, job.device)
                if signal or (due and not run.at.skipped):  # what diverges is not kept
                    run.save(state, facts=facts)
                    saved = time.monotonic()
                if signal:
                    raise Interrupted(int(signal), STATE_SAVED)
            steps = run.at.iteration
            with run.watch("validation"):
                rows.append(_finish_epoch(run, val, job, facts))
            epoch_done(rows.rows)
            if isinstance(run.watch, Stopwatch):
                _write_profile(run.watch, folder, steps=steps)
                run.watch = lambda part: nullcontext()
            for found in (collapse(rows.rows), data_wait(rows.rows, loaders=workers)):
                if found:
                    log.warning("%s: %s", folder.name, found)
            if not run.at.skipped:
                run.save(state, facts=facts)
            saved = time.monotonic()
        run.save_weights(folder / "weights.safetensors", facts=facts)
    processes.wait_for_all()  # the weights are there for each of them
    if stopped:
        raise Interrupted(stopped[0], STATE_SAVED)


def augmentation_rules(plan: Plan, configuration: Configuration) -> AugmentationRules:
    """How patches of a configuration are augmented: its size, its mirror axes, the labels that change places."""
    left_right = plan.left_right_axis(configuration.dimensions)
    pairs = plan.scheme.inside_pairs(configuration.mirror_label_pairs)
    return rules_for(
        configuration.patch_size,
        mirror_axes=configuration.mirror_axes,
        mirror_label_pairs={left_right: pairs} if pairs and left_right is not None else {},
        mask_channels=configuration.use_mask_for_norm,
    )


def _prepare(job: FoldJob) -> tuple[Run, CropRules, CropRules]:
    configuration = job.plan.configuration(job.configuration)
    rules = augmentation_rules(job.plan, configuration)
    patch = tuple(configuration.patch_size)
    enlarged = crop_size(patch, rotation_rad=rules.rotation_rad, dummy_2d=rules.dummy_2d)
    crops = CropRules(
        store=job.store,
        cases=tuple(job.split.train),
        batch_size=configuration.batch_size,
        patch_size=patch,
        crop_size=enlarged if job.recipe.augmentation else patch,
        foreground_share=job.recipe.oversample_foreground,
        minimum_class_rate=job.recipe.minimum_class_rate,
        seed=(job.recipe.seed,),
        stage=job.stage,
        first_sample=processes.rank() * configuration.batch_size,
        samples_in_all=processes.size() * configuration.batch_size,
    )
    val = replace(crops, cases=tuple(job.split.val), crop_size=patch, seed=(job.recipe.seed, VALIDATION_STREAM))
    begun = (job.folder / STATE).is_file()
    pretrained = None if begun else job.pretrained
    run = Run(
        job.plan,
        job.configuration,
        job.recipe,
        rules,
        job.device,
        pretrained=pretrained,
        annotated_classes=job.annotated_classes,
    )
    if begun:
        run.restore(job.folder / STATE)
    return run, crops, val


def _write_profile(watch: Stopwatch, folder: Path, *, steps: int) -> None:
    if processes.rank() > 0:
        return
    write_json(folder / "profile.json", {"steps": steps, "seconds": watch.seconds})
    log.info(
        "%s: an epoch of %d steps, in %s\n%s", folder.name, steps, folder / "profile.json", watch.table(steps=steps)
    )


def _timed_step(run: Run, train: Iterator[dict[str, Any]]) -> None:
    started = time.monotonic()
    with run.watch("data wait"):
        batch = next(train)
    assert int(batch["step"]) == run.step_number, "the loader is out of step"
    waited = time.monotonic()
    run.train_step(batch)
    run.at.wait_s += waited - started
    took = time.monotonic() - started
    run.at.step_s += took
    run.at.trained_s += took


def _is_long(run: Run) -> bool:
    """Whether what is left is worth some minutes of compilation."""
    recipe = run.recipe
    if recipe.time_budget_s is not None:
        return recipe.time_budget_s - run.at.trained_s > LONG_S
    return recipe.epochs * recipe.iterations - run.step_number > LONG_STEPS


def _done_of(run: Run) -> tuple[int, int]:
    """Steps done and to do in all, or seconds with a time budget."""
    if run.recipe.time_budget_s is not None:
        return min(int(run.at.trained_s), int(run.recipe.time_budget_s)), int(run.recipe.time_budget_s)
    return run.step_number, run.recipe.epochs * run.recipe.iterations


def _finish_epoch(run: Run, val: Iterator[dict[str, Any]], job: FoldJob, facts: dict[str, Any]) -> dict[str, Any]:
    """Validate, keep the best weights, and move the counters to the next epoch; returns the log row."""
    started, at, recipe = time.monotonic(), run.at, run.recipe
    val_loss, dice = run.validate(val, recipe.validation_batches)
    present = [value for value in dice if value is not None]
    mean = float(np.mean(present)) if present else 0.0
    validated_s = time.monotonic() - started
    (at.trained_s,) = processes.most([at.trained_s + validated_s], job.device)
    at.smoothed_dice = mean if at.smoothed_dice is None else SMOOTHING * at.smoothed_dice + (1 - SMOOTHING) * mean
    row = {
        "epoch": at.epoch,
        "train_loss": at.train_loss,
        "val_loss": val_loss if math.isfinite(val_loss) else None,
        "pseudo_dice": dice,
        "pseudo_dice_mean": mean,
        "learning_rate": at.rate,
        "seconds": at.step_s + validated_s,
        "images_per_second": at.iteration * run.batch_size / max(at.step_s, 1e-9),
        "data_wait_share": at.wait_s / max(at.step_s, 1e-9),
    }
    at.next_epoch()
    if at.best_dice is None or at.smoothed_dice > at.best_dice:
        at.best_dice = at.smoothed_dice
        run.save_weights(job.folder / "weights_best.safetensors", facts=facts)
    return row


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
        raise UsageError(f"the loss '{recipe.loss}' takes no `known`, without which annotated_classes cannot be heeded")
    if job.tensorboard:
        check_tensorboard()
    _is_finished(job.folder, recipe, made_from=_facts(job)["made_from"])


def _facts(job: FoldJob) -> dict[str, Any]:
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


def _state_line(run: Run, done: _Log) -> str:
    budget, at = run.recipe.time_budget_s, run.at
    of = f"/{run.recipe.epochs}" if budget is None else f", {at.trained_s:.0f} of {budget:.0f} s,"
    text = f"epoch {at.epoch + 1}{of}"
    if at.train_loss is not None:
        text += f" loss {at.train_loss:.3f}"
    if done.rows and done.rows[-1]["val_loss"] is not None:
        text += f" validation {done.rows[-1]['val_loss']:.3f}"
    if at.step_s:
        text += f" {at.iteration * run.batch_size / at.step_s:.1f} images/s data wait {at.wait_s / at.step_s:.0%}"
    if done.rows:
        dice = ["-" if value is None else f"{value:.2f}" for value in done.rows[-1]["pseudo_dice"]]
        many = [*dice[:SHOWN_CLASSES], "..."] if len(dice) > SHOWN_CLASSES else dice
        text += f" pseudo-Dice {' '.join(many)}"
    return text


def _is_finished(folder: Path, recipe: Recipe, *, made_from: str) -> bool:
    """Whether the fold is finished; refuses a folder begun with other settings (length apart) or from other data."""
    weights, state = folder / "weights.safetensors", folder / STATE
    saved = next((load_weights(path)[1] for path in (weights, state) if path.is_file()), {})
    if (folder / "recipe.json").is_file():
        begun = Recipe.read(folder / "recipe.json")
    elif saved:
        begun = parse(Recipe, saved["recipe"], source=str(folder))
    else:
        return False
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
    return weights.is_file() and parse(Recipe, saved["recipe"], source=str(folder)).length == recipe.length


class _Log:
    """log.jsonl: one JSON row per epoch. Rows of epochs that will be repeated after a kill are dropped."""

    def __init__(self, path: Path, *, keep: int) -> None:
        self.path = path
        self.rows = [row for row in read_log(path) if row["epoch"] < keep]
        self.events: Events | None = None
        self._write()

    def append(self, row: dict[str, Any]) -> None:
        self.rows.append(row)
        self._write()
        if self.events is not None:
            self.events.add(row)

    def _write(self) -> None:
        if processes.rank() > 0:
            return
        text = "".join(json.dumps(row, allow_nan=False) + "\n" for row in self.rows)
        write_bytes(self.path, text.encode())


def read_log(path: Path) -> list[dict[str, Any]]:
    """Rows of a log.jsonl; none when the file is missing."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []
