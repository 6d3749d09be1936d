"""autoseg_train: train and validate folds."""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autoseg.cli import options, together
from autoseg.cli.progress import ProgressDisplay
from autoseg.cli.run import run

log = logging.getLogger(__name__)

if TYPE_CHECKING:
    from autoseg.core.recipe import Recipe
    from autoseg.pipeline import Outcome


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    parser = _parser()
    words = sys.argv[1:] if argv is None else argv
    n = parser.parse_args(words).gpus
    if n is not None and n > 1 and together.this_process() is None:
        try:
            return together.start(n, words)
        except KeyboardInterrupt:  # while PyTorch is imported, which takes seconds
            return 130
    if together.this_process() is not None:
        together.end_with_parent()
    code = run(parser, _act, words)
    if together.this_process() is not None:
        together.leave(code)
    return code


def _parser() -> argparse.ArgumentParser:
    parser = options.new_parser(
        "train",
        "Train every fold, validate it, pool the cross-validation. Run again, it continues what was begun.",
    )
    options.add_dataset(parser)
    parser.add_argument("-c", dest="configuration", default="3d_fullres", metavar="NAME", help="default: 3d_fullres")
    parser.add_argument(
        "-f", dest="folds", nargs="+", default=(), metavar="FOLD", help="0 1 ... or all (default: each fold)"
    )
    options.add_planner(parser)
    parser.add_argument(
        "--recipe",
        metavar="NAME",
        help="default, quick, balanced, long, finetune, or a recipe.json (default: by the budget, quick below "
        "10,000 steps or 2 hours)",
    )
    parser.add_argument(
        "--set", dest="changes", nargs="+", default=(), metavar="KEY=VALUE", help="change recipe fields"
    )
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--epochs", type=options.positive, metavar="N", help="epochs (default 1000)")
    length.add_argument(
        "--time_budget",
        dest="time_budget_s",
        type=options.seconds,
        metavar="4h",
        help="train each fold for this time (90s, 45m, 4h, 2d) instead of a number of epochs; its validation on whole "
        "images is not in it",
    )
    parser.add_argument("--iterations", type=options.positive, metavar="N", help="steps per epoch (default 250)")
    parser.add_argument("--seed", type=int, metavar="N", help="seed of all random numbers (default 0)")
    parser.add_argument(
        "--deterministic", action="store_true", help="same weights to the bit in every run on one machine"
    )
    parser.add_argument(
        "--pretrained",
        type=Path,
        metavar="MODEL",
        help="begin new folds with the weights of this results folder (or .safetensors file); see --recipe finetune",
    )
    parser.add_argument("--profile", action="store_true", help="time the parts of the first epoch, into profile.json")
    options.add_plugin(parser)
    parser.add_argument(
        "--loaders", type=options.count, metavar="N", help="processes that read crops (default: what the CPUs allow)"
    )
    parser.add_argument("--tensorboard", action="store_true", help="write the log as TensorBoard events, too")
    parser.add_argument(
        "--save_probabilities",
        action="store_true",
        help="also write those of the validation cases: autoseg_find_best_configuration then tries ensembles",
    )
    parser.add_argument(
        "--device",
        metavar="NAME",
        help="cpu, cuda, cuda:1 or mps; several, parted by commas, train a fold each (default: all GPUs there are)",
    )
    parser.add_argument(
        "--gpus",
        type=options.positive,
        metavar="N",
        help="train each fold on N GPUs together (with --device cpu: N processes), the batch of the plan on each",
    )
    options.add_workers(parser)
    return parser


def _recipe(args: argparse.Namespace, results: Path) -> Recipe:
    """The recipe that the options ask for; without --recipe that of folds begun in `results`, else by the budget."""
    changes = _changes(args)
    return _changed(_base_recipe(args.recipe, results, changes), changes)


def _begun(args: argparse.Namespace, results: Path) -> dict[str, Recipe]:
    """The recipes of the folds that were begun in `results`, unless --recipe asks for another."""
    from autoseg.core.recipe import Recipe
    from autoseg.core.workspace import fold_files

    if args.recipe is not None:
        return {}
    changes, found = _changes(args), fold_files(results, "recipe.json")
    return {fold: _changed(Recipe.read(path), changes) for fold, path in found.items()}


