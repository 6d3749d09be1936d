"""Small networks of every kind that a plan can ask for."""

from __future__ import annotations

from typing import Any

import pytest

from autoseg.core.plan import NetworkSpec

SPECS: dict[str, dict[str, Any]] = {
    "2d": {
        "patch": (16, 24),
        "features_per_stage": [4, 6, 8],
        "strides": [[1, 1], [2, 2], [2, 2]],
        "kernel_sizes": [[3, 3]] * 3,
        "blocks_per_stage": [2, 2, 2],
        "blocks_per_stage_decoder": [2, 2],
    },
    "anisotropic": {
        "patch": (5, 16, 8),
        "features_per_stage": [4, 5, 6, 7],
        "strides": [[1, 1, 1], [1, 2, 2], [1, 2, 2], [1, 2, 1]],
        "kernel_sizes": [[1, 3, 3], [1, 3, 3], [3, 3, 3], [3, 3, 3]],
        "blocks_per_stage": [1, 2, 3, 1],
        "blocks_per_stage_decoder": [2, 1, 3],
    },
    "cubic": {
        "patch": (8, 8, 16),
        "features_per_stage": [3, 6],
        "strides": [[1, 1, 1], [2, 2, 2]],
        "kernel_sizes": [[3, 3, 3], [3, 3, 3]],
        "blocks_per_stage": [2, 2],
        "blocks_per_stage_decoder": [2],
    },
    "strides of 3 and 4, kernels of 5": {
        "patch": (12, 9),
        "features_per_stage": [3, 4, 5],
        "strides": [[1, 1], [4, 3], [3, 1]],
        "kernel_sizes": [[5, 3], [3, 5], [1, 1]],
        "blocks_per_stage": [1, 1, 2],
        "blocks_per_stage_decoder": [1, 2],
    },
    "residual": {
        "name": "residual_encoder_unet",
        "patch": (6, 16, 8),
        "features_per_stage": [4, 6, 8, 8],
        "strides": [[1, 1, 1], [1, 2, 2], [2, 2, 1], [1, 2, 2]],
        "kernel_sizes": [[1, 3, 3], [1, 3, 3], [3, 3, 3], [3, 3, 3]],
        "blocks_per_stage": [1, 3, 2, 2],
        "blocks_per_stage_decoder": [1, 1, 2],
    },
    "residual 2d": {
        "name": "residual_encoder_unet",
        "patch": (8, 12),
        "features_per_stage": [4, 6],
        "strides": [[1, 1], [2, 2]],
        "kernel_sizes": [[3, 3], [3, 3]],
        "blocks_per_stage": [1, 3],
        "blocks_per_stage_decoder": [1],
    },
    "one stage": {
        "patch": (4, 7, 1),
        "features_per_stage": [5],
        "strides": [[1, 1, 1]],
        "kernel_sizes": [[3, 3, 3]],
        "blocks_per_stage": [2],
        "blocks_per_stage_decoder": [],
    },
}


@pytest.fixture(params=SPECS, ids=[name.split(",")[0] for name in SPECS])
def spec_and_patch(request: pytest.FixtureRequest) -> tuple[NetworkSpec, tuple[int, ...]]:
    """Every spec in turn, with a patch for it."""
    facts = dict(SPECS[request.param])
    patch = facts.pop("patch")
    return NetworkSpec.model_validate(facts), patch
