"""autoseg_preprocess: prepare the cases of a planned data set."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from autoseg.cli import options
from autoseg.cli.plan_and_preprocess import planning_options, start_workers
from autoseg.cli.progress import ProgressDisplay
from autoseg.cli.run import run

if TYPE_CHECKING:
    from autoseg.pipeline import Outcome


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    parser = options.new_parser("preprocess", "Crop, normalise and resample every case as the plan says.")
    options.add_dataset(parser)
    options.add_configurations(parser)
    options.add_planner(parser)
    options.add_stratify(parser)
    options.add_workers(parser)
    options.add_scheduler(parser)
    options.add_device(parser, default="cpu")
    return run(parser, _act, argv)


def _act(args: argparse.Namespace) -> tuple[Outcome, str]:
    start_workers(args, "autoseg.preprocessing.prepare_case", "autoseg.ops.case_transform")
    from autoseg.core.dataset import read_dataset
    from autoseg.pipeline import pool_for, preprocess, read_plan

    dataset, workspace = read_dataset(options.dataset_folder(args)), options.workspace(args)
    plan = read_plan(workspace, dataset.name, args.planner)
    wanted = planning_options(args)
    with pool_for(dataset, wanted.workers, wanted.scheduler, device=wanted.device) as pool:
        outcome = preprocess(
            dataset,
            plan,
            workspace,
            wanted,
            pool=pool,
            cases=sorted(dataset.cases),
            progress=ProgressDisplay(),
        )
    outcome.problems[:0] = dataset.problems
    facts = outcome.facts
    done = f"{options.counted(facts['preprocessed'], 'case')} preprocessed ({facts['preprocessed_now']} now)"
    return outcome, f"{done} for {', '.join(facts['configurations'])}"
