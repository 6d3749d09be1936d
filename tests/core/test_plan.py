"""A plan file may be edited by hand: what is wrong in it is named, whatever it is; what is right survives."""

from __future__ import annotations

import json
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from autoseg.core.errors import DataError, UsageError
from autoseg.core.plan import Configuration, Model, Plan


@pytest.fixture
def facts(make_plan: Callable[..., Plan]) -> dict[str, Any]:
    """A plan as JSON facts, its configuration is called "small"."""
    return make_plan(labels={"background": 0, "left lung": 1, "right lung": 2}).model_dump(mode="json")


def edited(facts: dict[str, Any], place: tuple[str | int, ...], value: Any) -> dict[str, Any]:
    """A copy with one value replaced (or removed, where it is Ellipsis)."""
    copy: Any = deepcopy(facts)
    inner = copy
    for part in place[:-1]:
        inner = inner[part]
    if value is ...:
        del inner[place[-1]]
    else:
        inner[place[-1]] = value
    return copy


def read(facts: Any, folder: Path) -> Plan:
    (folder / "plan.json").write_text(json.dumps(facts, indent=1))
    return Plan.read(folder / "plan.json")


SMALL = ("configurations", "small")
NETWORK = (*SMALL, "network")


@pytest.mark.parametrize(
    ("place", "value", "words"),
    [
        (("transpose_forward",), [0, 0, 1], "must hold 0, 1 and 2 once each"),
        (("transpose_forward",), [0, 1], "'transpose_forward"),
        (("transpose_forward",), [0, 1, 5], "must hold 0, 1 and 2 once each"),
        (("schema_version",), 2, "'schema_version': Input should be 1"),
        (("intensities",), [], "0 intensities for 1 channel_names"),
        (("intensities", 0, "mean"), ..., "key 'intensities.0.mean' is missing"),
        (("channel_names",), ["a", "b"], "1 intensities for 2 channel_names"),
        (("labels", "left lung"), -1, "'labels.left lung': must be a whole number"),
        (("labels",), {"background": 0, "a": 2, "b": 2}, "the same value 2"),
        (("labels", "left lung"), [1, 2], "must list 2 values"),
        (("configurations",), [], "'configurations': Input should be a valid dictionary"),
        (SMALL, 3, "'configurations.small': Input should be a valid dictionary"),
        ((*SMALL, "patch_sise"), [8, 8, 8], "unknown key 'configurations.small.patch_sise'"),
        ((*SMALL, "patch_size"), [8, 8], "must have as many"),
        ((*SMALL, "patch_size"), [8, 8, 9], "multiple of 2"),
        ((*SMALL, "patch_size"), [8, 8, 0], "greater than 0"),
        ((*SMALL, "patch_size"), [8, 8, 8, 8], "at most 3 items"),
        ((*SMALL, "batch_size"), 0, "greater than 0"),
        ((*SMALL, "spacing_mm"), [1, 0, 1], "greater than 0"),
        ((*SMALL, "spacing_mm"), [1, "x", 1], "'configurations.small.spacing_mm.1'"),
        ((*SMALL, "normalization"), ["zscor"], "'configurations.small.normalization.0'"),
        ((*SMALL, "normalization"), [], "one entry per channel"),
        ((*SMALL, "use_mask_for_norm"), [True, True], "one entry per channel"),
        ((*SMALL, "mirror_axes"), [0, 3], "mirror_axes holds 3"),
        ((*SMALL, "mirror_axes"), [-1], "mirror_axes holds -1"),
        ((*SMALL, "mirror_label_pairs"), [["left lung", "liver"]], "'liver', which is no label"),
        ((*NETWORK, "strides"), [[1, 1, 1], [2, 0, 2]], "greater than 0"),
        ((*NETWORK, "strides"), [[1, 1, 1]], "strides has 1 entries for 2 stages"),
        ((*NETWORK, "strides"), [[2, 2, 2], [1, 1, 1]], "first strides must be 1"),
        ((*NETWORK, "strides"), [[1, 1, 1], [2, 2]], "same number of axes"),
        ((*NETWORK, "strides"), [], "strides has 0 entries"),
        ((*NETWORK, "kernel_sizes"), [[3, 3, 3], [3, 2, 3]], "must be odd"),
        ((*NETWORK, "kernel_sizes"), [[3, 3], [3, 3]], "same number of axes"),
        ((*NETWORK, "features_per_stage"), [], "'configurations.small.network.features_per_stage'"),
        ((*NETWORK, "features_per_stage"), [4, -8], "greater than 0"),
        ((*NETWORK, "blocks_per_stage"), [1, 0], "greater than 0"),
        ((*NETWORK, "blocks_per_stage_decoder"), [], "needs 1 entries"),
        ((*NETWORK, "strides"), ..., "key 'configurations.small.network.strides' is missing"),
    ],
)
def test_a_wrong_value_is_named(
    facts: dict[str, Any], tmp_path: Path, place: tuple[str | int, ...], value: Any, words: str
) -> None:
    with pytest.raises(DataError) as caught:
        read(edited(facts, place, value), tmp_path)
    assert words in str(caught.value)
    assert all("(line " in p.found for p in caught.value.problems if p.found.startswith("'configurations"))


