"""From a raw folder to a case store: fingerprint, plan, preprocess."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from autoseg import fingerprinting as fingerprinting_stage
from autoseg import preprocessing as preprocessing_stage
from autoseg.core.cluster import connect
from autoseg.core.dataset import Dataset, read_dataset
from autoseg.core.errors import DataError, UsageError
from autoseg.core.fingerprint import Fingerprint
from autoseg.core.plan import Plan
from autoseg.core.records import nearest
from autoseg.core.splits import Split, check_stratify, splits_of
from autoseg.core.workers import WorkerPool
from autoseg.core.workspace import Workspace
from autoseg.pipeline.outcome import CaseCounter, Outcome, Progress, check_pool, few_cases, pool_for, silent
from autoseg.pipeline.plan_file import Options, check_planning, make_plan
from autoseg.planning import CONFIGURATIONS


def plan_and_preprocess(
    folder: Path, workspace: Workspace, options: Options, *, clean: bool = False, progress: Progress = silent
) -> tuple[Plan, Outcome]:
    """Check, fingerprint, plan, preprocess: from a raw folder to a case store.

    With `clean`, what was measured and this planner's case stores are deleted first; plans and splits are kept.
    """
    dataset = read_dataset(folder)
    _check_options(options, dataset, workspace)
    if clean:
        top = workspace.fingerprint(dataset.name).parent
        for made in (top / "measured", *top.glob(f"{options.planner}__*")):
            shutil.rmtree(made, ignore_errors=True)
    with pool_for(dataset, options.workers, options.scheduler, device=options.device) as pool:
        fingerprint, measured = extract_fingerprint(dataset, workspace, pool=pool, progress=progress)
        plan, planned_now, kept = make_plan(dataset.name, dataset.json, fingerprint, workspace, options)
        stored = _preprocess(dataset, plan, workspace, options, pool=pool, cases=fingerprint.cases, progress=progress)
    return plan, Outcome(
        facts={**measured.facts, "planned_now": planned_now, **stored.facts},
        problems=measured.problems + stored.problems,
        warnings=measured.warnings + kept + stored.warnings,
    )


def extract_fingerprint(
    dataset: Dataset, workspace: Workspace, *, pool: WorkerPool, progress: Progress = silent
) -> tuple[Fingerprint, Outcome]:
    """Check every case and measure the data set."""
    counter = CaseCounter(progress, "check and measure", len(dataset.cases))
    fingerprint, problems, warnings, n_new = fingerprinting_stage.fingerprint(
        dataset, workspace=workspace, pool=pool, progress=counter
    )
    fingerprint.write(workspace.fingerprint(dataset.name))
    facts = {"cases": len(fingerprint.cases), "cases_measured_now": n_new}
    return fingerprint, Outcome(facts=facts, problems=problems, warnings=warnings)


def preprocess(
    dataset: Dataset,
    plan: Plan,
    workspace: Workspace,
    options: Options,
    *,
    pool: WorkerPool,
    cases: Sequence[str],
    progress: Progress = silent,
) -> Outcome:
    """Write the splits and preprocess `cases` for the wanted configurations (all planned ones by default)."""
    _check_options(options, dataset, workspace)
    return _preprocess(dataset, plan, workspace, options, pool=pool, cases=cases, progress=progress)


def _preprocess(
    dataset: Dataset,
    plan: Plan,
    workspace: Workspace,
    options: Options,
    *,
    pool: WorkerPool,
    cases: Sequence[str],
    progress: Progress,
) -> Outcome:
    names = list(options.configurations or plan.configurations)
    for name in names:
        plan.configuration(name)
    splits, defects = [], []
    try:
        splits = current_splits(dataset, workspace, stratify=options.stratify)
    except DataError as error:
        defects += error.problems
    counter = CaseCounter(progress, "preprocess", len(cases))
    done, problems, n_new = preprocessing_stage.preprocess(
        dataset,
        plan,
        configurations=names,
        cases=cases,
        workspace=workspace,
        pool=pool,
        device=options.device,
        progress=counter,
    )
    problems += defects
    warnings = few_cases(len(done), len(splits))
    facts = {
        "configurations": names,
        "preprocessed": len(done),
        "preprocessed_now": n_new,
        "folds": len(splits),
    }
    return Outcome(facts=facts, problems=problems, warnings=warnings)


def current_splits(dataset: Dataset, workspace: Workspace, *, stratify: bool = False) -> list[Split]:
    """The splits over the cases that were measured without a defect, prepared yet or not (see `splits_of`)."""
    path = workspace.fingerprint(dataset.name)
    measured = Fingerprint.read(path) if path.is_file() else None
    return splits_of(
        dataset,
        workspace.splits(dataset.name),
        cases=set(measured.cases if measured else dataset.cases) & set(dataset.cases),
        # version 0.1.0 measured no ranges, and did not look which labels are absent either
        absent_labels=measured.absent_labels if measured and measured.ranges else None,
        stratify=stratify,
    )


def _check_options(options: Options, dataset: Dataset, workspace: Workspace) -> None:
    """Refuse a wrong call before any image is read or anything is deleted.

    Raises:
        UsageError: an unknown planner, configuration or scheme, splits of the user's own that are to be stratified,
            or a scheduler that does not answer.
        DeviceError: this machine has no such device.
    """
    check_pool(options.workers, options.scheduler)
    plan = workspace.plan(dataset.name, options.planner)
    check_planning(options, plan, n_channels=len(dataset.channel_names))
    if options.stratify:
        check_stratify(workspace.splits(dataset.name))
    if options.scheduler is not None:
        connect(options.scheduler).close()
    elif options.device != "cpu":
        from autoseg.nets.device import choose_device  # torch takes seconds to import; the workers have it

        choose_device(options.device)
    known = {*CONFIGURATIONS, *(Plan.read(plan).configurations if plan.is_file() else ())}
    for name in options.configurations:
        if name not in known:
            raise UsageError(f"there is no configuration '{name}'; {nearest(name, sorted(known))}")
