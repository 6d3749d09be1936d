"""A channel whose name and intensities contradict each other is reported; all others are not."""

from __future__ import annotations

import pytest

from autoseg.core.fingerprint import Fingerprint
from autoseg.fingerprinting.channels import doubtful_channels

INTENSITIES = {"mean": 1, "median": 1, "std": 1, "min": 0, "max": 9, "percentile_00_5": 0, "percentile_99_5": 8}


def measured(*ranges: tuple[float, float]) -> Fingerprint:
    return Fingerprint(
        spacings=[(1, 1, 1)] * len(ranges),
        shapes_after_crop=[(9, 9, 9)] * len(ranges),
        foreground_intensity_properties_per_channel={"0": INTENSITIES},
        median_relative_size_after_cropping=1,
        ranges={"0": list(ranges)},
    )


@pytest.mark.parametrize(
    ("name", "ranges", "words"),
    [
        ("CT", (-1024, 3071), ""),
        ("ct", (-1207, 3382), ""),
        ("CT", (-3024, 2000), ""),
        ("CT", (-250, 300), ""),  # clipped to a window
        ("CT", (0, 4095), "holds no Hounsfield units in 3 of 3 cases (0 to 4095)"),
        ("CT", (0, 1), "holds no Hounsfield units"),
        ("CT", (-1024, -500), "holds no Hounsfield units"),
        ("CT", (-32768, 3000), "holds no Hounsfield units"),
        ("MR", (0, 1700000), ""),
        ("MR", (-47, 833), ""),
        ("zscore", (-3.2, 11), ""),
        ("CBCT", (-1000, 2500), "looks like a CT in 3 of 3 cases (-1000 to 2500)"),
    ],
)
def test_names_are_checked_against_intensities(name: str, ranges: tuple[float, float], words: str) -> None:
    warnings = doubtful_channels([name], measured(ranges, ranges, ranges))
    assert [words in w.found for w in warnings] == [True] * bool(words)


def test_a_single_odd_case_is_no_reason() -> None:
    assert doubtful_channels(["CT"], measured((0, 255), (-1000, 2000), (-1024, 3000))) == []


def test_a_fingerprint_without_ranges_is_not_judged() -> None:
    assert doubtful_channels(["CT"], measured((0, 255)).with_changes(ranges={})) == []
