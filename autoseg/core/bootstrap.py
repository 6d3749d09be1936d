"""How sure a mean over cases is."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 2000


def confidence_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """95 % confidence interval of the mean by the percentile bootstrap; None for fewer than two values.

    The same values give the same interval.
    """
    if len(values) < 2:
        return None
    means = _weights(len(values)) @ np.asarray(values, dtype=np.float64)
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


@lru_cache(maxsize=4)
def _weights(n: int) -> NDArray[np.float64]:
    """How much each of n values counts in each resample, (RESAMPLES, n); rows have the sum 1."""
    drawn = np.random.default_rng(0).integers(n, size=(RESAMPLES, n)) + n * np.arange(RESAMPLES)[:, None]
    weights: NDArray[np.float64] = np.bincount(drawn.ravel(), minlength=RESAMPLES * n).reshape(RESAMPLES, n) / n
    return weights
