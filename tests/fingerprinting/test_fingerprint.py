"""A data set is measured case by case: each once, the bad ones reported, the others used."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from autoseg import fingerprinting
from autoseg.core.dataset import Dataset, read_dataset
from autoseg.core.errors import DataError
from autoseg.core.fingerprint import Fingerprint
from autoseg.core.workers import WorkerPool
from autoseg.core.workspace import Workspace
from autoseg.fingerprinting import fingerprint

Toy = Callable[..., Dataset]


def test_processes_or_not_the_fingerprint_is_the_same(toy: Toy, workspace: Workspace, tmp_path: Path) -> None:
    dataset = toy(3)
    alone, problems, warnings, n_new = fingerprint(dataset, workspace=workspace, pool=WorkerPool(0))
    assert (problems, warnings, n_new) == ([], [], 3)
    other = Workspace(raw=workspace.raw, preprocessed=tmp_path / "elsewhere", results=workspace.results)
    seen: list[str] = []
    with WorkerPool(2) as pool:
        pooled, *_, n_new = fingerprint(dataset, workspace=other, pool=pool, progress=seen.append)
    assert pooled == alone
    assert n_new == 3
    assert sorted(seen) == ["case_0", "case_1", "case_2"]


def test_facts_of_every_case_are_in_the_order_of_their_ids(toy: Toy, workspace: Workspace) -> None:
    found, *_ = fingerprint(toy(3), workspace=workspace, pool=WorkerPool(0))
    assert found.cases == ["case_0", "case_1", "case_2"]
    assert found.shapes_after_crop == [(5, 6, 7), (6, 6, 7), (7, 6, 7)]
    assert found.spacings == [pytest.approx((2.0, 1.5, 1.0 + i)) for i in range(3)]
    channels = found.foreground_intensity_properties_per_channel
    assert [*channels] == ["0", "1"]
    assert channels["0"].mean == pytest.approx(100, abs=15)
    found.write(workspace.fingerprint("D"))
    assert Fingerprint.read(workspace.fingerprint("D")) == found


def test_a_second_run_measures_nothing_and_a_new_case_only_itself(toy: Toy, workspace: Workspace) -> None:
    first, *_ = fingerprint(toy(3), workspace=workspace, pool=WorkerPool(0))
    again, *_, n_new = fingerprint(toy(3), workspace=workspace, pool=WorkerPool(0))
    assert (again, n_new) == (first, 0)
    more, *_, n_new = fingerprint(toy(4), workspace=workspace, pool=WorkerPool(0))
    assert n_new == 1
    assert more.key != first.key


def test_few_samples_are_shared_evenly(toy: Toy, workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fingerprinting, "TOTAL_SAMPLES", 40)
    dataset = toy(4)
    fingerprint(dataset, workspace=workspace, pool=WorkerPool(0))
    paths = [workspace.measured_case(dataset.name, case) for case in dataset.cases]
    sizes = [np.load(path)["samples"].shape for path in paths]
    assert sizes == [(2, 10)] * 4


def test_one_bad_case_among_many_leaves_the_rest(toy: Toy, workspace: Workspace) -> None:
    dataset = toy(4)
    broken = dataset.cases["case_2"].images[1]
    broken.write_bytes(broken.read_bytes()[:100])
    found, problems, _, n_new = fingerprint(dataset, workspace=workspace, pool=WorkerPool(0))
    assert found.cases == ["case_0", "case_1", "case_3"]
    assert n_new == 3
    assert {(p.case, p.file) for p in problems} == {("case_2", "case_2_0001.nii.gz")}


def test_defects_seen_in_the_listing_are_reported_too(toy: Toy, workspace: Workspace) -> None:
    folder = toy(3).folder
    (folder / "labelsTr" / "case_1.nii.gz").unlink()
    (folder / "labelsTr" / "stray.nii.gz").write_bytes(b"")
    found, problems, warnings, _ = fingerprint(read_dataset(folder), workspace=workspace, pool=WorkerPool(0))
    assert found.cases == ["case_0", "case_2"]
    assert [(p.case, p.found) for p in problems] == [("case_1", "the label file is missing")]
    assert any("stray" in w.file for w in warnings)


def test_a_label_that_never_occurs_is_a_warning(toy: Toy, workspace: Workspace) -> None:
    dataset = toy(2, labels={"background": 0, "blob": 1, "rare": 2})
    found, _, warnings, _ = fingerprint(dataset, workspace=workspace, pool=WorkerPool(0))
    assert [w.found for w in warnings] == ["label 'rare' occurs in no case"]
    assert set(found.labels) == {"blob"}


def test_without_a_usable_case_every_problem_is_told(toy: Toy, workspace: Workspace) -> None:
    dataset = toy(2)
    for case in dataset.cases.values():
        case.images[0].write_bytes(b"no image")
    with pytest.raises(DataError) as caught:
        fingerprint(dataset, workspace=workspace, pool=WorkerPool(0))
    assert {problem.case for problem in caught.value.problems} == {"case_0", "case_1"}


def test_the_hippocampus_is_measured_as_nnunet_measures_it(real_data: Path, workspace: Workspace) -> None:
    dataset = read_dataset(real_data / "Dataset004_Hippocampus")
    few = {case: dataset.cases[case] for case in [*dataset.cases][:6]}
    part = Dataset(name=dataset.name, folder=dataset.folder, json=dataset.json, cases=few)
    found, problems, _, _ = fingerprint(part, workspace=workspace, pool=WorkerPool(0))
    assert problems == []
    assert found.spacings == [(1.0, 1.0, 1.0)] * 6
    assert all(31 <= a <= 43 and 40 <= b <= 59 and 24 <= c <= 47 for a, b, c in found.shapes_after_crop)
    assert set(found.labels) == {"Anterior", "Posterior"}
