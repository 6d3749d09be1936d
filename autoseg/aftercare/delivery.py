"""From predictions to what is handed over: ensembled and postprocessed files, and one checked archive."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from autoseg import __version__, prediction, refinement, submission
from autoseg.core.dataset import FILE_ENDINGS
from autoseg.core.errors import Problem, UsageError
from autoseg.core.files import content_key
from autoseg.core.strategy import Strategy
from autoseg.core.workers import failure, supervised_map
from autoseg.pipeline import CaseCounter, Outcome, Progress, few_workers, silent

Job = TypeVar("Job", prediction.StoredCase, refinement.FileJob)


def ensemble(
    sources: Sequence[Path], target: Path, *, workers: int | None = None, progress: Progress = silent
) -> Outcome:
    """Average the probabilities that prediction folders hold; cases that `target` holds already are kept.

    A case that one of the folders lacks is a problem.

    Raises:
        UsageError: a folder holds no probabilities.
    """
    found = {source: _probability_files(source) for source in sources}
    cases = sorted({case for files in found.values() for case in files})
    facts = {"ensemble_of": [str(source) for source in sources], "autoseg_version": __version__}
    record = prediction.PredictionRecord(target, part=(0, 1), facts=facts)
    problems: list[Problem] = []
    keys, jobs = {}, []
    for case in cases:
        lacking = [source for source, files in found.items() if case not in files]
        like = _label_file(sources[0], case)
        if lacking or like is None:
            what = "probabilities" if lacking else "label file in an image format"
            place = str(lacking[0] if lacking else sources[0])
            todo = "predict this case with --save_probabilities, then run the same command again"
            problems.append(Problem(case=case, file=place, found=f"has no {what}", next=todo))
            continue
        files = tuple(found[source][case] for source in sources)
        keys[case] = content_key(files=[*files, like])
        if not ((target / like.name).is_file() and record.key_of(case) == keys[case]):
            job = prediction.StoredCase(case=case, probabilities=files, like=like, target=target / like.name)
            jobs.append(job)
    counter = CaseCounter(progress, "ensemble", len(jobs))
    failed, n_new = _write_each(
        prediction.ensemble_stored, jobs, keys=keys, record=record, counter=counter, workers=workers
    )
    problems += failed
    record.finish(problems)
    n_done = len(cases) - len({problem.case for problem in problems})
    summary = {"ensembled": n_done, "ensembled_now": n_new, "output": str(target)}
    return Outcome(facts=summary, problems=problems)


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
    record = prediction.PredictionRecord(target, part=(0, 1), facts=facts)
    asked = prediction.asked_cases(source) or set()
    todo = "predict this case, then run the same command again"
    lost = sorted(asked - files.keys())
    problems = [Problem(case=case, file=str(source), found="has no prediction", next=todo) for case in lost]
    steps = [step.model_dump() for step in strategy.steps]
    keys = {case: content_key(steps, strategy.labels, files=[path]) for case, path in files.items()}
    jobs = [
        refinement.FileJob(case=case, source=path, target=target / path.name, strategy=strategy)
        for case, path in files.items()
        if not ((target / path.name).is_file() and record.key_of(case) == keys[case])
    ]
    counter = CaseCounter(progress, "postprocess", len(jobs))
    failed, n_new = _write_each(
        refinement.apply_to_file, jobs, keys=keys, record=record, counter=counter, workers=workers
    )
    problems += failed
    record.finish(problems)
    n_done = len(files.keys() - {problem.case for problem in problems})
    summary = {"postprocessed": n_done, "postprocessed_now": n_new, "steps": steps, "output": str(target)}
    return Outcome(facts=summary, problems=problems)


def _write_each(
    write: Callable[[Job], dict[str, float]],
    jobs: Sequence[Job],
    *,
    keys: dict[str, str],
    record: prediction.PredictionRecord,
    counter: CaseCounter,
    workers: int | None,
) -> tuple[list[Problem], int]:
    """Write the files of all jobs and enter each in the record; returns what failed, and how many did not."""
    problems: list[Problem] = []
    n_new, started = 0, time.monotonic()
    for outcome in supervised_map(write, jobs, workers=few_workers(len(jobs), workers)):
        case = outcome.job.case
        if outcome.result is None:
            problems += failure(outcome, case=case)
        else:
            n_new += 1
            seconds = round(time.monotonic() - started, 3)
            record.add(case, key=keys[case], facts={"seconds": seconds, "volumes_ml": outcome.result, "warnings": []})
        started = time.monotonic()
        counter(case)
    return problems, n_new


def submit(source: Path, target: Path) -> Outcome:
    """Pack the cases that prediction.json lists (without one: all label files) into one checked archive.

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
    asked = prediction.asked_cases(source)
    cases = sorted(files.keys() if asked is None else asked)
    submission.pack(source, path=target, cases=cases, ending=endings[0])
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
