"""How far a prediction may be trusted: what Dice to expect of it, and how well that is known."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from autoseg.core.records import Record

EXTREME = 1e-3  # shares nearer to 0 or 1 count as this: their logits would be infinite
STEEPEST = 50.0  # of a line between logits, which lie within 7 of 0
INTERVAL = 0.8  # of the cases, whose Dice lies between `low` and `high`
NORMAL_QUANTILE = 1.2816  # of that interval


def logit(share: NDArray[np.float64] | float) -> NDArray[np.float64]:
    """log(p / (1 - p)) of shares in [0, 1], kept finite."""
    kept = np.clip(np.asarray(share, dtype=np.float64), EXTREME, 1 - EXTREME)
    logits: NDArray[np.float64] = np.log(kept / (1 - kept))
    return logits


def share(logits: NDArray[np.float64] | float) -> NDArray[np.float64]:
    """The inverse of `logit`."""
    shares: NDArray[np.float64] = 1 / (1 + np.exp(-np.clip(logits, -50, 50)))
    return shares


class ExpectedDice(Record):
    """The Dice to expect of a label; the real one lies between `low` and `high` in four of five cases."""

    dice: float = Field(ge=0, le=1)
    low: float = Field(ge=0, le=1)
    high: float = Field(ge=0, le=1)


class LabelCalibration(Record):
    """What the agreement of a label says of its Dice: logit(Dice) = offset + slope * logit(agreement).

    `spread` is the standard deviation of out-of-fold cases from that line, in logits. `always_present`: every one of
    these cases had the label.
    """

    offset: float = Field(ge=-STEEPEST, le=STEEPEST)
    slope: float = Field(ge=0, le=STEEPEST)
    spread: float = Field(ge=0, le=STEEPEST)
    cases: int = Field(ge=1)
    always_present: bool

    def expected(self, agreement: float | None) -> ExpectedDice | None:
        """The Dice to expect; `agreement` is None of a label that was not found anywhere in an image."""
        if agreement is None:
            return ExpectedDice(dice=0, low=0, high=0) if self.always_present else None
        middle = self.offset + self.slope * float(logit(agreement))
        margin = NORMAL_QUANTILE * self.spread
        low, dice, high = (round(float(share(middle + shift)), 4) for shift in (-margin, 0, margin))
        return ExpectedDice(dice=dice, low=low, high=high)


class TrustQuality(Record):
    """How well the Dice of out-of-fold cases is foretold, each case by a calibration on the others.

    Means are over all pairs of case and label. `error_without` is the error of who always tells the mean Dice of the
    label; `rank_correlation` is Spearman's between the expected and the real mean Dice of a case; `in_interval` is the
    share of real values between low and high, of which four fifths are promised.
    """

    cases: int
    pairs: int
    mean_absolute_error: float | None
    error_without: float | None
    rank_correlation: float | None
    in_interval: float | None


class Trust(Record):
    """trust.json of a results folder: per label how to tell its Dice, and how well that works."""

    labels: dict[str, LabelCalibration]
    quality: TrustQuality


class Agreements(Record):
    """agreement.json of a fold's validation: case -> label -> agreement, null where the label was not found.

    `made_from` is a hash of the weights that answered.
    """

    made_from: str
    cases: dict[str, dict[str, float | None]]


class CaseTrust(Record):
    """What prediction.json says of a case.

    `out_of_distribution` is its distance from the training images in the features of the networks, 1 being what only
    one in twenty unseen usual images exceeds; None where nobody measured them.
    """

    out_of_distribution: float | None
    mean_expected_dice: float | None
    expected_dice: dict[str, ExpectedDice]
    agreement: dict[str, float | None]

    @property
    def doubts(self) -> list[str]:
        """Sentences for a person who should look at the result."""
        score = self.out_of_distribution
        if score is None or score <= 1:
            return []
        return [f"the image is unlike those of the training (score {score:.2g}, usual ones stay below 1)"]


def mean_expected(expected: Mapping[str, ExpectedDice]) -> float | None:
    """Mean over labels; None without any."""
    return round(float(np.mean([one.dice for one in expected.values()])), 4) if expected else None
