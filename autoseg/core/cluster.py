"""The supervised map on a Dask cluster: the same per-case functions, on workers of other machines."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

from autoseg.core.errors import UsageError

if TYPE_CHECKING:
    from distributed import Client

log = logging.getLogger(__name__)
Job = TypeVar("Job")
Result = TypeVar("Result")

CONNECT_S = 10
LOOK_AGAIN_S = 15  # how often to look whether any worker is left


def connect(scheduler: str) -> Client:
    """A client of the scheduler at `scheduler` (tcp://host:port).

    Raises:
        UsageError: Dask is not installed, or no scheduler answers there.
    """
    try:
        from distributed import Client
    except ImportError as error:
        raise UsageError("--scheduler needs the package distributed; pip install 'autoseg[cluster]'") from error
    try:
        return Client(scheduler, timeout=CONNECT_S)
    except (OSError, TimeoutError, ValueError) as error:
        todo = "start one with 'dask scheduler' and give its tcp:// address"
        raise UsageError(f"--scheduler: no Dask scheduler answers at {scheduler} ({error}); {todo}") from error


def remote_futures(
    function: Callable[[Job], Result], jobs: Iterable[Job], *, client: Client, ahead: int
) -> Iterator[tuple[Job, Any]]:
    """Run `function` on every job, at most `ahead` per thread of the workers at a time; yield (job, finished future).

    A job whose worker dies is given to another one by the scheduler (three times; then its future holds that error).
    """
    from distributed import wait

    waiting = deque(jobs)
    running: dict[Any, Job] = {}
    while waiting or running:
        threads = sum(client.nthreads().values())
        while waiting and len(running) < max(1, threads * ahead):
            job = waiting.popleft()
            running[client.submit(function, job, pure=False)] = job
        try:
            done = wait([*running], timeout=LOOK_AGAIN_S, return_when="FIRST_COMPLETED").done
        except (TimeoutError, asyncio.TimeoutError):  # the same only from Python 3.11
            if not client.nthreads():
                log.warning("no worker is connected to the scheduler; waiting for one")
            continue
        for future in done:
            yield running.pop(future), future
            future.release()
