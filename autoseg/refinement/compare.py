"""Which of several candidates to use: the best, or a cheaper one that cannot be told from it."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

import numpy as np
from scipy.stats import wilcoxon

from autoseg.core.bootstrap import confidence_interval
from autoseg.core.errors import UsageError
from autoseg.core.scores import Scores
from autoseg.core.strategy import Comparison

LEVEL = 0.05  # of the test
NEAR = 0.01  # of mean Dice: a candidate further below the best is not taken for a lack of cases to prove it


def compare(names: Sequence[str], scores: Sequence[Scores], costs: Sequence[float]) -> tuple[int, list[Comparison]]:
    """Compare candidates on the cases that each shares with the best.

    The best is the one with the highest mean Dice on the cases that all have. A candidate is tied with it where
    Wilcoxon's signed-rank test on the cases' Dice (mean over labels), corrected after Holm, does not reject at 0.05 and
    its mean Dice is at most 0.01 lower; taken is the cheapest of the tied. With so few cases that the test could not
    reject anything, only equals are tied: a missing proof is none of equality.

    Returns:
        (number of the candidate to take, a comparison per candidate).

    Raises:
        UsageError: no candidate has a mean Dice.
    """
    cases = [set(one.cases) for one in scores if one.mean_dice is not None]
    common = set.intersection(*cases) if cases else set()
    means = [_mean_dice(one, common) for one in scores]
    known = [(mean, -cost, -i) for i, (mean, cost) in enumerate(zip(means, costs, strict=True)) if mean is not None]
    if not known:
        raise UsageError("no cross-validation has a Dice; check that the labels have foreground")
    best = -max(known)[2]
    lowest = max(known)[0] - NEAR
    per_case = [_dice_of_cases(one) for one in scores]
    pairs = [
        [(dice[case], per_case[best][case]) for case in sorted(dice.keys() & per_case[best].keys())]
        for dice in per_case
    ]
    raw = [None if i == best or not pair else _p_value(pair) for i, pair in enumerate(pairs)]
    corrected = _holm(raw)
    can_reject = 2.0 ** (1 - len(per_case[best])) * max(1, len(names) - 1) < LEVEL
    comparisons = []
    for i, (name, one, cost, pair) in enumerate(zip(names, scores, costs, pairs, strict=True)):
        differences = [mine - theirs for mine, theirs in pair]
        p_value = corrected[i]
        difference = statistics.fmean(differences) if differences and one.mean_dice is not None else None
        tied = i == best or (difference is not None and not any(differences))
        if can_reject and difference is not None and p_value is not None:
            mean = means[i]
            tied = tied or (p_value >= LEVEL and mean is not None and mean >= lowest)
        comparisons.append(
            Comparison(
                name=name,
                mean_dice=one.mean_dice,
                cases=len(one.cases),
                difference=difference,
                ci95=None if i == best else confidence_interval(differences),
                p_value=p_value,
                tied=tied,
                cost=cost / min(costs),
            )
        )
    return min((i for i, c in enumerate(comparisons) if c.tied), key=lambda i: (costs[i], i != best)), comparisons


def _mean_dice(scores: Scores, cases: set[str]) -> float | None:
    """Mean over labels of their mean Dice over some cases; over all where there are none of these."""
    found: dict[str, list[float]] = {}
    for case in cases or scores.cases:
        for label, row in scores.cases.get(case, {}).items():
            if row.dice is not None:
                found.setdefault(label, []).append(row.dice)
    return statistics.fmean(map(statistics.fmean, found.values())) if found else None


def _dice_of_cases(scores: Scores) -> dict[str, float]:
    """Mean Dice over labels of every case that has one."""
    found = {}
    for case, labels in scores.cases.items():
        known = [row.dice for row in labels.values() if row.dice is not None]
        if known:
            found[case] = statistics.fmean(known)
    return found


def _p_value(pairs: Sequence[tuple[float, float]]) -> float:
    """Two-sided signed-rank test; 1 where all pairs are equal."""
    differences = np.array([mine - theirs for mine, theirs in pairs])
    return float(wilcoxon(differences).pvalue) if differences.any() else 1.0


def _holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Corrected for their number (Holm, 1979): the k-th smallest of n times n - k + 1, never falling, at most 1."""
    order = sorted((p, i) for i, p in enumerate(p_values) if p is not None)
    corrected: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for rank, (p, i) in enumerate(order):
        largest = max(largest, min(1.0, p * (len(order) - rank)))
        corrected[i] = largest
    return corrected
