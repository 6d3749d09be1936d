"""A fingerprint file is autoseg's or nnU-Net's; what cannot be planned from is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from autoseg.core.errors import DataError
from autoseg.core.fingerprint import Fingerprint

# The keys of nnU-Net's dataset_fingerprint.json; it has no others.
THEIRS: dict[str, Any] = {
    "spacings": [[3.0, 1.0, 1.0], [2.0, 1.0, 1.0]],
    "shapes_after_crop": [[10, 20, 20], [12, 30, 30]],
    "foreground_intensity_properties_per_channel": {
        "0": {
            "max": 9.0,
            "mean": 2.0,
            "median": 2.0,
            "min": -1.0,
            "percentile_00_5": -0.5,
            "percentile_99_5": 8.0,
            "std": 1.0,
        }
    },
    "median_relative_size_after_cropping": 1.0,
}


def read(facts: Any, folder: Path) -> Fingerprint:
    (folder / "fingerprint.json").write_text(json.dumps(facts))
    return Fingerprint.read(folder / "fingerprint.json")


def test_nnunets_file_is_read(tmp_path: Path) -> None:
    found = read(THEIRS, tmp_path)
    assert found.spacings[0] == (3.0, 1.0, 1.0)
    assert found.shapes_after_crop[1] == (12, 30, 30)
    assert found.foreground_intensity_properties_per_channel["0"].percentile_99_5 == 8
    assert (found.cases, found.labels, found.key) == ([], {}, "")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"spacings": []}, "'spacings'"),
        ({"spacings": [[1, 1, 1]]}, "1 spacings but 2 shapes_after_crop"),
        ({"spacings": [[1, 1, 1], [1, 0, 1]]}, "must be positive"),
        ({"spacings": [[1, 1, 1], [1, 1]]}, "'spacings.1.2' is missing"),
        ({"shapes_after_crop": [[1, 1, 1], [1, -4, 1]]}, "must be positive"),
        ({"shapes_after_crop": [[1, 1, 1], [1, 1.5, 1]]}, "'shapes_after_crop.1.1'"),
        ({"median_relative_size_after_cropping": 0}, "'median_relative_size_after_cropping'"),
        ({"median_relative_size_after_cropping": 1.5}, "'median_relative_size_after_cropping'"),
        ({"spacing": [[1, 1, 1]]}, "unknown key 'spacing' (line 1); did you mean 'spacings'?"),
        ({"foreground_intensity_properties_per_channel": {"0": {"mean": 1}}}, "0.median' is missing"),
    ],
)
def test_what_cannot_be_planned_from_is_refused(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(DataError) as caught:
        read({**THEIRS, **changes}, tmp_path)
    assert words in str(caught.value)
