from __future__ import annotations

import csv
import json

import numpy as np
import pytest

from autoseg.core.scores import LabelScores, Scores
from autoseg.evaluation import pool_scores
from autoseg.evaluation.summary import summarise
from autoseg.evaluation.tables import score_table, write_scores


def row(dice, hd95_mm=1.5) -> LabelScores:
    iou = None if dice is None else dice / (2 - dice)
    return LabelScores(dice=dice, iou=iou, hd95_mm=hd95_mm, nsd=dice, volume_truth_ml=2.0, volume_predicted_ml=1.0)


@pytest.fixture
def scores() -> Scores:
    cases = {
        "a": {"liver": row(0.9, 3.0), "tumour": row(0.0, None)},
        "b": {"liver": row(0.8, 4.0), "tumour": row(None, None)},
        "c, the third": {"liver": row(0.4, 8.0), "tumour": row(0.5, 2.0)},
    }
    return summarise(cases, label_names=["liver", "tumour"], tolerance_mm=2.0, missing=["d"])


def test_summary_equals_numpy_over_values_that_are_not_null(scores):
    for label, values in (("liver", [0.9, 0.8, 0.4]), ("tumour", [0.0, 0.5])):
        found = scores.summary[label]["dice"]
        assert found.mean == pytest.approx(np.mean(values))
        assert found.std == pytest.approx(np.std(values, ddof=1))
        assert found.median == pytest.approx(np.median(values))
        assert (found.min, found.max, found.cases) == (min(values), max(values), len(values))


def test_groups_are_compared_by_their_mean_dice(scores):
    columns = {"sex": {"a": "f", "b": "m", "c, the third": "m"}, "site": {"a": "x"}}
    found = summarise(scores.cases, label_names=["liver", "tumour"], tolerance_mm=2.0, missing=[], columns=columns)
    sex = found.equity["sex"]
    assert {value: (group.cases, group.mean_dice) for value, group in sex.groups.items()} == {
        "f": (1, pytest.approx((0.9 + 0) / 2)),
        "m": (2, pytest.approx((0.6 + 0.5) / 2)),
    }
    assert sex.gap == pytest.approx(0.1)
    assert sex.equity_scaled == pytest.approx(0.475 / (1 + 0.025 + 0.075))
    assert (found.equity["site"].gap, found.equity["site"].equity_scaled) == (None, None)
    text = score_table(found)
    assert "sex: f 0.4500 (1 case), m 0.5500 (2 cases); gap 0.1000, equity-scaled Dice 0.4318" in text
    assert pool_scores([found], columns=columns) == found.with_changes(missing=[])


def test_mean_dice_gives_each_label_the_same_weight(scores):
    assert scores.mean_dice == pytest.approx((0.7 + 0.25) / 2)


def test_undefined_distances_are_counted_and_two_empty_masks_are_not(scores):
    assert scores.summary["tumour"]["hd95_mm"].cases == 1
    assert scores.summary["tumour"]["n_undefined_hd95"].cases == 1
    assert scores.summary["liver"]["n_undefined_hd95"].cases == 0


def test_no_case_and_one_case_have_no_invented_numbers():
    nothing = summarise({}, label_names=["liver"], tolerance_mm=1.0, missing=[])
    assert nothing.mean_dice is None
    assert nothing.summary["liver"]["dice"].cases == 0
    single = summarise({"a": {"liver": row(0.9)}}, label_names=["liver"], tolerance_mm=1.0, missing=[])
    assert single.summary["liver"]["dice"].std is None
    assert single.summary["liver"]["dice"].mean == 0.9
    assert "0.9000 ± -" in score_table(single)
    assert score_table(nothing)


def test_summary_json_is_strict_and_reads_back_equal(scores, tmp_path):
    write_scores(scores, tmp_path / "new")
    json.loads((tmp_path / "new" / "summary.json").read_text(), parse_constant=lambda name: pytest.fail(name))
    assert Scores.read(tmp_path / "new" / "summary.json") == scores


def test_csv_has_a_row_per_case_and_label_and_nothing_for_null(scores, tmp_path):
    write_scores(scores, tmp_path)
    with open(tmp_path / "scores.csv", newline="", encoding="utf-8") as file:
        rows = [*csv.DictReader(file)]
    assert [(r["case"], r["label"]) for r in rows] == [
        (case, label) for case in ("a", "b", "c, the third") for label in ("liver", "tumour")
    ]
    assert rows[0]["dice"] == "0.9"
    assert rows[3]["dice"] == ""
    assert rows[1]["hd95_mm"] == ""


def test_table_tells_means_counts_and_everything_that_is_not_in_them(scores):
    text = score_table(scores)
    lines = text.splitlines()
    liver = next(line for line in lines if line.startswith("liver"))
    assert liver.split()[1] == "3"
    assert "0.7000 ± 0.2646" in liver
    assert "5.00 ± 2.65" in liver
    assert "mean Dice of 2 labels: 0.4750 (3 cases)" in text
    assert "2 mm tolerance" in text
    assert "tumour: no HD95 in 1 case" in text
    assert "NOT SCORED, 1 case" in text
    assert text.endswith("d")
    assert max(len(line) for line in lines) <= 120


def test_pooled_folds_equal_one_summary_of_all_cases(scores):
    first, second = (
        summarise(
            {case: scores.cases[case] for case in part},
            label_names=["liver", "tumour"],
            tolerance_mm=2.0,
            missing=lost,
        )
        for part, lost in ((("c, the third",), ["d"]), (("a", "b"), []))
    )
    pooled = pool_scores([first, second])
    assert pooled == scores
