"""Options that several commands share."""

from __future__ import annotations

import argparse
import importlib
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from autoseg.core.workspace import Workspace
    from autoseg.pipeline import Outcome, Words


def new_parser(name: str, description: str) -> argparse.ArgumentParser:
    """A parser with the options that every command has."""
    parser = argparse.ArgumentParser(prog=f"autoseg_{name}", description=description, allow_abbrev=False)
    parser.add_argument("--json", action="store_true", help="print the result as one JSON object")
    parser.add_argument("--debug", action="store_true", help="show tracebacks and details")
    return parser


def add_dataset(parser: argparse.ArgumentParser, *, required: bool = True) -> None:
    """-d and where the workspace is."""
    parser.add_argument(
        "-d", "--dataset", dest="dataset", required=required, metavar="DATASET", help="number, name, or raw folder"
    )
    parser.add_argument("--workspace", type=Path, metavar="DIR", help="holds raw/, preprocessed/ and results/")
    for part in ("raw", "preprocessed", "results"):
        parser.add_argument(f"--{part}", type=Path, metavar="DIR", help=f"places {part}/ elsewhere")


def check_target(target: Path, sources: Sequence[Path]) -> None:
    """Raises UsageError when the output folder is an input folder, or no folder."""
    from autoseg.core.errors import UsageError

    if target.resolve() in {source.resolve() for source in sources}:
        raise UsageError("the output folder is the input folder; give another one with -o")
    if target.exists() and not target.is_dir():
        raise UsageError(f"{target} is a file; give a folder with -o")


def add_workers(parser: argparse.ArgumentParser) -> None:
    """-np."""
    parser.add_argument("-np", dest="workers", type=count, metavar="N", help="worker processes (default: what fits)")


def add_scheduler(parser: argparse.ArgumentParser) -> None:
    """--scheduler."""
    parser.add_argument(
        "--scheduler", metavar="ADDRESS", help="work on a Dask cluster (tcp://host:8786) instead of here"
    )


def add_device(parser: argparse.ArgumentParser, *, default: str = "the best there is") -> None:
    """--device."""
    parser.add_argument("--device", metavar="NAME", help=f"cpu, cuda, cuda:1 or mps (default: {default})")


def add_plugin(parser: argparse.ArgumentParser) -> None:
    """--plugin."""
    parser.add_argument(
        "--plugin", metavar="MODULE", help="Python module that registers losses, networks, ... of your own"
    )


def load_plugin(args: argparse.Namespace) -> None:
    """Import the module that --plugin names. Raises UsageError when that fails."""
    from autoseg.core.errors import UsageError

    try:
        if args.plugin:
            importlib.import_module(args.plugin)
    except Exception as error:  # a module of the user's own may fail in any way
        what = f"{type(error).__name__}: {error}"
        raise UsageError(f"--plugin {args.plugin} cannot be imported ({what}); mend it or install it") from error


def add_planner(parser: argparse.ArgumentParser) -> None:
    """--planner."""
    known = "resenc_m, resenc_l, resenc_xl, small, or a plan of your own"
    parser.add_argument("--planner", default="default", metavar="NAME", help=f"{known} (default: default)")


def add_planning(parser: argparse.ArgumentParser) -> None:
    """What the planner may be told."""
    add_planner(parser)
    parser.add_argument(
        "--gpu_memory_gb",
        type=float,
        metavar="GB",
        help="graphics memory to plan for (default: the planner's, 8 to 40)",
    )
    parser.add_argument("--spacing", type=float, nargs=3, metavar=("Z", "Y", "X"), help="target spacing in mm")
    parser.add_argument(
        "--normalization",
        nargs="+",
        default=(),
        metavar="NAME",
        help="one per channel: ct, zscore, zscore_nonzero, rescale_0_1, rgb_0_1, none (default: by channel name)",
    )