def test_the_line_is_that_of_the_wrong_value(facts: dict[str, Any], tmp_path: Path) -> None:
    wrong = edited(facts, (*SMALL, "batch_size"), -5)
    with pytest.raises(DataError) as caught:
        read(wrong, tmp_path)
    line = (tmp_path / "plan.json").read_text().split("\n").index('   "batch_size": -5,') + 1
    assert f"(line {line})" in str(caught.value)


@pytest.mark.parametrize("value", [[], 3, None, "plan", {}])
def test_what_is_no_plan_is_refused(tmp_path: Path, value: Any) -> None:
    with pytest.raises(DataError):
        read(value, tmp_path)


def test_a_configuration_inherits_what_it_does_not_give(facts: dict[str, Any], tmp_path: Path) -> None:
    heirs = {"child": {"inherits_from": "small", "batch_size": 9}, "grandchild": {"inherits_from": "child"}}
    plan = read(edited(facts, ("configurations",), {**heirs, **facts["configurations"]}), tmp_path)
    small = plan.configuration("small")
    child, grandchild = (plan.configuration(name).model_dump() for name in heirs)
    assert child == {**small.model_dump(), "batch_size": 9, "inherits_from": "small"}
    assert grandchild == {**child, "inherits_from": "child"}
    plan.write(tmp_path / "written.json")  # what is inherited is not written twice
    written = json.loads((tmp_path / "written.json").read_text())["configurations"]
    assert {name: written[name] for name in heirs} == heirs
    assert not {"inherits_from", "previous_stage"} & set(written["small"])
    assert Plan.read(tmp_path / "written.json") == plan


def test_edited_and_own_configurations_are_known(make_plan: Callable[..., Plan], tmp_path: Path) -> None:
    plan = make_plan().marked()
    assert plan.edited == ()
    value = plan.model_dump(mode="json")
    value["configurations"]["small"]["reasons"] = {"batch_size": "because"}
    assert read(value, tmp_path).edited == ()
    value["configurations"]["mine"] = {"inherits_from": "small", "batch_size": 7}
    assert read(value, tmp_path).edited == ("mine",)
    assert read(value, tmp_path).in_file()["mine"] == {"inherits_from": "small", "batch_size": 7}
    value["configurations"]["small"]["batch_size"] = 5
    assert set(read(value, tmp_path).edited) == {"mine", "small"}


def test_a_previous_stage_must_be_there(facts: dict[str, Any], tmp_path: Path) -> None:
    facts["configurations"]["next"] = {"inherits_from": "small", "previous_stage": "smal"}
    with pytest.raises(DataError, match="previous_stage 'smal' of 'next' is no configuration; did you mean 'small'"):
        read(facts, tmp_path)


