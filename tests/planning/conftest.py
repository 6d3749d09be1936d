"""Fingerprints made by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from autoseg.core.fingerprint import Fingerprint, Intensities


@pytest.fixture(scope="session")
def make_fingerprint() -> Callable[..., Fingerprint]:
    """Builds the fingerprint of six cases of 60 x 200 x 200 voxels with thick slices; fields can be given."""
    return _fingerprint


def _fingerprint(**changes: Any) -> Fingerprint:
    intensities = Intensities(mean=1, median=1, std=1, min=0, max=9, percentile_00_5=0, percentile_99_5=8)
    facts = {
        "spacings": [(2.0, 0.8, 0.8)] * 6,
        "shapes_after_crop": [(60, 200, 200)] * 6,
        "foreground_intensity_properties_per_channel": {"0": intensities},
        "median_relative_size_after_cropping": 1.0,
    }
    return Fingerprint.model_validate({**facts, **changes})
