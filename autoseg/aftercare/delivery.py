"""From predictions to what is handed over: ensembled and postprocessed files, and one checked archive."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from autoseg import __version__, prediction, refinement, submission
from autoseg.core.dataset import FILE_ENDINGS
from autoseg.core.errors import DataError, Problem, UsageError, problems_of
from autoseg.core.files import content_key, make_writable, set_aside
from autoseg.core.strategy import Strategy
from autoseg.core.workers import failure, supervised_map
from autoseg.pipeline import CaseCounter, Outcome, Progress, few_workers, silent

Job = TypeVar("Job", bound="prediction.StoredCase | refinement.FileJob")


def ensemble(
    sources: Sequence[Path], target: Path, *, workers: int | None = None, progress: Progress = silent
) -> Outcome:
    """Average the probabilities that prediction folders hold; cases that `target` holds already are kept.

    A case that one of the folders lacks is a problem.

    Raises:
        UsageError: a folder holds no probabilities, or is given twice.
    """
    if len({source.resolve() for source in sources}) < max(2, len(sources)):
        raise UsageError("an ensemble is of two or more different folders of predictions; give each once with -i")
    found = {source: _probability_files(source) for source in sources}
    asked = {case for source in sources for case in prediction.asked_cases(source) or ()}
    cases = sorted(asked.union(*found.values()))
    recorded = {source: prediction.recorded_cases(source) for source in sources}
    jobs: dict[str, prediction.StoredCase] = {}
    problems: list[Problem] = []
    for case in cases:
        try:
            jobs[case] = _stored_case(case, found, recorded, target)
        except DataError as error:
            problems += problems_of(error, case=case)
    facts = {"ensemble_of": [str(source) for source in sources], "autoseg_version": __version__}
    return write_ensemble(jobs, target, facts=facts, problems=problems, workers=workers, progress=progress)


def write_ensemble(
    cases: Mapping[str, prediction.StoredCase],
    target: Path,
    *,
    facts: dict[str, Any],
    problems: Sequence[Problem] = (),
    workers: int | None = None,
    progress: Progress = silent,
) -> Outcome:
    """Average the probabilities of cases, each into a file of `target`; those that are there already are kept.

    `facts` go into its prediction.json, and `problems` of cases that have not come so far.
    """
    make_writable(target)
    record = prediction.PredictionRecord(target, part=(0, 1), facts=facts)
    found = [*problems]
    keys: dict[str, str] = {}
    jobs: dict[str, prediction.StoredCase] = {}
    for case, job in cases.items():
        try:
            key = content_key(files=[*job.probabilities, *job.like])
        except OSError as error:
            found += problems_of(error, case=case)
            continue
        if not record.holds(case, key=key, files=[job.target]):
            keys[case], jobs[case] = key, job
    counter = CaseCounter(progress, "ensemble", len(jobs))
    found += _write_each(prediction.ensemble_stored, jobs, keys=keys, record=record, counter=counter, workers=workers)
    failed = _enter_failures(found, record, target)
    summary = {
        "ensembled": len(cases.keys() - failed),
        "ensembled_now": len(jobs.keys() - failed),
        "output": str(target),
    }
    return Outcome(facts=summary, problems=found)


def _stored_case(
    case: str,
    found: Mapping[Path, Mapping[str, Path]],
    recorded: Mapping[Path, Mapping[str, list[dict[str, Any]]]],
    target: Path,
) -> prediction.StoredCase:
    """The files of a case in every folder. Raises DataError: one is missing or of an earlier prediction.

    Args:
        case: its id.
        found: folder -> case -> file of probabilities.
        recorded: folder -> case -> its entries in the folder's records.
        target: folder for the labels.
    """
    again = "then run the same command again"
    for source, files in found.items():
        if case not in files:
            todo = f"predict this case with --save_probabilities, {again}"
            raise DataError(Problem(case=case, file=str(source), found="has no probabilities", next=todo))
        entries = recorded[source].get(case, [])
        if entries and not any(prediction.is_as_written(entry, files[case]) for entry in entries):
            todo = f"predict it with --save_probabilities, {again}"
            raise DataError(
                Problem(
                    case=case,
                    file=str(files[case]),
                    found="is damaged, or of another prediction than the labels",
                    next=todo,
                )
            )
    like = tuple(path for source in found if (path := _label_file(source, case)) is not None)
    if not like:
        todo = f"predict this case as image files (--format nii.gz), {again}"
        raise DataError(Problem(case=case, file=str(next(iter(found))), found="has no label file", next=todo))
    return prediction.StoredCase(
        case=case,
        probabilities=tuple(files[case] for files in found.values()),
        like=like,
        target=target / like[0].name,
    )


def postprocess(
    source: Path,
    target: Path,
    strategy_file: Path,
    *,
    workers: int | None = None,
    progress: Progress = silent,
) -> Outcome:
    """Apply a strategy's steps to every label file of a folder; cases that `target` holds already are kept.

    A case that prediction.json lists in `source` but that has no file there is a problem.
    """
    strategy, files = Strategy.read(strategy_file), _label_files(source)
    facts = {
        "predictions": str(source),
        "strategy": strategy.model_dump(mode="json"),
        "autoseg_version": __version__,
    }
    make_writable(target)
    record = prediction.PredictionRecord(target, part=(0, 1), facts=facts)
    asked = prediction.asked_cases(source) or set()
    todo = "predict this case, then run the same command again"
    lost = sorted(asked - files.keys())
    problems = [Problem(case=case, file=str(source), found="has no prediction", next=todo) for case in lost]
    steps = [step.model_dump(exclude_none=True) for step in strategy.steps]
    keys: dict[str, str] = {}
    jobs: dict[str, refinement.FileJob] = {}
    for case, path in files.items():
        try:
            key = content_key(steps, strategy.labels, files=[path])
        except OSError as error:
            problems += problems_of(error, case=case)
            continue
        if not record.holds(case, key=key, files=[target / path.name]):
            job = refinement.FileJob(case=case, source=path, target=target / path.name, strategy=strategy)
            keys[case], jobs[case] = key, job
    counter = CaseCounter(progress, "postprocess", len(jobs))
    problems += _write_each(refinement.apply_to_file, jobs, keys=keys, record=record, counter=counter, workers=workers)
    failed = _enter_failures(problems, record, target)
    summary = {
        "postprocessed": len(files.keys() - failed),
        "postprocessed_now": len(jobs.keys() - failed),
        "steps": steps,
        "output": str(target),
    }
    return Outcome(facts=summary, problems=problems)


def _write_each(
    write: Callable[[Job], dict[str, float]],
    jobs: Mapping[str, Job],
    *,
    keys: Mapping[str, str],
    record: prediction.PredictionRecord,
    counter: CaseCounter,
    workers: int | None,
) -> list[Problem]:
    """Write the files of all jobs and enter each in the record; returns what failed."""
    problems: list[Problem] = []
    for case, job in jobs.items():
        record.make_room(case, key=keys[case], files=[job.target])
    started = time.monotonic()
    for outcome in supervised_map(write, [*jobs.values()], workers=few_workers(len(jobs), workers)):
        case = outcome.job.case
        if outcome.result is None:
            problems += failure(outcome, case=case)
        else:
            seconds = round(time.monotonic() - started, 3)
            facts = {"seconds": seconds, "volumes_ml": outcome.result, "warnings": []}
            record.add(case, key=keys[case], files=[outcome.job.target], facts=facts)
        started = time.monotonic()
        counter(case)
    return problems


def _enter_failures(problems: list[Problem], record: prediction.PredictionRecord, target: Path) -> set[str]:
    """Enter what failed, and set aside older files of these cases, which must not pass for new ones; returns them."""
    record.finish(problems)
    failed = {problem.case for problem in problems}
    for case in failed - {""}:
        for ending in FILE_ENDINGS:
            if (path := target / f"{case}{ending}").is_file():
                set_aside(path)
    return failed


def submit(source: Path, target: Path, *, challenge: Path | None = None) -> Outcome:
    """Pack the cases that prediction.json lists (without one: all label files) into one checked archive.

    `challenge` is a file that says what the archive has to look like, see `submission.Challenge`.

    Raises:
        UsageError: no label file, or files of several formats.
        DataError: a listed case is missing, a file belongs to no case or cannot be read.
    """
    files = _label_files(source)
    endings = sorted({path.name[len(case) :] for case, path in files.items()})
    if len(endings) > 1:
        raise UsageError(
            f"{source} holds files of several formats ({', '.join(endings)}); remove those that do not belong"
        )
    wanted = None if challenge is None else submission.Challenge.read(challenge)
    asked = prediction.asked_cases(source) if wanted is None or wanted.cases is None else wanted.cases
    cases = sorted(files.keys() if asked is None else asked)
    submission.pack(source, path=target, cases=cases, ending=endings[0], challenge=wanted)
    return Outcome(facts={"cases": len(cases), "archive": str(target), "bytes": target.stat().st_size})


def _probability_files(folder: Path) -> dict[str, Path]:
    """The files of probabilities in a folder per case id. Raises UsageError when there is none."""
    ending = prediction.PROBABILITIES
    paths = [path for path in folder.glob(f"*{ending}") if not path.name.startswith(".")] if folder.is_dir() else []
    if not paths:
        raise UsageError(f"{folder} holds no CASE{ending}; predict with --save_probabilities")
    return {path.name.removesuffix(ending): path for path in paths}


def _label_file(folder: Path, case: str) -> Path | None:
    return next((path for e in FILE_ENDINGS if (path := folder / f"{case}{e}").is_file()), None)


def _label_files(folder: Path) -> dict[str, Path]:
    """The image files of a folder per case id, sorted. Raises UsageError when there is none."""
    found = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        ending = next((e for e in FILE_ENDINGS if path.name.endswith(e)), None)
        if ending is not None and not path.name.startswith("."):
            found[path.name[: -len(ending)]] = path
    if not found:
        raise UsageError(
            f"{folder} holds no label file ({', '.join(FILE_ENDINGS)}); give a folder of predictions with -i"
        )
    return found
