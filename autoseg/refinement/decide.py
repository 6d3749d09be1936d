"""Which steps the cross-validation justifies, and what they gain on cases that they were not chosen on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from autoseg.core.bootstrap import confidence_interval
from autoseg.core.strategy import Change, Honest, Step, Trial
from autoseg.refinement.count_case import PLAIN, TRIMMED, Counts
from autoseg.refinement.options import OPTIONS

Dice = NDArray[np.float64]  # (cases, 2, options, labels), NaN where a case has neither truth nor prediction
LEAST_GAIN = 1e-9  # of a mean Dice: less is rounding


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Whether all labels together are reduced to their largest part first, and the number of the option per label."""

    together: bool
    options: tuple[int, ...]

    def of(self, dice: Dice) -> Dice:
        """Dice (cases, labels) of this choice."""
        return dice[:, int(self.together), list(self.options), range(len(self.options))]


@dataclass(frozen=True, kw_only=True)
class Decision:
    """Steps, the mean Dice of all cases with them, what was tried, and the honest gain."""

    steps: list[Step]
    promised: float | None
    trials: list[Trial]
    honest: Honest


def choose_steps(dice: Dice, *, overlapping: bool) -> Choice:
    """The best choice on these cases.

    The largest part of all labels together is taken where the mean Dice over labels improves and that of no label gets
    worse (nnU-Net's rule, 2.8.1). After that each label gets the option with its best mean Dice, the first of equals.
    Of a single label the first step is one of its options.

    Args:
        dice: of the cases to choose on.
        overlapping: the labels are regions; then only the first step is tried.
    """
    n_labels = dice.shape[3]
    before, after = (_means(dice[:, state, 0]) for state in (PLAIN, TRIMMED))
    together = (
        (overlapping or n_labels > 1)
        and _mean(after) > _mean(before) + LEAST_GAIN
        and not (after < before - LEAST_GAIN).any()
    )
    options = []
    for label in range(n_labels):
        means = [_mean(_means(dice[:, int(together), option, [label]])) for option in range(len(OPTIONS))]
        better = [option for option, mean in enumerate(means) if mean > means[0] + LEAST_GAIN]
        best = max((means[option] for option in better), default=0.0)
        first = next((option for option in better if means[option] > best - LEAST_GAIN), 0)
        options.append(0 if overlapping else first)
    return Choice(together=bool(together), options=tuple(options))


def decide(counts: Sequence[Counts], folds: Sequence[int], *, names: Sequence[str], overlapping: bool) -> Decision:
    """Choose steps on all cases, and keep them unless choosing like this harms cases that were not looked at.

    Args:
        counts: of every case.
        folds: of every case, the fold that it was validated in: its honest Dice is that of steps chosen without the
            cases of that fold.
        names: of the labels, in the order of dataset.json.
        overlapping: the labels are regions.
    """
    dice = np.stack([case.dice for case in counts])
    chosen = choose_steps(dice, overlapping=overlapping)
    plain = Choice(together=False, options=(0,) * len(names))
    nested = plain.of(dice).copy()
    apart = len(set(folds)) > 1
    for fold in set(folds) if apart else ():
        inside = np.array([other == fold for other in folds])
        nested[inside] = choose_steps(dice[~inside], overlapping=overlapping).of(dice[inside])
    before, after = _mean(_means(plain.of(dice))), _mean(_means(nested))
    gains = [_mean(now) - _mean(then) for now, then in zip(nested, plain.of(dice), strict=True)]
    interval = confidence_interval([gain for gain in gains if not np.isnan(gain)])
    measured = {"after": _known(after), "ci95": interval} if apart else {"after": None, "ci95": None}
    honest = Honest(cases=len(counts), before=_known(before), **measured)
    accepted = not after < before - LEAST_GAIN
    trials = _trials(dice, chosen, names=names, overlapping=overlapping, accepted=accepted)
    return Decision(
        steps=[step for trial in trials if trial.accepted for step in trial.steps],
        promised=mean_dice((chosen if accepted else plain).of(dice)),
        trials=trials,
        honest=honest,
    )


def _trials(dice: Dice, chosen: Choice, *, names: Sequence[str], overlapping: bool, accepted: bool) -> list[Trial]:
    """What was looked at: all labels together, then the best there is for each label."""
    trials = []
    if overlapping or len(names) > 1:
        step = Step(action="keep_largest", labels=[*names])
        before, after = (_mean(_means(dice[:, state, 0])) for state in (PLAIN, TRIMMED))
        trials.append(_trial([step], before, after, accepted=accepted and chosen.together))
    if overlapping:
        return trials
    for label, name in enumerate(names):
        means = [_mean(_means(dice[:, int(chosen.together), option, [label]])) for option in range(len(OPTIONS))]
        best = chosen.options[label]
        if best == 0:  # nothing helps: the one that harms least
            best = 1 + int(np.argmax(np.nan_to_num(means[1:], nan=-1.0)))
        trials.append(
            _trial(OPTIONS[best].steps(name), means[0], means[best], accepted=accepted and chosen.options[label] != 0)
        )
    return trials


def _trial(steps: list[Step], before: float, after: float, *, accepted: bool) -> Trial:
    return Trial(steps=steps, accepted=accepted, dice=Change(before=_known(before), after=_known(after)))


def mean_dice(dice: Dice) -> float | None:
    """Mean over labels of their mean Dice over cases, from (cases, labels); None where no case has any."""
    return _known(_mean(_means(dice)))


def _means(dice: Dice) -> Dice:
    """Mean over the first axis of what is not NaN; NaN where nothing is."""
    known = ~np.isnan(dice)
    means = np.full(dice.shape[1:], np.nan)
    np.divide(np.nansum(dice, axis=0), known.sum(axis=0), out=means, where=known.any(axis=0))
    return means


def _mean(dice: Dice) -> float:
    return float(_means(dice.ravel()))


def _known(value: float) -> float | None:
    return None if np.isnan(value) else value
