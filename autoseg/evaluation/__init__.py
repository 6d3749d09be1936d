"""Segmentations against the truth: evaluate(predictions, truths, labels=...) -> Scores."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from autoseg.core.errors import AutosegError, DataError, Problem
from autoseg.core.labels import LabelScheme
from autoseg.core.scores import LabelScores, Scores
from autoseg.core.workers import Outcome, supervised_map
from autoseg.evaluation.audit import Suspect, suspects
from autoseg.evaluation.expected_dice import calibrate, spearman
from autoseg.evaluation.score_case import CaseResult, Pair, score_pair
from autoseg.evaluation.summary import Columns, summarise
from autoseg.evaluation.tables import score_table, write_scores

__all__ = [
    "DEFAULT_TOLERANCE_MM",
    "Suspect",
    "calibrate",
    "evaluate",
    "pool_scores",
    "score_table",
    "spearman",
    "suspects",
    "write_scores",
]

log = logging.getLogger(__name__)

# About one voxel of a usual scan in plane, and what two experts differ by on a clear edge.
DEFAULT_TOLERANCE_MM = 1.0


def evaluate(
    predictions: dict[str, Path],
    truths: dict[str, Path],
    *,
    labels: LabelScheme,
    annotated_classes: Mapping[str, tuple[str, ...]] = MappingProxyType({}),
    tolerance_mm: float = DEFAULT_TOLERANCE_MM,
    tolerances_mm: Mapping[str, float] = MappingProxyType({}),
    lesions: Sequence[str] = (),
    columns: Columns = MappingProxyType({}),
    probabilities: Mapping[str, Path] = MappingProxyType({}),
    workers: int,
) -> tuple[Scores, list[Problem]]:
    """Score the prediction of every case that has a truth.

    Args:
        predictions: label file per case id. Cases without truth cannot be scored; a warning names them.
        truths: label file per case id.
        labels: what the values in the files mean.
        annotated_classes: names that the truth of a case was drawn for, where not for all: others are not scored.
        tolerance_mm: distance up to which surfaces count as the same in the normalised surface Dice (NSD).
        tolerances_mm: other ones, of some labels.
        lesions: labels whose connected parts are scored one by one.
        columns: of cases.csv (name -> case -> value), by which groups of cases are compared.
        probabilities: file per case id, where there is one, for the calibration error.
        workers: processes; 0 works in this one.

    Returns:
        (scores, problems). `scores.missing` lists every case with a truth that has no scores, because its
        prediction is absent or could not be compared; `problems` says for each of them what was found.
    """
    problems = [
        Problem(case=case, found="has no prediction", next="predict this case, or leave its truth out")
        for case in sorted(set(truths) - set(predictions))
    ]
    if strangers := sorted(set(predictions) - set(truths)):
        log.warning("%d predictions without truth are not scored: %s", len(strangers), ", ".join(strangers))
    jobs = [
        Pair(
            case=case,
            prediction=predictions[case],
            truth=truths[case],
            labels=labels,
            annotated=annotated_classes.get(case),
            tolerances_mm={name: tolerances_mm.get(name, tolerance_mm) for name in labels.foreground},
            lesions=tuple(lesions),
            probabilities=probabilities.get(case),
        )
        for case in sorted(set(truths) & set(predictions))
    ]
    scored: dict[str, dict[str, LabelScores]] = {}
    for outcome in supervised_map(score_pair, jobs, workers=workers):
        if outcome.result is None:
            problems += _problems(outcome)
            continue
        for warning in outcome.result.warnings:
            log.warning("%s: %s", outcome.job.case, warning)
        scored[outcome.job.case] = outcome.result.scores
    scores = summarise(
        {case: scored[case] for case in sorted(scored)},
        label_names=[*labels.foreground],
        tolerance_mm=tolerance_mm,
        tolerances_mm=tolerances_mm,
        lesions=lesions,
        missing=sorted(set(truths) - set(scored)),
        columns=columns,
    )
    return scores, sorted(problems, key=lambda problem: problem.case)


def pool_scores(folds: Sequence[Scores], *, columns: Columns = MappingProxyType({})) -> Scores:
    """The scores of several folds as one set: every case counts once, summaries are over all of them."""
    return summarise(
        {case: rows for scores in folds for case, rows in sorted(scores.cases.items())},
        label_names=list(folds[0].summary),
        tolerance_mm=folds[0].tolerance_mm,
        tolerances_mm=folds[0].tolerances_mm,
        lesions=folds[0].lesions,
        missing=sorted(case for scores in folds for case in scores.missing),
        columns=columns,
    )


def _problems(outcome: Outcome[Pair, CaseResult]) -> list[Problem]:
    pair, error = outcome.job, outcome.error
    if isinstance(error, DataError):
        return [
            Problem(case=problem.case or pair.case, file=problem.file, found=problem.found, next=problem.next)
            for problem in error.problems
        ]
    if isinstance(error, AutosegError):
        found, _, todo = str(error).partition("; ")
    else:
        log.debug("%s: %s", pair.case, outcome.traceback)
        found = f"could not be scored: {type(error).__name__}: {error}"
        todo = "run with --debug for the traceback"
    return [Problem(case=pair.case, file=str(pair.prediction), found=found, next=todo or "see the log")]
