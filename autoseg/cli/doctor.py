"""autoseg_doctor: what is wrong with the machine, a data set or its models, and what to do."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from autoseg.cli import options
from autoseg.cli.progress import ProgressDisplay
from autoseg.cli.run import run

if TYPE_CHECKING:
    from autoseg.aftercare import Finding
    from autoseg.pipeline import Outcome


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    parser = options.new_parser(
        "doctor",
        "Check this machine and, with -d, every case of a data set, its plans and its trained models.",
    )
    options.add_dataset(parser, required=False)
    options.add_workers(parser)
    return run(parser, _act, argv)


def _act(args: argparse.Namespace) -> tuple[Outcome, str]:
    from autoseg.aftercare import examine_dataset, examine_machine
    from autoseg.pipeline import Outcome

    workspace = options.workspace(args)
    findings = examine_machine(workspace)
    outcome = Outcome()
    if args.dataset is not None:
        folder = options.dataset_folder(args)
        more, outcome = examine_dataset(folder, workspace, workers=args.workers, progress=ProgressDisplay())
        findings += more
    outcome.problems[:0] = [finding.problem for finding in findings if finding.bad]
    outcome.facts["findings"] = [vars(finding) for finding in findings]
    width = max(len(finding.name) for finding in findings)
    return outcome, "\n".join(_line(finding, width) for finding in findings)


def _line(finding: Finding, width: int) -> str:
    sign = "BAD " if finding.bad else ("look" if finding.next else "ok  ")
    advice = f"; {finding.next}" if finding.next else ""
    return f"{sign}  {finding.name.ljust(width)}  {finding.found}{advice}"
