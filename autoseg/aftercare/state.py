"""How far everything is, and the command that continues it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from autoseg import training
from autoseg.core.dataset import Dataset, read_dataset
from autoseg.core.errors import DataError, Problem
from autoseg.core.heartbeat import died_in, worker_in
from autoseg.core.plan import Plan
from autoseg.core.recipe import RECIPES, Recipe
from autoseg.core.scores import validation_scores, written_scores
from autoseg.core.splits import default_splits, read_splits
from autoseg.core.workspace import Workspace, fold_files, fold_folder
from autoseg.io.case_store import CaseStore
from autoseg.io.weights import read_facts
from autoseg.pipeline import Outcome


@dataclass(frozen=True, kw_only=True)
class FoldStatus:
    """How far a fold is.

    `next` is the command that continues it, as words without -d; it is empty once the fold is validated, and while it
    is running.
    """

    fold: str
    epochs_done: int
    epochs_planned: int | None  # None: trained for a time
    state: str
    mean_dice: float | None
    next: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class ConfigurationStatus:
    """How far a planned configuration is, and the commands (as words) that preprocess and train it."""

    planner: str
    configuration: str
    cases: int
    preprocessed: int
    folds: tuple[FoldStatus, ...]
    crossval_mean_dice: float | None
    preprocess: tuple[str, ...]
    train: tuple[str, ...]


def status(
    folder: Path, workspace: Workspace, *, planner: str | None = None
) -> tuple[list[ConfigurationStatus], Outcome]:
    """How far each planned configuration (of one planner, or of all) and each of its folds is. Changes nothing.

    A damaged file is a problem; the rest is told all the same.
    """
    dataset = read_dataset(folder)
    problems = [*dataset.problems]
    folder_of_plans = workspace.plan(dataset.name, "default").parent
    current = (path for path in folder_of_plans.glob("[!.]*.json") if ".old" not in path.name)
    plans = sorted(current, key=lambda path: (path.stem != "default", path.stem))
    found = []
    for path in plans:
        if planner is not None and path.stem != planner:
            continue
        try:
            plan = Plan.read(path)
        except DataError as error:
            problems += error.problems
            continue
        for configuration in plan.configurations:
            found.append(_configuration_status(dataset, workspace, plan, configuration, problems))
    rows = [asdict(one) for one in found]
    facts = {"dataset": dataset.name, "cases": len(dataset.cases), "configurations": rows}
    return found, Outcome(facts=facts, problems=problems)


def _configuration_status(
    dataset: Dataset, workspace: Workspace, plan: Plan, configuration: str, problems: list[Problem]
) -> ConfigurationStatus:
    planner = plan.planner
    store = CaseStore(workspace.case_store(dataset.name, planner, plan.stored_as(configuration)))
    stored = dataset.cases.keys() & set(store.case_ids())
    results = workspace.model(dataset.name, planner, configuration)
    crossval = results / "crossval" / "summary.json"
    own = ("--planner", planner) if planner != "default" else ()
    train = ("train", "-c", configuration, *own)
    pooled: float | None = None
    names: list[str] = []
    folds = []
    try:
        pooled = written_scores(crossval).mean_dice if crossval.is_file() else None
        names = [*_folds(dataset, workspace, results)]
    except DataError as error:
        problems += [problem for problem in error.problems if problem not in problems]
        names = names or [*fold_files(results, "recipe.json")]
    for fold in names:
        try:
            folds.append(_fold_status(results, fold, train))
        except DataError as error:
            problems += [Problem(case=f"fold_{fold}", file=p.file, found=p.found, next=p.next) for p in error.problems]
            lost = {"epochs_done": 0, "epochs_planned": None, "mean_dice": None, "next": ()}
            folds.append(FoldStatus(fold=fold, state="damaged", **lost))
    return ConfigurationStatus(
        planner=planner,
        configuration=configuration,
        cases=len(dataset.cases),
        preprocessed=len(stored),
        folds=tuple(folds),
        crossval_mean_dice=pooled,
        preprocess=("preprocess", "-c", configuration, *own),
        train=train,
    )


def _folds(dataset: Dataset, workspace: Workspace, results: Path) -> Iterator[str]:
    path = workspace.splits(dataset.name)
    if path.is_file():
        splits = read_splits(path, known=set(dataset.cases))
    else:
        splits = default_splits({case.id: case.group or case.id for case in dataset.cases.values()})
    yield from map(str, range(len(splits)))
    if fold_folder(results, "all").is_dir():
        yield "all"


def _fold_status(results: Path, fold: str, train: tuple[str, ...]) -> FoldStatus:
    """What a fold's folder says. A fold that is not begun is planned like the others of its configuration."""
    folder = fold_folder(results, fold)
    recipes = [folder / "recipe.json", *fold_files(results, "recipe.json").values()]
    begun = next((path for path in recipes if path.is_file()), None)
    recipe = Recipe.read(begun) if begun is not None else RECIPES["default"]
    weights = folder / "weights.safetensors"
    trained = read_facts(weights).get("epoch")  # the log may have lost a line
    epochs_done = max(len(training.read_log(folder / "log.jsonl")), trained if isinstance(trained, int) else 0)
    mean_dice: float | None = None
    worker = worker_in(folder)
    if worker is not None:
        state = f"running ({worker})"
    elif died_in(folder):
        state = "died"
    elif not (folder / "recipe.json").is_file():
        state = "not begun"
    elif not weights.is_file() or epochs_done < (recipe.length[0] or 0):
        state = "not finished"
    elif scores := validation_scores(folder):
        state, mean_dice = "validated", scores.mean_dice
    else:
        state = "not validated"
    named = next((name for name, known in RECIPES.items() if known == recipe), str(begun))
    how = () if named == "default" else ("--recipe", named)
    command = () if state == "validated" or worker is not None else (*train, "-f", fold, *how)
    return FoldStatus(
        fold=fold,
        epochs_done=epochs_done,
        epochs_planned=recipe.length[0],
        state=state,
        mean_dice=mean_dice,
        next=command,
    )
