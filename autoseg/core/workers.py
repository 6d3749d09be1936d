"""One supervised pool of processes: failures are carried back with their job, a killed worker is named so."""

from __future__ import annotations

import logging
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from multiprocessing import connection
from pathlib import Path
from typing import Generic, TypeVar

from autoseg.core.cluster import connect, remote_futures
from autoseg.core.errors import AutosegError, Problem, problems_of
from autoseg.core.signals import uninterrupted

log = logging.getLogger(__name__)
Job = TypeVar("Job")
Result = TypeVar("Result")


@dataclass(frozen=True, kw_only=True)
class Outcome(Generic[Job, Result]):
    """What became of one job: its result, or the error that ended it with the worker's traceback as text."""

    job: Job
    result: Result | None = None
    error: BaseException | None = None
    traceback: str = ""


class WorkerKilled(AutosegError):  # noqa: N818
    """A worker process ended without a word: nearly always the system's answer to a lack of memory."""


LACK_OF_MEMORY = "the worker process was killed, usually for lack of memory; free memory or use fewer processes"
CONTROL_GROUP = Path("/sys/fs/cgroup")
MEMORY_INFO = Path("/proc/meminfo")
TIME_TO_CLEAN_UP_S = 30.0


def available_cpus() -> int:
    """CPUs this process may use: its affinity, limited by the control group's quota."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _words("cpu.max") or [*_words("cpu/cpu.cfs_quota_us"), *_words("cpu/cpu.cfs_period_us")]
    if len(quota) == 2 and quota[0] not in ("max", "-1"):
        cpus = min(cpus, max(1, int(quota[0]) // int(quota[1])))
    return cpus


def available_memory_gb() -> float:
    """Memory that is free for this process: what the system has available, limited by the control group."""
    if not MEMORY_INFO.is_file():
        return 8.0  # no such file outside Linux: assume an ordinary laptop
    rows = dict(line.split(":") for line in MEMORY_INFO.read_text().splitlines())
    free = int(rows["MemAvailable"].split()[0]) * 1024
    limit = _words("memory.max", "memory/memory.limit_in_bytes")
    used = _words("memory.current", "memory/memory.usage_in_bytes")
    if limit and used and limit[0] != "max":
        words = _words("memory.stat", "memory/memory.stat")
        rows = dict(zip(words[::2], words[1::2], strict=False))
        # files that were read count as used until somebody needs the space
        cached = int(rows.get("inactive_file", 0)) + int(rows.get("active_file", 0))
        free = min(free, int(limit[0]) - int(used[0]) + cached)
    return max(free, 0) / 1e9


def used_memory_gb() -> float:
    """Memory that this process holds."""
    try:
        import resource
    except ImportError:
        return 0.5  # no such module on Windows: what the libraries alone take
    pages = Path("/proc/self/statm")
    if pages.is_file():
        return int(pages.read_text().split()[1]) * resource.getpagesize() / 1e9
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


def _words(*names: str) -> list[str]:
    """Words of the first of these control group files that exists (version 2, then 1); none without any."""
    for name in names:
        try:
            return (CONTROL_GROUP / name).read_text().split()
        except OSError:
            continue
    return []


class WorkerPool:
    """Processes that do jobs, started at the first use and kept until the context ends.

    `workers=0` does them in this process. With `scheduler`, the address of a Dask scheduler, its workers do the work
    instead of local processes; they must see the same files.
    """

    def __init__(self, workers: int, *, scheduler: str | None = None) -> None:
        self.workers, self.scheduler = workers, scheduler
        self._executor: ProcessPoolExecutor | None = None

    def __enter__(self) -> WorkerPool:
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def map(
        self, function: Callable[[Job], Result], jobs: Iterable[Job], *, ahead: int = 2
    ) -> Iterator[Outcome[Job, Result]]:
        """Apply `function` to every job; yield an Outcome per job, as they finish.

        At most `workers * ahead` jobs are handed out at a time. An exception in a worker ends that job only. When
        a worker is killed, the processes are started anew and the jobs that were in flight are tried once more, one at
        a time, so that the guilty one is known; it yields a WorkerKilled error and the others go on.

        Raises:
            UsageError: no scheduler answers, or Dask is not installed.
        """
        if self.scheduler is not None:
            return _on_cluster(function, jobs, scheduler=self.scheduler, ahead=ahead)
        if self.workers == 0:
            return (_guarded(function, job) for job in jobs)
        return self._on_processes(function, deque(jobs), ahead=ahead)

    def _on_processes(
        self, function: Callable[[Job], Result], waiting: deque[Job], *, ahead: int
    ) -> Iterator[Outcome[Job, Result]]:
        running: dict[Future[Outcome[Job, Result]], Job] = {}
        try:
            while waiting or running:
                executor = self._started()
                broken = False
                # a worker whose start is interrupted would look for queues that are gone
                with uninterrupted():
                    while waiting and len(running) < self.workers * ahead and not broken:
                        try:
                            running[executor.submit(_guarded, function, waiting[0])] = waiting[0]
                            waiting.popleft()
                        except BrokenProcessPool:
                            broken = True
                done, _ = wait(running, return_when=FIRST_COMPLETED)
                if broken or any(_killed(future) for future in done):
                    broken = True
                    done, _ = wait(running)  # a broken pool ends all its jobs; some had finished well before
                suspects = [running[future] for future in done if _killed(future)]
                for future in done:
                    job = running.pop(future)
                    if not _killed(future):
                        yield _outcome(future, job)
                if broken:
                    self._end()
                    for job in suspects:
                        yield _alone(function, job)
        except BaseException:  # Ctrl-C, or nobody wants the rest: running jobs are not waited for
            self._end()
            raise

    def _started(self) -> ProcessPoolExecutor:
        if self._executor is None:
            self._executor = _processes(self.workers)
        return self._executor

    def _end(self) -> None:
        executor, self._executor = self._executor, None
        if executor is not None:
            _terminate_all(executor)  # idle ones end at once, without half a second of unloading libraries
            executor.shutdown(wait=True, cancel_futures=True)


def supervised_map(
    function: Callable[[Job], Result], jobs: Iterable[Job], *, workers: int, ahead: int = 2
) -> Iterator[Outcome[Job, Result]]:
    """One `WorkerPool.map` with a pool of its own."""
    with WorkerPool(workers) as pool:
        yield from pool.map(function, jobs, ahead=ahead)


def _on_cluster(
    function: Callable[[Job], Result], jobs: Iterable[Job], *, scheduler: str, ahead: int
) -> Iterator[Outcome[Job, Result]]:
    with connect(scheduler) as client:
        for job, future in remote_futures(partial(_guarded, function), jobs, client=client, ahead=ahead):
            error = future.exception()
            if error is not None and type(error).__name__ == "KilledWorker":
                error = WorkerKilled(f"{LACK_OF_MEMORY} (on the cluster, several times)")
            yield future.result() if error is None else Outcome(job=job, error=error)


def _killed(future: Future[Outcome[Job, Result]]) -> bool:
    return isinstance(future.exception(), BrokenProcessPool)


def _outcome(future: Future[Outcome[Job, Result]], job: Job) -> Outcome[Job, Result]:
    # a job or result that cannot be sent (no pickle of it) is the error of this job only
    error = future.exception()
    return future.result() if error is None else Outcome(job=job, error=error)


_server_started = False


def start_server(*modules: str) -> None:
    """Start the process that workers will be forked from, with `modules` imported once for all; returns at once.

    Called early it imports while this process prepares the work. A pool that finds no server starts one that has
    imported nothing. Where only spawning is safe (not on Linux) every worker imports for itself and this does nothing.
    """
    global _server_started
    if sys.platform == "linux":
        from multiprocessing import forkserver  # of no use elsewhere

        forkserver.set_forkserver_preload(["autoseg.core.worker_start", *modules])
        forkserver.ensure_running()
        _server_started = True


def _processes(workers: int) -> ProcessPoolExecutor:
    # Never a fork of this process: a copy of one with running threads (torch, Blosc2) can hang. The server has none.
    if not _server_started:
        start_server()
    context = multiprocessing.get_context("forkserver" if sys.platform == "linux" else "spawn")
    return ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker)


def end_with_parent() -> None:
    """Called inside a worker: a killed parent must not leave it behind, waiting forever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_outlive, args=(parent.sentinel,), daemon=True).start()


