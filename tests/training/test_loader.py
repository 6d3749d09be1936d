"""Worker processes: what they do when something ends that should not, or should."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from autoseg.core.errors import DataError, DeviceError
from autoseg.core.plan import Plan
from autoseg.training.loader import batches
from autoseg.training.sampling import CropRules

MakePlan = Callable[..., Plan]
PARENT = """
import multiprocessing, sys, time
from pathlib import Path
from autoseg.training.loader import batches
from autoseg.training.sampling import CropRules
rules = CropRules(store=Path(sys.argv[1]), cases=("a", "b"), batch_size=2, patch_size=(8, 8, 8), crop_size=(9, 9, 9),
                  foreground_share=0.33, seed=(0,))
with batches(rules, first_step=0, workers=2) as stream:
    next(stream)
    print(*[child.pid for child in multiprocessing.active_children()], flush=True)
    time.sleep(120)
"""


@pytest.fixture
def rules(make_store: Callable[..., Path], make_plan: MakePlan) -> CropRules:
    return CropRules(
        store=make_store(make_plan()),
        cases=("a", "b"),
        batch_size=2,
        patch_size=(8, 8, 8),
        crop_size=(9, 9, 9),
        foreground_share=0.33,
        seed=(0,),
    )


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"  # a dead process whose parent has not asked for its exit code


def wait_until(condition: Callable[[], bool], *, seconds: float) -> bool:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.05)
    return condition()


@pytest.mark.skipif(sys.platform != "linux", reason="workers notice a killed parent on Linux only")
def test_workers_die_with_a_killed_parent(rules: CropRules) -> None:
    parent = subprocess.Popen([sys.executable, "-c", PARENT, str(rules.store)], stdout=subprocess.PIPE, text=True)
    try:
        assert parent.stdout is not None
        workers = [int(pid) for pid in parent.stdout.readline().split()]
        assert len(workers) == 2
        assert all(alive(pid) for pid in workers)
    finally:
        parent.kill()
        parent.wait()
    assert wait_until(lambda: not any(alive(pid) for pid in workers), seconds=10)


def test_workers_end_with_the_context(rules: CropRules) -> None:
    with batches(rules, first_step=0, workers=2) as stream:
        for _ in range(3):
            next(stream)
        workers = multiprocessing.active_children()
        assert len(workers) == 2
    assert not any(worker.is_alive() for worker in workers)


def test_workers_end_when_the_loop_fails(rules: CropRules) -> None:
    with pytest.raises(ZeroDivisionError), batches(rules, first_step=0, workers=1) as stream:  # noqa: PT012
        next(stream)
        workers = multiprocessing.active_children()
        raise ZeroDivisionError
    assert not any(worker.is_alive() for worker in workers)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_to_the_whole_group_leave_the_end_to_the_parent(rules: CropRules, number: int) -> None:
    with batches(rules, first_step=0, workers=2) as stream:
        assert [int(next(stream)["step"]) for _ in range(2)] == [0, 1]  # both have begun
        workers = multiprocessing.active_children()
        for worker in workers:
            os.kill(worker.pid or 0, number)
        time.sleep(0.3)
        assert [int(next(stream)["step"]) for _ in range(12)] == [*range(2, 14)]
        assert all(worker.is_alive() for worker in workers)
    assert not any(worker.is_alive() for worker in workers)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_killed_worker_is_reported_as_such(rules: CropRules) -> None:
    with pytest.raises(DeviceError, match=r"has died.*memory"), batches(rules, first_step=0, workers=2) as stream:  # noqa: PT012
        next(stream)
        os.kill(multiprocessing.active_children()[0].pid or 0, signal.SIGKILL)
        for _ in range(30):
            next(stream)


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_a_lost_case_ends_the_stream_with_its_name(rules: CropRules, workers: int) -> None:
    for case in "ab":
        (rules.store / f"{case}.json").unlink()
    with pytest.raises(DataError, match=r"[ab]\.json"), batches(rules, first_step=0, workers=workers) as stream:
        next(stream)


def test_workers_of_an_unused_stream_end_too(rules: CropRules) -> None:
    with batches(rules, first_step=0, workers=2):
        workers = multiprocessing.active_children()
        assert len(workers) == 2
    assert not any(worker.is_alive() for worker in workers)
