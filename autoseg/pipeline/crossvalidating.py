"""From a case store to trained folds, each validated, and the pooled cross-validation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autoseg import __version__, evaluation, prediction, reporting, training
from autoseg.core.dataset import Dataset, read_dataset
from autoseg.core.errors import AutosegError, DataError, Problem, UsageError
from autoseg.core.plan import Model, Plan
from autoseg.core.recipe import Recipe
from autoseg.core.scores import Scores, mark_validated, validation_scores
from autoseg.core.splits import Split
from autoseg.core.workspace import Workspace, fold_files, fold_folder
from autoseg.io.case_store import CaseStore
from autoseg.nets.device import choose_device, enough_memory
from autoseg.pipeline.cascading import out_of_fold_segmentations
from autoseg.pipeline.outcome import Outcome, Progress, few_cases, few_workers, silent
from autoseg.pipeline.plan_file import read_plan
from autoseg.pipeline.preparing import current_splits
from autoseg.preprocessing.prepare_case import store_key


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """What training may be told."""

    recipe: Recipe
    configuration: str = "3d_fullres"
    planner: str = "default"
    folds: tuple[str, ...] = ()
    device: str | None = None
    loaders: int | None = None
    pretrained: Path | None = None
    profile: bool = False
    workers: int | None = None


def train(folder: Path, workspace: Workspace, options: TrainOptions, *, progress: Progress = silent) -> Outcome:
    """Train and validate folds one after the other; when every fold is there, pool the cross-validation.

    A fold that fails is reported and the next one goes on.
    """
    dataset = read_dataset(folder)
    plan = read_plan(workspace, dataset.name, options.planner)
    store = workspace.case_store(dataset.name, plan.planner, plan.stored_as(options.configuration))
    stored = _stored_cases(dataset, plan, options.configuration, store)
    if not stored:
        raise UsageError(
            f"{store} holds no case preprocessed by this plan; run autoseg_plan_and_preprocess -d {folder.name} first"
        )
    splits = current_splits(dataset, workspace)
    folds = _wanted_folds(options.folds, splits, stored)
    results = workspace.model(dataset.name, plan.planner, options.configuration)
    device = choose_device(options.device)
    stage = None
    if plan.configuration(options.configuration).previous_stage is not None:
        stage = out_of_fold_segmentations(
            dataset,
            plan,
            options.configuration,
            splits=splits,
            cases={case for split in folds.values() for case in (*split.train, *split.val)},
            workspace=workspace,
            workers=options.workers,
            progress=progress,
        )
    jobs = {
        fold: training.FoldJob(
            store=store,
            plan=plan,
            configuration=options.configuration,
            recipe=options.recipe,
            split=split,
            folder=fold_folder(results, fold),
            device=device,
            loaders=options.loaders,
            pretrained=None if options.pretrained is None else training.pretrained_file(options.pretrained),
            profile=options.profile,
            annotated_classes=dataset.annotated_classes,
            stage=stage,
        )
        for fold, split in folds.items()
    }
    for job in jobs.values():  # whatever is refused is refused before the first fold takes its hours
        training.check_fold(job)
    _write_model(results, Model(configuration=options.configuration, plan=plan, autoseg_version=__version__))
    outcome = Outcome(warnings=few_cases(len(stored), len(splits)))
    for fold, job in jobs.items():
        try:
            with enough_memory("plan for less with autoseg_plan --gpu_memory_gb, or close what else uses it"):
                outcome.facts[f"fold_{fold}"] = _train_and_validate(dataset, job, fold, results, options, progress)
        except DataError as error:
            outcome.problems += error.problems
        except (AutosegError, OSError) as error:
            outcome.problems.append(
                Problem(case=f"fold_{fold}", found=str(error), next="then run the same command again")
            )
    _pool_cross_validation(results, len(splits), outcome)
    return outcome


def _train_and_validate(
    dataset: Dataset,
    job: training.FoldJob,
    fold: str,
    results: Path,
    options: TrainOptions,
    progress: Progress,
) -> dict[str, Any]:
    trained_now = training.train_fold(
        job, progress=lambda done, total, text: progress(f"fold {fold}", done, total, text)
    )
    rows = training.read_log(job.folder / "log.jsonl")
    reporting.curve_picture(rows, job.folder / "progress.png", label_names=list(dataset.labels.foreground))
    scores = validation_scores(job.folder)
    validated_now = scores is None
    if scores is None:
        scores = _validate(dataset, job, fold, results, options, progress)
        mark_validated(job.folder)
    return {"trained_now": trained_now, "validated_now": validated_now, "mean_dice": scores.mean_dice}


def _validate(
    dataset: Dataset,
    job: training.FoldJob,
    fold: str,
    results: Path,
    options: TrainOptions,
    progress: Progress,
) -> Scores:
    """Predict the validation cases of a fold from their raw images and score them against the raw labels."""
    ensemble = prediction.load_ensemble(
        results,
        folds=[fold],
        device=job.device,
        precision=job.recipe.precision,
        # a cascade's first stage must not have seen these cases either; fold all has seen them all in any case
        previous_folds=None if fold == "all" else [fold],
    )
    cases = [dataset.cases[case] for case in job.split.val]
    validation = job.folder / "validation"
    ending = dataset.json.file_ending
    problems: list[Problem] = []
    for number, case in enumerate(cases):
        progress(f"validate fold {fold}", number, len(cases), case.id)
        try:
            prediction.predict_case(ensemble, case, validation / f"{case.id}{ending}")
        except DataError as error:
            problems += error.problems
    progress(f"validate fold {fold}", len(cases), len(cases), "")
    scores, more = evaluation.evaluate(
        {case.id: validation / f"{case.id}{ending}" for case in cases},
        {case.id: case.label for case in cases if case.label is not None},
        labels=dataset.labels,
        annotated_classes=dataset.annotated_classes,
        workers=few_workers(len(cases), options.workers),
    )
    evaluation.write_scores(scores, validation)
    known = {problem.case for problem in problems}
    if problems := problems + [problem for problem in more if problem.case not in known]:
        raise DataError(problems)
    return scores


def _pool_cross_validation(results: Path, n_folds: int, outcome: Outcome) -> None:
    """Pool the scores of all folds into crossval/ once every fold is validated."""
    folds = [scores for fold in range(n_folds) if (scores := validation_scores(fold_folder(results, fold)))]
    if not n_folds or len(folds) < n_folds:
        return
    scores = evaluation.pool_scores(folds)
    evaluation.write_scores(scores, results / "crossval")
    outcome.facts["crossval_mean_dice"] = scores.mean_dice
    outcome.facts["crossval_table"] = evaluation.score_table(scores)


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


def _wanted_folds(wanted: Sequence[str], splits: list[Split], stored: set[str]) -> dict[str, Split]:
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
            raise UsageError(f"fold {name} needs cases that are not preprocessed: {', '.join(lost)}; preprocess again")
    return {name: known[name] for name in names}
