from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from autoseg.core.dataset import Dataset, read_dataset
from autoseg.core.labels import LabelScheme
from autoseg.core.plan import Plan
from autoseg.core.workers import WorkerPool
from autoseg.core.workspace import Workspace
from autoseg.io.case_store import CaseStore
from autoseg.preprocessing import preprocess
from autoseg.preprocessing.prepare_case import ANNOTATED, class_locations, store_key

MakePlan = Callable[..., Plan]
LABELS = {"background": 0, "blob": 2, "spot": 5}
SHAPE = (8, 10, 9)


def write_case(folder: Path, case: str, *, seed: int = 0) -> None:
    rng = np.random.default_rng(seed)
    voxels = rng.integers(1, 100, size=SHAPE).astype(np.int16)
    voxels[:2] = 0
    label = np.zeros(SHAPE, dtype=np.uint8)
    label[3:6, 2:6, 2:6] = 2
    label[5:7, 5:8, 5:8] = 5
    for sub, name, array in (("imagesTr", f"{case}_0000", voxels), ("labelsTr", case, label)):
        (folder / sub).mkdir(parents=True, exist_ok=True)
        sitk.WriteImage(sitk.GetImageFromArray(array), str(folder / sub / f"{name}.nii.gz"))


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    folder = tmp_path / "raw" / "Dataset900_Toy"
    for seed, case in enumerate("abc"):
        write_case(folder, case, seed=seed)
    declaration = {"channel_names": {"0": "MR"}, "labels": LABELS, "file_ending": ".nii.gz"}
    (folder / "dataset.json").write_text(json.dumps(declaration))
    return read_dataset(folder)


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(raw=tmp_path / "raw", preprocessed=tmp_path / "pre", results=tmp_path / "results")


def run(dataset: Dataset, plan: Plan, workspace: Workspace, *, workers: int = 0, names: tuple = ("small",)) -> tuple:
    with WorkerPool(workers) as pool:
        return preprocess(dataset, plan, configurations=names, cases=[*dataset.cases], workspace=workspace, pool=pool)


def stored_files(workspace: Workspace) -> dict[str, tuple[int, int]]:
    paths = [path for path in workspace.preprocessed.rglob("*") if path.is_file()]
    return {str(path): (path.stat().st_mtime_ns, path.stat().st_ino) for path in paths}


def test_every_case_is_stored_for_every_configuration(
    dataset: Dataset, workspace: Workspace, make_plan: MakePlan
) -> None:
    flat = make_plan(patch_size=(8, 8), labels=LABELS, spacing_mm=(2.0, 2.0)).configuration("small")
    plan = make_plan(labels=LABELS)
    plan = plan.with_changes(configurations={**plan.model_dump()["configurations"], "2d": flat.model_dump()})
    seen: list[str] = []
    done, problems, n_new = preprocess(
        dataset,
        plan,
        configurations=("small", "2d"),
        cases=["a", "b", "c"],
        workspace=workspace,
        pool=WorkerPool(0),
        progress=seen.append,
    )
    assert (done, problems, n_new) == (["a", "b", "c"], [], 3)
    assert sorted(seen) == ["a", "b", "c"]
    for name, shape in (("small", (6, 10, 9)), ("2d", (6, 5, 4))):
        store = CaseStore(workspace.case_store(dataset.name, "hand", name))
        assert store.case_ids() == ["a", "b", "c"]
        assert store.open("b").shape == shape
    case = CaseStore(workspace.case_store(dataset.name, "hand", "small")).open("a")
    voxels = sitk.GetArrayFromImage(sitk.ReadImage(str(dataset.cases["a"].images[0])))
    label = sitk.GetArrayFromImage(sitk.ReadImage(str(dataset.cases["a"].label)))
    assert np.array_equal(case.image[...][0], voxels[2:])
    assert np.array_equal(case.label[...], np.array([0, -9, 1, -9, -9, 2])[label[2:]])
    assert {tuple(row) for row in case.locations(1)} == {tuple(row) for row in np.argwhere(label[2:] == 5)}


