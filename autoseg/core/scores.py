"""Scores: per case, per label, per metric, with the rule for empty cases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from pydantic import Field

from autoseg.core.errors import DataError
from autoseg.core.files import content_key, write_bytes
from autoseg.core.records import Record


class LabelScores(Record):
    """One label in one case.

    Rules for empty masks: both empty -> all but the volumes is null and does not count in means; exactly one empty ->
    Dice, IoU and NSD are 0 and the distances are null (there is none), counted in `n_undefined_hd95` of the summary;
    sensitivity is null without truth, precision is null without prediction. Lesions are counted for labels that
    dataset.json declares as such: connected parts (26 neighbours); one is found where a predicted part has an IoU above
    0.1 with it, and as many are found as there are such pairs without using a part twice; panoptic quality takes the
    pairs above 0.5 (Kirillov et al. 2019). Volume error: predicted minus true. The calibration error needs stored
    probabilities (15 bins; voxels where the label is true or its probability is above 0).
    """

    dice: float | None
    iou: float | None
    sensitivity: float | None = None
    precision: float | None = None
    hd_mm: float | None = None
    hd95_mm: float | None
    mean_distance_mm: float | None = None
    nsd: float | None
    volume_truth_ml: float
    volume_predicted_ml: float
    volume_error_ml: float | None = None
    lesions_truth: int | None = None
    lesions_predicted: int | None = None
    lesions_found: int | None = None
    lesion_f1: float | None = None
    panoptic_quality: float | None = None
    calibration_error: float | None = None


RULES = " ".join((LabelScores.__doc__ or "").split())
METRICS = tuple(LabelScores.model_fields)


class Summary(Record):
    """Mean, spread and count of one metric of one label over cases.

    `ci95` holds the mean in 95 % of 2,000 samples drawn from the cases with replacement (percentile
    bootstrap, always the same samples); null with fewer than two cases.
    """

    mean: float | None
    std: float | None
    median: float | None
    min: float | None
    max: float | None
    cases: int
    ci95: tuple[float, float] | None = None


class Group(Record):
    """The Dice of the cases that share a value of a column of cases.csv."""

    cases: int
    mean_dice: float | None
    dice: dict[str, Summary]


class Equity(Record):
    """How far groups of cases differ in their mean Dice.

    `gap` is that of the best group minus that of the worst. `equity_scaled` is the mean Dice of all cases divided by
    1 + the sum over groups of the distance of their mean Dice from it (Tian et al. 2024).
    """

    groups: dict[str, Group]
    gap: float | None
    equity_scaled: float | None


class Scores(Record):
    """Scores of a set of predictions: `cases[case][label]`, `summary[label][metric]`."""

    tolerance_mm: float
    tolerances_mm: dict[str, float] = Field(default_factory=dict)  # of labels with another one
    lesions: list[str] = Field(default_factory=list)  # labels that were scored lesion by lesion
    cases: dict[str, dict[str, LabelScores]]
    summary: dict[str, dict[str, Summary]]
    mean_dice: float | None
    missing: list[str] = Field(default_factory=list)
    equity: dict[str, Equity] = Field(default_factory=dict)  # per column of cases.csv
    rules: str = RULES

    def follows(self, *, tolerances_mm: Mapping[str, float], lesions: Sequence[str]) -> bool:
        """Whether these scores were made by the rules of this version, and with these settings."""
        return self.rules == RULES and self.tolerances_mm == tolerances_mm and self.lesions == [*lesions]


def written_scores(path: Path) -> Scores:
    """A summary.json that autoseg wrote. Raises DataError: it is damaged, and can be made anew."""
    try:
        return Scores.read(path)
    except DataError as error:
        todo = "delete it and run autoseg_train again, which makes it anew"
        raise DataError(replace(problem, next=todo) for problem in error.problems) from error


def validation_scores(fold: Path) -> Scores | None:
    """Scores of a fold's validation cases; None unless they belong to the weights that the fold has now."""
    scores, note, weights = _validation_files(fold)
    if not all(path.is_file() for path in (scores, note, weights)) or note.read_text() != content_key(files=[weights]):
        return None
    return written_scores(scores)


def mark_validated(fold: Path) -> None:
    """Note that the scores in a fold's folder belong to its weights."""
    _, note, weights = _validation_files(fold)
    write_bytes(note, content_key(files=[weights]).encode())


def _validation_files(fold: Path) -> tuple[Path, Path, Path]:
    return fold / "validation" / "summary.json", fold / "validation" / ".made_from", fold / "weights.safetensors"
