"""What is drawn has the distribution of the peer's draws, recorded by tools/benchmark/peer_augmentation.py."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest

from autoseg.training.augmentation import rules_for
from autoseg.training.augmentation.draws import draw_sample, generator_for

PEER = json.loads((Path(__file__).parent / "peer_augmentation.json").read_text())
CHANNELS, N = PEER["channels"], 20_000


@pytest.fixture(scope="module")
def drawn() -> dict[str, list[float]]:
    rules = rules_for((40, 56, 40), mirror_axes=(0, 1, 2), mirror_label_pairs={}, mask_channels=[False] * CHANNELS)
    values: dict[str, list[float]] = defaultdict(list)
    for sample in range(N):
        draw = draw_sample(generator_for(seed=1, step=0, sample=sample), rules=rules, channels=CHANNELS)
        if draw.affine is not None:
            if any(draw.affine.rotation_rad):
                values["rotation_rad"] += draw.affine.rotation_rad
            if draw.affine.scale != 1:
                values["scale"].append(draw.affine.scale)
        values["noise_sigma"] += [noise[0] for noise in draw.noise if noise is not None]
        values["blur_sigma"] += [sigma for sigmas in draw.blur if sigmas is not None for sigma in sigmas]
        for name in ("brightness", "contrast", "coarse_zoom", "inverted_gamma", "gamma"):
            values[name] += [value for value in getattr(draw, name) if value is not None]
        values["mirrored_axis"] += draw.mirror
    return values


@pytest.mark.parametrize("name", [*PEER["drawn"]])
def test_the_draws_are_distributed_like_the_peers(drawn: dict[str, list[float]], name: str) -> None:
    expected, found = PEER["drawn"][name], np.array(drawn[name])
    per_sample = expected["per_sample"]
    # values come in groups of up to 2 x 3 (channels and axes); both programs drew 20,000 samples
    assert len(found) / N == pytest.approx(per_sample, abs=5 * math.sqrt(6 * per_sample * 2 / N))
    for share, value in zip(PEER["quantiles"], expected["quantiles"], strict=True):
        # the share of our values below the peer's quantile; a third of the values, at least, are independent
        deviation = math.sqrt(2 * share * (1 - share) / (len(found) / 3))
        below, up_to = (found < value - 1e-5).mean(), (found <= value + 1e-5).mean()
        assert below - 5 * deviation <= share <= up_to + 5 * deviation, (name, share)
