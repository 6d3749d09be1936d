"""Scores, Segmentations -> Strategy: refine(candidates, truths) and apply(strategy, labels)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from autoseg.core.errors import DataError, Problem, UsageError
from autoseg.core.labels import LabelScheme
from autoseg.core.scores import Scores
from autoseg.core.strategy import Step, Strategy
from autoseg.core.workers import failure, supervised_map
from autoseg.refinement.apply import FileJob, apply, apply_to_file
from autoseg.refinement.count_case import Counts, Pair, count_pair
from autoseg.refinement.decide import decide

__all__ = ["Candidate", "FileJob", "apply", "apply_to_file", "choose", "refine"]

NO_REGIONS = (
    "single regions were not reduced to their largest part: they overlap, and what would take the place "
    "of a removed part of an inner one is not defined"
)


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A cross-validated configuration: its pooled scores, and the predicted label file of every case."""

    planner: str
    configuration: str
    scores: Scores
    predictions: dict[str, Path]

    @property
    def name(self) -> str:
        """planner__configuration."""
        return f"{self.planner}__{self.configuration}"


def choose(candidates: Sequence[Candidate]) -> tuple[Candidate, list[str]]:
    """The candidate with the best pooled mean Dice, the first of equals; and doubts about the comparison.

    Raises:
        UsageError: no candidate has a mean Dice.
    """
    known = [(c.scores.mean_dice, c) for c in candidates if c.scores.mean_dice is not None]
    if not known:
        raise UsageError("no cross-validation has a Dice; check that the labels have foreground")
    best = max(known, key=lambda pair: pair[0])[1]
    cases = set(best.scores.cases)
    notes = []
    for other in candidates:
        if n_others := len(cases ^ set(other.scores.cases)):
            notes.append(f"{other.name} and {best.name} were not scored on the same cases ({n_others} differ)")
    if best.scores.missing:
        notes.append(f"{best.name} lacks scores of {', '.join(best.scores.missing)}")
    return best, notes


def refine(
    candidates: Sequence[Candidate],
    truths: dict[str, Path],
    *,
    dataset: str,
    labels: LabelScheme,
    annotated_classes: Mapping[str, tuple[str, ...]] = MappingProxyType({}),
    workers: int,
    progress: Callable[[str], None] = lambda case: None,
) -> tuple[Strategy, list[Problem]]:
    """Choose a configuration, and the postprocessing that its cross-validation justifies.

    Args:
        candidates: the configurations to compare.
        truths: true label file per case id.
        dataset: its name.
        labels: what the values in the files mean.
        annotated_classes: names that the truth of a case was drawn for, where not for all.
        workers: processes; 0 works in this one.
        progress: called with the id of each case that is done.

    Returns:
        (strategy, problems): cases that could not be read are in `problems`, the evidence is on the others.

    Raises:
        UsageError: nothing to compare.
        DataError: no case could be read.
    """
    best, notes = choose(candidates)
    problems: list[Problem] = []
    pairs = []
    todo = "delete the validation folder of its fold and run autoseg_train again"
    for case in sorted(best.scores.cases):
        if case in truths and case in best.predictions:
            files = {"prediction": best.predictions[case], "truth": truths[case]}
            pairs.append(Pair(case=case, **files, labels=labels, annotated=annotated_classes.get(case)))
        else:
            found = "has no prediction any more" if case in truths else "has no label any more"
            problems.append(Problem(case=case, found=found, next=todo))
    counts: list[Counts] = []
    for outcome in supervised_map(count_pair, pairs, workers=workers):
        if outcome.result is None:
            problems += failure(outcome, case=outcome.job.case)
        else:
            counts.append(outcome.result)
        progress(outcome.job.case)
    if not counts:
        raise DataError(problems)
    trials = decide(counts, names=[*labels.foreground], overlapping=labels.has_regions)
    strategy = Strategy(
        dataset=dataset,
        planner=best.planner,
        configuration=best.configuration,
        labels={n: list(v) if isinstance(v, tuple) else v for n, v in labels.declared.items()},
        regions_class_order=[*labels.regions_class_order],
        steps=[Step(keep_largest=trial.keep_largest) for trial in trials if trial.accepted],
        evidence=trials,
        compared={candidate.name: candidate.scores.mean_dice for candidate in candidates},
        notes=[*notes, *([NO_REGIONS] if labels.has_regions else [])],
    )
    return strategy, sorted(problems, key=lambda problem: problem.case)
