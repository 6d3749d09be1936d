"""Which models to use, and which postprocessing: strategy.json of a data set."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations
from pathlib import Path

import numpy as np

from autoseg import __version__, evaluation, prediction, refinement
from autoseg.aftercare.delivery import write_ensemble
from autoseg.core.case_table import CASE_TABLE, read_case_table
from autoseg.core.dataset import Dataset, read_dataset
from autoseg.core.errors import DataError, Problem, UsageError
from autoseg.core.files import content_key
from autoseg.core.fingerprint import Fingerprint
from autoseg.core.plan import Model
from autoseg.core.scores import Scores, written_scores
from autoseg.core.strategy import Member, Strategy
from autoseg.core.workspace import Workspace, fold_files
from autoseg.nets.cost import prediction_cost
from autoseg.pipeline import CaseCounter, Outcome, Progress, few_workers, silent

ENSEMBLES = "ensembles"  # folder in the results of a data set
SCORED_AS = ".scored_as"  # in an ensemble's folder: what its scores were made from


def find_best_configuration(
    folder: Path,
    workspace: Workspace,
    *,
    largest: int = 2,
    workers: int | None = None,
    progress: Progress = silent,
) -> tuple[Strategy, Path, Outcome]:
    """Compare the finished cross-validations and their ensembles, decide on postprocessing, write strategy.json.

    Ensembles are of configurations whose out-of-fold probabilities are stored, up to `largest` at a time. A strategy
    that was made from the same scores is kept.

    Returns:
        (strategy, its path, outcome).

    Raises:
        UsageError: there is no finished cross-validation.
    """
    dataset = read_dataset(folder)
    results = workspace.results / dataset.name
    models = [path.parent.parent for path in sorted(results.glob("*/crossval/summary.json"))]
    if not models:
        todo = f"run autoseg_train -d {folder.name} first"
        raise UsageError(f"{results} holds no finished cross-validation; {todo}")
    n_slices = _median_slices(workspace.fingerprint(dataset.name))
    singles = [_single(model, dataset.json.file_ending, n_slices) for model in models]
    stored = {one.name: _stored_probabilities(model, one) for model, one in zip(models, singles, strict=True)}
    able = [one for one in singles if stored[one.name]]
    problems: list[Problem] = []
    ensembles = []
    for size in range(2, largest + 1):
        for members in combinations(able, size):
            sources = [stored[member.name] for member in members]
            made, more = _ensemble(members, sources, dataset, results / ENSEMBLES, workers, progress)
            ensembles += [made] if made is not None else []
            problems += more
    candidates = [*singles, *ensembles]
    scored = [[c.name, c.cost, c.scores.model_dump()] for c in candidates]
    made_from = content_key(scored, dataset.json.model_dump(), __version__)
    path = workspace.strategy(dataset.name)
    if not problems and (known := known_strategy(path)) is not None and known.made_from == made_from:
        return known, path, Outcome(facts={"decided_now": False, **known.model_dump(mode="json")})
    n_cases = len(refinement.compare_candidates(candidates)[0].scores.cases)
    strategy, more = refinement.refine(
        candidates,
        _truths(dataset),
        dataset=dataset.name,
        labels=dataset.labels,
        annotated_classes=dataset.annotated_classes,
        workers=few_workers(n_cases, workers, volumes=_truths(dataset).values()),
        progress=CaseCounter(progress, "try postprocessing", n_cases),
    )
    problems += more
    notes = [*strategy.notes, *_unable(singles, able)]
    strategy = strategy.with_changes(made_from="" if problems else made_from, notes=notes)
    strategy.write(path)
    facts = {"decided_now": True, **strategy.model_dump(mode="json")}
    return strategy, path, Outcome(facts=facts, problems=problems)


def _truths(dataset: Dataset) -> dict[str, Path]:
    return {case.id: case.label for case in dataset.cases.values() if case.label is not None}


def known_strategy(path: Path) -> Strategy | None:
    """The strategy that is there; None without one, or where an earlier version wrote it."""
    try:
        return Strategy.read(path)
    except DataError:
        return None


def _unable(singles: Sequence[refinement.Candidate], able: Sequence[refinement.Candidate]) -> Iterator[str]:
    if len(singles) > 1 and len(able) < len(singles):
        names = ", ".join(one.name for one in singles if one not in able)
        yield (
            f"no ensembles with {names}: the probabilities of its cross-validation are not stored; autoseg_train with "
            "--save_probabilities adds them, without a new training"
        )


def _single(model: Path, ending: str, n_slices: int) -> refinement.Candidate:
    known, scores = Model.read(model / "model.json"), written_scores(model / "crossval" / "summary.json")
    plan = known.plan
    folds = validated_folds(model)
    costs = []
    for name in plan.stages(known.configuration):
        configuration = plan.configuration(name)
        extra = 0 if configuration.previous_stage is None else len(plan.scheme.foreground)
        costs.append(
            prediction_cost(
                configuration,
                n_channels=len(plan.channel_names) + extra,
                n_outputs=plan.scheme.n_outputs,
                n_folds=len(folds),
                n_slices=n_slices,
            )
        )
    return refinement.Candidate(
        members=(Member(planner=plan.planner, configuration=known.configuration),),
        scores=scores,
        predictions=validated_predictions(model, ending),
        folds={case: int(fold) for fold, cases in folds.items() for case in cases},
        cost=sum(costs),
    )


def _median_slices(fingerprint: Path) -> int:
    """Slices of a median case, along its coarsest axis; 1 where nothing is known."""
    if not fingerprint.is_file():
        return 1
    found = Fingerprint.read(fingerprint)
    axis = int(np.argmax(np.median(found.spacings, axis=0)))
    return round(float(np.median(np.array(found.shapes_after_crop)[:, axis])))


def _stored_probabilities(model: Path, candidate: refinement.Candidate) -> dict[str, Path]:
    """The file of out-of-fold probabilities of every case; none where one is missing."""
    folders = {case: model / f"fold_{fold}" / "validation" for case, fold in candidate.folds.items()}
    paths = {case: folders[case] / f"{case}{prediction.PROBABILITIES}" for case in candidate.predictions}
    return paths if all(path.is_file() for path in paths.values()) else {}


def _ensemble(
    members: Sequence[refinement.Candidate],
    sources: Sequence[dict[str, Path]],
    dataset: Dataset,
    folder: Path,
    workers: int | None,
    progress: Progress,
) -> tuple[refinement.Candidate | None, list[Problem]]:
    """Average the out-of-fold probabilities of some candidates and score the result, where that is not done yet."""
    name = "+".join(member.name for member in members)
    target, ending = folder / name, dataset.json.file_ending
    cases = set.intersection(*(set(source) for source in sources))
    jobs = {
        case: prediction.StoredCase(
            case=case,
            probabilities=tuple(source[case] for source in sources),
            like=tuple(member.predictions[case] for member in members),
            target=target / f"{case}{ending}",
        )
        for case in sorted(cases)
    }
    problems = write_ensemble(
        jobs, target, facts={"ensemble_of": name, "autoseg_version": __version__}, workers=workers, progress=progress
    ).problems
    predictions = {case: job.target for case, job in jobs.items()}
    if problems or not predictions:  # on fewer cases than its members it cannot be compared with them
        return None, problems
    scores, more = _scored(predictions, dataset, target, workers)
    return refinement.Candidate(
        members=tuple(one for member in members for one in member.members),
        scores=scores,
        predictions=predictions,
        folds=members[0].folds,
        cost=sum(member.cost for member in members),
    ), [*problems, *more]


def _scored(
    predictions: dict[str, Path], dataset: Dataset, folder: Path, workers: int | None
) -> tuple[Scores, list[Problem]]:
    """Scores of label files, kept in their folder as long as files and data set stay."""
    truths = {case: truth for case, truth in _truths(dataset).items() if case in predictions}
    columns, _ = read_case_table(dataset.folder / CASE_TABLE, cases={*dataset.cases})
    files = [*predictions.values(), *truths.values()]
    key = content_key(dataset.json.model_dump(), columns, __version__, files=files)
    kept, note = folder / "summary.json", folder / SCORED_AS
    if kept.is_file() and note.is_file() and note.read_text() == key:
        return Scores.read(kept), []
    scores, problems = evaluation.evaluate(
        predictions,
        truths,
        labels=dataset.labels,
        annotated_classes=dataset.annotated_classes,
        tolerances_mm=dataset.json.tolerances_mm or {},
        lesions=dataset.json.lesions or (),
        columns=columns,
        workers=few_workers(len(truths), workers, volumes=truths.values()),
    )
    evaluation.write_scores(scores, folder)
    if not problems:
        note.write_text(key)
    return scores, problems


def validated_folds(model: Path) -> dict[str, list[str]]:
    """The cases that were validated in each fold of the cross-validation."""
    summaries = fold_files(model, "validation/summary.json")
    # what was trained on all cases was scored on them
    return {fold: [*written_scores(path).cases] for fold, path in summaries.items() if fold != "all"}


def validated_predictions(model: Path, ending: str) -> dict[str, Path]:
    """The predicted label file of every case that was validated in a fold of the cross-validation."""
    found = {}
    for fold, cases in validated_folds(model).items():
        paths = {case: model / f"fold_{fold}" / "validation" / f"{case}{ending}" for case in cases}
        found.update({case: path for case, path in paths.items() if path.is_file()})
    return found