def _outlive(sentinel: int) -> None:
    connection.wait([sentinel])
    os._exit(1)


def _start_worker() -> None:
    end_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent, which gets it too, ends the pool
    signal.signal(signal.SIGTERM, _terminate)
    import autoseg.core.worker_start  # noqa: F401  (the server has done so where there is one)


class _Terminated(BaseException):
    """The parent ends the pool: raised in a running job so that it removes its half-written files."""


_working = False  # whether this worker process is inside a job


def _terminate(number: int, _: object) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one must not interrupt the cleaning up
    if not _working:
        os._exit(128 + number)
    # raised where Python swallows exceptions (a finaliser), it would leave a worker that nothing ends
    last_resort = threading.Timer(TIME_TO_CLEAN_UP_S, os._exit, args=(128 + number,))
    last_resort.daemon = True
    last_resort.start()
    raise _Terminated(number)


def _guarded(function: Callable[[Job], Result], job: Job) -> Outcome[Job, Result]:
    global _working
    try:
        _working = True
        try:
            return Outcome(job=job, result=function(job))
        except Exception as error:
            return Outcome(job=job, error=_portable(error), traceback=traceback.format_exc())
        finally:
            _working = False
    except _Terminated as end:
        os._exit(128 + end.args[0])  # an exception would be taken for the job's result, and the next job begun


def _portable(error: Exception) -> Exception:
    """The error, or one with the same words when it cannot be sent."""
    try:  # an error that fails to unpickle would break the pool
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


def _alone(function: Callable[[Job], Result], job: Job) -> Outcome[Job, Result]:
    executor = _processes(1)
    try:
        with uninterrupted():
            future = executor.submit(_guarded, function, job)
        if not _killed(future):
            return _outcome(future, job)
        return Outcome(job=job, error=WorkerKilled(LACK_OF_MEMORY))
    except BaseException:
        _terminate_all(executor)
        raise
    finally:
        executor.shutdown(wait=True, cancel_futures=True)


def _terminate_all(executor: ProcessPoolExecutor) -> None:
    for process in [*(executor._processes or {}).values()]:
        process.terminate()


def failure(outcome: Outcome[Job, Result], *, case: str) -> list[Problem]:
    """The problems that ended a job, each with its case id; tracebacks of unforeseen errors go to the log."""
    if not isinstance(outcome.error, AutosegError):
        log.debug("%s: %s", case, outcome.traceback)
    return problems_of(outcome.error, case=case)


def workers_for(job_memory_gb: float, *, wanted: int | None = None) -> int:
    """How many worker processes: as asked, else one per CPU, as far as memory goes for jobs of that size."""
    if wanted is not None:
        return wanted
    return max(1, min(available_cpus(), int(available_memory_gb() * 0.8 / job_memory_gb)))
