"""Scores, Segmentations -> Strategy: refine(candidates, truths) and apply(steps, labels)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np

from autoseg.core.errors import DataError, Problem
from autoseg.core.labels import LabelScheme
from autoseg.core.scores import Scores
from autoseg.core.strategy import Comparison, Member, Strategy
from autoseg.core.workers import failure, supervised_map
from autoseg.refinement.apply import FileJob, apply, apply_to_file
from autoseg.refinement.compare import compare
from autoseg.refinement.count_case import Applied, Counts, Pair, count_pair, dice_after
from autoseg.refinement.decide import decide, mean_dice

__all__ = ["Candidate", "FileJob", "apply", "apply_to_file", "compare_candidates", "refine"]

NO_REGIONS = (
    "single regions were not treated: they overlap, and what would take the place of a removed part of an inner one is "
    "not defined"
)


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A cross-validated configuration, or an ensemble of some.

    Its pooled scores, the predicted label file of every case, the fold in which each was validated, and the arithmetic
    of a prediction in any unit.
    """

    members: tuple[Member, ...]
    scores: Scores
    predictions: dict[str, Path]
    folds: dict[str, int]
    cost: float

    @property
    def name(self) -> str:
        """Names of the members, joined by +."""
        return "+".join(member.name for member in self.members)


def compare_candidates(candidates: Sequence[Candidate]) -> tuple[Candidate, list[Comparison], list[str]]:
    """The candidate to use (see `compare`), all beside the best, and doubts about the comparison.

    Raises:
        UsageError: no candidate has a mean Dice.
    """
    names, scores, costs = zip(*((c.name, c.scores, c.cost) for c in candidates), strict=True)
    taken, compared = compare(names, scores, costs)
    chosen = candidates[taken]
    notes = []
    for other in candidates:
        if n_others := len(set(chosen.scores.cases) ^ set(other.scores.cases)):
            notes.append(f"{other.name} and {chosen.name} were not scored on the same cases ({n_others} differ)")
    if chosen.scores.missing:
        notes.append(f"{chosen.name} lacks scores of {', '.join(chosen.scores.missing)}")
    return chosen, compared, notes


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
    """Choose models, and the postprocessing that their cross-validation justifies.

    Args:
        candidates: to compare.
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
    chosen, compared, notes = compare_candidates(candidates)
    problems: list[Problem] = []
    pairs = []
    todo = "delete the validation folder of its fold and run autoseg_train again"
    for case in sorted(chosen.scores.cases):
        if case in truths and case in chosen.predictions:
            files = {"prediction": chosen.predictions[case], "truth": truths[case]}
            pairs.append(Pair(case=case, **files, labels=labels, annotated=annotated_classes.get(case)))
        else:
            found = "has no prediction any more" if case in truths else "has no label any more"
            problems.append(Problem(case=case, found=found, next=todo))
    counts: dict[str, Counts] = {}
    for outcome in supervised_map(count_pair, pairs, workers=workers):
        if outcome.result is None:
            problems += failure(outcome, case=outcome.job.case)
        else:
            counts[outcome.job.case] = outcome.result
        progress(outcome.job.case)
    if not counts:
        raise DataError(problems)
    folds = [chosen.folds[case] for case in counts]
    decided = decide([*counts.values()], folds, names=[*labels.foreground], overlapping=labels.has_regions)
    promised, steps = decided.promised, decided.steps
    if steps:
        readable = [Applied(pair=pair, steps=tuple(steps)) for pair in pairs if pair.case in counts]
        done = [outcome.result for outcome in supervised_map(dice_after, readable, workers=workers)]
        promised = mean_dice(np.array([dice for dice in done if dice is not None]))
        if (promised or 0) < (decided.honest.before or 0):
            notes.append(f"the steps harm each other (mean Dice {promised}), so none is taken")
            promised, steps = decided.honest.before, []
    strategy = Strategy(
        dataset=dataset,
        members=[*chosen.members],
        labels={n: list(v) if isinstance(v, tuple) else v for n, v in labels.declared.items()},
        regions_class_order=[*labels.regions_class_order],
        steps=steps,
        promised=promised,
        nested=decided.honest,
        evidence=decided.trials,
        compared=compared,
        notes=[*notes, *([NO_REGIONS] if labels.has_regions else [])],
    )
    return strategy, sorted(problems, key=lambda problem: problem.case)
