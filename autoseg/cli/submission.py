"""autoseg_submission: predictions as one checked archive."""

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
        "submission", "Check a folder of predictions and pack it into one archive for a challenge."
    )
    parser.add_argument("-i", dest="source", type=Path, required=True, metavar="PRED", help="folder of predictions")
    parser.add_argument("-o", dest="target", type=Path, required=True, metavar="FILE.zip", help="the archive")
    parser.add_argument(
        "--challenge",
        type=Path,
        metavar="FILE",
        help="JSON file with the names, values and type that the challenge wants",
    )
    return run(parser, _act, argv)


def _act(args: argparse.Namespace) -> tuple[Outcome, str]:
    from autoseg.core.errors import UsageError

    if args.target.suffix != ".zip" or args.target.is_dir():
        raise UsageError(f"{args.target} is no name of an archive; give one that ends in .zip with -o")
    if args.challenge is not None and not args.challenge.is_file():
        raise UsageError(f"there is no {args.challenge}; the documentation of file formats says what it holds")
    from autoseg.aftercare import submit

    outcome = submit(args.source, args.target, challenge=args.challenge)
    megabytes = outcome.facts["bytes"] / 1e6
    return outcome, f"{options.counted(outcome.facts['cases'], 'case')}, {megabytes:.2f} MB: {args.target}"
