"""autoseg_predict: segment new images with the ensemble of the trained folds."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from autoseg.cli import options
from autoseg.cli.progress import ProgressDisplay
from autoseg.cli.run import run

if TYPE_CHECKING:
    from autoseg.pipeline import OpenedModel, Outcome

FORMATS = {"nii.gz": ".nii.gz", "nii": ".nii", "nrrd": ".nrrd", "mha": ".mha", "dicom_seg": ".dcm"}


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    parser = options.new_parser("predict", "Segment new images. Run again, it predicts what is missing.")
    options.add_dataset(parser, required=False)
    parser.add_argument(
        "-m", dest="model", type=Path, metavar="MODEL", help="exported file or results folder, instead of -d"
    )
    parser.add_argument(
        "-i",
        dest="source",
        type=Path,
        required=True,
        metavar="IN",
        help="folder of CASE_0000.ext or of DICOM series, or a file",
    )
    parser.add_argument("-o", dest="target", type=Path, required=True, metavar="OUT", help="folder for the label files")
    parser.add_argument(
        "-c",
        dest="configurations",
        nargs="+",
        metavar="NAME",
        help="configuration; of several the probabilities are averaged (default: what strategy.json of the data set "
        "says, else 3d_fullres)",
    )
    parser.add_argument(
        "-f", dest="folds", nargs="+", metavar="FOLD", help="folds of the ensemble (default: all trained)"
    )
    parser.add_argument(
        "--weights",
        choices=("final", "best", "latest"),
        default="final",
        help="of the end of the training, of the best validation so far, or of the last saved state: the last two are "
        "there while a fold is being trained (default: final)",
    )
    options.add_planner(parser)
    parser.set_defaults(planner=None)
    parser.add_argument("--step", type=float, default=0.5, help="share of the patch between tiles (default 0.5)")
    parser.add_argument(
        "--no_mirroring", action="store_true", help="no mirrored copies: faster, slightly less accurate"
    )
    parser.add_argument(
        "--part", default="0/1", metavar="I/N", help="predict every N-th case from the I-th (job arrays)"
    )
    parser.add_argument(
        "--save_probabilities",
        action="store_true",
        help="also write CASE_probabilities.b2nd, each probability within 0.002",
    )
    parser.add_argument(
        "--format",
        choices=[*FORMATS],
        help="of the label files (default: that of the training data); dicom_seg for DICOM input only",
    )
    parser.add_argument(
        "--max_memory_gb",
        type=float,
        metavar="GB",
        help="main memory that the program may use (default: what is free); sums that do not fit go to a file in OUT",
    )
    parser.add_argument("--report", action="store_true", help="also write OUT/report.html, a page to look at")
    parser.add_argument("--overwrite", action="store_true", help="predict again what is there already")
    parser.add_argument(
        "--precision",
        choices=("auto", "float32", "bf16", "fp16"),
        default="auto",
        help="in which the networks compute (default: the fastest that the hardware has)",
    )
    options.add_plugin(parser)
    options.add_device(parser)
    options.add_scheduler(parser)
    return run(parser, _act, argv)


def _part(text: str) -> tuple[int, int]:
    from autoseg.core.errors import UsageError

    number, slash, count = text.partition("/")
    if not (slash and number.isdecimal() and count.isdecimal() and int(number) < int(count)):
        raise UsageError(f"--part {text}: write it as I/N with I from 0 to N-1, for example 0/4")
    return int(number), int(count)


def _models(args: argparse.Namespace) -> AbstractContextManager[OpenedModel]:
    """What -m, the strategy of the data set, or -d and -c name."""
    from autoseg.pipeline import OpenedModel, chosen_strategy, opened_model, strategy_models

    if args.model is not None:
        return opened_model(args.model, configurations=args.configurations)
    workspace, name = options.workspace(args), options.dataset_name(args)
    strategy = None if args.configurations or args.planner else chosen_strategy(workspace, name)
    if strategy is not None:
        return nullcontext(OpenedModel(folders=strategy_models(workspace, strategy), steps=tuple(strategy.steps)))
    planner = args.planner or "default"
    folders = [workspace.model(name, planner, c) for c in args.configurations or ["3d_fullres"]]
    return nullcontext(OpenedModel(folders=folders))


def _act(args: argparse.Namespace) -> tuple[Outcome, str]:
    from autoseg.core.errors import UsageError

    if (args.model is None) == (args.dataset is None):
        raise UsageError("give the data set with -d, or a model folder with -m")
    if not 0 < args.step <= 1:
        raise UsageError(f"--step is {args.step}; give a number above 0, at most 1")
    is_file = args.source.is_file()  # which may be a link to one elsewhere
    options.check_target(args.target, [args.source.parent, args.source.resolve().parent] if is_file else [args.source])
    part = _part(args.part)
    options.load_plugin(args)
    from autoseg.nets.device import choose_device
    from autoseg.pipeline import PredictOptions, predict

    if args.scheduler is None:
        choose_device(args.device)  # before a model is unpacked
    if args.scheduler is not None and args.model is not None and args.model.is_file():
        raise UsageError("the workers of a cluster need a folder that all of them see; autoseg_import_model makes one")
    if args.max_memory_gb is not None and not args.max_memory_gb > 0:
        raise UsageError(f"--max_memory_gb is {args.max_memory_gb}; give a number above 0")
    wanted = PredictOptions(
        folds=None if args.folds is None else tuple(args.folds),
        weights=args.weights,
        step=args.step,
        mirroring=not args.no_mirroring,
        probabilities=args.save_probabilities,
        ending=FORMATS.get(args.format),
        max_memory_gb=args.max_memory_gb,
        precision=args.precision,
        device=args.device,
        scheduler=args.scheduler,
        plugin=args.plugin,
        overwrite=args.overwrite,
        report=args.report,
        part=part,
    )
    with _models(args) as model:
        called = None if args.model is None else str(args.model)
        wanted = replace(wanted, steps=model.steps)
        outcome = predict(model.folders, args.source, args.target, wanted, called=called, progress=ProgressDisplay())
    facts = outcome.facts
    done = f"{options.counted(facts['predicted'], 'case')} predicted ({facts['predicted_now']} now)"
    folds = f"fold{'s' * (len(facts['folds']) > 1)} {', '.join(facts['folds'])}"
    return outcome, f"{done} with {folds}: {args.target}"
