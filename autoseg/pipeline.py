"""The whole flow on one page; the only place where stages meet."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from autoseg import __version__, evaluation, prediction, reporting, training
from autoseg import fingerprinting as fingerprinting_stage
from autoseg import planning as planning_stage
from autoseg import preprocessing as preprocessing_stage
from autoseg.core.dataset import Dataset, DatasetJson, read_dataset, read_declaration
from autoseg.core.errors import AutosegError, DataError, Problem, UsageError
from autoseg.core.files import content_key
from autoseg.core.fingerprint import Fingerprint
from autoseg.core.plan import Model, Plan
from autoseg.core.recipe import Recipe
from autoseg.core.scores import Scores
from autoseg.core.splits import Split, splits_of
from autoseg.core.workers import workers_for
from autoseg.core.workspace import Workspace, fold_folder
from autoseg.io.case_store import CaseStore
from autoseg.io.images import read_geometry, read_volume
from autoseg.nets.device import choose_device

log = logging.getLogger(__name__)
Progress = Callable[[str, int, int, str], None]  # stage, done, total, text


def silent(stage: str, done: int, total: int, text: str) -> None:
    """Progress that nobody wants to see."""


@dataclass(kw_only=True)
class Outcome:
    """What a command did: facts to print, and every problem and warning that was met."""

    facts: dict[str, Any] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    warnings: list[Problem] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the planning half of the pipeline may be told; the defaults need no choice."""

    planner: str = "default"
    configurations: tuple[str, ...] = ()
    gpu_memory_gb: float | None = None
    spacing_mm: tuple[float, float, float] | None = None
    workers: int | None = None


def extract_fingerprint(
    dataset: Dataset, workspace: Workspace, *, workers: int | None = None, progress: Progress = silent
) -> tuple[Fingerprint, Outcome]:
    """Check every case and measure the data set."""
    counter = CaseCounter(progress, "check and measure", len(dataset.cases))
    fingerprint, problems, warnings, n_new = fingerprinting_stage.fingerprint(
        dataset, workspace=workspace, workers=_workers(dataset, workers), progress=counter
    )
    fingerprint.write(workspace.fingerprint(dataset.name))
    facts = {"cases": len(fingerprint.cases), "cases_measured_now": n_new}
    return fingerprint, Outcome(facts=facts, problems=problems, warnings=warnings)


def make_plan(
    name: str, declaration: DatasetJson, fingerprint: Fingerprint, workspace: Workspace, options: Options
) -> tuple[Plan, bool]:
    """Plan from a fingerprint and write the plan file; a file made from the same fingerprint and options is kept, with
    whatever the user edited in it. Returns (plan, whether it was made now)."""
    path = workspace.plan(name, options.planner)
    made_from = content_key(fingerprint.key, options.gpu_memory_gb, options.spacing_mm, declaration.model_dump())
    if path.is_file():
        known = Plan.read(path)
        if known.fingerprint_key == made_from:
            return known, False
        log.info("%s was made from other data or options and is planned anew", path)
    plan = planning_stage.plan(
        fingerprint,
        declaration,
        dataset=name,
        planner=options.planner,
        gpu_memory_gb=options.gpu_memory_gb,
        spacing_mm=options.spacing_mm,
    ).with_changes(fingerprint_key=made_from)
    plan.write(path)
    return plan, True


def preprocess(
    dataset: Dataset, plan: Plan, workspace: Workspace, options: Options, *, cases: Sequence[str], progress: Progress = silent
) -> Outcome:
    """Preprocess `cases` for the wanted configurations (all planned ones by default) and write the splits."""
    names = list(options.configurations or plan.configurations)
    for name in names:
        plan.configuration(name)
    counter = CaseCounter(progress, "preprocess", len(cases))
    done, problems, n_new = preprocessing_stage.preprocess(
        dataset,
        plan,
        configurations=names,
        cases=cases,
        workspace=workspace,
        workers=_workers(dataset, options.workers),
        progress=counter,
    )
    splits = splits_of(dataset, workspace.splits(dataset.name), cases=set(done)) if done else []
    warnings = _few_cases(len(done), len(splits))
    facts = {"configurations": names, "preprocessed": len(done), "preprocessed_now": n_new, "folds": len(splits)}
    return Outcome(facts=facts, problems=problems, warnings=warnings)


