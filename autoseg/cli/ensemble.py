"""autoseg_ensemble: average the stored probabilities of several predictions."""

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
        "ensemble",
        "Average the probabilities of several predictions of the same images (autoseg_predict --save_probabilities). "
        "Run again, it does what is missing.",
    )
    parser.add_argument(
        "-i", dest="sources", type=Path, nargs="+", required=True, metavar="PRED", help="folders of predictions"
    )
    parser.add_argument("-o", dest="target", type=Path, required=True, metavar="OUT", help="folder for the label files")
    options.add_workers(parser)
    return run(parser, _act, argv)


def _act(args: argparse.Namespace) -> tuple[Outcome, str]:
    options.check_target(args.target, args.sources)
    from autoseg.aftercare import ensemble

    outcome = ensemble(args.sources, args.target, workers=args.workers, progress=ProgressDisplay())
    facts = outcome.facts
    done = f"{options.counted(facts['ensembled'], 'case')} ensembled ({facts['ensembled_now']} now)"
    return outcome, f"{done}: {args.target}"
