"""All paths are made in one place and lie where the contract says."""

from __future__ import annotations

from pathlib import Path

import pytest

from autoseg.core.workspace import Workspace, fold_files, fold_folder

TOP = Path("/w")
HERE = Workspace(raw=TOP / "raw", preprocessed=TOP / "preprocessed", results=TOP / "results")
DATASET = "Dataset101_Name"


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (HERE.fingerprint(DATASET), "preprocessed/Dataset101_Name/fingerprint.json"),
        (HERE.splits(DATASET), "preprocessed/Dataset101_Name/splits.json"),
        (HERE.plan(DATASET, "default"), "preprocessed/Dataset101_Name/plans/default.json"),
        (HERE.case_store(DATASET, "default", "2d"), "preprocessed/Dataset101_Name/default__2d"),
        (HERE.model(DATASET, "default", "3d_fullres"), "results/Dataset101_Name/default__3d_fullres"),
        (
            fold_folder(HERE.model(DATASET, "default", "2d"), 0) / "weights.safetensors",
            "results/Dataset101_Name/default__2d/fold_0/weights.safetensors",
        ),
        (fold_folder(HERE.model(DATASET, "p", "2d"), "all"), "results/Dataset101_Name/p__2d/fold_all"),
    ],
)
def test_paths_are_those_of_the_contract(path: Path, expected: str) -> None:
    assert path == TOP / expected


def test_ids_with_inner_dots_keep_their_own_measure() -> None:
    names = {HERE.measured_case(DATASET, case).name for case in ("a", "a.b", "a.npz", "a b")}
    assert len(names) == 4


def test_parts_may_lie_anywhere() -> None:
    apart = Workspace(raw=Path("/a"), preprocessed=Path("/b"), results=Path("/c"))
    assert apart.splits("D") == Path("/b/D/splits.json")
    assert apart.model("D", "p", "c") == Path("/c/D/p__c")


def test_folds_that_hold_a_file(tmp_path: Path) -> None:
    for name in ("fold_0", "fold_10", "fold_all", "fold_0_old", "fold_copy", "crossval"):
        (tmp_path / name / "validation").mkdir(parents=True)
        (tmp_path / name / "validation" / "x.json").touch()
    (tmp_path / "fold_1").mkdir()
    assert {*fold_files(tmp_path, "validation/x.json")} == {"0", "10", "all"}
    assert fold_files(tmp_path, "validation/x.json")["10"] == tmp_path / "fold_10" / "validation" / "x.json"
    assert fold_files(tmp_path / "missing", "x") == {}
