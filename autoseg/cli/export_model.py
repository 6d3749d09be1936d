"""autoseg_export_model: one file to share, or a container for a challenge."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from autoseg.cli import options
from autoseg.cli.run import run

if TYPE_CHECKING:
    from autoseg.pipeline import Outcome


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    parser = options.new_parser(
        "export_model", "Write trained folds into one file that others can open without running anything in it."
    )
    options.add_dataset(parser)
    parser.add_argument("-o", dest="target", type=Path, required=True, metavar="MODEL", help="MODEL.zip, or a folder")
    parser.add_argument(
        "-c",
        dest="configurations",
        nargs="+",
        metavar="NAME",
        help="configurations whose probabilities are averaged (default: what strategy.json of the data set says, "
        "with its postprocessing, else 3d_fullres)",
    )
    parser.add_argument("-f", dest="folds", nargs="+", metavar="FOLD", help="folds (default: all trained)")
    options.add_planner(parser)
    parser.set_defaults(planner=None)
    options.add_words(parser)
    options.add_container(parser)
    parser.add_argument("--overwrite", action="store_true", help="replace MODEL.zip; a folder never is")
    return run(parser, _act, argv)


def _act(args: argparse.Namespace) -> tuple[Outcome, str]:
    from autoseg.pipeline import chosen_strategy, export_model, strategy_models

    workspace, name = options.workspace(args), options.dataset_name(args)
    strategy = None if args.configurations or args.planner else chosen_strategy(workspace, name)
    if strategy is not None:
        models = strategy_models(workspace, strategy)
    else:
        planner, configurations = args.planner or "default", args.configurations or ["3d_fullres"]
        models = [workspace.model(name, planner, configuration) for configuration in configurations]
    outcome = export_model(
        models,
        args.target,
        folds=args.folds,
        words=options.words(args),
        steps=() if strategy is None else strategy.steps,
        container=args.container,
        overwrite=args.overwrite,
    )
    return outcome, options.told_model(outcome, container=args.container)
