"""One supervised pool of processes: bounded, each failure carried back with its job, a killed worker named as such."""

from __future__ import annotations

import logging
import multiprocessing
import os
import traceback
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Generic, TypeVar

from autoseg.core.errors import AutosegError, DataError, Problem

log = logging.getLogger(__name__)
Job = TypeVar("Job")
Result = TypeVar("Result")


@dataclass(frozen=True, kw_only=True)
class Outcome(Generic[Job, Result]):
    """What became of one job: its result, or the error that ended it (with the worker's traceback as text)."""

    job: Job
    result: Result | None = None
    error: BaseException | None = None
    traceback: str = ""


class WorkerKilled(AutosegError):
    """A worker process ended without a word, which is nearly always the system's answer to a lack of memory."""


def available_cpus() -> int:
    """CPUs this process may use: its affinity, limited by the control group's quota."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = Path("/sys/fs/cgroup/cpu.max")
    if quota.is_file():
        limit, period = quota.read_text().split()
        if limit != "max":
            cpus = min(cpus, max(1, int(limit) // int(period)))
    return cpus


def available_memory_gb() -> float:
    """Memory that is free for this process: what the system has available, limited by the control group."""
    meminfo = Path("/proc/meminfo")
    if not meminfo.is_file():
        return 8.0  # no such file outside Linux: assume an ordinary laptop
    rows = dict(line.split(":") for line in meminfo.read_text().splitlines())
    free = int(rows["MemAvailable"].split()[0]) * 1024
    limit, used = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    if limit.is_file() and used.is_file() and (text := limit.read_text().strip()) != "max":
        free = min(free, int(text) - int(used.read_text()))
    return max(free, 0) / 1e9


def supervised_map(
    function: Callable[[Job], Result], jobs: Iterable[Job], *, workers: int, ahead: int = 2
) -> Iterator[Outcome[Job, Result]]:
    """Apply `function` to every job in `workers` processes; yield an Outcome per job, in the order they finish.

    At most `workers * ahead` jobs are handed out at a time. An exception in a worker ends that job only. When a worker is
    killed, the pool is built anew and the jobs that were in flight are tried once more, one at a time, so that the
    guilty one is known; it yields a WorkerKilled error and the others go on. `workers=0` runs in this process.
    """
    waiting = iter(jobs)
    if workers == 0:
        for job in waiting:
            yield _guarded(function, job)
        return
    pool = _pool(workers)
    running: dict[Future[Outcome[Job, Result]], Job] = {}
    try:
        while True:
            broken = False
            while len(running) < workers * ahead and (job := next(waiting, _END)) is not _END:
                try:
                    running[pool.submit(_guarded, function, job)] = job  # type: ignore[arg-type]
                except BrokenProcessPool:
                    waiting, broken = chain([job], waiting), True  # type: ignore[list-item]
                    break
            if not running and not broken:
                break
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                if isinstance(future.exception(), BrokenProcessPool):
                    broken = True
                else:
                    yield _outcome(future, running.pop(future))
            if broken:
                suspects = [*running.values()]
                running.clear()
                pool.shutdown(wait=True, cancel_futures=True)
                yield from _one_at_a_time(function, suspects)
                pool = _pool(workers)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _outcome(future: Future[Outcome[Job, Result]], job: Job) -> Outcome[Job, Result]:
    # a result that cannot be sent back (no pickle of it) is the error of this job only
    error = future.exception()
    return future.result() if error is None else Outcome(job=job, error=error)


_END = object()


def _pool(workers: int) -> ProcessPoolExecutor:
    # spawn: a forked copy of a process with running threads (torch, Blosc2) can hang
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(workers, mp_context=context, initializer=_one_thread)


def _one_thread() -> None:
    # The pool fills the cores; threads inside its processes would only fight for them.
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLOSC_NTHREADS"):
        os.environ[name] = "1"


def _guarded(function: Callable[[Job], Result], job: Job) -> Outcome[Job, Result]:
    try:
        return Outcome(job=job, result=function(job))
    except Exception as error:
        return Outcome(job=job, error=error, traceback=traceback.format_exc())


def _one_at_a_time(function: Callable[[Job], Result], jobs: list[Job]) -> Iterator[Outcome[Job, Result]]:
    for job in jobs:
        with _pool(1) as pool:
            try:
                outcome = pool.submit(_guarded, function, job).result()
            except BrokenProcessPool:
                message = "the worker process was killed, usually for lack of memory; free memory or use fewer processes"
                outcome = Outcome(job=job, error=WorkerKilled(message))
        yield outcome


def failure(outcome: Outcome[Job, Result], *, case: str) -> list[Problem]:
    """The problems that ended a job, each with its case id; an unforeseen error keeps its traceback in the log."""
    if isinstance(outcome.error, DataError):
        return [replace(problem, case=problem.case or case) for problem in outcome.error.problems]
    if isinstance(outcome.error, AutosegError):
        return [Problem(case=case, found=str(outcome.error), next="then run the same command again")]
    log.debug("%s: %s", case, outcome.traceback)
    found = f"unexpected {type(outcome.error).__name__}: {outcome.error}"
    return [Problem(case=case, found=found, next="run again with --debug and report the traceback")]


def workers_for(job_memory_gb: float, *, wanted: int | None = None) -> int:
    """How many worker processes: as asked, else one per CPU, as far as memory goes for jobs of that size."""
    if wanted is not None:
        return wanted
    return max(1, min(available_cpus(), int(available_memory_gb() * 0.8 / job_memory_gb)))
