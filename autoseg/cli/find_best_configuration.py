"""autoseg_find_best_configuration: choose configuration and postprocessing."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING

from autoseg.cli import options
from autoseg.cli.progress import ProgressDisplay
from autoseg.cli.run import run

if TYPE_CHECKING:
    from autoseg.core.strategy import Strategy, Trial
    from autoseg.pipeline import Outcome


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    parser = options.new_parser(
        "find_best_configuration",
        "Compare the finished cross-validations, and decide on them which postprocessing helps.",
    )
    options.add_dataset(parser)
    options.add_workers(parser)
    return run(parser, _act, argv)


def _act(args: argparse.Namespace) -> tuple[Outcome, str]:
    from autoseg.aftercare import find_best_configuration
    from autoseg.cli.status import command_line

    folder, workspace = options.dataset_folder(args), options.workspace(args)
    strategy, path, outcome = find_best_configuration(
        folder, workspace, workers=args.workers, progress=ProgressDisplay()
    )
    planner = ("--planner", strategy.planner) if strategy.planner != "default" else ()
    target = "PREDICTIONS" if strategy.steps else "OUTPUT"
    predict = ("predict", "-c", strategy.configuration, *planner, "-i", "INPUT", "-o", target)
    commands = [command_line(args, predict)]
    if strategy.steps:
        words = ["autoseg_postprocess", "-i", target, "-o", "OUTPUT", "--strategy", str(path)]
        commands.append(shlex.join(words))
    outcome.facts["commands"] = commands
    made = "decided now" if outcome.facts["decided_now"] else "the scores are the same: unchanged"
    lines = [_table(strategy), f"{path} ({made})", "next:", *(f"  {command}" for command in commands)]
    return outcome, "\n".join(lines)


def _table(strategy: Strategy) -> str:
    """The configurations with their mean Dice, what was tried on the best, and notes."""
    best = f"{strategy.planner}__{strategy.configuration}"
    width = max(map(len, strategy.compared))
    lines = [f"{'configuration'.ljust(width)}  mean Dice"]
    for name, mean in strategy.compared.items():
        lines.append(f"{name.ljust(width)}  {_number(mean):<9}{'  best' if name == best else ''}".rstrip())
    if strategy.evidence:
        lines.append(f"postprocessing, tried on {strategy.evidence[0].cases} validated cases:")
        lines += [f"  {_sentence(trial)}" for trial in strategy.evidence]
    return "\n".join([*lines, *(f"note: {note}" for note in strategy.notes)])


def _sentence(trial: Trial) -> str:
    several = len(trial.keep_largest) > 1
    change = trial.mean_dice if several else trial.dice[trial.keep_largest[0]]
    what = "all labels together" if several else trial.keep_largest[0]
    text = f"largest part of {what}: Dice {_number(change.before)} -> {_number(change.after)}, "
    if trial.accepted:
        return f"{text}accepted (changes {trial.cases_changed} cases)"
    if not trial.cases_changed:
        return f"{text}refused: it changes nothing"
    pairs = ((n, c.before, c.after) for n, c in trial.dice.items())
    worse = [n for n, b, a in pairs if b is not None and a is not None and a < b]
    return f"{text}refused: {', '.join(worse)} gets worse" if several and worse else f"{text}refused: no gain"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
