"""autoseg_evaluate: score a folder of predictions."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from autoseg.cli import options
from autoseg.cli.progress import ProgressDisplay
from autoseg.cli.run import run

if TYPE_CHECKING:
    from autoseg.pipeline import Outcome


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    parser = options.new_parser(
        "evaluate", "Score predictions against true labels: overlap, surfaces, volumes, lesions, groups of cases."
    )
    parser.add_argument(
        "-p", dest="predictions", type=Path, required=True, metavar="PRED", help="folder of predictions"
    )
    parser.add_argument("-g", dest="truths", type=Path, required=True, metavar="TRUTH", help="folder of true labels")
    parser.add_argument(
        "--tolerance",
        type=float,
        default=1.0,
        metavar="MM",
        help="of the surface Dice, for labels without one in dataset.json (default 1 mm)",
    )
    parser.add_argument(
        "--cases", type=Path, metavar="CSV", help="table with a column case, to compare groups of cases by the others"
    )
    options.add_workers(parser)
    return run(parser, _act, argv)


def _act(args: argparse.Namespace) -> tuple[Outcome, str]:
    from autoseg.core.errors import UsageError
    from autoseg.pipeline import evaluate

    if args.tolerance < 0:
        raise UsageError(f"--tolerance is {args.tolerance}; give millimetres from 0 up")
    _, outcome = evaluate(
        args.predictions,
        args.truths,
        tolerance_mm=args.tolerance,
        case_table=args.cases,
        workers=args.workers,
        progress=ProgressDisplay(),
    )
    return outcome, f"{outcome.facts['table']}\n{args.predictions / 'summary.json'}"
