"""Preprocessing on a real Dask cluster: the same result, also when a worker dies in the middle."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from autoseg.core.dataset import read_dataset
from autoseg.core.errors import DataError, UsageError
from autoseg.core.plan import Plan
from autoseg.core.workers import WorkerPool
from autoseg.core.workspace import Workspace
from autoseg.io.case_store import CaseStore
from autoseg.phantoms import write_phantoms
from autoseg.pipeline import Options, plan_and_preprocess

pytest.importorskip("distributed", reason="the extra 'cluster' is not installed")
pytestmark = pytest.mark.slow
NAME = "Dataset900_Cluster"

# Workers import their jobs by name.
JOBS = """
import os, time
from pathlib import Path
from autoseg.core.errors import DataError, Problem

def work(job):
    folder, number = job
    if number == 3:
        raise DataError(Problem(case="three", found="is odd", next="take another"))
    Path(folder, f"{number}-{os.getpid()}").touch()
    time.sleep(0.3)
    return number * number
"""


def start(tmp_path: Path, *arguments: str) -> subprocess.Popen[bytes]:
    with open(tmp_path / f"{arguments[0]}.log", "ab") as log:
        command = [sys.executable, "-m", "distributed.cli.dask_" + arguments[0], *arguments[1:]]
        env = {**os.environ, "PYTHONPATH": str(tmp_path), "OMP_NUM_THREADS": "1"}
        return subprocess.Popen(command, stdout=log, stderr=log, env=env, cwd=tmp_path)


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[tuple[str, list[subprocess.Popen[bytes]]]]:
    """Address of a scheduler with two workers, and the workers."""
    (tmp_path / "cluster_jobs.py").write_text(JOBS)
    contact = tmp_path / "scheduler.json"
    place = ["--scheduler-file", str(contact)]
    scheduler = start(tmp_path, "scheduler", *place, "--port", "0", "--no-dashboard")
    workers = [
        start(tmp_path, "worker", *place, "--nthreads", "1", "--no-nanny", "--no-dashboard", "--name", name)
        for name in ("one", "two")
    ]
    try:
        from distributed import Client

        with Client(scheduler_file=str(contact), timeout=60, set_as_default=False) as client:
            client.wait_for_workers(2, timeout=60)
            address = client.scheduler.address
        yield address, workers
    finally:
        for process in (*workers, scheduler):
            process.kill()
            process.wait()


def test_every_job_has_one_outcome_though_a_worker_dies(
    cluster: tuple[str, list[subprocess.Popen[bytes]]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    jobs = __import__("cluster_jobs")
    address, workers = cluster
    marks = tmp_path / "marks"
    marks.mkdir()
    outcomes = []
    for outcome in WorkerPool(0, scheduler=address).map(jobs.work, [(str(marks), n) for n in range(12)]):
        outcomes.append(outcome)
        if len(outcomes) == 3:
            workers[0].send_signal(signal.SIGKILL)
    assert sorted(o.job[1] for o in outcomes) == [*range(12)]
    assert {o.job[1]: o.result for o in outcomes if o.error is None} == {n: n * n for n in range(12) if n != 3}
    (failed,) = (o for o in outcomes if o.error is not None)
    assert isinstance(failed.error, DataError)
    assert failed.error.problems[0].case == "three"
    assert len({mark.name.partition("-")[2] for mark in marks.iterdir()}) == 2  # both did some of it


def test_a_data_set_preprocessed_on_a_cluster_with_a_dying_worker_is_the_same(
    cluster: tuple[str, list[subprocess.Popen[bytes]]], tmp_path: Path
) -> None:
    address, workers = cluster
    raw = tmp_path / "raw"
    write_phantoms(raw / NAME, n_train=8, n_test=0, size="tiny")
    stores: dict[str, CaseStore] = {}
    plans: dict[str, Plan] = {}
    for where in ("here", "cluster"):
        workspace = Workspace(raw=raw, preprocessed=tmp_path / where, results=tmp_path / "results")

        def show(stage: str, done: int, total: int, text: str, where: str = where) -> None:
            if where == "cluster" and stage == "preprocess" and done == 2:
                workers[1].send_signal(signal.SIGKILL)

        scheduler = address if where == "cluster" else None
        options = Options(
            planner="small", configurations=("3d_fullres",), workers=None if scheduler else 0, scheduler=scheduler
        )
        plans[where], outcome = plan_and_preprocess(raw / NAME, workspace, options, progress=show)
        assert outcome.problems == []
        assert outcome.facts["preprocessed_now"] == 8
        stores[where] = CaseStore(workspace.case_store(NAME, "small", "3d_fullres"))
    assert workers[1].poll() is not None
    assert plans["here"] == plans["cluster"]
    assert stores["here"].case_ids() == stores["cluster"].case_ids() == sorted(read_dataset(raw / NAME).cases)
    for case in stores["here"].case_ids():
        here, there = (stores[where].open(case) for where in ("here", "cluster"))
        assert here.meta == there.meta
        assert np.array_equal(here.image[:], there.image[:])
        assert np.array_equal(here.label[:], there.label[:])
        assert np.array_equal(here.all_locations, there.all_locations)


def test_a_scheduler_that_does_not_answer_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("autoseg.core.cluster.CONNECT_S", 1)
    started = time.monotonic()
    for address in ("tcp://127.0.0.1:9", "nonsense://host"):
        with pytest.raises(UsageError, match="no Dask scheduler answers at"):
            [*WorkerPool(0, scheduler=address).map(str, [1])]
    assert time.monotonic() - started < 30
