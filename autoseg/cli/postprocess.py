"""autoseg_postprocess: apply the chosen postprocessing to predictions."""

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
        "postprocess",
        "Apply the steps of a strategy to a folder of predictions. Run again, it does what is missing.",
    )
    parser.add_argument("-i", dest="source", type=Path, required=True, metavar="PRED", help="folder of predictions")
    parser.add_argument("-o", dest="target", type=Path, required=True, metavar="OUT", help="folder for the results")
    parser.add_argument("--strategy", type=Path, required=True, metavar="FILE", help="strategy.json of the data set")
    options.add_workers(parser)
    return run(parser, _act, argv)


def _act(args: argparse.Namespace) -> tuple[Outcome, str]:
    from autoseg.core.errors import UsageError
    from autoseg.core.strategy import Step

    options.check_target(args.target, [args.source])
    if not args.strategy.is_file():
        raise UsageError(f"there is no {args.strategy}; autoseg_find_best_configuration writes it")
    from autoseg.aftercare import postprocess

    outcome = postprocess(args.source, args.target, args.strategy, workers=args.workers, progress=ProgressDisplay())
    facts = outcome.facts
    steps = "; ".join(Step(**step).sentence for step in facts["steps"])
    done = f"{options.counted(facts['postprocessed'], 'case')} postprocessed ({facts['postprocessed_now']} now)"
    return outcome, f"{done}: {steps or 'no step, copied as they are'}\n{args.target}"
