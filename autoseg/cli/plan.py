"""autoseg_plan: decide everything from a fingerprint."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from autoseg.cli import options
from autoseg.cli.plan_and_preprocess import plan_table, planning_options
from autoseg.cli.progress import ProgressDisplay
from autoseg.cli.run import run

if TYPE_CHECKING:
    from autoseg.core.fingerprint import Fingerprint
    from autoseg.core.plan import Plan
    from autoseg.pipeline import Outcome


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    parser = options.new_parser(
        "plan",
        "Plan from the fingerprint of a data set, or with --fingerprint from a file (then -d needs only dataset.json).",
    )
    options.add_dataset(parser)
    options.add_planning(parser)
    parser.add_argument("--fingerprint", type=Path, metavar="FILE", help="autoseg's or nnU-Net's fingerprint file")
    parser.add_argument(
        "--explain", action="store_true", help="every decision with its reasons, and what training will cost"
    )
    options.add_device(parser)
    return run(parser, _act, argv)


def _act(args: argparse.Namespace) -> tuple[Outcome, str]:
    from autoseg.core.dataset import read_declaration
    from autoseg.core.errors import UsageError
    from autoseg.core.fingerprint import Fingerprint
    from autoseg.pipeline import Outcome, make_plan
    from autoseg.planning import plan

    wanted = planning_options(args)
    folder = Path(args.dataset) if args.fingerprint and Path(args.dataset).is_dir() else options.dataset_folder(args)
    declaration, workspace = read_declaration(folder), options.workspace(args)
    name = folder.resolve().name
    if args.fingerprint:
        fingerprint = Fingerprint.read(args.fingerprint)
        made = plan(
            fingerprint,
            declaration,
            dataset=name,
            planner=wanted.planner,
            gpu_memory_gb=wanted.gpu_memory_gb,
            spacing_mm=wanted.spacing_mm,
            normalization=wanted.normalization,
        )
        return _answer(args, made, fingerprint, Outcome())
    path = workspace.fingerprint(name)
    if not path.is_file():
        raise UsageError(f"there is no {path}; run autoseg_extract_fingerprint -d {args.dataset} first")
    fingerprint = Fingerprint.read(path)
    made, now, kept = make_plan(name, declaration, fingerprint, workspace, wanted)
    outcome, text = _answer(args, made, fingerprint, Outcome(warnings=kept))
    return outcome, f"{text}\n{workspace.plan(name, made.planner)} ({'made now' if now else 'unchanged'})"


def _answer(args: argparse.Namespace, made: Plan, fingerprint: Fingerprint, outcome: Outcome) -> tuple[Outcome, str]:
    """The plan as facts and as a table; with --explain, why it is so and what it costs."""
    outcome.facts = made.model_dump(mode="json")
    text = plan_table(made)
    if args.explain:
        from autoseg.core.recipe import RECIPES
        from autoseg.pipeline import explain

        more, facts = explain(
            made, fingerprint, recipe=RECIPES["default"], device=args.device, progress=ProgressDisplay()
        )
        outcome.facts["explanation"] = facts
        text = f"{text}\n\n{more}"
    return outcome, text
