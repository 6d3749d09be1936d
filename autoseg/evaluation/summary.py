"""Scores over cases: mean, spread and count of every metric of every label."""

from __future__ import annotations

import statistics

from autoseg.core.scores import LabelScores, Scores, Summary

METRICS = ("dice", "iou", "hd95_mm", "nsd", "volume_truth_ml", "volume_predicted_ml")


def summarise(
    cases: dict[str, dict[str, LabelScores]],
    *,
    label_names: list[str],
    tolerance_mm: float,
    missing: list[str],
) -> Scores:
    """Scores of a set of cases, for example of all folds of a cross-validation together.

    Each metric is summarised over the cases where it is not null. Besides the metrics, `summary[label]` holds
    `n_undefined_hd95`, whose `cases` counts those with exactly one empty mask. `mean_dice` is the mean of the
    labels' mean Dice, so that a label in few cases counts as much as one in all.
    """
    summary = {}
    for name in label_names:
        rows = [scores[name] for scores in cases.values() if name in scores]  # not every case is annotated for all
        summary[name] = {metric: _summary([getattr(row, metric) for row in rows]) for metric in METRICS}
        undefined = sum(row.dice is not None and row.hd95_mm is None for row in rows)
        summary[name]["n_undefined_hd95"] = _summary([]).with_changes(cases=undefined)
    means = [mean for name in label_names if (mean := summary[name]["dice"].mean) is not None]
    mean_dice = statistics.fmean(means) if means else None
    return Scores(tolerance_mm=tolerance_mm, cases=cases, summary=summary, mean_dice=mean_dice, missing=missing)


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
    )
