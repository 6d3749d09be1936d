"""The pool: every job has one outcome, whatever happens to the workers; its size follows the machine."""

from __future__ import annotations

import logging
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from autoseg.core import workers as module
from autoseg.core.errors import AutosegError, DataError, Problem
from autoseg.core.workers import (
    Outcome,
    WorkerKilled,
    available_cpus,
    available_memory_gb,
    failure,
    supervised_map,
    workers_for,
)

# Workers import their jobs by name; a test module has none that they could import.
JOBS = """
import os, signal, time
from pathlib import Path
from autoseg.core.errors import DataError, Problem

class Odd(Exception):
    def __init__(self, one, two):
        super().__init__(f"{one} {two}")

def square(n):
    if n == 13:
        raise DataError(Problem(case="", found="thirteen", next="take another"))
    if n == 14:
        raise KeyError("fourteen")
    if n == 15:
        raise Odd("fif", "teen")
    if n == 16:
        raise SystemExit(3)
    if n == 17:
        return lambda: 17
    return n * n

def kill(job):
    folder, number, fatal = job
    Path(folder, f"{number}-{os.getpid()}-{time.monotonic_ns()}").touch()
    time.sleep(0.05 if not fatal else 0.3)
    if fatal:
        os.kill(os.getpid(), signal.SIGKILL)
    return number

def nap(seconds):
    time.sleep(seconds)
    return os.getpid()

def write_slowly(path):
    if not path:
        return  # this worker is idle from now on
    from autoseg.core.files import whole_file
    with whole_file(Path(path)) as temporary:
        temporary.write_bytes(b"half")
        os.write(1, f"{os.getpid()}\\n".encode())  # at once: two workers write to one pipe
        time.sleep(300)

IMPORTED_BY = os.getpid()

def imported_in_parent(_):
    return IMPORTED_BY == os.getppid()

def threads(_):
    return os.environ["OMP_NUM_THREADS"]
"""


@pytest.fixture
def jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The functions above, in a module that worker processes can import."""
    (tmp_path / "pool_jobs.py").write_text(JOBS)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(__import__("sys").modules, "pool_jobs", raising=False)
    return __import__("pool_jobs")


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_every_job_has_one_outcome(jobs: Any, workers: int) -> None:
    outcomes = [*supervised_map(jobs.square, iter(range(11)), workers=workers)]
    assert {outcome.job: outcome.result for outcome in outcomes} == {n: n * n for n in range(11)}
    assert len(outcomes) == 11
    assert all(outcome.error is None and outcome.traceback == "" for outcome in outcomes)


@pytest.mark.parametrize("workers", [0, 2])
def test_no_jobs_give_no_outcomes(jobs: Any, workers: int) -> None:
    assert [*supervised_map(jobs.square, [], workers=workers)] == []


@pytest.mark.parametrize("workers", [0, 2])
def test_a_failure_comes_back_with_its_job_and_traceback(jobs: Any, workers: int) -> None:
    outcomes = {o.job: o for o in supervised_map(jobs.square, range(10, 16), workers=workers)}
    assert sorted(outcomes) == [*range(10, 16)]
    assert [outcomes[n].result for n in (10, 11, 12)] == [100, 121, 144]
    assert isinstance(outcomes[13].error, DataError)
    assert outcomes[13].error.problems == (Problem(case="", found="thirteen", next="take another"),)
    assert isinstance(outcomes[14].error, KeyError)
    assert "raise KeyError" in outcomes[14].traceback
    assert "fif teen" in str(outcomes[15].error)  # an error that no pickle can carry keeps its words


def test_what_cannot_travel_or_leaves_is_the_error_of_its_job_only(jobs: Any) -> None:
    mixed: list[Any] = [1, 16, lambda: None, 17, 2]
    outcomes = [*supervised_map(jobs.square, mixed, workers=2)]
    assert {o.result for o in outcomes if o.error is None} == {1, 4}
    assert len(outcomes) == 5
    assert not any(isinstance(o.error, WorkerKilled) for o in outcomes)


def test_a_killed_worker_is_named_and_all_others_finish_once(jobs: Any, tmp_path: Path) -> None:
    marks = tmp_path / "marks"
    marks.mkdir()
    wanted = [(str(marks), number, number in (2, 7)) for number in range(10)]
    outcomes = []
    for outcome in supervised_map(jobs.kill, wanted, workers=2):
        outcomes.append(outcome)
        time.sleep(0.15)  # so that workers also die while results are taken
    assert sorted(outcome.job[1] for outcome in outcomes) == [*range(10)]
    killed = {outcome.job[1]: outcome.error for outcome in outcomes if outcome.error is not None}
    assert sorted(killed) == [2, 7]
    assert all(isinstance(error, WorkerKilled) and "memory" in str(error) for error in killed.values())
    assert sorted(o.result for o in outcomes if o.error is None) == [0, 1, 3, 4, 5, 6, 8, 9]
    tried = [int(mark.name.partition("-")[0]) for mark in marks.iterdir()]
    assert all(1 <= tried.count(number) <= 3 for number in range(10))


def test_when_every_worker_dies_every_job_is_told(jobs: Any, tmp_path: Path) -> None:
    outcomes = [*supervised_map(jobs.kill, [(str(tmp_path), n, True) for n in range(3)], workers=2)]
    assert sorted(outcome.job[1] for outcome in outcomes) == [0, 1, 2]
    assert all(isinstance(outcome.error, WorkerKilled) for outcome in outcomes)


def test_few_jobs_are_handed_out_ahead(jobs: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    taken, submit = [], module.ProcessPoolExecutor.submit

    def counted(pool: Any, function: Any, *arguments: Any) -> Any:
        taken.append(arguments)
        return submit(pool, function, *arguments)

    monkeypatch.setattr(module.ProcessPoolExecutor, "submit", counted)
    outcomes = supervised_map(jobs.threads, range(20), workers=1, ahead=3)
    assert next(outcomes).result == "1"  # the pool fills the cores; its workers have one thread each
    assert len(taken) == 3
    assert len([*outcomes]) == 19


def test_nobody_waits_for_the_jobs_of_an_abandoned_pool(jobs: Any) -> None:
    outcomes = supervised_map(jobs.nap, [0.0, 300.0, 300.0], workers=2)
    assert next(outcomes).error is None
    started = time.monotonic()
    outcomes.close()  # type: ignore[attr-defined]
    assert time.monotonic() - started < 30


PARENT = """
import signal, sys
from autoseg.core.workers import supervised_map
from pool_jobs import write_slowly

