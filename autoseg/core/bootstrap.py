"""How sure a mean over cases is."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

RESAMPLES = 2000


def confidence_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """95 % confidence interval of the mean by the percentile bootstrap; None for fewer than two values.

    The same values give the same interval.
    """
    if len(values) < 2:
        return None
    drawn = np.random.default_rng(0).integers(len(values), size=(RESAMPLES, len(values)))
    low, high = np.percentile(np.asarray(values, dtype=np.float64)[drawn].mean(axis=1), [2.5, 97.5])
    return float(low), float(high)
