"""From trained folds and images to segmentations."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from autoseg import __version__, prediction, refinement
from autoseg.core.errors import AutosegError, Problem, UsageError, problems_of
from autoseg.core.files import content_key, make_writable
from autoseg.core.labels import LabelScheme
from autoseg.core.strategy import Step
from autoseg.core.workers import WorkerPool
from autoseg.nets.device import choose_device, out_of_memory
from autoseg.pipeline.outcome import Outcome, Progress, silent
from autoseg.pipeline.prediction_report import named_members, write_prediction_report

log = logging.getLogger(__name__)
Result = dict[str, Any] | Exception
Jobs = dict[str, tuple[prediction.Scan, prediction.Target]]  # by case id
_ONE_AT_A_TIME = threading.Lock()
TREATMENT_BYTES = 16  # masks, numbered parts (up to 8), and the labels once more


@dataclass(frozen=True, kw_only=True)
class PredictOptions:
    """What prediction may be told."""

    folds: tuple[str, ...] | None = None
    weights: str = "final"
    step: float = 0.5
    mirroring: bool = True
    precision: str = "auto"
    probabilities: bool = False
    ending: str | None = None
    device: str | None = None
    max_memory_gb: float | None = None
    overwrite: bool = False
    part: tuple[int, int] = (0, 1)
    scheduler: str | None = None
    steps: tuple[Step, ...] = ()  # postprocessing
    report: bool = False  # a page of what was predicted
    plugin: str | None = None  # a module that registers variants, for workers elsewhere


@dataclass(frozen=True, kw_only=True)
class ClusterJob:
    """One case for a worker elsewhere, which loads the models itself and keeps them as long as `model_key` stays."""

    models: tuple[Path, ...]
    model_key: str
    options: PredictOptions
    name: str
    scan: prediction.Scan
    target: prediction.Target


def predict(
    models: Sequence[Path],
    source: Path,
    target: Path,
    options: PredictOptions,
    *,
    called: str | None = None,
    progress: Progress = silent,
) -> Outcome:
    """Predict every case of a folder (or one file) and write label files and prediction.json into `target`.

    Several models (folders with model.json) answer together. Cases that `target` holds already, from the same models,
    image and options, are kept. A case that fails is reported, and the others go on. `called` is what prediction.json
    calls the models, where it is not their folders.
    """
    # the workers of a cluster have devices of their own; here the models only tell what they are
    here = options if options.scheduler is None else replace(options, device="cpu")
    members = _members(tuple(models), here)
    scans, problems = prediction.find_scans(source, members[0].plan)
    ending = _ending(options, members[0].plan.file_ending, scans)
    treat = treatment(options.steps, members[0].plan.scheme)
    part, n_parts = options.part
    scans = scans[part::n_parts]
    facts = _facts(members, options, called or ", ".join(map(str, models)))
    plans = [member.plan.model_dump(mode="json") for member in members]
    model_key = content_key(facts["options"], *plans, files=[file for member in members for file in member.files])
    make_writable(target)
    record = prediction.PredictionRecord(target, part=options.part, facts=facts)
    images: dict[str, str] = {}
    keys: dict[str, str] = {}
    jobs: Jobs = {}
    for scan, paths in _targets(scans, target, ending, probabilities=options.probabilities):
        try:
            images[scan.id] = content_key(files=scan.files)
        except OSError as error:
            problems += _problems(scan.id, error)
            continue
        key = keys[scan.id] = content_key(model_key, images[scan.id])
        if options.overwrite or not record.holds(scan.id, key=key, files=paths.paths):
            jobs[scan.id] = (scan, paths)
            record.make_room(scan.id, key=key, image=images[scan.id], files=paths.paths)
    n_done = 0
    if jobs:
        progress("predict", 0, len(jobs), next(iter(jobs)))
    if options.scheduler is None:
        how = _settings(options, target)
        results = prediction.predict_cases(
            members,
            jobs,
            how,
            progress=lambda name, share: progress("predict", n_done, len(jobs), f"{name} {share:.0%}"),
            treat=treat,
        )
    else:
        results = _on_cluster(models, model_key, jobs, options)
    for n_done, (name, result) in enumerate(results, start=1):
        progress("predict", n_done, len(jobs), name)
        if isinstance(result, Exception):
            problems += _problems(name, result)
        else:
            facts = {"image": images[name], **result}
            record.add(name, key=keys[name], files=jobs[name][1].paths, facts=facts)
    warnings = record.finish(problems)
    failed = {p.case for p in problems} & {scan.id for scan in scans}
    page = None
    if options.report:
        page, lost = write_prediction_report(target, scans, members, record, [*problems, *warnings])
        warnings += lost
    summary = {
        "predicted": len(scans) - len(failed),
        "predicted_now": len(jobs) - len(failed & jobs.keys()),
        "folds": list(members[0].folds),
        "output": str(target),
        **({"report": str(page)} if page is not None else {}),
    }
    return Outcome(facts=summary, problems=problems, warnings=warnings)


def _settings(options: PredictOptions, folder: Path) -> prediction.Settings:
    return prediction.Settings(
        step=options.step,
        max_memory_gb=options.max_memory_gb,
        folder=folder,
        treatment_bytes=TREATMENT_BYTES if options.steps else 0,
    )


def treatment(steps: Sequence[Step], scheme: LabelScheme) -> Callable[[Any, float], Any]:
    """The postprocessing of labels (file values), given also the millilitres of a voxel.

    Raises UsageError for a step that names other labels than the model has.
    """
    for name in (name for step in steps for name in step.labels):
        if name not in scheme.foreground:
            todo = "run autoseg_find_best_configuration again, or choose configurations with -c"
            raise UsageError(f"the postprocessing names '{name}', which the model does not know; {todo}")
    return lambda labels, voxel_ml: refinement.apply(steps, labels, scheme=scheme, voxel_ml=voxel_ml)


def _targets(
    scans: Sequence[prediction.Scan], folder: Path, ending: str, *, probabilities: bool
) -> list[tuple[prediction.Scan, prediction.Target]]:
    """Where each scan's files go. Raises UsageError: they would take the place of the image itself."""
    targets = []
    for scan in scans:
        labels = folder / f"{scan.id}{ending}"
        if labels.resolve() in {file.resolve() for file in scan.files}:
            raise UsageError(f"{labels} is the image itself, by a link; give another folder with -o")
        stored = folder / f"{scan.id}{prediction.PROBABILITIES}" if probabilities else None
        targets.append((scan, prediction.Target(labels=labels, probabilities=stored)))
    return targets


