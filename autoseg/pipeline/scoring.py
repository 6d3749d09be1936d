"""From segmentations and truths to scores and pictures."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from autoseg import evaluation, prediction, reporting
from autoseg.core.case_table import CASE_TABLE, read_case_table
from autoseg.core.dataset import read_declaration
from autoseg.core.errors import Problem, UsageError
from autoseg.core.scores import Scores
from autoseg.io.images import read_volume
from autoseg.pipeline.outcome import Outcome, Progress, few_workers, silent


def evaluate(
    predictions: Path,
    truths: Path,
    *,
    tolerance_mm: float,
    case_table: Path | None = None,
    workers: int | None = None,
    progress: Progress = silent,
) -> tuple[Scores, Outcome]:
    """Score a folder of predictions; writes summary.json and scores.csv into it.

    Every case that was to be predicted counts: those that prediction.json lists, else every file in `truths`. The
    labels come from the dataset.json in or above one of the folders, groups of cases from the cases.csv beside it or
    from `case_table`.
    """
    folders = (truths, truths.resolve().parent, predictions, predictions.resolve().parent)
    declared = next((folder for folder in folders if (folder / "dataset.json").is_file()), None)
    if declared is None:
        raise UsageError(
            f"no dataset.json in or above {truths}; copy the data set's there: it says what the labels mean"
        )
    declaration = read_declaration(declared)
    truth, predicted = (_label_files(folder, declaration.file_ending) for folder in (truths, predictions))
    if not truth or not predicted:
        empty, option = (truths, "-g") if not truth else (predictions, "-p")
        raise UsageError(f"{empty} holds no {declaration.file_ending} file; give another folder with {option}")
    warnings = []
    asked = prediction.asked_cases(predictions)
    if asked is not None and (others := len(truth.keys() - asked)):
        truth = {case: path for case, path in truth.items() if case in asked}
        found = f"{others} of its cases were not part of this prediction"
        warnings.append(Problem(case="", file=str(truths), found=found, next="they are not scored"))
    columns, doubts = read_case_table(
        case_table or declared / CASE_TABLE, cases={*truth}, needed=case_table is not None
    )
    scores, problems = evaluation.evaluate(
        predicted,
        truth,
        labels=declaration.scheme,
        annotated_classes={case: tuple(names) for case, names in (declaration.annotated_classes or {}).items()},
        tolerance_mm=tolerance_mm,
        tolerances_mm=declaration.tolerances_mm or {},
        lesions=declaration.lesions or (),
        columns=columns,
        probabilities=_probabilities(predictions, predicted),
        workers=few_workers(len(truth), workers, volumes=truth.values()),
    )
    evaluation.write_scores(scores, predictions)
    facts = {
        "cases": len(scores.cases),
        "mean_dice": scores.mean_dice,
        "table": evaluation.score_table(scores),
    }
    return scores, Outcome(facts=facts, problems=problems, warnings=[*warnings, *doubts])


def _probabilities(folder: Path, predicted: Iterable[str]) -> dict[str, Path]:
    """The files of probabilities that belong to the label files beside them."""
    recorded = prediction.recorded_cases(folder)
    paths = {case: folder / f"{case}{prediction.PROBABILITIES}" for case in predicted}
    return {
        case: path
        for case, path in paths.items()
        if path.is_file()
        and (case not in recorded or any(prediction.is_as_written(entry, path) for entry in recorded[case]))
    }


def show_predictions(images: Path, truths: Path, predictions: Path, target: Path) -> list[Path]:
    """Draw an overlay of truth and prediction for every predicted case that has both; returns the pictures."""
    declaration = read_declaration(truths.resolve().parent)
    truth, predicted = (_label_files(folder, declaration.file_ending) for folder in (truths, predictions))
    pictures = []
    for case in sorted(truth.keys() & predicted.keys()):
        files = (images / f"{case}_0000{declaration.file_ending}", truth[case], predicted[case])
        volumes = [read_volume(path, case=case) for path in files]
        image, true, found = (geometry.orientation.apply(voxels) for voxels, geometry in volumes)
        picture = target / f"{case}.png"
        reporting.overlay_picture(
            image,
            true,
            found,
            labels=declaration.scheme,
            spacing_mm=volumes[0][1].canonical.spacing_mm,
            path=picture,
            title=case,
        )
        pictures.append(picture)
    return pictures


def _label_files(folder: Path, ending: str) -> dict[str, Path]:
    if not folder.is_dir():
        raise UsageError(f"{folder} is no folder; check the path")
    return {p.name[: -len(ending)]: p for p in sorted(folder.iterdir()) if p.name.endswith(ending) and p.name[0] != "."}
