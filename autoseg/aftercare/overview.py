"""report.html of one configuration, with pictures of its best, median and worst case."""

from __future__ import annotations

import statistics
import tempfile
from pathlib import Path

from autoseg import evaluation, reporting, training
from autoseg.aftercare.choice import validated_predictions
from autoseg.core.dataset import Case, Dataset, read_dataset
from autoseg.core.errors import DataError, Problem
from autoseg.core.fingerprint import Fingerprint
from autoseg.core.labels import LabelScheme
from autoseg.core.plan import Model
from autoseg.core.scores import Scores
from autoseg.core.workspace import Workspace, fold_files
from autoseg.io.images import read_volume
from autoseg.pipeline import Outcome, read_plan

PICTURED = 5  # of the labels to check


def report(folder: Path, workspace: Workspace, *, planner: str, configuration: str) -> tuple[Path, Outcome]:
    """Write report.html about one configuration, with whatever there is of it; returns its path.

    Raises:
        UsageError: there is no plan, or no such configuration in it.
    """
    dataset = read_dataset(folder)
    results = workspace.model(dataset.name, planner, configuration)
    known = results / "model.json"
    plan = Model.read(known).plan if known.is_file() else read_plan(workspace, dataset.name, planner)
    plan.configuration(configuration)
    fingerprint, crossval = workspace.fingerprint(dataset.name), results / "crossval" / "summary.json"
    folds = fold_files(results, "log.jsonl")
    with tempfile.TemporaryDirectory() as drawn:
        pictures, problems = _pictures(dataset, results, Path(drawn))
        doubts, more = _doubts(dataset, results, Path(drawn))
        problems += [problem for problem in more if problem not in problems]
        reporting.report_page(
            results / "report.html",
            dataset=f"{dataset.name}, {configuration}",
            plan=plan,
            fingerprint=Fingerprint.read(fingerprint) if fingerprint.is_file() else None,
            logs={fold: training.read_log(log) for fold, log in folds.items()},
            scores=Scores.read(crossval) if crossval.is_file() else None,
            pictures=pictures,
            doubts=doubts,
        )
    captions = [caption for caption, _ in pictures]
    checked = [cells[0] for cells, _ in doubts]
    facts = {"report": str(results / "report.html"), "folds": [*folds], "pictures": captions, "to_check": checked}
    return results / "report.html", Outcome(facts=facts, problems=problems)


def _pictures(dataset: Dataset, results: Path, target: Path) -> tuple[list[tuple[str, Path]], list[Problem]]:
    """Overlays of the best, the median and the worst of the validated cases, by mean Dice over labels."""
    scores = _validated(results)
    means: dict[str, float] = {}
    for case, rows in (pair for one in scores for pair in one.cases.items()):
        known = [row.dice for row in rows.values() if row.dice is not None]
        if known and case in dataset.cases:
            means[case] = statistics.fmean(known)
    order = sorted(means, key=lambda case: (-means[case], case))
    named = {place: name for name, place in (("median", len(order) // 2), ("worst", len(order) - 1), ("best", 0))}
    predictions = validated_predictions(results, dataset.json.file_ending)
    pictures: list[tuple[str, Path]] = []
    problems: list[Problem] = []
    for place, name in sorted(named.items()) if order else ():
        case, path = order[place], target / f"{name}.png"
        if case not in predictions:
            todo = "delete the validation folder of its fold and run autoseg_train again"
            problems.append(Problem(case=case, found="its predicted file is gone", next=todo))
            continue
        try:
            _draw(dataset.cases[case], predictions[case], labels=dataset.labels, path=path)
        except DataError as error:
            problems += error.problems
            continue
        caption = f"{name} of {len(order)} validated cases: {case}, mean Dice {means[case]:.4f}"
        pictures.append((caption, path))
    return pictures, problems


def _validated(results: Path) -> list[Scores]:
    """The scores of every fold of the cross-validation: what was trained on all cases was scored on them."""
    validated = fold_files(results, "validation/summary.json")
    return [Scores.read(path) for fold, path in validated.items() if fold != "all"]


def _doubts(dataset: Dataset, results: Path, target: Path) -> tuple[list[tuple[list[str], Path | None]], list[Problem]]:
    """Labels that deserve a second look, the first few with a picture of where they disagree."""
    scores = _validated(results)
    if not scores:
        return [], []
    predictions = validated_predictions(results, dataset.json.file_ending)
    found: list[tuple[list[str], Path | None]] = []
    problems: list[Problem] = []
    for number, one in enumerate(evaluation.suspects(evaluation.pool_scores(scores))):
        picture = None
        if number < PICTURED and one.case in predictions and one.case in dataset.cases:
            picture = target / f"doubt_{number}.png"
            try:
                _draw(
                    dataset.cases[one.case],
                    predictions[one.case],
                    labels=dataset.labels,
                    path=picture,
                    disputed=one.label,
                )
            except DataError as error:
                problems, picture = [*problems, *error.problems], None
        found.append((_cells(one), picture))
    return found, problems


def _cells(one: evaluation.Suspect) -> list[str]:
    return [one.case, one.label, f"{one.dice:.4f}", f"{one.usual:.4f}", f"{one.surprise:.1f}", one.seen]


def _draw(case: Case, predicted: Path, *, labels: LabelScheme, path: Path, disputed: str | None = None) -> None:
    """Overlay of a case; with a disputed label where truth and prediction disagree on it most."""
    assert case.label is not None
    volumes = [read_volume(file, case=case.id) for file in (case.images[0], case.label, predicted)]
    image, truth, found = (geometry.orientation.apply(voxels) for voxels, geometry in volumes)
    spacing_mm = volumes[0][1].canonical.spacing_mm
    focus = None if disputed is None else labels.mask(truth, disputed) != labels.mask(found, disputed)
    reporting.overlay_picture(
        image, truth, found, labels=labels, spacing_mm=spacing_mm, path=path, title=case.id, focus=focus
    )
