"""Scores over cases: mean, spread and count of every metric of every label."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from autoseg.core.bootstrap import confidence_interval
from autoseg.core.scores import METRICS, Equity, Group, LabelScores, Scores, Summary

Cases = Mapping[str, Mapping[str, LabelScores]]
Columns = Mapping[str, Mapping[str, str]]


def summarise(
    cases: dict[str, dict[str, LabelScores]],
    *,
    label_names: list[str],
    tolerance_mm: float,
    missing: list[str],
    tolerances_mm: Mapping[str, float] = MappingProxyType({}),
    lesions: Sequence[str] = (),
    columns: Columns = MappingProxyType({}),
) -> Scores:
    """Scores of a set of cases, for example of all folds of a cross-validation together.

    Each metric is summarised over the cases where it is not null. Besides the metrics, `summary[label]` holds
    `n_undefined_hd95`, whose `cases` counts those with exactly one empty mask. `mean_dice` is the mean of the
    labels' mean Dice, so that a label in few cases counts as much as one in all. `columns` are those of cases.csv by
    which groups of cases are compared: name -> case -> value.
    """
    summary = {}
    for name in label_names:
        rows = [scores[name] for scores in cases.values() if name in scores]  # not every case is annotated for all
        summary[name] = {metric: _summary([getattr(row, metric) for row in rows]) for metric in METRICS}
        undefined = sum(row.dice is not None and row.hd95_mm is None for row in rows)
        summary[name]["n_undefined_hd95"] = _summary([]).with_changes(cases=undefined)
    mean_dice = _mean({name: metrics["dice"] for name, metrics in summary.items()})
    return Scores(
        tolerance_mm=tolerance_mm,
        tolerances_mm=dict(tolerances_mm),
        lesions=[*lesions],
        cases=cases,
        summary=summary,
        mean_dice=mean_dice,
        missing=missing,
        equity={column: _equity(cases, values, label_names, mean_dice) for column, values in columns.items()},
    )


def _mean(dice: Mapping[str, Summary]) -> float | None:
    means = [summary.mean for summary in dice.values() if summary.mean is not None]
    return statistics.fmean(means) if means else None


def _equity(cases: Cases, values: Mapping[str, str], label_names: Sequence[str], mean_dice: float | None) -> Equity:
    groups = {}
    for value in sorted({values[case] for case in cases if case in values}):
        rows = [scores for case, scores in cases.items() if values.get(case) == value]
        dice = {name: _summary([row[name].dice for row in rows if name in row]) for name in label_names}
        groups[value] = Group(cases=len(rows), mean_dice=_mean(dice), dice=dice)
    means = [group.mean_dice for group in groups.values() if group.mean_dice is not None]
    if mean_dice is None or len(means) < 2:
        return Equity(groups=groups, gap=None, equity_scaled=None)
    scaled = mean_dice / (1 + sum(abs(mean - mean_dice) for mean in means))
    return Equity(groups=groups, gap=max(means) - min(means), equity_scaled=scaled)


def _summary(values: list[float | None]) -> Summary:
    present = [value for value in values if value is not None]
    if not present:
        return Summary(mean=None, std=None, median=None, min=None, max=None, cases=0)
    return Summary(
        mean=statistics.fmean(present),
        std=statistics.stdev(present) if len(present) > 1 else None,  # of the sample: one case has no spread
        median=statistics.median(present),
        min=min(present),
        max=max(present),
        cases=len(present),
        ci95=confidence_interval(present),
    )
