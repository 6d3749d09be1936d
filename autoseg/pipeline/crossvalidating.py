"""From a case store to trained folds, each validated, and the pooled cross-validation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from autoseg import __version__, evaluation, training
from autoseg.core.case_table import CASE_TABLE, read_case_table
from autoseg.core.dataset import Dataset, read_dataset
from autoseg.core.errors import AutosegError, DataError, Problem, UsageError
from autoseg.core.fingerprint import Fingerprint
from autoseg.core.plan import Model, Plan
from autoseg.core.recipe import Recipe
from autoseg.core.scores import validation_scores
from autoseg.core.splits import Split
from autoseg.core.workers import available_cpus
from autoseg.core.workspace import Workspace, fold_files, fold_folder
from autoseg.io.case_store import CaseStore
from autoseg.nets.device import choose_devices, device_of_rank
from autoseg.pipeline.cascading import out_of_fold_segmentations
from autoseg.pipeline.fold_queue import Result, run_in_queue
from autoseg.pipeline.fold_task import FoldTask, train_and_validate
from autoseg.pipeline.outcome import Outcome, Progress, few_cases, silent
from autoseg.pipeline.plan_file import read_plan
from autoseg.pipeline.preparing import current_splits
from autoseg.pipeline.trusting import calibrate
from autoseg.preprocessing.prepare_case import store_key
from autoseg.training import processes


@dataclass(frozen=True, kw_only=True)
class Together:
    """One of the processes that torchrun has started: its number on this machine, and how many run here."""

    local_rank: int
    local_size: int


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """What training may be told. Folds that were begun have recipes of their own."""

    recipe: Recipe
    begun: Mapping[str, Recipe] = field(default_factory=dict)
    configuration: str = "3d_fullres"
    planner: str = "default"
    folds: tuple[str, ...] = ()
    device: str | None = None
    loaders: int | None = None
    pretrained: Path | None = None
    plugin: str | None = None
    profile: bool = False
    tensorboard: bool = False
    probabilities: bool = False
    workers: int | None = None
    together: Together | None = None


def train(folder: Path, workspace: Workspace, options: TrainOptions, *, progress: Progress = silent) -> Outcome:
    """Train and validate folds; when every fold is there, pool the cross-validation.

    On one device they come one after the other, on several each takes the next. A fold that fails is reported and the
    others go on. In one of several processes that train together, each device has its share of every batch.
    """
    if options.together is None:
        return _train(folder, workspace, options, choose_devices(options.device), progress)
    rank, n_here = options.together.local_rank, options.together.local_size
    device = device_of_rank(options.device, local_rank=rank, local_size=n_here)
    with processes.together(device, n_here=n_here):
        return _train(folder, workspace, options, [device], progress if processes.rank() == 0 else silent)


def _train(
    folder: Path, workspace: Workspace, options: TrainOptions, devices: list[torch.device], progress: Progress
) -> Outcome:
    dataset = read_dataset(folder)
    plan = read_plan(workspace, dataset.name, options.planner)
    store = workspace.case_store(dataset.name, plan.planner, plan.stored_as(options.configuration))
    stored = _stored_cases(dataset, plan, options.configuration, store)
    if not stored:
        raise UsageError(
            f"{store} holds no case preprocessed by this plan; run {_preprocess(dataset.name, options)} first"
        )
    splits = current_splits(dataset, workspace)
    folds = _wanted_folds(options.folds, splits, stored, todo=_preprocess(dataset.name, options))
    results = workspace.model(dataset.name, plan.planner, options.configuration)
    columns, doubts = read_case_table(dataset.folder / CASE_TABLE, cases={*dataset.cases})
    stage = None
    if plan.configuration(options.configuration).previous_stage is not None:
        stage = workspace.stage_store(dataset.name, plan.planner, options.configuration)
        if processes.rank() == 0:
            out_of_fold_segmentations(
                dataset,
                plan,
                options.configuration,
                splits=splits,
                cases={case for split in folds.values() for case in (*split.train, *split.val)},
                workspace=workspace,
                workers=options.workers,
                progress=progress,
            )
        processes.wait_for_all()
    jobs = {
        fold: training.FoldJob(
            store=store,
            plan=plan,
            configuration=options.configuration,
            recipe=options.begun.get(fold, options.recipe),
            split=split,
            folder=fold_folder(results, fold),
            device=devices[0],
            loaders=_loaders(options, n_tasks=min(len(devices), len(folds))),
            pretrained=None if options.pretrained is None else training.pretrained_file(options.pretrained),
            profile=options.profile,
            tensorboard=options.tensorboard,
            annotated_classes=dataset.annotated_classes,
            stage=stage,
        )
        for fold, split in folds.items()
    }
    for job in jobs.values():  # whatever is refused is refused before the first fold takes its hours
        training.check_fold(job)
    if processes.rank() == 0:
        measured = workspace.fingerprint(dataset.name)
        seen = Fingerprint.read(measured).seen if measured.is_file() else None
        name = options.configuration
        _write_model(results, Model(configuration=name, plan=plan, autoseg_version=__version__, seen=seen))
    processes.wait_for_all()
    outcome = Outcome(warnings=[*few_cases(len(stored), len(splits)), *doubts])
    tasks = [
        FoldTask(
            dataset=dataset,
            job=job,
            fold=fold,
            results=results,
            workers=options.workers,
            plugin=options.plugin,
            probabilities=options.probabilities,
        )
        for fold, job in jobs.items()
    ]
    several = len(devices) > 1 and len(tasks) > 1
    trained = run_in_queue(tasks, devices, progress=progress) if several else _run_in_turn(tasks, progress)
    for fold, result in trained:
        if isinstance(result, DataError):
            outcome.problems += result.problems
        elif isinstance(result, Exception):
            outcome.problems.append(
                Problem(case=f"fold_{fold}", found=str(result), next="then run the same command again")
            )
        else:
            outcome.facts[f"fold_{fold}"] = result
    if processes.rank() == 0:
        _pool_cross_validation(results, len(splits), columns, outcome)
    return outcome


def _loaders(options: TrainOptions, *, n_tasks: int) -> int | None:
    """Processes that read crops for a fold, where several folds or processes share this machine's CPUs."""
    n_here = n_tasks if options.together is None else options.together.local_size
    if options.loaders is not None or n_here == 1:
        return options.loaders
    return max(1, min(12, available_cpus() // n_here - 1))


def _run_in_turn(tasks: Sequence[FoldTask], progress: Progress) -> Iterator[tuple[str, Result]]:
    """Train and validate folds one after the other; yields (fold, its facts or what went wrong).

    An error in one of several processes that train together ends them all: the others wait for it.
    """
    for task in tasks:
        result: Result
        try:
            result = train_and_validate(task, progress)
        except (AutosegError, OSError) as error:
            if processes.size() > 1:
                raise
            result = error
        yield task.fold, result


def _pool_cross_validation(
    results: Path, n_folds: int, columns: Mapping[str, Mapping[str, str]], outcome: Outcome
) -> None:
    """Pool the scores of all folds into crossval/ once every fold is validated."""
    folds = [scores for fold in range(n_folds) if (scores := validation_scores(fold_folder(results, fold)))]
    if not n_folds or len(folds) < n_folds:
        return
    scores = evaluation.pool_scores(folds, columns=columns)
    evaluation.write_scores(scores, results / "crossval")
    outcome.facts["crossval_mean_dice"] = scores.mean_dice
    outcome.facts["crossval_table"] = evaluation.score_table(scores)
    outcome.warnings += calibrate(results, n_folds, scores)


def _stored_cases(dataset: Dataset, plan: Plan, configuration: str, store: Path) -> set[str]:
    """Cases that are stored as this plan wants them, from the images as they are now."""
    cases = CaseStore(store)
    return {case.id for case in dataset.cases.values() if cases.has(case.id, store_key(plan, configuration, case))}


def _write_model(results: Path, model: Model) -> None:
    """Write model.json; refuses when folds were begun there by a plan that their weights would not fit."""
    path = results / "model.json"
    if path.is_file() and (
        fold_files(results, "weights.safetensors") or fold_files(results, "state_latest.safetensors")
    ):
        old, new = Model.read(path).plan, model.plan
        name = model.configuration
        decisions = [
            (p.configuration(name).decisions(), p.transpose_forward, p.labels, p.channel_names, p.intensities)
            for p in (old, new)
        ]
        if decisions[0] != decisions[1]:
            raise UsageError(f"{results} holds folds of another plan; move that folder away, then train again")
    model.write(path)


def _preprocess(dataset: str, options: TrainOptions) -> str:
    """The command that preprocesses what a training needs."""
    own = "" if options.planner == "default" else f" --planner {options.planner}"
    return f"autoseg_preprocess -d {dataset} -c {options.configuration}{own}"


def _wanted_folds(wanted: Sequence[str], splits: list[Split], stored: set[str], *, todo: str) -> dict[str, Split]:
    everything = Split(train=sorted(stored), val=sorted(stored))
    known = {**{str(i): split for i, split in enumerate(splits)}, "all": everything}
    if not splits and not wanted:
        raise UsageError("a single case cannot be cross-validated; train on it with -f all")
    names = list(wanted) or [str(i) for i in range(len(splits))]
    for name in names:
        if name not in known:
            raise UsageError(f"there is no fold {name}; choose from {', '.join(known)}")
    for name in names:
        lost = sorted({*known[name].train, *known[name].val} - stored)
        if lost:
            raise UsageError(f"fold {name} needs cases that are not preprocessed: {', '.join(lost)}; run {todo}")
    return {name: known[name] for name in names}
