"""What the second stage of a cascade is trained with: the first stage's segmentation of every case."""

from __future__ import annotations

from collections.abc import Collection

from autoseg.core.dataset import Dataset
from autoseg.core.errors import DataError, UsageError
from autoseg.core.plan import Plan
from autoseg.core.scores import validation_scores
from autoseg.core.splits import Split
from autoseg.core.workers import failure, supervised_map
from autoseg.core.workspace import Workspace, fold_folder
from autoseg.pipeline.outcome import CaseCounter, Progress, few_workers
from autoseg.preprocessing import StageJob, prepare_stage


def out_of_fold_segmentations(
    dataset: Dataset,
    plan: Plan,
    configuration: str,
    *,
    splits: list[Split],
    cases: Collection[str],
    workspace: Workspace,
    workers: int | None,
    progress: Progress,
) -> None:
    """Store, for each of `cases`, what the earlier stage's fold that had not seen it predicted, in its stage_store.

    What is stored already, from the same prediction, is kept.

    Raises:
        UsageError: folds of the earlier stage are not validated, or no fold held a case out.
        DataError: a prediction or an image cannot be read.
    """
    stage = plan.configuration(configuration).previous_stage
    assert stage is not None
    results = workspace.model(dataset.name, plan.planner, stage)
    command = f"autoseg_train -d {dataset.name} -c {stage}"
    command += "" if plan.planner == "default" else f" --planner {plan.planner}"
    lacking = [str(fold) for fold in range(len(splits)) if validation_scores(fold_folder(results, fold)) is None]
    if lacking:
        raise UsageError(
            f"{configuration} learns from what {stage} predicts for cases that it has not seen, and fold "
            f"{', '.join(lacking)} of {stage} is not finished and validated; run {command} first"
        )
    files = {
        case: fold_folder(results, fold) / "validation" / f"{case}{dataset.json.file_ending}"
        for fold, split in enumerate(splits)
        for case in split.val
    }
    if unseen := sorted(set(cases) - files.keys()):
        raise UsageError(
            f"no fold in splits.json holds out {', '.join(unseen)}, so {stage} has no fair answer for them; put each "
            "case into the val of a fold"
        )
    if lost := sorted(case for case in cases if not files[case].is_file()):
        raise UsageError(
            f"the prediction of {stage} for {', '.join(lost)} is gone; delete the validation folder of its fold in "
            f"{results} and run {command} again"
        )
    store = workspace.stage_store(dataset.name, plan.planner, configuration)
    jobs = [
        StageJob(case=dataset.cases[case], prediction=files[case], plan=plan, configuration=configuration, store=store)
        for case in sorted(cases)
    ]
    counter = CaseCounter(progress, f"segmentations of {stage}", len(jobs))
    problems = []
    for outcome in supervised_map(prepare_stage, jobs, workers=few_workers(len(jobs), workers)):
        if outcome.error is not None:
            problems += failure(outcome, case=outcome.job.case.id)
        counter(outcome.job.case.id)
    if problems:
        raise DataError(problems)