def plan_and_preprocess(
    folder: Path, workspace: Workspace, options: Options, *, progress: Progress = silent
) -> tuple[Plan, Outcome]:
    """Check, fingerprint, plan, preprocess: from a raw folder to a case store."""
    dataset = read_dataset(folder)
    fingerprint, measured = extract_fingerprint(dataset, workspace, workers=options.workers, progress=progress)
    plan, planned_now = make_plan(dataset.name, dataset.json, fingerprint, workspace, options)
    stored = preprocess(dataset, plan, workspace, options, cases=fingerprint.cases, progress=progress)
    return plan, Outcome(
        facts={**measured.facts, "planned_now": planned_now, **stored.facts},
        problems=measured.problems + stored.problems,
        warnings=measured.warnings + stored.warnings,
    )


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """What training may be told."""

    recipe: Recipe
    configuration: str = "3d_fullres"
    planner: str = "default"
    folds: tuple[str, ...] = ()
    device: str | None = None
    loaders: int | None = None
    workers: int | None = None


def train(folder: Path, workspace: Workspace, options: TrainOptions, *, progress: Progress = silent) -> Outcome:
    """Train and validate folds one after the other; when every fold is there, pool the cross-validation.

    A fold that fails is reported and the next one goes on.
    """
    dataset = read_dataset(folder)
    plan = read_plan(workspace, dataset.name, options.planner)
    plan.configuration(options.configuration)
    store = workspace.case_store(dataset.name, plan.planner, options.configuration)
    stored = set(CaseStore(store).case_ids())
    if not stored:
        raise UsageError(f"{store} holds no preprocessed case; run autoseg_plan_and_preprocess -d {folder.name} first")
    splits = splits_of(dataset, workspace.splits(dataset.name), cases=stored)
    folds = _wanted_folds(options.folds, splits, stored)
    results = workspace.model(dataset.name, plan.planner, options.configuration)
    model = Model(configuration=options.configuration, plan=plan, autoseg_version=__version__)
    if not (results / "model.json").is_file() or Model.read(results / "model.json").plan != plan:
        model.write(results / "model.json")
    outcome = Outcome(warnings=_few_cases(len(stored), len(splits)))
    for fold, split in folds.items():
        job = training.FoldJob(
            store=store,
            plan=plan,
            configuration=options.configuration,
            recipe=options.recipe,
            split=split,
            folder=fold_folder(results, fold),
            device=choose_device(options.device),
            loaders=options.loaders,
        )
        try:
            outcome.facts[f"fold_{fold}"] = _train_and_validate(dataset, job, fold, results, options, progress)
        except DataError as error:
            outcome.problems += error.problems
        except UsageError:
            raise
        except AutosegError as error:
            outcome.problems.append(Problem(case=f"fold_{fold}", found=str(error), next="then run the same command again"))
    _pool_cross_validation(results, len(splits), outcome)
    return outcome


def _train_and_validate(
    dataset: Dataset, job: training.FoldJob, fold: str, results: Path, options: TrainOptions, progress: Progress
) -> dict[str, Any]:
    trained_now = training.train_fold(job, progress=lambda done, total, text: progress(f"fold {fold}", done, total, text))
    rows = training.read_log(job.folder / "log.jsonl")
    reporting.curve_picture(rows, job.folder / "progress.png", label_names=list(dataset.labels.foreground))
    validation = job.folder / "validation"
    weights = job.folder / "weights.safetensors"
    key = content_key(files=[weights])
    note = validation / ".made_from"
    if (validation / "summary.json").is_file() and note.is_file() and note.read_text() == key:
        scores, validated_now = Scores.read(validation / "summary.json"), False
    else:
        scores, validated_now = _validate(dataset, job, fold, results, options, progress), True
        note.write_text(key)
    return {"trained_now": trained_now, "validated_now": validated_now, "mean_dice": scores.mean_dice}


