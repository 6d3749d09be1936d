"""What every part of the pipeline tells: its result, its progress, how many processes it takes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

from autoseg.core.dataset import Dataset
from autoseg.core.errors import DataError, Problem, UsageError
from autoseg.core.workers import WorkerPool, workers_for
from autoseg.io.images import read_geometry

Progress = Callable[[str, int, int, str], None]  # stage, done, total, text


def silent(stage: str, done: int, total: int, text: str) -> None:
    """Progress that nobody wants to see."""


@dataclass(kw_only=True)
class Outcome:
    """What a command did: facts to print, and every problem and warning that was met."""

    facts: dict[str, Any] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    warnings: list[Problem] = field(default_factory=list)


class CaseCounter:
    """Turns "this case is done" into progress."""

    def __init__(self, progress: Progress, stage: str, total: int) -> None:
        self.progress, self.stage, self.total, self.done = progress, stage, total, 0

    def __call__(self, text: str) -> None:
        """One more is done."""
        self.done += 1
        self.progress(self.stage, self.done, self.total, text)


def few_cases(n_cases: int, n_folds: int) -> list[Problem]:
    """A warning when there are too few cases for five folds."""
    if n_folds >= 5:
        return []
    if n_folds == 0:
        found, todo = f"only {n_cases} case (or group): no cross-validation is possible", "train with -f all"
    else:
        found, todo = (
            f"{n_cases} cases in {n_folds} groups give {n_folds} folds instead of 5",
            "more cases give better estimates",
        )
    return [Problem(case="", file="dataset.json", found=found, next=todo)]


def pool_for(dataset: Dataset, workers: int | None, scheduler: str | None, *, device: str = "cpu") -> WorkerPool:
    """A pool for jobs as large as the largest image: its volume a few times over, and the libraries.

    Raises:
        UsageError: a number of processes for a cluster, which has its own.
    """
    check_pool(workers, scheduler)
    return WorkerPool(0 if scheduler else _workers_of(dataset, workers, device), scheduler=scheduler)


LIBRARIES_GB, SCORING_BYTES = 0.5, 33  # per process; per voxel of two label volumes, their masks and numbered parts


def check_pool(workers: int | None, scheduler: str | None) -> None:
    """Raises UsageError for a number of processes together with a cluster."""
    if scheduler is not None and workers is not None:
        raise UsageError("-np is the number of processes on this machine; leave it out with --scheduler")


def _workers_of(dataset: Dataset, wanted: int | None, device: str) -> int:
    largest = max(dataset.cases.values(), key=lambda case: case.images[0].stat().st_size)
    try:
        shape = read_geometry(largest.images[0]).shape
    except DataError:  # it is reported with its case later
        return workers_for(2.0, wanted=wanted)
    voxels = shape[0] * shape[1] * shape[2]
    workers = workers_for(0.7 + voxels * (8 * len(largest.images) + 4) * 4 / 1e9, wanted=wanted)
    if wanted is None and device.startswith("cuda"):
        from autoseg.nets.device import free_memory_gb

        # a process takes half a gigabyte of a GPU, and a channel of the image several times over
        workers = max(1, min(workers, int(free_memory_gb(device) * 0.8 / (0.5 + voxels * 4 * 8 / 1e9))))
    return workers


def few_workers(n_cases: int, wanted: int | None, *, volumes: Iterable[Path] = ()) -> int:
    """Worker processes for scoring: none for a few cases, which are done before a process has started.

    `volumes` are the label files, of which the largest in bytes says how much memory a process needs.
    """
    if wanted is not None or n_cases < 8:
        return wanted or 0
    largest = max((path for path in volumes if path.is_file()), key=lambda path: path.stat().st_size, default=None)
    try:
        voxels = 0 if largest is None else prod(read_geometry(largest).shape)
    except DataError:  # it is reported with its case later
        voxels = 0
    return workers_for(max(1.0, LIBRARIES_GB + voxels * SCORING_BYTES / 1e9))
