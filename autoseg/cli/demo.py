"""autoseg_demo: the whole pipeline on synthetic CT phantoms."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from autoseg.cli import options
from autoseg.cli.progress import ProgressDisplay
from autoseg.cli.run import run

if TYPE_CHECKING:
    from autoseg.pipeline import Outcome

EPOCHS, ITERATIONS = 8, 15


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    parser = options.new_parser(
        "demo",
        "Make CT phantoms, plan, train five folds for a short while, predict held-out phantoms, score them.",
    )
    parser.add_argument(
        "-o", dest="target", type=Path, default=Path("autoseg_demo_output"), metavar="DIR", help="where to"
    )
    parser.add_argument(
        "--epochs", type=options.positive, default=EPOCHS, metavar="N", help=f"epochs per fold (default {EPOCHS})"
    )
    options.add_device(parser)
    return run(parser, _act, argv)


def _act(args: argparse.Namespace) -> tuple[Outcome, str]:
    from autoseg.core.recipe import RECIPES
    from autoseg.core.workspace import Workspace
    from autoseg.nets.device import choose_device
    from autoseg.phantoms import write_phantoms
    from autoseg.pipeline import (
        Options,
        Outcome,
        PredictOptions,
        TrainOptions,
        evaluate,
        plan_and_preprocess,
        predict,
        show_predictions,
        train,
    )

    choose_device(args.device)  # what is refused is refused before any work
    started = time.monotonic()
    top = args.target
    workspace = Workspace(raw=top / "raw", preprocessed=top / "preprocessed", results=top / "results")
    name = "Dataset999_Phantoms"
    folder, planner, show = workspace.raw / name, "small", ProgressDisplay()
    show.announce("1/6 making phantoms")
    if not (folder / "dataset.json").is_file():
        write_phantoms(folder)
    show.announce("2/6 checking, planning and preprocessing")
    _, planned = plan_and_preprocess(
        folder, workspace, Options(planner=planner, configurations=("3d_fullres",)), progress=show
    )
    show.announce(f"3/6 training five folds for {args.epochs} epochs of {ITERATIONS} steps")
    recipe = RECIPES["quick"].with_changes(name="demo", epochs=args.epochs, iterations=ITERATIONS)
    trained = train(folder, workspace, TrainOptions(recipe=recipe, planner=planner, device=args.device), progress=show)
    show.announce("4/6 predicting held-out phantoms with all five folds")
    results = workspace.model(name, planner, "3d_fullres")
    predictions = top / "predictions"
    predicted = predict([results], folder / "imagesTs", predictions, PredictOptions(device=args.device), progress=show)
    show.announce("5/6 scoring")
    scores, evaluated = evaluate(predictions, folder / "labelsTs", tolerance_mm=3.0, progress=show)
    show.announce("6/6 drawing")
    pictures = show_predictions(folder / "imagesTs", folder / "labelsTs", predictions, top / "pictures")
    steps = (planned, trained, predicted, evaluated)
    facts = {"mean_dice": scores.mean_dice, "seconds": round(time.monotonic() - started, 1)}
    outcome = Outcome(
        facts=facts,
        problems=[problem for step in steps for problem in step.problems],
        warnings=[warning for step in steps for warning in step.warnings],
    )
    means = {label: metrics["dice"].mean for label, metrics in scores.summary.items()}
    lines = [f"{label:<14} Dice {'-' if mean is None else f'{mean:.3f}'}" for label, mean in means.items()]
    text = "\n".join(
        [
            evaluated.facts["table"],
            "",
            *lines,
            f"mean Dice {scores.mean_dice:.3f}",
            "",
            f"done in {facts['seconds'] / 60:.1f} minutes; look at",
            f"  segmentations  {predictions}",
            f"  overlays       {', '.join(str(p) for p in pictures)}",
            f"  curves         {results}/fold_0/progress.png ... fold_4/progress.png",
            f"  scores         {predictions / 'summary.json'}, {results / 'crossval' / 'summary.json'}",
        ]
    )
    return outcome, text
