"""Planning anew: what the user wrote into a plan file is carried over or told, and never lost."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from autoseg.core.dataset import read_dataset
from autoseg.core.declaration import DatasetJson
from autoseg.core.errors import UsageError
from autoseg.core.fingerprint import Fingerprint
from autoseg.core.plan import Plan
from autoseg.core.workspace import Workspace
from autoseg.phantoms import write_phantoms
from autoseg.pipeline import Options, make_plan, plan_and_preprocess, pool_for, read_plan

NAME = "Dataset101_Name"
INTENSITIES = {"mean": 1, "median": 1, "std": 1, "min": 0, "max": 9, "percentile_00_5": 0, "percentile_99_5": 8}
DECLARATION = DatasetJson.model_validate(
    {"channel_names": {"0": "MR"}, "labels": {"background": 0, "a": 1}, "file_ending": ".nii.gz"}
)


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(raw=tmp_path / "raw", preprocessed=tmp_path / "preprocessed", results=tmp_path / "results")


def measured(key: str, spacing: tuple[float, float, float] = (2.0, 0.8, 0.8)) -> Fingerprint:
    facts = {
        "spacings": [spacing] * 6,
        "shapes_after_crop": [(60, 200, 200)] * 6,
        "foreground_intensity_properties_per_channel": {"0": INTENSITIES},
        "median_relative_size_after_cropping": 1.0,
    }
    return Fingerprint.model_validate({**facts, "key": key})


def edit(path: Path, **configurations: dict[str, Any]) -> None:
    value = json.loads(path.read_text())
    for name, changes in configurations.items():
        value["configurations"].setdefault(name, {}).update(changes)
    path.write_text(json.dumps(value))


def planned(
    workspace: Workspace, fingerprint: Fingerprint, planner: str = "default", **told: Any
) -> tuple[Plan, bool, str]:
    plan, now, warnings = make_plan(NAME, DECLARATION, fingerprint, workspace, Options(planner=planner, **told))
    assert Plan.read(workspace.plan(NAME, planner)) == plan
    return plan, now, " ".join(map(str, warnings))


def test_the_same_data_keep_the_file_with_all_edits(workspace: Workspace) -> None:
    first, now, _ = planned(workspace, measured("one"))
    assert now
    edit(workspace.plan(NAME, "default"), **{"3d_fullres": {"batch_size": 7}})
    again, now, warnings = planned(workspace, measured("one"))
    assert (now, warnings) == (False, "")
    assert again.configuration("3d_fullres").batch_size == 7 != first.configuration("3d_fullres").batch_size


def test_other_data_are_planned_anew_and_edits_survive(workspace: Workspace) -> None:
    planned(workspace, measured("one"))
    path = workspace.plan(NAME, "default")
    edit(path, **{"3d_fullres": {"batch_size": 7}, "3d_mine": {"inherits_from": "2d", "patch_size": [64, 64]}})
    before = path.read_bytes()
    plan, now, warnings = planned(workspace, measured("two", spacing=(2.0, 1.0, 1.0)))
    assert now
    assert plan.configuration("2d").spacing_mm == [1.0, 1.0]  # planned anew
    assert plan.configuration("3d_fullres").batch_size == 7  # kept as it was, spacing included
    assert plan.configuration("3d_fullres").spacing_mm == [2.0, 0.8, 0.8]
    assert plan.configuration("3d_mine").spacing_mm == [1.0, 1.0]  # follows what it inherits from
    assert plan.configuration("3d_mine").patch_size == [64, 64]
    assert "configuration 3d_fullres was kept; planned anew it would differ in batch_size, spacing_mm" in warnings
    assert "configuration 3d_mine was kept" in warnings
    assert path.with_suffix(".old1.json").read_bytes() == before
    assert {*planned(workspace, measured("three"))[0].edited} == {"3d_fullres", "3d_mine"}


def test_unedited_plans_change_without_a_word(workspace: Workspace) -> None:
    planned(workspace, measured("one"))
    plan, now, warnings = planned(workspace, measured("two", spacing=(2.0, 1.0, 1.0)))
    assert (now, warnings) == (True, "")
    assert plan.configuration("3d_fullres").spacing_mm == [2.0, 1.0, 1.0]


def test_edits_for_another_order_of_axes_stay_in_the_old_file(workspace: Workspace) -> None:
    planned(workspace, measured("one"))
    edit(workspace.plan(NAME, "default"), **{"3d_fullres": {"batch_size": 7}})
    plan, _, warnings = planned(workspace, measured("two", spacing=(0.8, 0.8, 2.0)))
    assert plan.edited == ()
    assert "3d_fullres does not fit the new plan (the order of the axes has changed)" in warnings
    assert "default.old1.json" in warnings


def test_a_plan_of_ones_own_is_never_replaced(workspace: Workspace) -> None:
    planned(workspace, measured("one"))
    own = workspace.plan(NAME, "mine")
    own.write_text(workspace.plan(NAME, "default").read_text().replace('"default"', '"mine"'))
    before = own.read_bytes()
    _, now, warnings = planned(workspace, measured("two"), planner="mine")
    assert not now
    assert "it is yours and used as it is" in warnings
    assert own.read_bytes() == before


@pytest.mark.parametrize(("change", "stored"), [({"batch_size": 3}, "3d_fullres"), ({"normalization": ["none"]}, "x")])
def test_configurations_that_prepare_alike_share_a_store(
    workspace: Workspace, change: dict[str, Any], stored: str
) -> None:
    planned(workspace, measured("one"))
    path = workspace.plan(NAME, "default")
    edit(path, x={"inherits_from": "3d_fullres", **change}, y={"inherits_from": "x", "batch_size": 9})
    plan = Plan.read(path)
    assert [plan.stored_as(name) for name in ("2d", "3d_fullres", "x", "y")] == ["2d", "3d_fullres", stored, stored]


def test_what_was_told_once_holds_until_told_otherwise(workspace: Workspace) -> None:
    planned(workspace, measured("one"), spacing_mm=(4.0, 2.0, 2.0), gpu_memory_gb=11.0)
    plan, now, _ = planned(workspace, measured("one"))
    assert not now
    plan, now, _ = planned(workspace, measured("two"))  # other data, nothing told
    assert now
    assert plan.configuration("3d_fullres").spacing_mm == [4.0, 2.0, 2.0]
    plan, _, _ = planned(workspace, measured("two"), spacing_mm=(5.0, 2.0, 2.0))
    assert plan.configuration("3d_fullres").spacing_mm == [5.0, 2.0, 2.0]
    assert plan.told.gpu_memory_gb == 11.0


def test_a_field_pinned_to_the_same_value_stays_pinned(workspace: Workspace) -> None:
    planned(workspace, measured("one"))
    edit(workspace.plan(NAME, "default"), mine={"inherits_from": "3d_fullres", "spacing_mm": [2.0, 0.8, 0.8]})
    plan, _, _ = planned(workspace, measured("two", spacing=(2.0, 1.0, 1.0)))
    assert plan.configuration("3d_fullres").spacing_mm == [2.0, 1.0, 1.0]
    assert plan.configuration("mine").spacing_mm == [2.0, 0.8, 0.8]


def test_one_edit_that_does_not_fit_leaves_the_others(workspace: Workspace) -> None:
    planned(workspace, measured("one"))
    lost = {"inherits_from": "3d_fullres", "mirror_label_pairs": [["a", "gone"]]}
    path = workspace.plan(NAME, "default")
    value = json.loads(path.read_text())
    value["labels"]["gone"] = 2
    path.write_text(json.dumps(value))
    edit(path, lost=lost, mine={"inherits_from": "2d", "batch_size": 3})
    plan, _, warnings = planned(workspace, measured("two"))
    assert plan.edited == ("mine",)
    assert "configuration lost does not fit the new plan" in warnings


def test_edits_outside_the_configurations_are_told(workspace: Workspace) -> None:
    planned(workspace, measured("one"))
    path = workspace.plan(NAME, "default")
    value = json.loads(path.read_text())
    value["intensities"][0]["mean"] = 77
    path.write_text(json.dumps(value))
    _, _, warnings = planned(workspace, measured("two"))
    assert "your changes outside the configurations were not carried over" in warnings


def test_a_plan_of_version_0_1_0_is_planned_anew_but_for_added_configurations(workspace: Workspace) -> None:
    planned(workspace, measured("one"))
    path = workspace.plan(NAME, "default")
    edit(path, mine={"inherits_from": "2d", "batch_size": 3})
    value = json.loads(path.read_text())
    del value["planned"], value["told"]
    path.write_text(json.dumps(value))
    plan, now, warnings = planned(workspace, measured("two", spacing=(2.0, 1.0, 1.0)))
    assert now
    assert plan.configuration("3d_fullres").spacing_mm == [2.0, 1.0, 1.0]
    assert plan.configuration("mine").batch_size == 3
    assert "made by version 0.1.0" in warnings


def test_killed_while_planning_anew_nothing_is_lost(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    planned(workspace, measured("one"))
    edit(workspace.plan(NAME, "default"), **{"3d_fullres": {"batch_size": 7}})

    def dies(plan: Plan, path: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Plan, "write", dies)
        with pytest.raises(KeyboardInterrupt):
            make_plan(NAME, DECLARATION, measured("two"), workspace, Options())
    assert planned(workspace, measured("two"))[0].configuration("3d_fullres").batch_size == 7


def test_a_copy_that_keeps_the_old_planners_name_is_refused(workspace: Workspace) -> None:
    planned(workspace, measured("one"))
    own = workspace.plan(NAME, "mine")
    own.write_text(workspace.plan(NAME, "default").read_text())
    with pytest.raises(UsageError, match="its planner is 'default'; write 'mine' there"):
        read_plan(workspace, NAME, "mine")


def test_an_added_configuration_may_stand_before_the_one_it_inherits_from(workspace: Workspace) -> None:
    planned(workspace, measured("one"))
    edit(
        workspace.plan(NAME, "default"),
        heir={"inherits_from": "parent", "batch_size": 3},
        parent={"inherits_from": "2d", "patch_size": [64, 64]},
    )
    plan, _, warnings = planned(workspace, measured("two"))
    assert {*plan.edited} == {"heir", "parent"}
    assert (plan.configuration("heir").batch_size, plan.configuration("heir").patch_size) == (3, [64, 64])
    assert "does not fit" not in warnings


def test_a_changed_copy_of_a_plan_leaves_the_pins_of_the_first(workspace: Workspace) -> None:
    planned(workspace, measured("one"))
    path = workspace.plan(NAME, "default")
    edit(path, mine={"inherits_from": "3d_fullres", "spacing_mm": [2.0, 0.8, 0.8]})
    plan = Plan.read(path)
    copy = plan.with_changes(configurations={**plan.configurations, "more": plan.configuration("2d")})
    for one in (plan, copy):
        assert one.in_file()["mine"] == {"inherits_from": "3d_fullres", "spacing_mm": [2.0, 0.8, 0.8]}


def test_what_was_told_for_other_channels_names_the_file(workspace: Workspace) -> None:
    planned(workspace, measured("one"), normalization=("none",))
    two = DECLARATION.with_changes(channel_names={"0": "MR", "1": "CT"})
    with pytest.raises(UsageError, match=r"told before; give it anew, or empty it under told in .*default\.json"):
        make_plan(NAME, two, measured("two"), workspace, Options())


def test_splits_of_the_user_are_not_stratified_before_anything_is_read(workspace: Workspace) -> None:
    folder = workspace.raw / NAME
    write_phantoms(folder, n_train=2, n_test=0, size="tiny")
    workspace.splits(NAME).parent.mkdir(parents=True)
    workspace.splits(NAME).write_text('[{"train": ["a"], "val": ["b"]}]')
    with pytest.raises(UsageError, match="is yours and is not replaced"):
        plan_and_preprocess(folder, workspace, Options(stratify=True, workers=0))
    assert [path.name for path in workspace.splits(NAME).parent.iterdir()] == ["splits.json"]
    with pytest.raises(UsageError, match="leave it out with --scheduler"):
        pool_for(read_dataset(folder), 2, "tcp://127.0.0.1:1")
