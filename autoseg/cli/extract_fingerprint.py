"""autoseg_extract_fingerprint: check and measure a data set."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from autoseg.cli import options
from autoseg.cli.plan_and_preprocess import start_workers
from autoseg.cli.progress import ProgressDisplay
from autoseg.cli.run import run

if TYPE_CHECKING:
    from autoseg.pipeline import Outcome


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    parser = options.new_parser("extract_fingerprint", "Check every case of a data set and measure it.")
    options.add_dataset(parser)
    options.add_workers(parser)
    options.add_scheduler(parser)
    return run(parser, _act, argv)


def _act(args: argparse.Namespace) -> tuple[Outcome, str]:
    start_workers(args, "autoseg.fingerprinting.measure_case")
    from autoseg.core.dataset import read_dataset
    from autoseg.pipeline import extract_fingerprint, pool_for

    dataset, workspace = read_dataset(options.dataset_folder(args)), options.workspace(args)
    with pool_for(dataset, args.workers, args.scheduler) as pool:
        _, outcome = extract_fingerprint(dataset, workspace, pool=pool, progress=ProgressDisplay())
    facts = outcome.facts
    done = f"{options.counted(facts['cases'], 'case')} measured ({facts['cases_measured_now']} now)"
    text = f"{done}\n{workspace.fingerprint(dataset.name)}"
    return outcome, text
