"""What the training images had, against numpy; what is unusual, by hand and by a rule written another way."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoseg.core.fingerprint import Fingerprint, Intensities, Seen, SeenIntensities
from autoseg.prediction.unusual import unusual

CT = SeenIntensities(lowest=-1024, highest_minimum=-1000, lowest_maximum=1200, highest=3072)
SEEN = Seen(
    cases=5,
    spacing_mm=[(1.5, 6.0), (0.5, 0.9), (0.5, 0.9)],
    extent_mm=[(90.0, 400.0), (200.0, 450.0), (200.0, 450.0)],
    intensities=[CT],
    orientations=["LAS", "LPS"],
    largest_tilt_deg=10.0,
)
USUAL: dict[str, Any] = {
    "spacing_mm": (3.0, 0.7, 0.7),
    "extent_mm": (200.0, 300.0, 300.0),
    "ranges": [(-1010.0, 2000.0)],
    "orientation": "LPS",
    "tilt_deg": 0.0,
    "normalization": ["ct"],
}

Sizes = tuple[int, int, int]
Lengths = tuple[float, float, float]
Case = tuple[Lengths, Sizes, tuple[float, float], tuple[float, float]]
value = st.floats(-3000, 3000)
bounds = st.tuples(value, value).map(lambda pair: (min(pair), max(pair)))
a_case = st.tuples(st.tuples(*[st.floats(0.1, 10)] * 3), st.tuples(*[st.integers(1, 600)] * 3), bounds, bounds)


def fingerprint(cases: list[Case], *, channels: int = 2) -> Fingerprint:
    numbers = Intensities(mean=0, median=0, std=1, min=-1, max=1, percentile_00_5=-1, percentile_99_5=1)
    return Fingerprint(
        spacings=[spacing for spacing, *_ in cases],
        shapes_after_crop=[shape for _, shape, *_ in cases],
        foreground_intensity_properties_per_channel={str(i): numbers for i in range(channels)},
        median_relative_size_after_cropping=1.0,
        ranges={str(i): [case[2 + i] for case in cases] for i in range(channels)},
    )


@settings(max_examples=60, deadline=None)
@given(st.lists(a_case, min_size=1, max_size=6))
def test_seen_holds_the_ranges_of_all_cases(cases: list[Case]) -> None:
    seen = fingerprint(cases).seen
    assert seen.cases == len(cases)
    spacings, shapes = np.array([case[0] for case in cases]), np.array([case[1] for case in cases])
    assert np.array_equal(seen.spacing_mm, np.stack([spacings.min(axis=0), spacings.max(axis=0)], axis=1))
    extents = spacings * shapes
    np.testing.assert_allclose(seen.extent_mm, np.stack([extents.min(axis=0), extents.max(axis=0)], axis=1), rtol=1e-12)
    for channel, found in enumerate(seen.intensities):
        ranges = np.array([case[2 + channel] for case in cases])
        assert (found.lowest, found.highest_minimum) == (ranges[:, 0].min(), ranges[:, 0].max())
        assert (found.lowest_maximum, found.highest) == (ranges[:, 1].min(), ranges[:, 1].max())
    assert len(seen.intensities) == 2


@settings(max_examples=60, deadline=None)
@given(st.lists(a_case, min_size=1, max_size=5))
def test_no_training_image_is_unusual(cases: list[Case]) -> None:
    seen = fingerprint(cases).seen
    for spacing, shape, *ranges in cases:
        extent = [n * mm for n, mm in zip(shape, spacing, strict=True)]
        scheme = ["ct", "none"]
        facts = {"spacing_mm": spacing, "extent_mm": extent, "ranges": ranges, "normalization": scheme}
        assert unusual(seen, **{**USUAL, **facts}) == []


def test_channels_come_in_the_order_of_their_numbers() -> None:
    ranges = {str(i): [(float(i), i + 0.5)] for i in reversed(range(12))}
    made = fingerprint([((1, 1, 1), (1, 1, 1), (0, 0), (0, 0))]).model_copy(update={"ranges": ranges})
    assert [found.lowest for found in made.seen.intensities] == [*range(12)]


def test_a_fingerprint_without_ranges_knows_no_intensities() -> None:
    made = fingerprint([((1, 2, 3), (4, 5, 6), (0, 0), (0, 0))]).model_copy(update={"ranges": {}})
    assert made.seen == Seen(cases=1, spacing_mm=[(1, 1), (2, 2), (3, 3)], extent_mm=[(4, 4), (10, 10), (18, 18)])
    ranges = [(-1e9, 1e9)]
    assert unusual(made.seen, **{**USUAL, "spacing_mm": (1, 2, 3), "extent_mm": (4, 10, 18), "ranges": ranges}) == []


def test_orientations_and_tilts_are_known_where_they_were_measured() -> None:
    cases: list[Case] = [((1, 1, 1), (1, 1, 1), (0, 0), (0, 0))] * 3
    measured = {"orientations": ["RAS", "LPS", "RAS"], "tilts_deg": [0.0, 12.5, 3.0]}
    seen = fingerprint(cases).model_copy(update=measured).seen
    assert (seen.orientations, seen.largest_tilt_deg) == (["LPS", "RAS"], 12.5)
    seen = fingerprint(cases).seen
    assert (seen.orientations, seen.largest_tilt_deg) == ([], None)


def test_seen_survives_a_file() -> None:
    assert Seen.model_validate_json(SEEN.model_dump_json()) == SEEN


@pytest.mark.parametrize(
    ("facts", "sentence"),
    [
        ({}, None),
        ({"spacing_mm": (9.0, 0.7, 0.7)}, None),
        ({"spacing_mm": (1.0, 0.7, 0.7)}, None),
        ({"spacing_mm": (9.01, 0.7, 0.7)}, "spacing along z is 9.01 mm; training images had 1.5 to 6 mm"),
        ({"spacing_mm": (0.99, 0.7, 0.7)}, "spacing along z is 0.99 mm; training images had 1.5 to 6 mm"),
        ({"spacing_mm": (3.0, 1.36, 0.7)}, "spacing along y is 1.36 mm; training images had 0.5 to 0.9 mm"),
        ({"spacing_mm": (3.0, 0.7, 0.33)}, "spacing along x is 0.33 mm; training images had 0.5 to 0.9 mm"),
        ({"extent_mm": (45.0, 100.0, 900.0)}, None),
        ({"extent_mm": (44.0, 300.0, 300.0)}, "the image measures 44 mm along z; training images measured 90"),
        ({"extent_mm": (200.0, 901.0, 300.0)}, "the image measures 901 mm along y; training images measured 200"),
        ({"extent_mm": (200.0, 300.0, 99.4)}, "the image measures 99 mm along x; training images measured 200"),
        # a quarter of 4096 may be missing or too much
        ({"ranges": [(-2048.0, 4096.0)]}, None),
        ({"ranges": [(-2049.0, 2000.0)]}, "intensities of channel 0 are -2049 to 2000; those of training images"),
        (
            {"ranges": [(-1000.0, 4097.0)]},
            "channel 0 are -1000 to 4097; those of training images are -1024 to 307",
        ),
        ({"ranges": [(24.0, 176.0)]}, None),
        ({"ranges": [(25.0, 2000.0)]}, "intensities of channel 0 are 25 to 2000"),
        ({"ranges": [(-1000.0, 175.0)]}, "intensities of channel 0 are -1000 to 175"),
        ({"orientation": "LAS"}, None),
        ({"orientation": "RAS"}, "the image is stored as RAS, training images as LAS, LPS; it is turned"),
        ({"tilt_deg": 25.0}, None),
        ({"tilt_deg": 25.6}, "axes are tilted by 26 degrees; those of training images by up to 10"),
    ],
)
def test_only_what_lies_far_out_is_told(facts: dict[str, Any], sentence: str | None) -> None:
    found = unusual(SEEN, **{**USUAL, **facts})
    if sentence is None:
        assert found == []
    else:
        assert len(found) == 1
        assert sentence in found[0]


@pytest.mark.parametrize(
    ("scheme", "silent"), [("zscore", True), ("rescale_0_1", True), ("ct", False), ("none", False), ("rgb_0_1", False)]
)
def test_intensities_count_where_they_have_a_scale(scheme: str, silent: bool) -> None:
    found = unusual(SEEN, **{**USUAL, "ranges": [(0.0, 1e6)], "normalization": [scheme]})
    assert (found == []) == silent


def test_channels_are_judged_by_themselves() -> None:
    relative = SeenIntensities(lowest=0, highest_minimum=0, lowest_maximum=10, highest=20)
    seen = SEEN.model_copy(update={"intensities": [relative, CT, CT]})
    ranges = [(0.0, 1e6), (-1000.0, 2000.0), (0.0, 1e6)]
    found = unusual(seen, **{**USUAL, "ranges": ranges, "normalization": ["zscore", "ct", "ct"]})
    assert [sentence.partition(" are ")[0] for sentence in found] == ["intensities of channel 2"]


def test_everything_is_told_in_order() -> None:
    facts = {"spacing_mm": (99, 99, 99), "extent_mm": (1, 1, 1), "ranges": [(0, 1e6)]}
    found = unusual(SEEN, **{**USUAL, **facts, "orientation": "RPI", "tilt_deg": 40.0})
    assert [sentence.split()[0] for sentence in found] == ["spacing"] * 3 + ["the"] * 3 + ["intensities"] + ["the"] * 2
    assert ["along z" in s or "along y" in s or "along x" in s for s in found] == [True] * 6 + [False] * 3


@settings(max_examples=150, deadline=None)
@given(st.lists(a_case, min_size=1, max_size=4), a_case)
def test_any_image_is_judged_by_ratios(cases: list[Case], case: Case) -> None:
    """The same rule, written with logarithms and distances, wherever a property is not just at its bound."""
    spacing, shape, *ranges = case
    extent = np.array(spacing) * shape
    facts = {"spacing_mm": spacing, "extent_mm": extent, "ranges": ranges, "normalization": ["ct", "none"]}
    sentences = unusual(fingerprint(cases).seen, **{**USUAL, **facts})
    spacings = np.log([c[0] for c in cases])
    extents = spacings + np.log([c[1] for c in cases])
    expected = []
    for own, known, factor in ((np.log(spacing), spacings, 1.5), (np.log(extent), extents, 2.0)):
        beyond = np.maximum(known.min(axis=0) - own, own - known.max(axis=0)) - np.log(factor)
        expected += [*beyond]
    for channel, (low, high) in enumerate(ranges):
        lows, highs = np.array([c[2 + channel] for c in cases]).T
        margin = (highs.max() - lows.min()) / 4
        expected.append(max(low - lows.max(), highs.min() - high, lows.min() - low, high - highs.max()) - margin)
    sure = np.abs(expected) > 1e-9
    names = [*(f"spacing along {a}" for a in "zyx"), *(f"mm along {a};" for a in "zyx"), "channel 0", "channel 1"]
    told = np.array([any(name in sentence for sentence in sentences) for name in names])
    assert np.array_equal(told[sure], np.array(expected)[sure] > 0)