if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(143))
    list(supervised_map(write_slowly, [sys.argv[1] + "/first", sys.argv[1] + "/second", ""], workers=3))
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_stopped_program_leaves_no_worker_and_if_asked_politely_no_half_file(
    jobs: Any, tmp_path: Path, number: int
) -> None:
    (tmp_path / "parent.py").write_text(PARENT)
    written = tmp_path / "written"
    command = [sys.executable, str(tmp_path / "parent.py"), str(written)]
    with (
        open(tmp_path / "errors", "w") as errors,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True) as parent,
    ):
        assert parent.stdout is not None
        try:
            workers = [int(parent.stdout.readline()) for _ in range(2)]
            assert len([*written.iterdir()]) == 2
            time.sleep(1)  # the third worker has nothing to do
            parent.send_signal(number)
            parent.wait(30)
        finally:
            parent.kill()
    ended = time.monotonic() + 30
    while any(_alive(worker) for worker in workers):
        assert time.monotonic() < ended, "workers are left behind"
        time.sleep(0.05)
    assert len([*written.iterdir()]) == (0 if number == signal.SIGTERM else 2)
    assert "Traceback" not in (tmp_path / "errors").read_text()


def _alive(process: int) -> bool:
    status = Path(f"/proc/{process}/status")
    try:
        return "State:\tZ" not in status.read_text()
    except OSError:
        return False


def test_data_errors_travel_with_their_problems() -> None:
    error = DataError([Problem(case="a", found="b", next="c", file="d"), Problem(case="", found="e", next="f")])
    copy = pickle.loads(pickle.dumps(error))
    assert copy.problems == error.problems
    assert str(copy) == "a (d): b; c\ne; f"


def failed(error: BaseException) -> Outcome[str, None]:
    return Outcome(job="job", error=error, traceback="Traceback ...")


def test_a_failure_becomes_problems_of_its_case(caplog: pytest.LogCaptureFixture) -> None:
    problems = [Problem(case="", found="one", next="x"), Problem(case="other", found="two", next="y")]
    assert [p.case for p in failure(failed(DataError(problems)), case="case_7")] == ["case_7", "other"]
    (killed,) = failure(failed(WorkerKilled("the worker process was killed")), case="case_7")
    assert (killed.case, killed.found) == ("case_7", "the worker process was killed")
    with caplog.at_level(logging.DEBUG):
        (strange,) = failure(failed(ZeroDivisionError("by zero")), case="case_7")
    assert "ZeroDivisionError: by zero" in strange.found
    assert "--debug" in strange.next
    assert "Traceback ..." in caplog.text
    assert issubclass(WorkerKilled, AutosegError)


