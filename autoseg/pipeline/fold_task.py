"""One fold from its case store to its scores: trained, its curve drawn, its validation cases predicted and scored."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from autoseg import evaluation, prediction, reporting, training
from autoseg.core.dataset import Dataset
from autoseg.core.errors import DataError, Problem
from autoseg.core.heartbeat import at_work
from autoseg.core.scores import Scores, mark_validated, validation_scores
from autoseg.nets.device import choose_precision, enough_memory, free_memory_gb
from autoseg.pipeline.fitting import what_fits
from autoseg.pipeline.outcome import CaseCounter, few_workers
from autoseg.pipeline.trusting import learn_features, write_agreements
from autoseg.training import processes

DRAWN_EVERY_S = 60.0
log = logging.getLogger(__name__)
FoldProgress = Callable[[str, int, int, str], None]  # stage, done, total, text


@dataclass(frozen=True, kw_only=True)
class FoldTask:
    """A fold to train and to validate, the results folder that it belongs to, and a module that registers variants."""

    dataset: Dataset
    job: training.FoldJob
    fold: str
    results: Path
    workers: int | None = None
    plugin: str | None = None
    probabilities: bool = False

    def stored_probabilities(self, case: str) -> Path:
        """The file for those of a validation case."""
        return self.job.folder / "validation" / f"{case}{prediction.PROBABILITIES}"

    def target(self, case: str) -> prediction.Target:
        """Files of a validation case that are wanted."""
        labels = self.job.folder / "validation" / f"{case}{self.dataset.json.file_ending}"
        return prediction.Target(
            labels=labels, probabilities=self.stored_probabilities(case) if self.probabilities else None
        )

    @property
    def scores(self) -> Scores | None:
        """Those of the fold as it is; None where it is to be validated, again if wanted probabilities are missing."""
        wanted = [file for case in self.job.split.val for file in self.target(case).paths]
        if self.probabilities and not all(file.is_file() for file in wanted):
            return None
        return validation_scores(self.job.folder)

    def is_scored_otherwise(self, scores: Scores) -> bool:
        """Whether rules, tolerances or lesions have changed since, and the predictions are still there."""
        declared = self.dataset.json
        same = scores.follows(tolerances_mm=declared.tolerances_mm or {}, lesions=declared.lesions or ())
        return not same and all(self.target(case).labels.is_file() for case in self.job.split.val)


def train_and_validate(task: FoldTask, progress: FoldProgress) -> dict[str, Any]:
    """Do what is still to be done for a fold.

    Returns:
        {"trained_now", "validated_now", "mean_dice"}; the last is None where no label has a Dice.

    Raises:
        UsageError: another process is at work on this fold. And what `training.train_fold` raises.
        DataError: cases could not be predicted or scored; the others have been.
    """
    job, fold = task.job, task.fold
    with at_work(job.folder) if processes.rank() == 0 else nullcontext():
        picture = _Picture(job.folder / "progress.png", names=[*task.dataset.labels.foreground])
        with enough_memory(lambda: _what_fits(job)):
            trained_now = training.train_fold(
                job,
                progress=lambda done, total, text: progress(f"fold {fold}", done, total, text),
                epoch_done=picture.draw_now_and_then,
            )
        if processes.rank() == 0:
            picture.draw(training.read_log(job.folder / "log.jsonl"))
        scores = task.scores
        validated_now = scores is None
        if scores is not None and processes.rank() == 0 and task.is_scored_otherwise(scores):
            scores = _score(task)
        if scores is None:
            with enough_memory("the fold is trained; close what else uses the device"):
                scores = _validate(task, progress)
        with enough_memory("the fold is validated; close what else uses the device"):
            learn_features(
                job, task.results, fold=fold, progress=lambda *done: progress(f"features of fold {fold}", *done)
            )
        return {
            "trained_now": trained_now,
            "validated_now": validated_now,
            "mean_dice": None if scores is None else scores.mean_dice,
        }


class _Picture:
    """progress.png of a fold, drawn while it is trained."""

    def __init__(self, path: Path, *, names: list[str]) -> None:
        self.path, self.names, self.drawn = path, names, -math.inf

    def draw(self, rows: list[dict[str, Any]]) -> None:
        try:
            reporting.curve_picture(rows, self.path, label_names=self.names)
        except OSError as error:  # no reason to end a training
            log.warning("%s could not be written: %s", self.path, error)

    def draw_now_and_then(self, rows: list[dict[str, Any]]) -> None:
        if processes.rank() == 0 and time.monotonic() - self.drawn > DRAWN_EVERY_S:
            self.draw(rows)
            self.drawn = time.monotonic()


def _what_fits(job: training.FoldJob) -> str:
    free_gb = free_memory_gb(job.device) + torch.cuda.memory_reserved(job.device) / 1e9
    precision = choose_precision(job.device, job.recipe.precision)
    return what_fits(job.plan, job.configuration, job.recipe, precision=precision, free_gb=free_gb)


def _validate(task: FoldTask, progress: FoldProgress) -> Scores | None:
    """Predict the validation cases of a fold from their raw images and score them against the raw labels.

    Processes that train together share the cases; the first one scores (the others return None).
    """
    dataset, job, fold = task.dataset, task.job, task.fold
    ensemble = prediction.load_ensemble(
        task.results,
        folds=[fold],
        device=job.device,
        precision=job.recipe.precision,
        # a cascade's first stage must not have seen these cases either; fold all has seen them all in any case
        previous_folds=None if fold == "all" else [fold],
    )
    cases = [dataset.cases[case] for case in job.split.val]
    if not task.probabilities:  # those of earlier weights
        for case in cases:
            task.stored_probabilities(case.id).unlink(missing_ok=True)
    problems: list[Problem] = []
    agreements: list[tuple[str, dict[str, float | None]]] = []
    own = cases[processes.rank() :: processes.size()]
    jobs = {case.id: (prediction.Scan(id=case.id, images=case.images), task.target(case.id)) for case in own}
    counter = CaseCounter(progress, f"validate fold {fold}", len(own))
    progress(counter.stage, 0, len(own), "")
    for name, result in prediction.predict_cases([ensemble], jobs):
        counter(name)
        if isinstance(result, DataError):
            problems += result.problems
        elif isinstance(result, Exception):
            raise result
        else:
            agreements.append((name, result["trust"]["agreement"]))
    problems, agreements = processes.gathered(problems), processes.gathered(agreements)
    if processes.rank() > 0:
        return None
    write_agreements(job.folder, dict(agreements))
    return _score(task, problems)


def _score(task: FoldTask, problems: Sequence[Problem] = ()) -> Scores:
    """Score the validation cases as they are predicted. Raises DataError for these problems, and for new ones."""
    dataset, job = task.dataset, task.job
    cases = [dataset.cases[case] for case in job.split.val]
    labels = {case.id: task.target(case.id).labels for case in cases}
    stored = {case.id: task.stored_probabilities(case.id) for case in cases}
    scores, more = evaluation.evaluate(
        labels,
        {case.id: case.label for case in cases if case.label is not None},
        labels=dataset.labels,
        annotated_classes=dataset.annotated_classes,
        tolerances_mm=dataset.json.tolerances_mm or {},
        lesions=dataset.json.lesions or (),
        probabilities={case: path for case, path in stored.items() if path.is_file()},
        workers=few_workers(len(cases), task.workers, volumes=labels.values()),
    )
    evaluation.write_scores(scores, job.folder / "validation")
    known = {problem.case for problem in problems}
    if every := [*problems, *(problem for problem in more if problem.case not in known)]:
        raise DataError(every)
    mark_validated(job.folder)
    return scores
