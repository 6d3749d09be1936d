"""autoseg_status: what is done, and the command that continues it."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING

from autoseg.cli import options
from autoseg.cli.run import run

if TYPE_CHECKING:
    from autoseg.aftercare import ConfigurationStatus, FoldStatus
    from autoseg.pipeline import Outcome


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    parser = options.new_parser(
        "status", "Say how far each configuration and each fold is, and which command continues it."
    )
    options.add_dataset(parser)
    parser.add_argument("--planner", metavar="NAME", help="only of this planner (default: of all)")
    return run(parser, _act, argv)


def command_line(args: argparse.Namespace, words: Sequence[str]) -> str:
    """A command as it is typed, for the data set and the workspace that `args` name."""
    where = ["-d", args.dataset]
    for part in ("workspace", "raw", "preprocessed", "results"):
        if getattr(args, part) is not None:
            where += [f"--{part}", str(getattr(args, part))]
    return shlex.join([f"autoseg_{words[0]}", *where, *words[1:]])


def _act(args: argparse.Namespace) -> tuple[Outcome, str]:
    from autoseg.aftercare import status

    folder, workspace = options.dataset_folder(args), options.workspace(args)
    configurations, outcome = status(folder, workspace, planner=args.planner)
    lines = [f"{outcome.facts['dataset']}: {outcome.facts['cases']} cases"]
    for configuration in configurations:
        lines += _lines(args, configuration)
    if not configurations:
        lines.append(f"nothing is planned yet: {command_line(args, ('plan_and_preprocess',))}")
    return outcome, "\n".join(lines)


def _lines(args: argparse.Namespace, found: ConfigurationStatus) -> list[str]:
    stored = f"{found.preprocessed} of {found.cases} cases preprocessed"
    title = f"{found.planner}__{found.configuration}: {stored}"
    missing = found.preprocessed < found.cases
    lines = [f"{title}: {command_line(args, found.preprocess)}" if missing else title]
    if any(fold.state != "not begun" for fold in found.folds):
        lines += [f"  {_sentence(args, fold)}" for fold in found.folds]
    elif found.preprocessed:
        lines.append(f"  no fold is begun: {command_line(args, found.train)}")
    if found.crossval_mean_dice is not None:
        lines.append(f"  cross-validation: mean Dice {found.crossval_mean_dice:.4f}")
    return lines


def _sentence(args: argparse.Namespace, fold: FoldStatus) -> str:
    of = "" if fold.epochs_planned is None else f" of {fold.epochs_planned}"
    text = f"fold {fold.fold}: {fold.epochs_done}{of} epochs, {fold.state}"
    if fold.mean_dice is not None:
        text += f", mean Dice {fold.mean_dice:.4f}"
    return f"{text}: {command_line(args, fold.next)}" if fold.next else text
