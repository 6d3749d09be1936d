"""Scores: per case, per label, per metric, with the rule for empty cases."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from autoseg.core.files import content_key, write_bytes
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


def validation_scores(fold: Path) -> Scores | None:
    """Scores of a fold's validation cases; None unless they belong to the weights that the fold has now."""
    scores, note, weights = _validation_files(fold)
    if not all(path.is_file() for path in (scores, note, weights)) or note.read_text() != content_key(files=[weights]):
        return None
    return Scores.read(scores)


def mark_validated(fold: Path) -> None:
    """Note that the scores in a fold's folder belong to its weights."""
    _, note, weights = _validation_files(fold)
    write_bytes(note, content_key(files=[weights]).encode())


def _validation_files(fold: Path) -> tuple[Path, Path, Path]:
    return fold / "validation" / "summary.json", fold / "validation" / ".made_from", fold / "weights.safetensors"
