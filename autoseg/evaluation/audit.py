"""Cases whose labels deserve a second look: where truth and out-of-fold prediction disagree unlike elsewhere."""

from __future__ import annotations

import statistics
from dataclasses import dataclass

from autoseg.core.scores import LabelScores, Scores

MOST = 10
TO_SIGMA = 1.4826  # median absolute deviation -> standard deviation of a normal distribution
LEAST_SPREAD = 0.01  # of Dice: where all cases are nearly equal, a hundredth is no surprise
SURPRISE = 1.0  # spreads below the usual: two thirds of all cases lie nearer


@dataclass(frozen=True, kw_only=True)
class Suspect:
    """A label in a case: its Dice, the usual one of this label, how many spreads lie between, and what is seen."""

    case: str
    label: str
    dice: float
    usual: float
    surprise: float
    seen: str


def suspects(scores: Scores, *, most: int = MOST) -> list[Suspect]:
    """The labels that lie furthest below what is usual for them, the most surprising first; one per case.

    Surprise is the distance from the label's median Dice in (scaled) median absolute deviations; below one nothing is
    said, above three an error is likely. Whether the truth or the network is wrong only a person can tell.
    """
    worst: dict[str, Suspect] = {}
    for label in scores.summary:
        rows = {case: labels[label] for case, labels in scores.cases.items() if label in labels}
        known = {case: row.dice for case, row in rows.items() if row.dice is not None}
        if not known:
            continue
        usual = statistics.median(known.values())
        spread = max(LEAST_SPREAD, TO_SIGMA * statistics.median(abs(dice - usual) for dice in known.values()))
        for case, dice in known.items():
            surprise = (usual - dice) / spread
            if surprise >= SURPRISE and (case not in worst or surprise > worst[case].surprise):
                facts = {"dice": dice, "usual": usual, "surprise": surprise, "seen": _seen(rows[case])}
                worst[case] = Suspect(case=case, label=label, **facts)
    return sorted(worst.values(), key=lambda one: (-one.surprise, one.case))[:most]


def _seen(row: LabelScores) -> str:
    """How truth and prediction differ, in words."""
    if row.volume_truth_ml == 0:
        return "predicted, and not drawn at all"
    if row.volume_predicted_ml == 0:
        return "drawn, and not predicted at all"
    if row.dice == 0:
        return "drawn in one place and predicted in another"
    share = row.volume_predicted_ml / row.volume_truth_ml
    if share > 1.5:
        return f"{share:.1f} times as much predicted as drawn"
    if share > 1.1:
        return f"{share - 1:.0%} more predicted than drawn"
    if share < 0.9:
        return f"{1 - share:.0%} less predicted than drawn"
    return "about as much predicted as drawn, but elsewhere"
