"""autoseg_report: one HTML page about a configuration."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from autoseg.cli import options
from autoseg.cli.run import run

if TYPE_CHECKING:
    from autoseg.pipeline import Outcome


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    parser = options.new_parser(
        "report",
        "Write one page with data, plan, training curves, scores, and the best, median and worst case.",
    )
    options.add_dataset(parser)
    parser.add_argument("-c", dest="configuration", default="3d_fullres", metavar="NAME", help="default: 3d_fullres")
    options.add_planner(parser)
    return run(parser, _act, argv)


def _act(args: argparse.Namespace) -> tuple[Outcome, str]:
    from autoseg.aftercare import report

    folder, workspace = options.dataset_folder(args), options.workspace(args)
    path, outcome = report(folder, workspace, planner=args.planner, configuration=args.configuration)
    return outcome, str(path)
