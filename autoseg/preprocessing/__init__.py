"""Dataset, Plan -> CaseStore on disk."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from autoseg.core.dataset import Dataset
from autoseg.core.errors import Problem
from autoseg.core.plan import Plan
from autoseg.core.workers import WorkerPool, failure
from autoseg.core.workspace import Workspace
from autoseg.io.case_store import CaseStore
from autoseg.io.class_index import build_index
from autoseg.preprocessing.prepare_case import PrepareJob, prepare_case
from autoseg.preprocessing.prepare_stage import StageJob, prepare_stage

__all__ = ["StageJob", "prepare_stage", "preprocess"]


def preprocess(
    dataset: Dataset,
    plan: Plan,
    *,
    configurations: Sequence[str],
    cases: Sequence[str],
    workspace: Workspace,
    pool: WorkerPool,
    device: str = "cpu",
    progress: Callable[[str], None] = lambda case: None,
) -> tuple[list[str], list[Problem], int]:
    """Prepare `cases` for `configurations`; what is stored already, from the same files and decisions, is kept.

    Returns:
        (ids of the cases that are complete, problems, number of cases on which something was done).
    """
    wanted = dict.fromkeys(plan.stored_as(name) for name in configurations)
    stores = {name: workspace.case_store(dataset.name, plan.planner, name) for name in wanted}
    jobs = [PrepareJob(case=dataset.cases[case], plan=plan, stores=stores, device=device) for case in cases]
    problems: list[Problem] = []
    done, n_new = [], 0
    for outcome in pool.map(prepare_case, jobs):
        if outcome.error is None:
            done.append(outcome.job.case.id)
            n_new += bool(outcome.result)
        else:
            problems += failure(outcome, case=outcome.job.case.id)
        progress(outcome.job.case.id)
    for folder in stores.values():
        build_index(CaseStore(folder))
    return sorted(done), problems, n_new
