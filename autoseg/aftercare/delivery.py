"""From predictions to what is handed over: postprocessed files, and one checked archive."""

from __future__ import annotations

import time
from pathlib import Path

from autoseg import __version__, prediction, refinement, submission
from autoseg.core.dataset import FILE_ENDINGS
from autoseg.core.errors import Problem, UsageError
from autoseg.core.files import content_key
from autoseg.core.strategy import Strategy
from autoseg.core.workers import failure, supervised_map
from autoseg.pipeline import CaseCounter, Outcome, Progress, few_workers, silent


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
    counter, started = CaseCounter(progress, "postprocess", len(jobs)), time.monotonic()
    n_new = 0
    for outcome in supervised_map(refinement.apply_to_file, jobs, workers=few_workers(len(jobs), workers)):
        case = outcome.job.case
        if outcome.result is None:
            problems += failure(outcome, case=case)
        else:
            n_new += 1
            seconds = round(time.monotonic() - started, 3)
            facts = {"seconds": seconds, "volumes_ml": outcome.result, "warnings": []}
            record.add(case, key=keys[case], facts=facts)
        started = time.monotonic()
        counter(case)
    record.finish(problems)
    n_done = len(files.keys() - {problem.case for problem in problems})
    summary = {"postprocessed": n_done, "postprocessed_now": n_new, "steps": steps, "output": str(target)}
    return Outcome(facts=summary, problems=problems)


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
