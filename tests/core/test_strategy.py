from __future__ import annotations

import json

import pytest

from autoseg.core.errors import DataError
from autoseg.core.strategy import Change, Step, Strategy, Trial

LABELS = {"background": 0, "liver": 4, "tumour": 2}


@pytest.fixture
def strategy() -> Strategy:
    change = Change(before=0.5, after=0.625)
    trial = Trial(
        keep_largest=["liver"],
        accepted=True,
        mean_dice=change,
        dice={"liver": change, "tumour": Change(before=None, after=None)},
        cases=7,
        cases_changed=2,
    )
    return Strategy(
        dataset="Dataset001_A",
        planner="default",
        configuration="3d_fullres",
        labels=LABELS,
        steps=[Step(keep_largest=["liver"])],
        evidence=[trial],
        compared={"default__2d": 0.4, "default__3d_fullres": 0.5},
    )


def test_file_gives_back_the_same_record(strategy, tmp_path):
    strategy.write(tmp_path / "strategy.json")
    assert Strategy.read(tmp_path / "strategy.json") == strategy
    assert json.loads((tmp_path / "strategy.json").read_text())["steps"] == [{"keep_largest": ["liver"]}]


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
        ({"steps": [{"keep_largest": ["livr"]}]}, "'livr'", "liver"),
        ({"steps": [{"keep_largest": ["background"]}]}, "'background'", "liver"),
        ({"steps": [{"keep_largest": []}]}, "keep_largest", ""),
        ({"note": []}, "unknown key 'note'", "notes"),
        ({"schema_version": 2}, "schema_version", ""),
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
