"""Every decision is explained; none is forgotten when one is added."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from autoseg.core.declaration import DatasetJson
from autoseg.core.fingerprint import Fingerprint
from autoseg.core.plan import Configuration, Plan
from autoseg.planning import explain, plan
from autoseg.planning.explain import EDITED, RULES

DECLARATION = DatasetJson(channel_names={"0": "CT"}, labels={"background": 0, "liver": 1}, file_ending=".nii.gz")


@pytest.fixture
def large(make_fingerprint: Callable[..., Fingerprint]) -> Plan:
    measured = make_fingerprint(shapes_after_crop=[(300, 500, 500)] * 6)
    return plan(measured, DECLARATION, dataset="D")


def test_every_decision_has_a_rule_numbers_and_what_changes_it(large: Plan) -> None:
    explained = explain(large)
    assert [*explained] == ["plan", "2d", "3d_lowres", "3d_fullres", "3d_cascade_fullres"]
    decided = set(Configuration.model_fields) - {"inherits_from", "reasons", "median_shape_voxels"}
    decided -= {"mirror_label_pairs"}  # told with mirror_axes
    assert decided | {"transpose_forward"} == set(RULES)
    told = {one.decision for decisions in explained.values() for one in decisions}
    assert told == set(RULES)
    for decisions in explained.values():
        for one in decisions:
            assert one.rule
            assert one.change.endswith("edit the plan file")
            assert one.numbers != "nothing else", one.decision


def test_numbers_are_those_of_the_data(large: Plan) -> None:
    numbers = {one.decision: one.numbers for one in explain(large)["3d_fullres"]}
    assert "6 cases with 2-2 x 0.8-0.8 x 0.8-0.8 mm" in numbers["spacing_mm"]
    assert "median shape 300 x 500 x 500" in numbers["spacing_mm"]
    patch = large.configuration("3d_fullres").patch_size
    share = patch[0] * patch[1] * patch[2] / (300 * 500 * 500)
    assert f"{share:.0%} of the median image" in numbers["batch_dice"]


def test_an_edited_configuration_is_told_as_such(large: Plan) -> None:
    value = json.loads(json.dumps(large.model_dump(mode="json")))
    value["configurations"]["2d"]["batch_size"] = 3
    value["configurations"]["3d_cascade_fullres"]["batch_size"] = 7
    edited = Plan.model_validate(value)
    assert [one.decision for one in explain(edited)["3d_cascade_fullres"]] == ["previous_stage", "batch_size"]
    by_name = {name: {one.numbers for one in decisions} for name, decisions in explain(edited).items()}
    assert by_name["2d"] == {EDITED}
    assert EDITED not in by_name["3d_fullres"]
