"""What a network costs by arithmetic is what a built network really computes."""

from __future__ import annotations

import torch
from torch import nn

from autoseg.core.plan import NetworkSpec
from autoseg.nets.build import build_network
from autoseg.nets.cost import feature_map_elements

CONVOLUTIONS = (nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.ConvTranspose3d)


def test_the_estimate_counts_every_feature_map(spec_and_patch: tuple[NetworkSpec, tuple[int, ...]]) -> None:
    spec, patch = spec_and_patch
    network = build_network(spec, n_channels=2, n_outputs=7).eval()
    counts: list[int] = []
    for module in network.modules():
        if isinstance(module, CONVOLUTIONS):
            module.register_forward_hook(lambda _module, _inputs, output: counts.append(output[0].numel()))
    with torch.no_grad():
        network(torch.zeros(1, 2, *patch))
    assert feature_map_elements(spec, patch, n_label_entries=7) == sum(counts)


def test_the_estimate_of_a_large_plan_needs_no_memory() -> None:
    spec = NetworkSpec(
        features_per_stage=[32, 64, 128, 256, 320, 320],
        strides=[[1, 1, 1], *[[2, 2, 2]] * 5],
        kernel_sizes=[[3, 3, 3]] * 6,
        blocks_per_stage=[2] * 6,
        blocks_per_stage_decoder=[2] * 5,
    )
    maps = [f * (128 >> stage) ** 3 for stage, f in enumerate(spec.features_per_stage)]
    expected = 2 * sum(maps) + 3 * sum(maps[:-1]) + 3 * 128**3
    assert feature_map_elements(spec, (128, 128, 128), n_label_entries=3) == expected
