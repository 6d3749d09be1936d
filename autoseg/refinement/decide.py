"""Which steps the cross-validation justifies: nnU-Net's rule."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from autoseg.core.strategy import Change, Trial
from autoseg.refinement.count_case import PLAIN, TRIMMED, Counts

Means = list[float | None]


def decide(counts: Sequence[Counts], *, names: Sequence[str], overlapping: bool) -> list[Trial]:
    """Try the steps in order; a step is tried on the result of those accepted before it.

    First the largest part of all labels together: accepted when the mean Dice over labels strictly improves
    and that of no label gets worse. Then, with several labels, the largest part of each: accepted when its
    mean Dice strictly improves. Source: nnU-Net 2.8.1.

    Args:
        counts: of every case.
        names: of the labels, in the order of dataset.json.
        overlapping: the labels are regions; then only the first step is tried.
    """
    dice = np.stack([case.dice for case in counts])
    sizes = np.stack([case.predicted for case in counts])
    before, after = _means(dice[:, PLAIN, PLAIN]), _means(dice[:, TRIMMED, PLAIN])
    worse = any(b is not None and a is not None and a < b for b, a in zip(before, after, strict=True))
    accepted = _improved(_mean(before), _mean(after)) and not worse
    changed = int((sizes[:, PLAIN, PLAIN] != sizes[:, TRIMMED, PLAIN]).any(axis=1).sum())
    trials = [_trial(names, names, before, after, accepted=accepted, cases=len(counts), changed=changed)]
    if overlapping or len(names) == 1:
        return trials
    base = TRIMMED if accepted else PLAIN
    current = after if accepted else before
    alone = _means(dice[:, base, TRIMMED])
    for index, name in enumerate(names):
        reduced = [*current[:index], alone[index], *current[index + 1 :]]
        accepted = _improved(current[index], alone[index])
        changed = int((sizes[:, base, PLAIN, index] != sizes[:, base, TRIMMED, index]).sum())
        trials.append(_trial([name], names, current, reduced, accepted=accepted, cases=len(counts), changed=changed))
        current = reduced if accepted else current
    return trials


def _improved(before: float | None, after: float | None) -> bool:
    return before is not None and after is not None and after > before


def _trial(
    step: Sequence[str],
    names: Sequence[str],
    before: Means,
    after: Means,
    *,
    accepted: bool,
    cases: int,
    changed: int,
) -> Trial:
    return Trial(
        keep_largest=[*step],
        accepted=accepted,
        mean_dice=Change(before=_mean(before), after=_mean(after)),
        dice={n: Change(before=b, after=a) for n, b, a in zip(names, before, after, strict=True)},
        cases=cases,
        cases_changed=changed,
    )


def _means(dice: NDArray[np.float64]) -> Means:
    """Mean per label of (cases, labels), without the cases that have none."""
    columns = [[float(value) for value in column if not np.isnan(value)] for column in dice.T]
    return [statistics.fmean(column) if column else None for column in columns]


def _mean(values: Means) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else None
