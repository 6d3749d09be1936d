from __future__ import annotations

import numpy as np
import pytest

from autoseg.core.scores import LabelScores, Scores
from autoseg.evaluation.audit import suspects
from autoseg.evaluation.summary import summarise


def row(dice: float | None, truth_ml: float = 10.0, predicted_ml: float = 10.0) -> LabelScores:
    return LabelScores(
        dice=dice, iou=None, hd95_mm=None, nsd=None, volume_truth_ml=truth_ml, volume_predicted_ml=predicted_ml
    )


def scores(**odd: dict[str, LabelScores]) -> Scores:
    rng = np.random.default_rng(0)
    cases = {
        f"c{i}": {"easy": row(0.95 + rng.normal(0, 0.01)), "hard": row(0.6 + rng.normal(0, 0.1))} for i in range(30)
    }
    return summarise({**cases, **odd}, label_names=["easy", "hard"], tolerance_mm=1.0, missing=[])


def test_what_is_unusual_for_its_label_comes_first_and_what_is_hard_everywhere_does_not() -> None:
    found = suspects(
        scores(
            swapped={"easy": row(0.0), "hard": row(0.55)},
            forgotten={"easy": row(0.7, 4.0, 10.0), "hard": row(0.62)},
            hard_one={"easy": row(0.95), "hard": row(0.45)},
        )
    )
    assert [(one.case, one.label) for one in found[:2]] == [("swapped", "easy"), ("forgotten", "easy")]
    assert max(one.surprise for one in found[2:]) < 3
    assert found[0].usual == pytest.approx(0.95, abs=0.01)
    assert found[0].surprise > found[1].surprise > 3
    assert found[1].seen == "2.5 times as much predicted as drawn"


@pytest.mark.parametrize(
    ("one", "seen"),
    [
        (row(0.0, 0.0, 5.0), "predicted, and not drawn at all"),
        (row(0.0, 5.0, 0.0), "drawn, and not predicted at all"),
        (row(0.0, 5.0, 5.0), "drawn in one place and predicted in another"),
        (row(0.4, 10.0, 3.0), "70% less predicted than drawn"),
        (row(0.4, 10.0, 11.0), "about as much predicted as drawn, but elsewhere"),
    ],
)
def test_what_is_seen_is_told_in_words(one: LabelScores, seen: str) -> None:
    found, *_ = suspects(scores(odd={"easy": one, "hard": row(None)}))
    assert (found.case, found.seen) == ("odd", seen)


def test_equal_cases_and_no_case_are_no_surprise() -> None:
    same = {f"c{i}": {"easy": row(0.9)} for i in range(5)}
    assert suspects(summarise(same, label_names=["easy"], tolerance_mm=1.0, missing=[])) == []
    assert suspects(summarise({}, label_names=["easy"], tolerance_mm=1.0, missing=[])) == []


def test_only_so_many_are_named() -> None:
    odd = {f"odd{i}": {"easy": row(0.3 + i / 100)} for i in range(8)}
    found = suspects(scores(**odd), most=3)
    assert [one.case for one in found] == ["odd0", "odd1", "odd2"]
