"""Scores: per case, per label, per metric, with the rule for empty cases."""

from __future__ import annotations

from pydantic import Field

from autoseg.core.records import Record


class LabelScores(Record):
    """One label in one case.

    Rules for empty masks: both empty -> Dice, IoU, HD95 and NSD are null and do not count in means; exactly
    one empty -> Dice, IoU and NSD are 0 and HD95 is null (there is no distance), counted in
    `n_undefined_hd95` of the summary.
    """

    dice: float | None
    iou: float | None
    hd95_mm: float | None
    nsd: float | None
    volume_truth_ml: float
    volume_predicted_ml: float


class Summary(Record):
    """Mean, spread and count of one metric of one label over cases."""

    mean: float | None
    std: float | None
    median: float | None
    min: float | None
    max: float | None
    cases: int


class Scores(Record):
    """Scores of a set of predictions: `cases[case][label]`, `summary[label][metric]`."""

    tolerance_mm: float
    cases: dict[str, dict[str, LabelScores]]
    summary: dict[str, dict[str, Summary]]
    mean_dice: float | None
    missing: list[str] = Field(default_factory=list)
    rules: str = " ".join((LabelScores.__doc__ or "").split())
