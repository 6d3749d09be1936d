"""One HTML page about a folder of predictions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from autoseg.core.errors import Problem
from autoseg.core.files import write_bytes
from autoseg.reporting.page import figure, heading, page, paragraph, section, table
from autoseg.reporting.picture import png_bytes
from autoseg.reporting.plots import volume_figure
from autoseg.reporting.report import MOST_ROWS, number, problem_table, version_tables

FEW_LABELS = 8  # columns of volumes; of more labels the volumes have a table of their own


@dataclass(frozen=True, kw_only=True)
class PredictedCase:
    """A case as prediction.json has it.

    `expected_dice` is the mean over labels, `unusual` the score against the training images (above 1 is unusual); both
    are None for a model that cannot tell. `hashes` are those of its files, as in prediction.json.
    """

    case: str
    seconds: float
    volumes_ml: Mapping[str, float]
    warnings: Sequence[str] = ()
    expected_dice: float | None = None
    unusual: float | None = None
    hashes: Mapping[str, str] = field(default_factory=dict)


def prediction_page(
    path: Path,
    *,
    title: str,
    cases: Sequence[PredictedCase],
    problems: Sequence[Problem],
    viewers: Sequence[str],
    made_with: Sequence[tuple[str, str]],
    versions: Sequence[tuple[str, str]],
    hashes: Sequence[tuple[str, str]],
) -> None:
    """Write the page, whole or not at all.

    Args:
        path: the HTML file.
        title: its heading.
        cases: what was predicted.
        problems: what failed, and warnings.
        viewers: cases to leaf through, see `case_viewer`.
        made_with: model, folds and options, as (what, value).
        versions: (program, version).
        hashes: (file, hash) of the weights.
    """
    written = [(name, found) for case in cases for name, found in case.hashes.items()]
    all_hashes = [table(["label file", "hash in prediction.json"], written, hashes_from=1)] if written else []
    sections = [
        section("Failures and warnings", problem_table(problems), otherwise="There are none."),
        section("Cases", *_cases(cases), otherwise="No case is predicted yet."),
        section("Pictures", *viewers, otherwise="There is no picture."),
        section("How it was made", table([], made_with), *version_tables(versions, hashes), *all_hashes),
    ]
    write_bytes(path, page(title, sections).encode())


def _cases(cases: Sequence[PredictedCase]) -> list[str]:
    if not cases:
        return []
    names = [*dict.fromkeys(name for case in cases for name in case.volumes_ml)]
    trusted = any(case.expected_dice is not None or case.unusual is not None for case in cases)
    columns = ["expected Dice", "unusual"] if trusted else []
    columns += [f"{name} ml" for name in names] if len(names) <= FEW_LABELS else ["all labels ml"]
    rows = [_row(case, names, trusted) for case in cases]
    parts = [table(["case", *columns, "seconds", "warnings"], rows, numbers_from=1, interactive=True)]
    if trusted:
        parts.append(
            paragraph(
                "Expected Dice is what cases of the cross-validation had on which the networks agreed as much. "
                "Unusual: how far the image is from those of the training; 1 is as far as one in twenty unseen ones. "
                "Above 1 look at the result: the expected Dice is too high there.",
                kind="note",
            )
        )
    if len(names) > FEW_LABELS:
        every = [[case.case, name, f"{ml:.4g}"] for case in cases for name, ml in case.volumes_ml.items()]
        if len(every) > MOST_ROWS:
            cut = f"The first {MOST_ROWS} of {len(every)} volumes; all are in prediction.json."
            every, parts = every[:MOST_ROWS], [*parts, paragraph(cut, kind="note")]
        parts += [heading("Volumes"), table(["case", "label", "ml"], every, numbers_from=2, interactive=True)]
    seen = {name: [ml for case in cases if (ml := case.volumes_ml.get(name, 0.0)) > 0] for name in names}
    if any(len(values) > 1 for values in seen.values()):
        drawn = volume_figure({name: values for name, values in seen.items() if values})
        parts.append(
            figure(
                "Volume of each label, a point per case that has it; line: quartiles, stroke: median", png_bytes(drawn)
            )
        )
    return parts


def _row(case: PredictedCase, names: Sequence[str], trusted: bool) -> list[str]:
    judged = [number(case.expected_dice, 3), number(case.unusual, 2)] if trusted else []
    volumes = [case.volumes_ml.get(name, 0.0) for name in names]
    shown = [f"{ml:.4g}" for ml in (volumes if len(names) <= FEW_LABELS else [sum(volumes)])]
    return [case.case, *judged, *shown, f"{case.seconds:.1f}", str(len(case.warnings))]
