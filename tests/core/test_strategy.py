from __future__ import annotations

import json

import pytest

from autoseg.core.errors import DataError
from autoseg.core.strategy import Change, Comparison, Honest, Member, Step, Strategy, Trial

LABELS = {"background": 0, "liver": 4, "tumour": 2}


@pytest.fixture
def strategy() -> Strategy:
    step = Step(action="keep_largest", labels=["liver"])
    small = Step(action="remove_smaller", labels=["tumour"], than_ml=0.5)
    trial = Trial(steps=[step], accepted=True, dice=Change(before=0.5, after=0.625))
    facts = {"cases": 7, "difference": -0.1, "ci95": (-0.2, 0.1), "p_value": 0.04, "tied": False, "cost": 2.5}
    return Strategy(
        dataset="Dataset001_A",
        members=[
            Member(planner="default", configuration="2d"),
            Member(planner="default", configuration="3d_fullres"),
        ],
        labels=LABELS,
        steps=[step, small],
        promised=0.7,
        nested=Honest(cases=7, before=0.5, after=0.6, ci95=(0.0, 0.2)),
        evidence=[trial],
        compared=[Comparison(name="default__2d", mean_dice=0.4, **facts)],
    )


def test_file_gives_back_the_same_record(strategy, tmp_path):
    strategy.write(tmp_path / "strategy.json")
    assert Strategy.read(tmp_path / "strategy.json") == strategy
    assert strategy.name == "default__2d+default__3d_fullres"
    steps = json.loads((tmp_path / "strategy.json").read_text())["steps"]
    assert steps[1] == {"action": "remove_smaller", "labels": ["tumour"], "than_ml": 0.5}


def test_steps_are_told_in_words(strategy):
    filled = Step(action="fill_holes", labels=["liver"])
    assert [step.sentence for step in (*strategy.steps, filled)] == [
        "largest part of liver",
        "no part of tumour below 0.5 ml",
        "holes of liver filled",
    ]


def test_labels_keep_the_order_and_the_values_of_dataset_json(strategy, tmp_path):
    strategy.write(tmp_path / "strategy.json")
    scheme = Strategy.read(tmp_path / "strategy.json").scheme
    assert [*scheme.foreground.items()] == [("liver", (4,)), ("tumour", (2,))]


def test_regions_are_read_back_as_regions(strategy):
    regions = strategy.with_changes(labels={"background": 0, "liver": [1, 2], "tumour": 2}, regions_class_order=[1, 2])
    assert regions.scheme.has_regions
    assert regions.scheme.foreground["liver"] == (1, 2)


@pytest.mark.parametrize(
    ("change", "found", "hint"),
    [
        ({"steps": [{"action": "keep_largest", "labels": ["livr"]}]}, "'livr'", "liver"),
        ({"steps": [{"action": "keep_largest", "labels": ["background"]}]}, "'background'", "liver"),
        ({"steps": [{"action": "keep_largest", "labels": []}]}, "labels", ""),
        ({"steps": [{"action": "keep_larger", "labels": ["liver"]}]}, "action", ""),
        ({"steps": [{"action": "remove_smaller", "labels": ["liver"]}]}, "than_ml", ""),
        ({"steps": [{"action": "remove_smaller", "labels": ["liver"], "than_ml": -1}]}, "than_ml", ""),
        ({"steps": [{"action": "fill_holes", "labels": ["liver", "tumour"]}]}, "one label", ""),
        ({"members": []}, "members", ""),
        ({"note": []}, "unknown key 'note'", "notes"),
        ({"schema_version": 1}, "schema_version", ""),
    ],
)
def test_edited_file_with_a_mistake_is_refused_and_the_place_named(strategy, tmp_path, change, found, hint):
    path = tmp_path / "strategy.json"
    path.write_text(json.dumps({**strategy.model_dump(exclude={"notes"}), **change}))
    with pytest.raises(DataError) as caught:
        Strategy.read(path)
    assert str(path) in str(caught.value)
    assert found in str(caught.value)
    assert hint in str(caught.value)