def _validate(
    dataset: Dataset, job: training.FoldJob, fold: str, results: Path, options: TrainOptions, progress: Progress
) -> Scores:
    """Predict the validation cases of a fold from their raw images and score them against the raw labels."""
    ensemble = prediction.load_ensemble(results, folds=[fold], device=job.device, precision=job.recipe.precision)
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
        workers=few_workers(len(cases), options.workers),
    )
    evaluation.write_scores(scores, validation)
    if problems + more:
        raise DataError(problems + more)
    return scores


def _pool_cross_validation(results: Path, n_folds: int, outcome: Outcome) -> None:
    """Pool the scores of all folds into crossval/ once every fold is validated."""
    summaries = [fold_folder(results, fold) / "validation" / "summary.json" for fold in range(n_folds)]
    if not n_folds or not all(path.is_file() for path in summaries):
        return
    scores = evaluation.pool_scores([Scores.read(path) for path in summaries])
    evaluation.write_scores(scores, results / "crossval")
    outcome.facts["crossval_mean_dice"] = scores.mean_dice
    outcome.facts["crossval_table"] = evaluation.score_table(scores)


@dataclass(frozen=True, kw_only=True)
class PredictOptions:
    """What prediction may be told."""

    folds: tuple[str, ...] | None = None
    step: float = 0.5
    mirroring: bool = True
    device: str | None = None
    overwrite: bool = False
    part: tuple[int, int] = (0, 1)


def predict(
    model: Path, source: Path, target: Path, options: PredictOptions, *, progress: Progress = silent
) -> Outcome:
    """Predict every case of a folder (or one file) and write label files and prediction.json into `target`.

    Cases that `target` holds already, from the same model, image and options, are kept.
    """
    device = choose_device(options.device)
    ensemble = prediction.load_ensemble(model, folds=options.folds, device=device, mirroring=options.mirroring)
    cases, problems = prediction.find_cases(source, ensemble.plan)
    part, n_parts = options.part
    cases = cases[part::n_parts]
    weights = [fold_folder(model, fold) / "weights.safetensors" for fold in ensemble.folds]
    settings = {"step": options.step, "mirroring": options.mirroring, "precision": ensemble.precision}
    model_key = content_key(settings, ensemble.plan.model_dump(mode="json"), files=weights)
    facts = {"model": str(model), "folds": list(ensemble.folds), "options": settings, "autoseg_version": __version__}
    record = prediction.PredictionRecord(target, part=options.part, facts=facts)
    n_new = 0
    for number, case in enumerate(cases):
        progress("predict", number, len(cases), case.id)
        path = target / f"{case.id}{ensemble.plan.file_ending}"
        try:
            key = content_key(model_key, files=case.images)
            if path.is_file() and record.key_of(case.id) == key and not options.overwrite:
                continue
            started = time.monotonic()
            found = prediction.predict_case(ensemble, case, path, step=options.step)
            record.add(case.id, key=key, seconds=time.monotonic() - started, facts=found)
            n_new += 1
        except DataError as error:
            problems += [Problem(case=p.case or case.id, file=p.file, found=p.found, next=p.next) for p in error.problems]
    progress("predict", len(cases), len(cases), "")
    warnings = record.finish(problems)
    done = len(cases) - len({p.case for p in problems} & {case.id for case in cases})
    summary = {"predicted": done, "predicted_now": n_new, "folds": list(ensemble.folds), "output": str(target)}
    return Outcome(facts=summary, problems=problems, warnings=warnings)


