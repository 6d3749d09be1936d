"""autoseg_import_model: a model of somebody else, or of nnU-Net v2, as a model file or folder of autoseg."""

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
        "import_model", "Check a model file, or translate a results folder of nnU-Net v2; nothing in them is run."
    )
    parser.add_argument("source", type=Path, metavar="FOLDER_OR_FILE", help="exported file, or folder with plans.json")
    parser.add_argument("-o", dest="target", type=Path, required=True, metavar="MODEL", help="MODEL.zip, or a folder")
    parser.add_argument("-f", dest="folds", nargs="+", metavar="FOLD", help="of nnU-Net's folds (default: all)")
    parser.add_argument(
        "--checkpoint",
        default="checkpoint_final.pth",
        metavar="FILE",
        help="of nnU-Net's folds (default: checkpoint_final.pth)",
    )
    options.add_words(parser)
    options.add_container(parser)
    parser.add_argument("--overwrite", action="store_true", help="replace MODEL.zip; a folder never is")
    return run(parser, _act, argv)


def _act(args: argparse.Namespace) -> tuple[Outcome, str]:
    from autoseg.pipeline import import_model

    outcome = import_model(
        args.source,
        args.target,
        folds=args.folds,
        checkpoint=args.checkpoint,
        words=options.words(args),
        container=args.container,
        overwrite=args.overwrite,
    )
    return outcome, options.told_model(outcome, container=args.container)
