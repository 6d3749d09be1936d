"""What the agreement of a label says of its Dice, learnt from out-of-fold cases: calibrate(scores, agreements)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from autoseg.core.scores import LabelScores
from autoseg.core.trust import NORMAL_QUANTILE, LabelCalibration, Trust, TrustQuality, logit, share

Vector = NDArray[np.float64]
# As if so many more cases had shown that Dice equals agreement: two each a logit above and below the others.
PSEUDO_CASES = 4
# As if so many more cases had lain this far from the line (in logits; from 0.9 to 0.82 or 0.95).
SPREAD_CASES, USUAL_SPREAD = 3, 0.7


def calibrate(
    scores: Mapping[str, Mapping[str, LabelScores]], agreements: Mapping[str, Mapping[str, float | None]]
) -> Trust | None:
    """Fit every label's Dice to its agreement, and measure how well that foretells cases that were left out.

    Args:
        scores: case -> label -> scores of out-of-fold predictions.
        agreements: case -> label -> agreement of the same predictions, None where no voxel had the label.

    Returns:
        None where no case has both.
    """
    labels: dict[str, LabelCalibration] = {}
    told: list[tuple[str, float, float, float, float, float]] = []  # case; real, expected, low, high, mean of others
    for name in dict.fromkeys(name for rows in scores.values() for name in rows):
        pairs = {
            case: (float(value), rows[name].dice or 0.0)
            for case, rows in scores.items()
            if name in rows and rows[name].dice is not None
            if (value := agreements.get(case, {}).get(name)) is not None
        }
        if not pairs:
            continue
        agreement, dice = (np.array(column) for column in zip(*pairs.values(), strict=True))
        x, y = logit(agreement), logit(dice)
        without = leave_one_out(x, y)
        offset, slope = _line(x, y)
        present = [rows[name].volume_truth_ml > 0 for rows in scores.values() if name in rows]
        labels[name] = LabelCalibration(
            offset=round(offset, 6),
            slope=round(slope, 6),
            spread=round(_spread(y - without), 6),
            cases=len(pairs),
            always_present=all(present),
        )
        if len(pairs) > 1:
            told += _told(list(pairs), dice, y, without)
    return Trust(labels=labels, quality=_quality(told)) if labels else None


def leave_one_out(x: Vector, y: Vector) -> Vector:
    """For each case the y that the line through all others expects at its x."""
    others = ~np.eye(len(x), dtype=bool)
    lines = [_line(x[kept], y[kept]) for kept in others]
    return np.array([offset + slope * value for (offset, slope), value in zip(lines, x, strict=True)])


def spearman(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Rank correlation; None for fewer than three pairs, or where one side never changes."""
    if len(first) < 3 or len({*first}) < 2 or len({*second}) < 2:
        return None
    return float(np.corrcoef(rankdata(first), rankdata(second))[0, 1])


def _line(x: Vector, y: Vector) -> tuple[float, float]:
    """Offset and slope of the least squares line through the cases and the pseudo-cases; it never falls."""
    middle = float(x.mean()) if len(x) else 0.0
    further = middle + np.repeat([-1.0, 1.0], PSEUDO_CASES // 2)
    every_x, every_y = np.concatenate([x, further]), np.concatenate([y, further])
    from_middle = every_x - every_x.mean()
    slope = max(0.0, float(from_middle @ every_y / (from_middle @ from_middle)))
    return float(every_y.mean() - slope * every_x.mean()), slope


def _spread(residuals: Vector) -> float:
    squares = float((residuals**2).sum()) + SPREAD_CASES * USUAL_SPREAD**2
    return float(np.sqrt(squares / (len(residuals) + SPREAD_CASES)))


def _told(
    cases: list[str], dice: Vector, y: Vector, without: Vector
) -> list[tuple[str, float, float, float, float, float]]:
    """Per case what would have been told of it, had it not been among those that were fitted."""
    residuals = y - without
    rows = []
    for i, case in enumerate(cases):
        margin = NORMAL_QUANTILE * _spread(np.delete(residuals, i))
        low, expected, high = (float(share(without[i] + shift)) for shift in (-margin, 0, margin))
        rows.append((case, float(dice[i]), expected, low, high, float(np.delete(dice, i).mean())))
    return rows


def _quality(told: list[tuple[str, float, float, float, float, float]]) -> TrustQuality:
    if not told:
        nothing = dict.fromkeys(("mean_absolute_error", "error_without", "rank_correlation", "in_interval"))
        return TrustQuality(cases=0, pairs=0, **nothing)
    cases = list(dict.fromkeys(row[0] for row in told))
    real, expected, low, high, mean = (np.array(column) for column in list(zip(*told, strict=True))[1:])
    of_case = [np.array([row[0] == case for row in told]) for case in cases]
    correlation = spearman([expected[own].mean() for own in of_case], [real[own].mean() for own in of_case])
    return TrustQuality(
        cases=len(cases),
        pairs=len(told),
        mean_absolute_error=round(float(np.abs(expected - real).mean()), 4),
        error_without=round(float(np.abs(mean - real).mean()), 4),
        rank_correlation=None if correlation is None else round(correlation, 4),
        in_interval=round(float(((low <= real) & (real <= high)).mean()), 4),
    )
