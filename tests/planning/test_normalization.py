"""CT keeps its units, everything else is z-scored unless its channel name says otherwise."""

from __future__ import annotations

import pytest

from autoseg.planning.normalization import normalization


def test_the_channel_name_decides() -> None:
    names = ["CT", "ct", "T1w", "noNorm", "rescale_to_0_1", "rgb_to_0_1", "ZScore", "MRI", "ct2"]
    schemes, _, reason = normalization(names, relative_size_after_crop=1.0)
    assert schemes == ["ct", "ct", "zscore", "none", "rescale_0_1", "rgb_0_1", "zscore", "zscore", "zscore"]
    assert "T1w -> zscore" in reason


@pytest.mark.parametrize(("share", "masked"), [(0.5, True), (0.7499, True), (0.75, False), (1.0, False)])
def test_the_mask_is_used_for_z_scores_where_cropping_removed_a_quarter(share: float, masked: bool) -> None:
    _, use_mask, _ = normalization(["T1", "CT", "noNorm"], relative_size_after_crop=share)
    assert use_mask == [masked, False, False]
