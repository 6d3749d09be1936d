"""Train one fold: the epoch loop."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from autoseg.core.errors import Interrupted
from autoseg.core.files import write_json
from autoseg.core.plan import Configuration, Plan
from autoseg.core.signals import remembered_signals
from autoseg.core.workers import available_cpus
from autoseg.io.case_store import CaseStore
from autoseg.io.class_index import build_index
from autoseg.nets.device import keep_freed_memory
from autoseg.training import processes
from autoseg.training.augmentation import AugmentationRules, crop_size, rules_for
from autoseg.training.guards import collapse, data_wait
from autoseg.training.job import STATE, FoldJob, facts_of, is_finished
from autoseg.training.loader import batches
from autoseg.training.log import Events, FoldLog, state_line
from autoseg.training.run import Diverged, Run
from autoseg.training.sampling import CropRules
from autoseg.training.stopwatch import Stopwatch

VALIDATION_STREAM = 1  # keeps validation crops apart from training crops of the same seed
SMOOTHING = 0.9
LONG_STEPS, LONG_S = 10_000, 3600.0
SLOWER, SLOWEST = 0.5, 0.1  # learning rate after a divergence; below that share it is given up
log = logging.getLogger(__name__)
STATE_SAVED = "interrupted, with the state of training saved"


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
    facts = facts_of(job)
    if is_finished(folder, recipe, made_from=facts["made_from"]):
        return False
    if recipe.deterministic:
        torch.use_deterministic_algorithms(True, warn_only=True)
    if job.device.type == "cpu":
        keep_freed_memory()
    torch.backends.cudnn.benchmark = not recipe.deterministic  # patches have one size: one search for fast kernels
    if processes.rank() == 0:
        build_index(CaseStore(job.store))
        recipe.write(folder / "recipe.json")
    processes.wait_for_all()
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
    rows = FoldLog(folder / "log.jsonl", keep=run.at.epoch)
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
                progress(*_done_of(run), state_line(run.at, rows.rows, recipe=recipe, batch_size=run.batch_size))
                due = time.monotonic() - saved > recipe.save_every_minutes * 60
                own = [stopped[0] if stopped else 0, due, run.at.trained_s]
                signal, due, run.at.trained_s = processes.most(own, job.device)
                if signal or (due and not run.at.skipped):  # what diverges is not kept
                    with suppress(Diverged) if signal else nullcontext():
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
        first_sample=run.first_sample,
        samples_in_all=run.batch_size,
    )
    val = replace(crops, cases=tuple(job.split.val), crop_size=patch, seed=(job.recipe.seed, VALIDATION_STREAM))
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