def _ending(options: PredictOptions, usual: str, scans: Sequence[prediction.Scan]) -> str:
    """Of the label files. Raises UsageError: DICOM SEG is asked for and cannot be written."""
    ending = options.ending or usual
    if ending == prediction.DICOM_SEG and any(scan.series is None for scan in scans):
        raise UsageError("--format dicom_seg is for DICOM series; the images given are none")
    if ending == prediction.DICOM_SEG and find_spec("highdicom") is None:
        raise UsageError("DICOM SEG needs the package highdicom: pip install 'autoseg[dicom]'")
    return ending


def _facts(members: Sequence[prediction.Ensemble], options: PredictOptions, called: str) -> dict[str, Any]:
    """What prediction.json says of models and options."""
    named = named_members(members)
    folds = {name: list(member.folds) for name, member in named.items()}
    same = all(each == list(members[0].folds) for each in folds.values())
    return {
        "model": called,
        "configurations": [member.name for member in members],
        "folds": list(members[0].folds) if same else folds,
        "options": {
            "weights": options.weights,
            "step": options.step,
            "mirroring": options.mirroring,
            # what "auto" means is up to each worker of a cluster
            "precision": members[0].precision if options.scheduler is None else options.precision,
            "postprocessing": [step.model_dump(exclude_none=True) for step in options.steps],
        },
        "trust": {
            name: None if member.trust is None else member.trust.quality.model_dump(mode="json")
            for name, member in named.items()
        },
        "autoseg_version": __version__,
    }


def _on_cluster(
    models: Sequence[Path],
    model_key: str,
    jobs: Jobs,
    options: PredictOptions,
) -> Iterator[tuple[str, Result]]:
    """Each case's facts, or what went wrong with it."""
    there = tuple(model.resolve() for model in models)
    work = [
        ClusterJob(
            models=there,
            model_key=model_key,
            options=options,
            name=name,
            scan=scan.resolved,
            target=target.resolved,
        )
        for name, (scan, target) in jobs.items()
    ]
    with WorkerPool(0, scheduler=options.scheduler) as pool:
        for outcome in pool.map(predict_on_worker, work):
            if outcome.result is not None:
                yield outcome.job.name, outcome.result
            else:
                error = outcome.error
                yield outcome.job.name, error if isinstance(error, Exception) else RuntimeError(repr(error))


def predict_on_worker(job: ClusterJob) -> dict[str, Any]:
    """Predict one case in a worker of a cluster. Raises what went wrong."""
    options = job.options
    how = _settings(options, job.target.labels.parent)
    if options.plugin is not None:
        import_module(options.plugin)
    with _ONE_AT_A_TIME:  # a worker may have several threads; each case plans with all memory that is free
        members = _kept_members(job.models, replace(options, steps=()), job.model_key)
        treat = treatment(options.steps, members[0].plan.scheme)
        ((_, result),) = prediction.predict_cases(members, {job.name: (job.scan, job.target)}, how, treat=treat)
    if isinstance(result, Exception):
        raise result
    return result


@lru_cache(maxsize=1)
def _kept_members(models: tuple[Path, ...], options: PredictOptions, model_key: str) -> tuple[prediction.Ensemble, ...]:
    return _members(models, options)


def _members(models: tuple[Path, ...], options: PredictOptions) -> tuple[prediction.Ensemble, ...]:
    return prediction.load_members(
        models,
        folds=options.folds,
        device=choose_device(options.device),
        precision=options.precision,
        mirroring=options.mirroring,
        weights=options.weights,
    )


def _problems(case: str, error: Exception) -> list[Problem]:
    """What went wrong with a case, as rows of the table."""
    if (found := out_of_memory(error)) is not None:
        todo = "close what else uses it, give --max_memory_gb, or predict with --device cpu; then run again"
        return [Problem(case=case, found=found, next=todo)]
    if not isinstance(error, AutosegError):
        log.debug("%s", case, exc_info=error)
    return problems_of(error, case=case)