def evaluate(
    predictions: Path, truths: Path, *, tolerance_mm: float, workers: int | None = None, progress: Progress = silent
) -> tuple[Scores, Outcome]:
    """Score a folder of predictions; writes summary.json and scores.csv into it.

    Every case that was to be predicted counts: those that prediction.json lists, else every file in `truths`. The labels
    come from the dataset.json in or above one of the folders.
    """
    folders = (truths, truths.resolve().parent, predictions, predictions.resolve().parent)
    declared = next((folder for folder in folders if (folder / "dataset.json").is_file()), None)
    if declared is None:
        raise UsageError(f"no dataset.json in or above {truths}; copy the data set's there: it says what the labels mean")
    declaration = read_declaration(declared)
    truth, predicted = (_label_files(folder, declaration.file_ending) for folder in (truths, predictions))
    if not truth or not predicted:
        empty, option = (truths, "-g") if not truth else (predictions, "-p")
        raise UsageError(f"{empty} holds no {declaration.file_ending} file; give another folder with {option}")
    warnings = []
    asked = prediction.asked_cases(predictions)
    if asked is not None and (others := len(truth.keys() - asked)):
        truth = {case: path for case, path in truth.items() if case in asked}
        found = f"{others} of its cases were not part of this prediction"
        warnings.append(Problem(case="", file=str(truths), found=found, next="they are not scored"))
    scores, problems = evaluation.evaluate(
        predicted, truth, labels=declaration.scheme, tolerance_mm=tolerance_mm, workers=few_workers(len(truth), workers)
    )
    evaluation.write_scores(scores, predictions)
    facts = {"cases": len(scores.cases), "mean_dice": scores.mean_dice, "table": evaluation.score_table(scores)}
    return scores, Outcome(facts=facts, problems=problems, warnings=warnings)


def show_predictions(images: Path, truths: Path, predictions: Path, target: Path) -> list[Path]:
    """Draw an overlay of truth and prediction for every predicted case that has both; returns the pictures."""
    declaration = read_declaration(truths.resolve().parent)
    truth, predicted = (_label_files(folder, declaration.file_ending) for folder in (truths, predictions))
    pictures = []
    for case in sorted(truth.keys() & predicted.keys()):
        files = (images / f"{case}_0000{declaration.file_ending}", truth[case], predicted[case])
        volumes = [read_volume(path, case=case) for path in files]
        image, true, found = (geometry.orientation.apply(voxels) for voxels, geometry in volumes)
        picture = target / f"{case}.png"
        reporting.overlay_picture(
            image,
            true,
            found,
            labels=declaration.scheme,
            spacing_mm=volumes[0][1].canonical.spacing_mm,
            path=picture,
            title=case,
        )
        pictures.append(picture)
    return pictures


def _label_files(folder: Path, ending: str) -> dict[str, Path]:
    if not folder.is_dir():
        raise UsageError(f"{folder} is no folder; check the path")
    return {p.name[: -len(ending)]: p for p in sorted(folder.iterdir()) if p.name.endswith(ending) and p.name[0] != "."}


def read_plan(workspace: Workspace, dataset: str, planner: str) -> Plan:
    """The plan that a planner made. Raises UsageError when there is none."""
    path = workspace.plan(dataset, planner)
    if not path.is_file():
        raise UsageError(f"there is no plan {path}; run autoseg_plan_and_preprocess -d {dataset} first")
    return Plan.read(path)


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


def _few_cases(n_cases: int, n_folds: int) -> list[Problem]:
    if n_folds >= 5:
        return []
    if n_folds == 0:
        found, todo = f"only {n_cases} case (or group): no cross-validation is possible", "train with -f all"
    else:
        found, todo = f"{n_cases} cases in {n_folds} groups give {n_folds} folds instead of 5", "more cases give better estimates"
    return [Problem(case="", file="dataset.json", found=found, next=todo)]


def _workers(dataset: Dataset, wanted: int | None) -> int:
    """Worker processes for jobs as large as the largest image: its volume a few times over, and the libraries."""
    largest = max(dataset.cases.values(), key=lambda case: case.images[0].stat().st_size)
    try:
        shape = read_geometry(largest.images[0]).shape
    except DataError:  # it is reported with its case later
        return workers_for(2.0, wanted=wanted)
    voxels = shape[0] * shape[1] * shape[2]
    return workers_for(0.7 + voxels * (8 * len(largest.images) + 4) * 4 / 1e9, wanted=wanted)


def few_workers(n_cases: int, wanted: int | None) -> int:
    """Worker processes for scoring: none for a few cases, which are done before a process has started."""
    return wanted if wanted is not None else 0 if n_cases < 8 else workers_for(1.0)


class CaseCounter:
    """Turns "this case is done" into progress."""

    def __init__(self, progress: Progress, stage: str, total: int) -> None:
        self.progress, self.stage, self.total, self.done = progress, stage, total, 0

    def __call__(self, text: str) -> None:
        self.done += 1
        self.progress(self.stage, self.done, self.total, text)