def test_a_second_run_does_nothing(dataset: Dataset, workspace: Workspace, make_plan: MakePlan) -> None:
    plan = make_plan(labels=LABELS)
    run(dataset, plan, workspace)
    before = stored_files(workspace)
    assert run(dataset, plan, workspace) == (["a", "b", "c"], [], 0)
    assert stored_files(workspace) == before


@pytest.mark.parametrize(
    "change",
    [
        {"spacing_mm": (1.5, 1.0, 1.0)},
        {"normalization": ("zscore",)},
        {"normalization": ("ct",)},
        {"use_mask": True},
        {"transpose": (1, 0, 2)},
        {"labels": {"background": 0, "both": [2, 5]}, "regions_class_order": (2,)},
    ],
    ids=lambda change: "-".join(change),
)
def test_a_changed_decision_is_noticed(
    dataset: Dataset, workspace: Workspace, make_plan: MakePlan, change: dict
) -> None:
    run(dataset, make_plan(labels=LABELS), workspace)
    changed = make_plan(**{"labels": LABELS, **change})
    assert run(dataset, changed, workspace)[2] == 3
    assert run(dataset, changed, workspace)[2] == 0


def test_decisions_that_do_not_shape_the_case_keep_it(
    dataset: Dataset, workspace: Workspace, make_plan: MakePlan
) -> None:
    run(dataset, make_plan(labels=LABELS), workspace)
    other = make_plan(labels=LABELS, patch_size=(4, 4, 4), batch_size=7, features=(2, 4), mirror_axes=(0,))
    other = other.with_changes(reasons={"transpose": "because"}, fingerprint_key="new")
    assert run(dataset, other, workspace)[2] == 0


def test_intensities_matter_where_they_are_used(dataset: Dataset, make_plan: MakePlan) -> None:
    keys = set()
    for scheme in ("ct", "zscore"):
        for mean in (1.0, 2.0):
            plan = make_plan(labels=LABELS, normalization=(scheme,))
            values = {**plan.intensities[0].model_dump(), "mean": mean}
            keys.add(store_key(plan.with_changes(intensities=[values]), "small", dataset.cases["a"]))
    assert len(keys) == 3


@pytest.mark.parametrize("part", ["image", "label"])
def test_a_changed_file_is_noticed(dataset: Dataset, workspace: Workspace, make_plan: MakePlan, part: str) -> None:
    plan = make_plan(labels=LABELS)
    run(dataset, plan, workspace)
    case = dataset.cases["b"]
    path = case.images[0] if part == "image" else case.label
    assert path is not None
    times = path.stat()
    image = sitk.ReadImage(str(path))
    image[8, 9, 7] = 2
    sitk.WriteImage(image, str(path))
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))  # content counts, not the date
    assert run(dataset, plan, workspace) == (["a", "b", "c"], [], 1)


def test_a_touched_file_is_not_a_changed_one(dataset: Dataset, workspace: Workspace, make_plan: MakePlan) -> None:
    plan = make_plan(labels=LABELS)
    run(dataset, plan, workspace)
    dataset.cases["b"].images[0].touch()
    assert run(dataset, plan, workspace)[2] == 0


@pytest.mark.parametrize("end", ["image.b2nd", "label.b2nd", "locations.npy", "json"])
def test_a_lost_file_is_made_again(dataset: Dataset, workspace: Workspace, make_plan: MakePlan, end: str) -> None:
    plan = make_plan(labels=LABELS)
    run(dataset, plan, workspace)
    (workspace.case_store(dataset.name, "hand", "small") / f"c.{end}").unlink()
    assert run(dataset, plan, workspace)[2] == 1


@pytest.mark.parametrize("workers", [0, 2])
def test_a_bad_case_is_reported_while_the_others_finish(
    dataset: Dataset, workspace: Workspace, make_plan: MakePlan, workers: int
) -> None:
    path = dataset.cases["b"].images[0]
    path.write_bytes(path.read_bytes()[:200])
    done, problems, n_new = run(dataset, make_plan(labels=LABELS), workspace, workers=workers)
    assert (done, n_new) == (["a", "c"], 2)
    assert [(problem.case, problem.file) for problem in problems] == [("b", "b_0000.nii.gz")]
    assert CaseStore(workspace.case_store(dataset.name, "hand", "small")).case_ids() == ["a", "c"]


