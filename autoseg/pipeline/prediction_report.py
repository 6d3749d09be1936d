"""report.html of a folder of predictions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from autoseg import prediction, reporting
from autoseg.core.errors import AutosegError, Problem
from autoseg.core.strategy import Step
from autoseg.core.versions import versions_here
from autoseg.io.images import read_volume
from autoseg.io.model_file import file_facts

MOST_PICTURES = 12  # cases to leaf through
SLICES = 16  # of each plane


def write_prediction_report(
    target: Path,
    scans: Sequence[prediction.Scan],
    members: Sequence[prediction.Ensemble],
    record: prediction.PredictionRecord,
    problems: Sequence[Problem],
) -> tuple[Path, list[Problem]]:
    """Write a page beside the predictions: all cases in numbers, the most doubtful ones in pictures.

    It is called report.html, or like the record of a part of the work: report_part0of4.html.

    Args:
        target: folder of the predictions.
        scans: what was to be predicted.
        members: the models.
        record: of the predictions; what it says of other cases than `scans` is of earlier runs, and left out.
        problems: failures and warnings.

    Returns:
        (the page, what could not be drawn).
    """
    by_id = {scan.id: scan for scan in scans}
    cases = [_case(name, entry) for name, entry in record.value["cases"].items() if name in by_id]
    viewers, lost = [], []
    for case in sorted(cases, key=_trusted_least)[:MOST_PICTURES]:
        try:
            if viewer := _viewer(by_id[case.case], case, target, members[0]):
                viewers.append(viewer)
        except (AutosegError, OSError) as error:
            lost.append(Problem(case=case.case, found=f"could not be drawn: {error}", next="predict it again"))
    path = target / record.path.name.replace("prediction", "report").replace(".json", ".html")
    folds = "; ".join(f"{name}: {', '.join(member.folds)}" for name, member in named_members(members).items())
    made_with = [("model", str(record.value["model"])), ("folds", folds)]
    told = {**record.value["options"]}
    steps = [Step(**step).sentence for step in told.pop("postprocessing", [])]
    made_with += [(name, str(value)) for name, value in told.items()]
    made_with.append(("postprocessing", "; ".join(steps) or "none"))
    weights = [file for member in members for file in member.files]
    reporting.prediction_page(
        path,
        title=f"Predictions of {members[0].plan.dataset}",
        cases=cases,
        problems=[*problems, *lost],
        viewers=viewers,
        made_with=made_with,
        versions=[*versions_here().items()],
        hashes=[("/".join(file.parts[-3:]), file_facts(file).sha256) for file in weights],
    )
    return path, lost


def named_members(members: Sequence[prediction.Ensemble]) -> dict[str, prediction.Ensemble]:
    """Models by their configuration, or by planner__configuration where that would not tell them apart."""
    plain = [member.name for member in members]
    whole = [f"{member.plan.planner}__{member.name}" for member in members]
    return dict(zip(plain if len({*plain}) == len(plain) else whole, members, strict=True))


def _case(name: str, entry: Mapping[str, Any]) -> reporting.PredictedCase:
    trust = entry.get("trust") or {}
    return reporting.PredictedCase(
        case=name,
        seconds=entry.get("seconds", 0.0),
        volumes_ml=entry.get("volumes_ml", {}),
        warnings=entry.get("warnings", []),
        expected_dice=trust.get("mean_expected_dice"),
        unusual=trust.get("out_of_distribution"),
        hashes=entry.get("files", {}),
    )


def _trusted_least(case: reporting.PredictedCase) -> tuple[float, float, int, str]:
    """Sorts the cases that deserve a look first: unusual images, whose expected Dice is too high, before all others."""
    expected = 1.0 if case.expected_dice is None else case.expected_dice
    return -max(1.0, case.unusual or 0.0), expected, -len(case.warnings), case.case


def _viewer(
    scan: prediction.Scan, case: reporting.PredictedCase, target: Path, member: prediction.Ensemble
) -> str | None:
    """The case to leaf through; None where its labels are no image file (DICOM SEG)."""
    files = [
        target / name for name in case.hashes if not name.endswith((prediction.DICOM_SEG, prediction.PROBABILITIES))
    ]
    if not files:
        return None
    loaded = scan.read()
    voxels, geometry = read_volume(files[0], case=case.case)
    labels = geometry.orientation.apply(voxels)
    caption = case.case
    if case.unusual is not None:
        caption += f": unusual image, score {case.unusual:.2f}" if case.unusual > 1 else f": score {case.unusual:.2f}"
    if case.expected_dice is not None:
        most = "at most " if (case.unusual or 0.0) > 1 else ""
        caption += f", expected Dice {most}{case.expected_dice:.3f}"
    return reporting.case_viewer(
        caption,
        np.asarray(loaded.image[0]),
        None,
        labels,
        labels=member.plan.scheme,
        spacing_mm=loaded.geometry.canonical.spacing_mm,
        most_slices=SLICES,
    )
