"""Which configuration to use, and which postprocessing: strategy.json of a data set."""

from __future__ import annotations

from pathlib import Path

from autoseg import __version__, refinement
from autoseg.core.dataset import read_dataset
from autoseg.core.errors import UsageError
from autoseg.core.files import content_key
from autoseg.core.plan import Model
from autoseg.core.scores import Scores
from autoseg.core.strategy import Strategy
from autoseg.core.workspace import Workspace, fold_files
from autoseg.pipeline import CaseCounter, Outcome, Progress, few_workers, silent


def find_best_configuration(
    folder: Path, workspace: Workspace, *, workers: int | None = None, progress: Progress = silent
) -> tuple[Strategy, Path, Outcome]:
    """Compare the finished cross-validations, decide on postprocessing, write strategy.json.

    A strategy that was made from the same scores is kept.

    Returns:
        (strategy, its path, outcome).

    Raises:
        UsageError: there is no finished cross-validation.
    """
    dataset = read_dataset(folder)
    results = workspace.results / dataset.name
    finished = sorted(results.glob("*/crossval/summary.json"))
    candidates = [_candidate(path.parent.parent, dataset.json.file_ending) for path in finished]
    if not candidates:
        todo = f"run autoseg_train -d {folder.name} first"
        raise UsageError(f"{results} holds no finished cross-validation; {todo}")
    scored = [[c.name, c.scores.model_dump()] for c in candidates]
    made_from = content_key(scored, dataset.json.model_dump(), __version__)
    path = results / "strategy.json"
    if path.is_file() and (known := Strategy.read(path)).made_from == made_from:
        return known, path, Outcome(facts={"decided_now": False, **known.model_dump(mode="json")})
    n_cases = len(refinement.choose(candidates)[0].scores.cases)
    strategy, problems = refinement.refine(
        candidates,
        {case.id: case.label for case in dataset.cases.values() if case.label is not None},
        dataset=dataset.name,
        labels=dataset.labels,
        annotated_classes=dataset.annotated_classes,
        workers=few_workers(n_cases, workers),
        progress=CaseCounter(progress, "try postprocessing", n_cases),
    )
    strategy = strategy.with_changes(made_from="" if problems else made_from)
    strategy.write(path)
    facts = {"decided_now": True, **strategy.model_dump(mode="json")}
    return strategy, path, Outcome(facts=facts, problems=problems)


def _candidate(model: Path, ending: str) -> refinement.Candidate:
    known, scores = Model.read(model / "model.json"), Scores.read(model / "crossval" / "summary.json")
    return refinement.Candidate(
        planner=known.plan.planner,
        configuration=known.configuration,
        scores=scores,
        predictions=validated_predictions(model, ending),
    )


def validated_predictions(model: Path, ending: str) -> dict[str, Path]:
    """The predicted label file of every case that was validated in a fold of the cross-validation."""
    found = {}
    for fold, summary in fold_files(model, "validation/summary.json").items():
        if fold == "all":  # scored on its own training cases
            continue
        cases = Scores.read(summary).cases
        paths = {case: summary.parent / f"{case}{ending}" for case in cases}
        found.update({case: path for case, path in paths.items() if path.is_file()})
    return found
