"""From trained folds and images to segmentations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from autoseg import __version__, prediction
from autoseg.core.errors import AutosegError, DataError, Problem, UsageError
from autoseg.core.files import content_key
from autoseg.nets.device import choose_device, keep_freed_memory, out_of_memory
from autoseg.pipeline.outcome import Outcome, Progress, silent


@dataclass(frozen=True, kw_only=True)
class PredictOptions:
    """What prediction may be told."""

    folds: tuple[str, ...] | None = None
    weights: str = "final"
    step: float = 0.5
    mirroring: bool = True
    probabilities: bool = False
    ending: str | None = None
    device: str | None = None
    max_memory_gb: float | None = None
    overwrite: bool = False
    part: tuple[int, int] = (0, 1)


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
    device = choose_device(options.device)
    if device.type == "cpu":
        keep_freed_memory()
    members = prediction.load_members(
        models, folds=options.folds, device=device, mirroring=options.mirroring, weights=options.weights
    )
    plan = members[0].plan
    cases, problems = prediction.find_scans(source, plan)
    ending = options.ending or plan.file_ending
    if ending == prediction.DICOM_SEG and any(case.series is None for case in cases):
        raise UsageError("--format dicom_seg is for DICOM series; the images given are none")
    part, n_parts = options.part
    cases = cases[part::n_parts]
    settings = {
        "weights": options.weights,
        "step": options.step,
        "mirroring": options.mirroring,
        "precision": members[0].precision,
    }
    model_key = content_key(
        settings,
        *(member.plan.model_dump(mode="json") for member in members),
        files=[file for member in members for file in member.files],
    )
    facts = {
        "model": called or ", ".join(map(str, models)),
        "configurations": [member.name for member in members],
        "folds": list(members[0].folds),
        "options": settings,
        "autoseg_version": __version__,
    }
    target.mkdir(parents=True, exist_ok=True)
    record = prediction.PredictionRecord(target, part=options.part, facts=facts)
    keys, jobs = {}, {}
    for case in cases:
        paths = prediction.Target(
            labels=target / f"{case.id}{ending}",
            probabilities=target / f"{case.id}_probabilities.b2nd" if options.probabilities else None,
        )
        try:
            keys[case.id] = content_key(model_key, files=case.files)
        except OSError as error:
            problems.append(_problem(case.id, error))
            continue
        done = paths.labels.is_file() and (paths.probabilities is None or paths.probabilities.is_file())
        if not done or record.key_of(case.id) != keys[case.id] or options.overwrite:
            jobs[case.id] = (case, paths)
    how = prediction.Settings(step=options.step, max_memory_gb=options.max_memory_gb, folder=target)
    names = [*jobs]
    progress("predict", 0, len(names), names[0] if names else "")
    for n_done, (name, result) in enumerate(prediction.predict_cases(members, jobs, how), start=1):
        progress("predict", n_done, len(names), name)
        if isinstance(result, DataError):
            problems += [Problem(case=p.case or name, file=p.file, found=p.found, next=p.next) for p in result.problems]
        elif isinstance(result, Exception):
            problems.append(_problem(name, result))
        else:
            record.add(name, key=keys[name], facts=result)
    warnings = record.finish(problems)
    failed = {p.case for p in problems} & {case.id for case in cases}
    summary = {
        "predicted": len(cases) - len(failed),
        "predicted_now": len(names) - len(failed & {*names}),
        "folds": list(members[0].folds),
        "output": str(target),
    }
    return Outcome(facts=summary, problems=problems, warnings=warnings)


def _problem(case: str, error: Exception) -> Problem:
    """What went wrong with a case, as a row of the table."""
    if isinstance(error, OSError):
        todo = "check that the file can be read and the output folder written"
        return Problem(case=case, file=str(error.filename or ""), found=str(error), next=todo)
    if (found := out_of_memory(error)) is not None:
        todo = "close what else uses it, give --max_memory_gb, or predict with --device cpu; then run again"
        return Problem(case=case, found=found, next=todo)
    if isinstance(error, AutosegError):
        return Problem(case=case, found=str(error), next="then run the same command again")
    raise error
