"""Left and right are mirrored only where that makes sense."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from autoseg.core.declaration import DatasetJson
from autoseg.core.fingerprint import Fingerprint, LabelStatistics
from autoseg.core.labels import LabelScheme
from autoseg.planning import plan
from autoseg.planning.mirroring import mirroring

MakeFingerprint = Callable[..., Fingerprint]
Decide = Callable[..., tuple[bool, list[tuple[str, str]]]]
KIDNEYS = {"background": 0, "left_kidney": 1, "right_kidney": 2}


def statistics(volume_ml: float, side_mm: float) -> LabelStatistics:
    return LabelStatistics(cases=3, mean_volume_ml=volume_ml, mean_side_mm=side_mm)


@pytest.fixture
def decide(make_fingerprint: MakeFingerprint) -> Decide:
    """decide(declared labels, measured labels) -> (whether left-right may be mirrored, pairs)."""

    def of(declared: dict[str, Any], measured: dict[str, LabelStatistics]) -> tuple[bool, list[tuple[str, str]]]:
        may, pairs, reason = mirroring(LabelScheme(declared=declared), make_fingerprint(labels=measured))
        assert reason
        return may, pairs

    return of


def test_labels_without_sides_may_be_mirrored(decide: Decide) -> None:
    assert decide({"background": 0, "liver": 1}, {}) == (True, [])


def test_mirror_images_change_places(decide: Decide) -> None:
    measured = {"left_kidney": statistics(150, 60), "right_kidney": statistics(140, -55)}
    assert decide(KIDNEYS, measured) == (True, [("left_kidney", "right_kidney")])


@pytest.mark.parametrize(
    "measured",
    [
        {},  # never measured
        {"left_kidney": statistics(150, 60)},
        {"left_kidney": statistics(150, 60), "right_kidney": statistics(70, -55)},  # too small
        {"left_kidney": statistics(0, 60), "right_kidney": statistics(0, -55)},
        {"left_kidney": statistics(150, -60), "right_kidney": statistics(140, 55)},  # on the wrong side
    ],
)
def test_names_alone_do_not_convince(decide: Decide, measured: dict[str, LabelStatistics]) -> None:
    assert decide(KIDNEYS, measured) == (False, [])


def test_one_side_without_partner_forbids_it_for_all(decide: Decide) -> None:
    measured = {name: statistics(100, side) for name, side in [("left_kidney", 9), ("right_kidney", -9)]}
    assert decide({**KIDNEYS, "left_atrium": 3}, {**measured, "left_atrium": statistics(5, 1)}) == (False, [])


def test_regions_that_tell_sides_are_not_mirrored(decide: Decide) -> None:
    declared = {"background": 0, "left": (1, 3), "right": (2, 3)}
    measured = {"left": statistics(10, 9), "right": statistics(10, -9)}
    assert decide(declared, measured) == (False, [])
    assert decide({"background": 0, "whole": (1, 2), "core": (2,)}, {}) == (True, [])


@pytest.mark.parametrize(
    ("spacing", "axes_3d", "axes_2d", "pairs_2d"),
    [
        ((3, 1, 1), [0, 1], [0], True),  # the last axis is left-right
        ((1, 1, 3), [1, 2], [0, 1], False),  # it became the first, which 2d patches lack
    ],
)
def test_the_plan_leaves_out_the_left_right_axis_wherever_it_went(
    make_fingerprint: MakeFingerprint,
    spacing: tuple[float, ...],
    axes_3d: list[int],
    axes_2d: list[int],
    pairs_2d: bool,
) -> None:
    place = {"spacings": [spacing] * 6, "shapes_after_crop": [(64, 64, 64)] * 6}
    declaration = DatasetJson(channel_names={"0": "CT"}, labels={"background": 0, "left_lung": 1}, file_ending=".nrrd")
    made = plan(make_fingerprint(**place), declaration, dataset="D")
    assert made.configuration("3d_fullres").mirror_axes == axes_3d
    assert made.configuration("2d").mirror_axes == axes_2d
    paired = DatasetJson(channel_names={"0": "CT"}, labels=KIDNEYS, file_ending=".nrrd")
    measured = {"left_kidney": statistics(150, 60), "right_kidney": statistics(140, -55)}
    made = plan(make_fingerprint(**place, labels=measured), paired, dataset="D")
    assert made.configuration("3d_fullres").mirror_axes == [0, 1, 2]
    assert made.configuration("3d_fullres").mirror_label_pairs == [("left_kidney", "right_kidney")]
    assert bool(made.configuration("2d").mirror_label_pairs) is pairs_2d