Machine = Callable[..., None]


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """machine(cpus, free_kb, files): a pretended machine with these control group files."""

    def pretend(cpus: int = 16, free_kb: int = 32_000_000, **files: str) -> None:
        group = tmp_path / "cgroup"
        for name, text in files.items():
            path = group / name.replace("__", "/").replace("-", ".")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        info = tmp_path / "meminfo"
        info.write_text(f"MemTotal:       99999999 kB\nMemAvailable:   {free_kb} kB\nHugePages_Total:       0\n")
        monkeypatch.setattr(module, "CONTROL_GROUP", group)
        monkeypatch.setattr(module, "MEMORY_INFO", info)
        monkeypatch.setattr("os.sched_getaffinity", lambda _: {*range(cpus)}, raising=False)

    return pretend


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, 16),
        ({"cpu-max": "max 100000\n"}, 16),
        ({"cpu-max": "400000 100000\n"}, 4),
        ({"cpu-max": "150000 100000\n"}, 1),
        ({"cpu-max": "50000 100000\n"}, 1),
        ({"cpu-max": "9900000 100000\n"}, 16),
        ({"cpu__cpu-cfs_quota_us": "-1\n", "cpu__cpu-cfs_period_us": "100000\n"}, 16),
        ({"cpu__cpu-cfs_quota_us": "300000\n", "cpu__cpu-cfs_period_us": "100000\n"}, 3),
    ],
)
def test_cpus_follow_affinity_and_quota(machine: Machine, files: dict[str, str], expected: int) -> None:
    machine(**files)
    assert available_cpus() == expected


GB = 10**9


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, 32.768),
        ({"memory-max": "max", "memory-current": "5"}, 32.768),
        ({"memory-max": f"{8 * GB}", "memory-current": f"{3 * GB}"}, 5),
        ({"memory-max": f"{8 * GB}", "memory-current": f"{9 * GB}"}, 0),
        ({"memory-max": f"{99 * GB}", "memory-current": "0"}, 32.768),
        (
            {
                "memory-max": f"{8 * GB}",
                "memory-current": f"{7 * GB}",
                "memory-stat": f"anon {2 * GB}\nfile {5 * GB}\nactive_file {GB}\ninactive_file {3 * GB}\n",
            },
            5,  # what is only a copy of files can be given back
        ),
        ({"memory__memory-limit_in_bytes": f"{6 * GB}", "memory__memory-usage_in_bytes": f"{GB}"}, 5),
        (
            {"memory__memory-limit_in_bytes": "9223372036854771712", "memory__memory-usage_in_bytes": "1"},
            32.768,
        ),
    ],
)
def test_memory_follows_the_system_and_the_group(machine: Machine, files: dict[str, str], expected: float) -> None:
    machine(**files)
    assert available_memory_gb() == pytest.approx(expected)


def test_without_proc_a_laptop_is_assumed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(module, "MEMORY_INFO", tmp_path / "nothing")
    assert available_memory_gb() == 8


@pytest.mark.parametrize(
    ("job_gb", "wanted", "expected"),
    [(1.0, None, 4), (4.0, None, 3), (100.0, None, 1), (1.0, 9, 9), (100.0, 0, 0), (0.001, None, 4)],
)
def test_the_pool_is_as_large_as_cpus_and_memory_allow(
    machine: Machine, job_gb: float, wanted: int | None, expected: int
) -> None:
    machine(4, 16_000_000)
    assert workers_for(job_gb, wanted=wanted) == expected


@pytest.mark.skipif(sys.platform != "linux", reason="workers are spawned there")
def test_the_server_imports_once_for_all_workers(jobs: Any, tmp_path: Path) -> None:
    script = (
        "import sys, time; sys.path.insert(0, sys.argv[1])\n"
        "from autoseg.core.workers import start_server, supervised_map\n"
        "start_server('pool_jobs')\n"
        "import pool_jobs\n"
        "print(sorted(o.result for o in supervised_map(pool_jobs.imported_in_parent, range(4), workers=2)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stderr == ""
    assert done.stdout.strip() == "[True, True, True, True]"
