"""report.html of one configuration: whatever there is of it, gathered from the workspace."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TypeVar

from autoseg import evaluation, reporting, training
from autoseg.aftercare.choice import known_strategy, validated_predictions
from autoseg.core.dataset import Case, Dataset, read_dataset
from autoseg.core.errors import DataError, Problem
from autoseg.core.fingerprint import Fingerprint
from autoseg.core.labels import LabelScheme
from autoseg.core.plan import Model, Plan
from autoseg.core.recipe import Recipe
from autoseg.core.scores import Scores, validation_scores, written_scores
from autoseg.core.splits import read_splits
from autoseg.core.trust import Trust
from autoseg.core.versions import versions_here
from autoseg.core.workspace import TRUST, Workspace, fold_files, fold_folder
from autoseg.io.images import read_volume
from autoseg.io.model_file import file_facts
from autoseg.io.weights import read_facts
from autoseg.pipeline import Outcome, read_plan

T = TypeVar("T")
PICTURED = 5  # of the labels to check
NAMED = 5  # of many cases
FEW_SLICES = 12  # of each plane of their pictures


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
    measured, crossval = workspace.fingerprint(dataset.name), results / "crossval" / "summary.json"
    validated = _validated(results)
    so_far = evaluation.pool_scores([*validated.values()]) if validated else None
    predictions = validated_predictions(results, dataset.json.file_ending)
    fingerprint = Fingerprint.read(measured) if measured.is_file() else None
    logs = {fold: training.read_log(log) for fold, log in fold_files(results, "log.jsonl").items()}
    folds = {case: fold for fold, scores in validated.items() for case in scores.cases}
    shown, problems = _viewers(dataset, predictions, so_far)
    doubts, doubtful, more = _doubts(dataset, predictions, so_far)
    problems += [problem for problem in more if problem not in problems]
    if lost := sorted(folds.keys() - predictions.keys() - {problem.case for problem in problems}):
        names = ", ".join([*lost[:NAMED], *(["..."] if len(lost) > NAMED else [])])
        found = f"the predicted files of {len(lost)} validated cases are gone ({names})"
        todo = "delete the validation folders of their folds and run autoseg_train again"
        problems.append(Problem(case="", found=found, next=todo))
    others = _cross_validations(results.parent, problems)
    trust = _tried(lambda: Trust.read(results / TRUST), problems) if (results / TRUST).is_file() else None
    pooled = _tried(lambda: written_scores(crossval), problems) if crossval.is_file() else None
    told = [*dataset.problems, *problems, *_unfinished(dataset, workspace, results), *_doubtful_training(logs)]
    contents = reporting.Contents(
        title=f"{dataset.name}, {configuration}",
        plan=plan,
        fingerprint=fingerprint,
        logs=logs,
        scores=pooled or so_far,
        folds=folds,
        trust=trust,
        viewers=[viewer for _, viewer in shown],
        doubts=doubts,
        doubtful=doubtful,
        strategy=known_strategy(workspace.strategy(dataset.name)),
        others=others,
        problems=[*told, *_absent(dataset, fingerprint)],
        versions=[*versions_here().items()],
        hashes=_hashes(dataset, workspace, results, plan),
        runs=_runs(results),
    )
    reporting.report_page(results / "report.html", contents)
    facts = {
        "report": str(results / "report.html"),
        "folds": [*logs],
        "pictures": [caption for caption, _ in shown],
        "to_check": [cells[0] for cells in doubts],
    }
    return results / "report.html", Outcome(facts=facts, problems=problems)


def _viewers(
    dataset: Dataset, predictions: Mapping[str, Path], scores: Scores | None
) -> tuple[list[tuple[str, str]], list[Problem]]:
    """The best, the median and the worst of the validated cases, by mean Dice over labels: (caption, HTML) each."""
    means: dict[str, float] = {}
    for case, rows in ({} if scores is None else scores.cases).items():
        known = [row.dice for row in rows.values() if row.dice is not None]
        if known and case in dataset.cases:
            means[case] = statistics.fmean(known)
    order = sorted(means, key=lambda case: (-means[case], case))
    named = {place: name for name, place in (("median", len(order) // 2), ("worst", len(order) - 1), ("best", 0))}
    shown: list[tuple[str, str]] = []
    problems: list[Problem] = []
    for place, name in sorted(named.items(), reverse=True) if order else ():  # the worst is looked for first
        case = order[place]
        if case not in predictions:
            todo = "delete the validation folder of its fold and run autoseg_train again"
            problems.append(Problem(case=case, found="its predicted file is gone", next=todo))
            continue
        caption = f"{name} of {len(order)} validated cases: {case}, mean Dice {means[case]:.4f}"
        try:
            shown.append((caption, _viewer(caption, dataset.cases[case], predictions[case], labels=dataset.labels)))
        except DataError as error:
            problems += error.problems
    return shown, problems


def _validated(results: Path) -> dict[str, Scores]:
    """The scores of every fold of the cross-validation: what was trained on all cases was scored on them."""
    validated = fold_files(results, "validation/summary.json")
    return {fold: written_scores(path) for fold, path in validated.items() if fold != "all"}


def _doubts(
    dataset: Dataset, predictions: Mapping[str, Path], scores: Scores | None
) -> tuple[list[list[str]], list[str], list[Problem]]:
    """Labels that deserve a second look, and the first few to leaf through, where they disagree."""
    if scores is None:
        return [], [], []
    doubts: list[list[str]] = []
    viewers: list[str] = []
    problems: list[Problem] = []
    for number, one in enumerate(evaluation.suspects(scores)):
        doubts.append(_cells(one))
        if number < PICTURED and one.case in predictions and one.case in dataset.cases:
            case, predicted = dataset.cases[one.case], predictions[one.case]
            caption = f"{one.case}: {one.label}"
            try:
                viewers.append(_viewer(caption, case, predicted, labels=dataset.labels, disputed=one.label))
            except DataError as error:
                problems += error.problems
    return doubts, viewers, problems


def _cells(one: evaluation.Suspect) -> list[str]:
    return [one.case, one.label, f"{one.dice:.4f}", f"{one.usual:.4f}", f"{one.surprise:.1f}", one.seen]


def _viewer(caption: str, case: Case, predicted: Path, *, labels: LabelScheme, disputed: str | None = None) -> str:
    """A case to leaf through; with a disputed label from where truth and prediction disagree on it most."""
    assert case.label is not None
    volumes = [read_volume(file, case=case.id) for file in (case.images[0], case.label, predicted)]
    image, truth, found = (geometry.orientation.apply(voxels) for voxels, geometry in volumes)
    if not image.shape == truth.shape == found.shape:
        sizes = f"image {image.shape}, label {truth.shape} and prediction {found.shape} differ in size"
        raise DataError(Problem(case=case.id, found=sizes, next="was a file changed since? Preprocess and train again"))
    spacing_mm = volumes[0][1].canonical.spacing_mm
    how = {}
    if disputed is not None:
        how = {"focus": labels.mask(truth, disputed) != labels.mask(found, disputed), "most_slices": FEW_SLICES}
    return reporting.case_viewer(caption, image, truth, found, labels=labels, spacing_mm=spacing_mm, **how)


def _unfinished(dataset: Dataset, workspace: Workspace, results: Path) -> Iterator[Problem]:
    """Folds that are missing, and scores that are not those of the weights that are there now."""
    path = workspace.splits(dataset.name)
    todo = f"autoseg_train -d {dataset.name} continues it (autoseg_status tells the whole command)"
    try:
        n_folds = len(read_splits(path, known={*dataset.cases})) if path.is_file() else 0
    except DataError as error:
        yield from error.problems
        return
    for fold in range(n_folds):
        folder = fold_folder(results, fold)
        if not (folder / "weights.safetensors").is_file():
            yield Problem(case=f"fold_{fold}", found="is not trained", next=todo)
        elif validation_scores(folder) is None:
            yield Problem(case=f"fold_{fold}", found="is trained, and not validated with these weights", next=todo)


def _doubtful_training(logs: dict[str, list[dict[str, object]]]) -> Iterator[Problem]:
    for fold, rows in logs.items():
        told = (training.collapse(rows[: n + 1]) for n in range(len(rows)))
        if found := next(filter(None, told), None):
            yield Problem(case=f"fold_{fold}", found=found.partition("; ")[0], next=found.partition("; ")[2])


def _absent(dataset: Dataset, fingerprint: Fingerprint | None) -> Iterator[Problem]:
    """Labels that many training cases lack."""
    lacking = {} if fingerprint is None else fingerprint.absent_labels
    for name in dataset.labels.foreground:
        cases = [case for case, names in lacking.items() if name in names]
        if cases:
            found = f"{name} is not drawn in {len(cases)} of {len(dataset.cases)} cases"
            yield Problem(case="", found=found, next="see that this is true: it is learned as truth")


def _cross_validations(folder: Path, problems: list[Problem]) -> list[tuple[str, float | None, int]]:
    """Every finished one of the data set: its configuration, mean Dice and number of cases."""
    rows = []
    for path in sorted(folder.glob("*/crossval/summary.json")):
        if scores := _tried(lambda path=path: written_scores(path), problems):  # type: ignore[misc]
            rows.append((path.parent.parent.name, scores.mean_dice, len(scores.cases)))
    return rows


def _tried(read: Callable[[], T], problems: list[Problem]) -> T | None:
    """What can be read; None where it cannot, which is a problem then."""
    try:
        return read()
    except DataError as error:
        problems += [problem for problem in error.problems if problem not in problems]
        return None


def _hashes(dataset: Dataset, workspace: Workspace, results: Path, plan: Plan) -> list[tuple[str, str]]:
    """Name and SHA-256 of the files that the results follow from, and of the weights."""
    files = {
        "dataset.json": dataset.folder / "dataset.json",
        "fingerprint.json": workspace.fingerprint(dataset.name),
        "splits.json": workspace.splits(dataset.name),
        f"plan {plan.planner}": workspace.plan(dataset.name, plan.planner),
        "model.json": results / "model.json",
        **{f"fold_{fold}/{path.name}": path for fold, path in fold_files(results, "weights.safetensors").items()},
    }
    return [(name, file_facts(path).sha256) for name, path in files.items() if path.is_file()]


def _runs(results: Path) -> list[tuple[str, str]]:
    """How each fold was trained."""
    rows = []
    for fold, path in fold_files(results, "recipe.json").items():
        try:
            recipe = Recipe.read(path)
        except DataError as error:
            rows.append((f"fold {fold}", f"not known: {error}"))
            continue
        length = f"{recipe.epochs} epochs" if recipe.time_budget_s is None else f"{recipe.time_budget_s:.0f} s"
        told = f"recipe {recipe.name}, {length} of {recipe.iterations} steps, seed {recipe.seed}"
        made = read_facts(path.with_name("weights.safetensors")).get("made_with")
        made = made if isinstance(made, dict) else {}
        rows.append((f"fold {fold}", "; ".join([told, *(f"{what} {version}" for what, version in made.items())])))
    return rows
