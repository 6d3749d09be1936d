"""autoseg_plan_and_preprocess: from a raw folder to preprocessed volumes."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from autoseg.cli import options
from autoseg.cli.progress import ProgressDisplay
from autoseg.cli.run import run

if TYPE_CHECKING:
    from autoseg.core.plan import Plan
    from autoseg.pipeline import Options, Outcome


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    parser = options.new_parser(
        "plan_and_preprocess",
        "Check and measure a data set, plan everything, preprocess it. Run again, it does what is missing.",
    )
    options.add_dataset(parser)
    options.add_configurations(parser)
    options.add_planning(parser)
    options.add_stratify(parser)
    options.add_workers(parser)
    options.add_scheduler(parser)
    options.add_device(parser, default="cpu")
    parser.add_argument(
        "--clean", action="store_true", help="delete what was measured and preprocessed before, and do it again"
    )
    return run(parser, _act, argv)


def planning_options(args: argparse.Namespace) -> Options:
    """The planning half's options from parsed arguments."""
    from autoseg.pipeline import Options

    return Options(
        planner=args.planner,
        configurations=tuple(getattr(args, "configurations", ())),
        gpu_memory_gb=getattr(args, "gpu_memory_gb", None),
        spacing_mm=tuple(args.spacing) if getattr(args, "spacing", None) else None,
        normalization=tuple(getattr(args, "normalization", ())),
        stratify=getattr(args, "stratify", False),
        workers=getattr(args, "workers", None),
        scheduler=getattr(args, "scheduler", None),
        device=getattr(args, "device", None) or "cpu",
    )


def start_workers(args: argparse.Namespace, *modules: str) -> None:
    """Begin to load what worker processes need (torch takes seconds) before this process loads its own."""
    if args.scheduler is None and args.workers != 0:
        from autoseg.core.workers import start_server

        start_server(*modules)


def plan_table(plan: Plan) -> str:
    """The decisions of a plan, a line per configuration."""
    lines = [f"plan '{plan.planner}' for {plan.dataset}: axis order {plan.transpose_forward}"]
    for name, c in plan.configurations.items():
        spacing = " x ".join(f"{s:.4g}" for s in c.spacing_mm)
        patch = " x ".join(str(n) for n in c.patch_size)
        lines.append(
            f"  {name:<11} spacing {spacing} mm, patch {patch}, batch {c.batch_size}, "
            f"{len(c.network.features_per_stage)} stages, {', '.join(c.normalization)}"
        )
    return "\n".join(lines)


def _act(args: argparse.Namespace) -> tuple[Outcome, str]:
    start_workers(args, "autoseg.fingerprinting.measure_case", "autoseg.ops.case_transform")
    from autoseg.pipeline import plan_and_preprocess

    folder, workspace = options.dataset_folder(args), options.workspace(args)
    plan, outcome = plan_and_preprocess(
        folder, workspace, planning_options(args), clean=args.clean, progress=ProgressDisplay()
    )
    facts = outcome.facts
    more = "" if plan.planner == "default" else f" --planner {plan.planner}"
    if "3d_fullres" not in facts["configurations"]:
        more += f" -c {facts['configurations'][0]}"
    text = (
        f"{plan_table(plan)}\n"
        f"{options.counted(facts['cases'], 'case')} measured, {facts['cases_measured_now']} of them now; "
        f"{facts['preprocessed']} preprocessed for {', '.join(facts['configurations'])}, "
        f"{facts['preprocessed_now']} of them now\n"
        f"{workspace.plan(folder.name, plan.planner)}\nnext: autoseg_train -d {args.dataset}{more}"
    )
    return outcome, text
