"""Preprocessing killed at any moment and run again does what is missing, and ends with the same files."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from autoseg.core.workspace import Workspace
from autoseg.io.case_store import CaseStore
from autoseg.io.class_index import open_index
from autoseg.phantoms import write_phantoms
from autoseg.pipeline import Options, plan_and_preprocess

pytestmark = pytest.mark.slow
NAME, N_CASES = "Dataset900_Killed", 8
OPTIONS = Options(planner="small", configurations=("3d_fullres",), workers=0)
COMMAND = "import sys; from autoseg.cli.plan_and_preprocess import main; sys.exit(main())"


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    raw = tmp_path_factory.mktemp("killed") / "raw"
    write_phantoms(raw / NAME, n_train=N_CASES, n_test=0, size="tiny")
    return raw


def workspace_at(raw: Path, folder: Path) -> Workspace:
    return Workspace(raw=raw, preprocessed=folder / "preprocessed", results=folder / "results")


@pytest.fixture(scope="module")
def expected(raw: Path, tmp_path_factory: pytest.TempPathFactory) -> CaseStore:
    workspace = workspace_at(raw, tmp_path_factory.mktemp("whole"))
    plan_and_preprocess(raw / NAME, workspace, OPTIONS)
    return CaseStore(workspace.case_store(NAME, "small", "3d_fullres"))


@pytest.mark.parametrize(("part", "ending", "n_files"), [("measured", ".npz", 3), ("store", ".b2nd", 5)])
def test_what_is_missing_is_done_and_nothing_twice(
    raw: Path, expected: CaseStore, tmp_path: Path, part: str, ending: str, n_files: int
) -> None:
    workspace = workspace_at(raw, tmp_path)
    store = CaseStore(workspace.case_store(NAME, "small", "3d_fullres"))
    folder = store.folder if part == "store" else workspace.measured_case(NAME, "x").parent
    places = ["--raw", raw, "--preprocessed", workspace.preprocessed, "--results", workspace.results]
    options = ["-d", "900", "--planner", "small", "-c", "3d_fullres", "-np", "2"]
    process = subprocess.Popen(
        [sys.executable, "-c", COMMAND, *options, *map(str, places)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    ends = time.monotonic() + 120
    while len([*folder.glob(f"[!.]*{ending}")]) < n_files:
        assert process.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < ends
        time.sleep(0.002)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    stored, measured = len(store.case_ids()), len([*workspace.measured_case(NAME, "x").parent.glob("[!.]*.npz")])
    assert measured < N_CASES or stored < N_CASES
    _, outcome = plan_and_preprocess(raw / NAME, workspace, OPTIONS)
    assert outcome.problems == []
    assert outcome.facts["preprocessed_now"] == N_CASES - stored
    assert outcome.facts["cases_measured_now"] == N_CASES - measured
    assert store.case_ids() == expected.case_ids()
    for case in store.case_ids():
        ours, whole = store.open(case), expected.open(case)
        assert ours.meta == whole.meta
        assert np.array_equal(ours.image[:], whole.image[:])
        assert np.array_equal(ours.label[:], whole.label[:])
    assert open_index(store.folder).cases == open_index(expected.folder).cases
    assert plan_and_preprocess(raw / NAME, workspace, OPTIONS)[1].facts["preprocessed_now"] == 0
