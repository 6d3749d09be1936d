"""How far the prediction of an image may be trusted."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from autoseg.core.trust import CaseTrust, ExpectedDice, mean_expected
from autoseg.prediction.agreement import Agreement
from autoseg.prediction.ensemble import Ensemble
from autoseg.prediction.features import out_of_distribution
from autoseg.prediction.image import Settings, segment
from autoseg.prediction.loaded import LoadedScan
from autoseg.prediction.memory import MemoryPlan


def segment_with_trust(
    members: Sequence[Ensemble],
    scan: LoadedScan,
    settings: Settings,
    *,
    progress: Callable[[float], None] = lambda share: None,
    planned: Callable[[MemoryPlan], None] = lambda plan: None,
    on_probabilities: Callable[[int, torch.Tensor], None] | None = None,
) -> tuple[NDArray[np.unsignedinteger], CaseTrust]:
    """Labels (Z, Y, X) in canonical orientation, file values, and how far they may be trusted; see `segment`."""
    score = out_of_distribution(members, scan.image)
    agreement = Agreement(members[0].plan.scheme, n_voxels=int(np.prod(scan.image.grids.cropped_shape)))
    labels = segment(
        members,
        scan.image,
        settings,
        progress=progress,
        planned=planned,
        on_probabilities=on_probabilities,
        agreement=agreement,
    )
    found = agreement.of_labels()
    expected = expected_dice(members, found)
    trust = CaseTrust(
        out_of_distribution=score,
        mean_expected_dice=mean_expected(expected),
        expected_dice=expected,
        agreement=found,
    )
    canonical: NDArray[np.unsignedinteger] = scan.to_frame.inverse.then(scan.geometry.orientation).apply(labels)
    return canonical, trust


def expected_dice(members: Sequence[Ensemble], agreement: Mapping[str, float | None]) -> dict[str, ExpectedDice]:
    """What the calibrations of the models make of the agreement of their common answer, averaged over the models.

    Labels that no model was calibrated for are left out, and those that were neither found nor always there in
    training.
    """
    expected = {}
    for name, value in agreement.items():
        calibrations = [member.trust.labels.get(name) for member in members if member.trust is not None]
        told = [one.expected(value) for one in calibrations if one is not None]
        known = [one for one in told if one is not None]
        if known:
            means = {
                key: round(float(np.mean([getattr(one, key) for one in known])), 4) for key in ("dice", "low", "high")
            }
            expected[name] = ExpectedDice(**means)
    return expected
