"""Dataset -> Fingerprint: every case is read once, checked and measured."""

from __future__ import annotations

from collections.abc import Callable

from autoseg.core.dataset import Dataset
from autoseg.core.errors import DataError, Problem
from autoseg.core.fingerprint import Fingerprint
from autoseg.core.workers import WorkerPool, failure
from autoseg.core.workspace import Workspace
from autoseg.fingerprinting.channels import doubtful_channels
from autoseg.fingerprinting.duplicates import leaks
from autoseg.fingerprinting.measure_case import MeasureJob, load_measure, measure_case
from autoseg.fingerprinting.pooled import pooled

TOTAL_SAMPLES = int(1e7)  # foreground voxels kept over all cases and per channel: bounds memory and time


def fingerprint(
    dataset: Dataset,
    *,
    workspace: Workspace,
    pool: WorkerPool,
    progress: Callable[[str], None] = lambda case: None,
) -> tuple[Fingerprint, list[Problem], list[Problem], int]:
    """Check and measure every case of a data set; cases that were measured before are not read again.

    Returns:
        (fingerprint of the good cases, problems, warnings, number of cases that were measured now).

    Raises:
        DataError: no case is usable.
    """
    jobs = [
        MeasureJob(
            case=case,
            labels=dataset.labels,
            max_samples=max(1, TOTAL_SAMPLES // len(dataset.cases)),
            path=workspace.measured_case(dataset.name, case.id),
        )
        for case in dataset.cases.values()
    ]
    problems: list[Problem] = list(dataset.problems)
    good, n_new = [], 0
    for outcome in pool.map(measure_case, jobs):
        if outcome.error is None:
            good.append(outcome.job)
            n_new += bool(outcome.result)
        else:
            problems += failure(outcome, case=outcome.job.case.id)
        progress(outcome.job.case.id)
    if not good:
        raise DataError(problems)
    measures = {job.case.id: load_measure(job.path) for job in good}
    warnings = [*dataset.warnings, *(w for case in sorted(measures) for w in measures[case].warnings)]
    seen = {name for measure in measures.values() for name in measure.labels}
    for name in dataset.labels.foreground:
        if name not in seen:
            found = f"label '{name}' occurs in no case"
            warnings.append(Problem(case="", file="dataset.json", found=found, next="check it"))
    result = pooled(measures)
    signatures = {case: measure.signature for case, measure in measures.items()}
    groups = {case.id: case.group for case in dataset.cases.values() if case.group is not None}
    warnings += [*leaks(signatures, groups), *doubtful_channels(dataset.channel_names, result)]
    return result, problems, warnings, n_new
