"""autoseg_find_best_configuration: choose models and postprocessing."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING

from autoseg.cli import options
from autoseg.cli.progress import ProgressDisplay
from autoseg.cli.run import run

if TYPE_CHECKING:
    from autoseg.core.strategy import Comparison, Strategy
    from autoseg.pipeline import Outcome

COLUMNS = ("", "mean Dice", "cases", "difference", "95 % interval", "p", "cost", "")


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    parser = options.new_parser(
        "find_best_configuration",
        "Compare the finished cross-validations and their ensembles, and decide on them which postprocessing helps.",
    )
    options.add_dataset(parser)
    parser.add_argument(
        "--ensembles",
        type=options.positive,
        default=2,
        metavar="N",
        help="try ensembles of up to N configurations (default 2; 1: none). They need trainings with "
        "--save_probabilities",
    )
    options.add_workers(parser)
    return run(parser, _act, argv)


def _act(args: argparse.Namespace) -> tuple[Outcome, str]:
    from autoseg.aftercare import find_best_configuration
    from autoseg.cli.status import command_line

    folder, workspace = options.dataset_folder(args), options.workspace(args)
    strategy, path, outcome = find_best_configuration(
        folder, workspace, largest=args.ensembles, workers=args.workers, progress=ProgressDisplay()
    )
    commands = [command_line(args, ("predict", "-i", "INPUT", "-o", "OUTPUT"))]
    if strategy.steps:
        by_hand = ["autoseg_postprocess", "-i", "PREDICTIONS", "-o", "OUTPUT", "--strategy", str(path)]
        commands.append(shlex.join(by_hand))
    outcome.facts["commands"] = commands
    made = "decided now" if outcome.facts["decided_now"] else "the scores are the same: unchanged"
    lines = [_table(strategy), f"{path} ({made})", "next, following this file by itself:", f"  {commands[0]}"]
    if strategy.steps:
        lines += ["for predictions that were made without it:", f"  {commands[1]}"]
    return outcome, "\n".join(lines)


def _table(strategy: Strategy) -> str:
    """The candidates with their evidence, what was tried on the chosen one, and notes."""
    rows = [list(COLUMNS), *(_row(one, chosen=one.name == strategy.name) for one in strategy.compared)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(COLUMNS))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    n_cases = options.counted(0 if strategy.nested is None else strategy.nested.cases, "validated case")
    lines.append(f"postprocessing, on {n_cases}:")
    for trial in strategy.evidence:
        change = f"Dice {_number(trial.dice.before)} -> {_number(trial.dice.after)}"
        what = "; ".join(step.sentence for step in trial.steps)
        lines.append(f"  {what}: {change}, {'accepted' if trial.accepted else 'refused'}")
    if (honest := strategy.nested) is not None:
        interval = "" if honest.ci95 is None else f", gain per case {honest.ci95[0]:+.4f} to {honest.ci95[1]:+.4f}"
        lines.append(
            f"  chosen without the cases that it is measured on: {_number(honest.before)} -> "
            f"{_number(honest.after)}{interval}"
        )
    lines.append(f"mean Dice with the steps: {_number(strategy.promised)}")
    return "\n".join([*lines, *(f"note: {note}" for note in strategy.notes)])


def _row(one: Comparison, *, chosen: bool) -> list[str]:
    interval = "" if one.ci95 is None else f"{one.ci95[0]:+.4f} to {one.ci95[1]:+.4f}"
    difference = "" if one.ci95 is None or one.difference is None else f"{one.difference:+.4f}"
    p_value = "" if one.p_value is None else f"{one.p_value:.2g}"
    verdict = "chosen" if chosen else ("no proof that it differs" if one.tied else "")
    return [
        one.name,
        _number(one.mean_dice),
        str(one.cases),
        difference,
        interval,
        p_value,
        f"{one.cost:.1f}x",
        verdict,
    ]


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
