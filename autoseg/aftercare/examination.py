"""What is wrong with this machine, a data set or its models, and what to do about it."""

from __future__ import annotations

import os
import platform
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

import torch

from autoseg import __version__, prediction
from autoseg.aftercare.choice import validated_folds
from autoseg.core.case_table import CASE_TABLE, read_case_table
from autoseg.core.dataset import Dataset, read_dataset
from autoseg.core.errors import AutosegError, DataError, Problem, problems_of
from autoseg.core.plan import Plan
from autoseg.core.workers import available_cpus, available_memory_gb, supervised_map
from autoseg.core.workspace import Workspace, fold_files, fold_folder
from autoseg.io.images import read_volume
from autoseg.nets.device import choose_precision
from autoseg.pipeline import Outcome, Progress, current_splits, extract_fingerprint, pool_for, silent

LEAST_MEMORY_GB, LEAST_SHARED_GB, LEAST_DISK_GB, LEAST_GPU_GB = 8.0, 1.0, 20.0, 4.0
SHARED_MEMORY = Path("/dev/shm")
NVIDIA = Path("/proc/driver/nvidia/version")
EXTRAS = {"distributed": "cluster", "tensorboard": "tensorboard", "highdicom": "dicom"}


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that was looked at: how it is, and what to do where that is not good."""

    name: str
    found: str
    next: str = ""
    bad: bool = False  # without a cure nothing works; else what is to do is advice

    @property
    def problem(self) -> Problem:
        """The finding as a row of a table."""
        return Problem(case="", file=self.name, found=self.found, next=self.next)


def examine_machine(workspace: Workspace) -> list[Finding]:
    """Software, processors, memory, shared memory, disks, worker processes, GPUs and their compiler."""
    return [*_software(), *_processors(), *_memory(), *_disks(workspace), *_workers(), *_gpus()]


def examine_dataset(
    folder: Path, workspace: Workspace, *, workers: int | None = None, progress: Progress = silent
) -> tuple[list[Finding], Outcome]:
    """Every defect of a data set at once, and those of what was made from it: cases, splits, plans, models.

    What is measured on the way is kept in the folder of preprocessed data, so that planning need not measure it again.
    """
    try:
        dataset = read_dataset(folder)
    except DataError as error:
        return [], Outcome(problems=[*error.problems])
    problems, warnings = [*dataset.problems], [*dataset.warnings]
    with pool_for(dataset, workers, None) as pool:
        try:
            _, measured = extract_fingerprint(dataset, workspace, pool=pool, progress=progress)
            problems, warnings = measured.problems, measured.warnings
        except (AutosegError, OSError) as error:
            problems += problems_of(error, case="")
    tables: list[Callable[[], object]] = [
        lambda: current_splits(dataset, workspace),
        lambda: warnings.extend(read_case_table(dataset.folder / CASE_TABLE, cases={*dataset.cases})[1]),
    ]
    plans = sorted(workspace.plan(dataset.name, "default").parent.glob("[!.]*.json"))
    tables += [lambda path=path: Plan.read(path) for path in plans if ".old" not in path.name]  # type: ignore[misc]
    for check in tables:
        try:
            check()
        except (AutosegError, OSError) as error:
            problems += problems_of(error, case="")
    found = f"{len(dataset.cases)} cases, defects in {len({p.case for p in problems if p.case})}"
    models, more = _models(dataset, workspace)
    known = {(p.case, p.file, p.found) for p in problems}
    problems += [p for p in more if (p.case, p.file, p.found) not in known]
    return [Finding(name="data set", found=found), *models], Outcome(problems=problems, warnings=warnings)


def _software() -> Iterator[Finding]:
    yield Finding(
        name="software", found=f"autoseg {__version__}, Python {platform.python_version()}, PyTorch {torch.__version__}"
    )
    for package, extra in EXTRAS.items():
        if find_spec(package) is None:
            yield Finding(
                name="optional package", found=f"{package} is not there; pip install 'autoseg[{extra}]' adds it"
            )


def _processors() -> Iterator[Finding]:
    precision = choose_precision(torch.device("cpu"))
    slow = "" if precision == "bf16" else ", without bf16 instructions"
    yield Finding(name="processors", found=f"{available_cpus()} CPUs, networks on them compute in {precision}{slow}")


def _memory() -> Iterator[Finding]:
    free = available_memory_gb()
    todo = "" if free >= LEAST_MEMORY_GB else "close other programs; large images need more"
    yield Finding(name="memory", found=f"{free:.1f} GB free", next=todo)
    if SHARED_MEMORY.is_dir():
        shared = shutil.disk_usage(SHARED_MEMORY).free / 1e9
        todo = "" if shared >= LEAST_SHARED_GB else "in a container, start it with --shm-size=8g"
        yield Finding(name="shared memory", found=f"{shared:.1f} GB free", next=todo)


def _disks(workspace: Workspace) -> Iterator[Finding]:
    for name, folder in vars(workspace).items():
        there = next(path for path in (folder, *folder.parents) if path.exists())
        free = shutil.disk_usage(there).free / 1e9
        found = f"{folder}: {free:.0f} GB free"
        if name != "raw" and not _can_write(there):
            todo = f"have {there} made writable, or give another folder with --{name}"
            yield Finding(name=name, found=f"{folder} cannot be written", next=todo, bad=True)
            continue
        todo = "" if free >= LEAST_DISK_GB or name == "raw" else "free some space, or give another folder"
        yield Finding(name=name, found=found, next=todo)


def _can_write(folder: Path) -> bool:
    try:
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def _workers() -> Iterator[Finding]:
    (outcome,) = supervised_map(os.path.basename, ["/a/worker"], workers=1)
    if outcome.result == "worker":
        yield Finding(name="worker processes", found="start and answer")
    else:
        todo = "run with --debug, and report what it prints"
        yield Finding(name="worker processes", found=f"do not answer ({outcome.error!r})", next=todo, bad=True)


def _gpus() -> Iterator[Finding]:
    if not torch.cuda.is_available():
        if NVIDIA.is_file():
            why = "was built without CUDA" if torch.version.cuda is None else "cannot use it, often for an old driver"
            todo = "install PyTorch as pytorch.org says for this driver, or update the driver"
            yield Finding(name="GPU", found=f"there is one, but PyTorch {why}", next=todo, bad=True)
        else:
            yield Finding(name="GPU", found="none; training takes the small planner and the quick recipe, or long")
        return
    for index in range(torch.cuda.device_count()):
        device = torch.device("cuda", index)
        free, total = (size / 1e9 for size in torch.cuda.mem_get_info(device))
        name = f"{torch.cuda.get_device_name(device)}, {free:.1f} of {total:.1f} GB free, {choose_precision(device)}"
        todo = "" if free >= LEAST_GPU_GB else "close what else uses it (nvidia-smi names it)"
        yield Finding(name=f"GPU {index}", found=name, next=todo)
        yield _convolution(device)


def _convolution(device: torch.device) -> Finding:
    """Whether a convolution on a GPU gives what the CPU gives, and whether it can be compiled."""
    name = f"GPU {device.index}, computing"
    layer = torch.nn.Conv3d(2, 4, 3)
    image = torch.randn(1, 2, 8, 8, 8)
    try:
        on_cpu = layer(image)
        there = layer.to(device)
        if not torch.allclose(there(image.to(device)).cpu(), on_cpu, atol=1e-2):
            return Finding(
                name=name, found="a convolution gives other numbers than the CPU", next="have it checked", bad=True
            )
    except RuntimeError as error:
        todo = "install PyTorch as pytorch.org says for this driver, or predict and train with --device cpu"
        return Finding(name=name, found=str(error).splitlines()[0], next=todo, bad=True)
    try:
        torch.compile(there)(image.to(device))
    except Exception as error:  # a compiler may fail in any way
        todo = "install a C compiler (gcc) for faster training; without, everything works"
        return Finding(name=name, found=f"right, but cannot be compiled ({type(error).__name__})", next=todo)
    return Finding(name=name, found="right, and can be compiled")


def _models(dataset: Dataset, workspace: Workspace) -> tuple[list[Finding], list[Problem]]:
    """Whether the finished folds of every results folder can be loaded."""
    findings, problems = [], []
    for path in sorted((workspace.results / dataset.name).glob("*/model.json")):
        folds = [*fold_files(path.parent, "weights.safetensors")]
        sound = []
        for fold in folds:
            try:
                prediction.load_ensemble(path.parent, folds=[fold], device=torch.device("cpu"))
                sound.append(fold)
            except AutosegError as error:
                problems += problems_of(error, case=f"fold_{fold}")
        found = f"{len(sound)} of {len(folds)} finished folds can be used"
        findings.append(Finding(name=path.parent.name, found=found))
        problems += _lost_predictions(path.parent, dataset.json.file_ending)
    return findings, problems


def _lost_predictions(model: Path, ending: str) -> Iterator[Problem]:
    """Validated cases whose predicted label file is gone or damaged."""
    try:
        folds = validated_folds(model)
    except DataError as error:
        yield from error.problems
        return
    for fold, cases in folds.items():
        folder = fold_folder(model, fold) / "validation"
        todo = f"delete {folder} and run autoseg_train again (with --save_probabilities, if you had them)"
        for case in cases:
            try:
                read_volume(folder / f"{case}{ending}", case=case)
            except AutosegError as error:
                yield from (replace(problem, next=todo) for problem in problems_of(error, case=case))