def test_a_file_that_vanished_is_reported(dataset: Dataset, workspace: Workspace, make_plan: MakePlan) -> None:
    dataset.cases["b"].images[0].unlink()
    done, problems, _ = run(dataset, make_plan(labels=LABELS), workspace)
    assert done == ["a", "c"]
    assert [problem.case for problem in problems] == ["b"]
    assert "unexpected" not in problems[0].found


SINGLE = LabelScheme(declared={"background": 0, "a": 1, "b": 2, "lost": 3})
IGNORING = LabelScheme(declared={"background": 0, "a": 1, "b": 2, "ignore": 3})
REGIONS = LabelScheme(
    declared={"background": 0, "whole": (1, 2), "core": (2,), "ignore": 9}, regions_class_order=(1, 2)
)


def label_map(shape: tuple[int, int, int] = (40, 50, 60)) -> np.ndarray:
    rng = np.random.default_rng(5)
    label = rng.choice(np.array([-1, 0, 1, 2], dtype=np.int16), size=shape, p=[0.2, 0.2, 0.5, 0.1])
    label[:3] = 3
    return label


@pytest.mark.parametrize(
    ("scheme", "members"),
    [
        (SINGLE, {0: [1], 1: [2], 2: [3]}),
        (IGNORING, {0: [1], 1: [2], ANNOTATED: [0, 1, 2]}),
        (REGIONS, {0: [1, 2], 1: [2], ANNOTATED: [0, 1, 2]}),
    ],
    ids=["labels", "ignore", "regions"],
)
def test_locations_lie_in_their_class_without_repetition(
    scheme: LabelScheme, members: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    label = label_map()
    whole = class_locations(label, scheme)
    monkeypatch.setitem(class_locations.__globals__, "PART_VOXELS", 7001)  # classes lie across many parts
    locations = class_locations(label, scheme)
    assert set(locations) == set(members)
    assert all(np.array_equal(locations[key], whole[key]) for key in members)
    for key, rows in locations.items():
        assert rows.dtype == np.int32
        assert np.isin(label[tuple(rows.T)], members[key]).all()
        assert len(np.unique(rows, axis=0)) == len(rows)
        inside = np.isin(label, members[key])
        size = int(inside.sum())
        assert (np.diff(np.ravel_multi_index(tuple(rows.T), label.shape)) > 0).all()
        assert len(rows) == min(size, 10_000)


def test_all_voxels_of_a_small_class_are_kept_across_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(class_locations.__globals__, "PART_VOXELS", 97)
    label = label_map((9, 10, 11))
    for scheme, key, members in ((SINGLE, 1, [2]), (REGIONS, 0, [1, 2]), (IGNORING, ANNOTATED, [0, 1, 2])):
        assert np.array_equal(class_locations(label, scheme)[key], np.argwhere(np.isin(label, members)))


def test_one_percent_of_a_very_large_class_is_kept() -> None:
    label = np.ones((101, 101, 103), dtype=np.int16)
    assert len(class_locations(label, SINGLE)[0]) == int(np.ceil(label.size / 100))


def test_locations_are_the_same_every_time_and_spread_over_the_class() -> None:
    label = np.zeros((40, 40, 40), dtype=np.int16)
    label[:, 10:35] = 1
    first, again = class_locations(label, SINGLE), class_locations(label.copy(), SINGLE)
    assert np.array_equal(first[0], again[0])
    np.testing.assert_allclose(first[0].mean(axis=0), (19.5, 22, 19.5), atol=0.5)


def test_absent_classes_have_no_locations() -> None:
    label = np.zeros((4, 4, 4), dtype=np.int16)
    assert class_locations(label, SINGLE) == {}
    label[1, 2, 3] = 2
    locations = class_locations(label, SINGLE)
    assert [*locations] == [1]
    assert locations[1].tolist() == [[1, 2, 3]]