@pytest.mark.parametrize(
    "configurations",
    [
        {"a": {"inherits_from": "a"}},
        {"a": {"inherits_from": "b"}, "b": {"inherits_from": "a"}},
        {"a": {"inherits_from": "nowhere"}},
        {"a": {"inherits_from": ["a"]}},
        {"a": {"inherits_from": "b"}, "b": 3},
        {str(i): {"inherits_from": str(i + 1)} for i in range(5000)},
    ],
)
def test_inheritance_that_leads_nowhere_is_refused(
    facts: dict[str, Any], tmp_path: Path, configurations: dict[str, Any]
) -> None:
    with pytest.raises(DataError, match="which does not exist or leads in a circle"):
        read(edited(facts, ("configurations",), configurations), tmp_path)


def test_a_key_missing_in_what_is_inherited_is_named(facts: dict[str, Any], tmp_path: Path) -> None:
    broken = edited(facts, (*NETWORK, "strides"), ...)
    broken["configurations"]["child"] = {"inherits_from": "small"}
    with pytest.raises(DataError, match=r"key 'configurations\.child\.network\.strides' is missing"):
        read(broken, tmp_path)


def test_an_unknown_configuration_is_answered_with_the_nearest(make_plan: Callable[..., Plan]) -> None:
    with pytest.raises(UsageError, match="did you mean 'small'"):
        make_plan().configuration("smal")


@pytest.mark.parametrize("forward", [(0, 1, 2), (1, 0, 2), (2, 0, 1), (1, 2, 0)])
def test_backward_undoes_forward_and_left_right_is_found(
    make_plan: Callable[..., Plan], forward: tuple[int, int, int]
) -> None:
    plan = make_plan(transpose=forward)
    axes = tuple(forward[i] for i in plan.transpose_backward)
    assert axes == (0, 1, 2)
    where = plan.left_right_axis(3)
    assert forward[where] == 2
    assert plan.left_right_axis(2) == (where - 1 if where else None)


def test_plan_and_model_survive_their_files(make_plan: Callable[..., Plan], tmp_path: Path) -> None:
    labels = {"background": 0, "whole": [1, 2], "core": 2}
    plan = make_plan(labels=labels, regions_class_order=[1, 2], patch_size=(8, 4), normalization=("ct", "zscore"))
    model = Model(configuration="small", plan=plan, autoseg_version="1")
    model.write(tmp_path / "model.json")
    assert Model.read(tmp_path / "model.json") == model
    assert plan.scheme.has_regions
    assert isinstance(plan.configuration("small"), Configuration)
    assert plan.configuration("small").dimensions == 2


@pytest.mark.parametrize("name", ["", "x/../../escaped", ".hidden", "a\\b", "..", "line\nbreak"])
def test_a_configuration_cannot_be_called_by_a_path(facts: dict[str, Any], tmp_path: Path, name: str) -> None:
    facts["configurations"][name] = facts["configurations"]["small"]
    with pytest.raises(DataError, match="folders are called by it"):
        read(facts, tmp_path)


def test_previous_stages_must_not_lead_in_a_circle(facts: dict[str, Any], tmp_path: Path) -> None:
    facts["configurations"]["a"] = {"inherits_from": "small", "previous_stage": "b"}
    facts["configurations"]["b"] = {"inherits_from": "small", "previous_stage": "a"}
    with pytest.raises(DataError, match="leads in a circle"):
        read(facts, tmp_path)


def test_an_heir_without_its_parent_is_refused(make_plan: Callable[..., Plan]) -> None:
    small = make_plan().configuration("small")
    with pytest.raises(DataError, match="inherits from 'gone', which is not in this plan"):
        make_plan().with_changes(configurations={"x": small.with_changes(inherits_from="gone")})


def test_a_misspelt_parent_gets_the_nearest(facts: dict[str, Any], tmp_path: Path) -> None:
    facts["configurations"]["a"] = {"inherits_from": "smal"}
    with pytest.raises(DataError, match=r"inherits from 'smal', which does not exist .*; did you mean 'small'"):
        read(facts, tmp_path)