def add_stratify(parser: argparse.ArgumentParser) -> None:
    """--stratify."""
    parser.add_argument("--stratify", action="store_true", help="splits with each label equally often in every fold")


def add_configurations(parser: argparse.ArgumentParser) -> None:
    """-c of the commands that take several."""
    parser.add_argument(
        "-c",
        dest="configurations",
        nargs="+",
        default=(),
        metavar="NAME",
        help="2d, 3d_fullres, ... (default: all planned)",
    )


def workspace(args: argparse.Namespace) -> Workspace:
    """The workspace from options, else environment, else ./autoseg_workspace."""
    from autoseg.core.workspace import Workspace

    top = args.workspace or Path(os.environ.get("AUTOSEG_WORKSPACE", "autoseg_workspace"))
    parts = {
        # absolute: workers elsewhere need not stand in the same folder
        part: (getattr(args, part) or Path(os.environ.get(f"AUTOSEG_{part.upper()}", top / part))).absolute()
        for part in ("raw", "preprocessed", "results")
    }
    return Workspace(**parts)


def dataset_folder(args: argparse.Namespace) -> Path:
    """The raw folder that -d names. Raises UsageError when there is none."""
    from autoseg.core.dataset import find_dataset

    return find_dataset(args.dataset, raw=workspace(args).raw)


def count(text: str) -> int:
    """A whole number from 0 up."""
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError("must not be negative")
    return number


def positive(text: str) -> int:
    """A whole number from 1 up."""
    if count(text) == 0:
        raise argparse.ArgumentTypeError("must be at least 1")
    return int(text)


def counted(number: int, noun: str) -> str:
    """1 case, 2 cases."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def seconds(text: str) -> float:
    """A time as 90s, 45m, 4h or 2d, in seconds."""
    units = {"s": 1, "m": 60, "h": 3600, "d": 86400}
    try:
        found = float(text[:-1]) * units[text[-1]]
    except (ValueError, KeyError, IndexError):
        found = math.nan
    if not 0 < found < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is no time; write 90s, 45m, 4h or 2d")
    return found


def dataset_name(args: argparse.Namespace) -> str:
    """Name of the data set that -d gives, from its raw folder or, where that is gone, from its results."""
    from autoseg.core.dataset import find_dataset
    from autoseg.core.errors import UsageError

    try:
        return find_dataset(args.dataset, raw=workspace(args).raw).name
    except UsageError:
        results = workspace(args).results
        number = f"Dataset{int(args.dataset):03d}_" if args.dataset.isdecimal() else args.dataset
        known = (
            [p.name for p in sorted(results.glob("Dataset*")) if p.name.startswith(number)] if results.is_dir() else []
        )
        if len(known) != 1:
            raise
        return known[0]


def add_words(parser: argparse.ArgumentParser) -> None:
    """What the card of a model file says."""
    parser.add_argument("--name", help="of the model, for its card")
    parser.add_argument("--description", default="", metavar="TEXT", help="what it is for, for its card")
    parser.add_argument("--licence", default="", metavar="TEXT", help="under which it may be used, for its card")


def add_container(parser: argparse.ArgumentParser) -> None:
    """--container."""
    parser.add_argument(
        "--container", action="store_true", help="write a folder from which docker builds an image for a challenge"
    )


def words(args: argparse.Namespace) -> Words:
    """The options of `add_words`."""
    from autoseg.pipeline import Words

    return Words(name=args.name, description=args.description, licence=args.licence)


def told_model(outcome: Outcome, *, container: bool) -> str:
    """What to print about a model file or container that was made."""
    facts = outcome.facts
    if container:
        return f"{facts['model']}: README.md there says how to build, try and save the container"
    folds = counted(len(facts["weights"]), "fold")
    what = f"{', '.join(facts['configurations'])} with {folds}, {facts['bytes'] / 1e6:.0f} MB"
    return f"{facts['model']}: {what}; use it with autoseg_predict -m {facts['model']}"