def _changed(recipe: Recipe, changes: dict[str, Any]) -> Recipe:
    from autoseg.core.errors import DataError, UsageError

    try:
        return recipe.with_changes(**changes)
    except DataError as error:
        raise UsageError(str(error)) from error


def _changes(args: argparse.Namespace) -> dict[str, Any]:
    """The fields of the recipe that options change."""
    from autoseg.core.errors import UsageError

    changes: dict[str, Any] = {}
    for change in args.changes:
        key, equals, value = change.partition("=")
        if not equals:
            raise UsageError(f"--set {change}: write it as KEY=VALUE")
        if key in changes or getattr(args, key, None) not in (None, False):
            raise UsageError(f"--set {change}: {key} is given twice; give it once")
        try:
            changes[key] = json.loads(value)
        except json.JSONDecodeError:
            changes[key] = value
    for key in ("epochs", "time_budget_s", "iterations", "seed"):
        if getattr(args, key) is not None:
            changes[key] = getattr(args, key)
    if args.epochs is not None:
        changes["time_budget_s"] = None
    if args.deterministic:
        changes["deterministic"] = True
    return changes


def _base_recipe(name: str | None, results: Path, changes: dict[str, Any]) -> Recipe:
    from autoseg.core.errors import UsageError
    from autoseg.core.recipe import RECIPES, SHORT_BUDGET, SHORT_BUDGET_S, Recipe
    from autoseg.core.records import nearest
    from autoseg.core.workspace import fold_files

    if name in RECIPES:
        return RECIPES[name]
    if name is not None:
        if not Path(name).is_file():
            raise UsageError(f"no recipe '{name}' and no such file; {nearest(name, [*RECIPES])}")
        return Recipe.read(Path(name))
    for fold, begun in fold_files(results, "recipe.json").items():
        log.info("new folds take the recipe of fold %s, which was begun here; choose another with --recipe", fold)
        return Recipe.read(begun)
    lengths = ("epochs", "iterations", "time_budget_s")
    budget = _changed(RECIPES["default"], {k: v for k, v in changes.items() if k in lengths})
    epochs, seconds = budget.length
    if epochs is not None:
        short, reason = epochs * budget.iterations < SHORT_BUDGET, f"fewer than {SHORT_BUDGET} steps"
    else:
        short, reason = (seconds or 0) < SHORT_BUDGET_S, f"less than {SHORT_BUDGET_S / 3600:g} hours"
    if not short:
        return budget
    log.info("recipe 'quick', for %s; choose another with --recipe", reason)
    return RECIPES["quick"].with_changes(epochs=budget.epochs, iterations=budget.iterations)


def _act(args: argparse.Namespace) -> tuple[Outcome, str]:
    with together.spoken_by_first():
        outcome, text = _train(args)
    if together.is_first():
        return outcome, text
    from autoseg.pipeline import Outcome

    return Outcome(), ""


def _train(args: argparse.Namespace) -> tuple[Outcome, str]:
    options.load_plugin(args)
    from autoseg.pipeline import TrainOptions, train

    folder, workspace = options.dataset_folder(args), options.workspace(args)
    results = workspace.model(folder.name, args.planner, args.configuration)
    wanted = TrainOptions(
        recipe=_recipe(args, results),
        begun=_begun(args, results),
        configuration=args.configuration,
        planner=args.planner,
        folds=tuple(args.folds),
        device="cuda" if args.gpus == 1 and args.device is None else args.device,
        loaders=args.loaders,
        pretrained=args.pretrained,
        plugin=args.plugin,
        profile=args.profile,
        tensorboard=args.tensorboard,
        probabilities=args.save_probabilities,
        workers=args.workers,
        together=together.this_process(),
    )
    outcome = train(folder, workspace, wanted, progress=ProgressDisplay())
    lines = []
    for fold, facts in outcome.facts.items():
        if fold.startswith("fold_"):
            done = "trained" if facts["trained_now"] else "was trained before"
            score = "-" if facts["mean_dice"] is None else f"{facts['mean_dice']:.3f}"
            scored = "its own training cases" if fold == "fold_all" else "validation"
            lines.append(f"{fold}: {done}, {scored} mean Dice {score}")
    if "crossval_table" in outcome.facts:
        lines += ["cross-validation, all folds pooled:", outcome.facts["crossval_table"]]
    lines.append(str(workspace.model(folder.name, args.planner, args.configuration)))
    return outcome, "\n".join(lines)
