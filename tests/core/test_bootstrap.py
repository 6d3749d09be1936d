from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import bootstrap

from autoseg.core.bootstrap import confidence_interval


def test_confidence_interval_equals_scipys_bootstrap_up_to_chance():
    values = np.random.default_rng(0).normal(0.8, 0.1, 40)
    low, high = confidence_interval(values)
    wanted = bootstrap((values,), np.mean, n_resamples=20000, method="percentile", rng=1).confidence_interval
    assert (low, high) == pytest.approx((wanted.low, wanted.high), abs=2e-3)
    assert confidence_interval(values) == (low, high)
    assert confidence_interval([0.5]) is None
    assert confidence_interval([0.5, 0.5, 0.5]) == pytest.approx((0.5, 0.5))
