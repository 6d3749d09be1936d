"""What a network costs by arithmetic is what a built network really computes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from autoseg.core.plan import NetworkSpec, Plan
from autoseg.nets.build import build_network
from autoseg.nets.cost import feature_map_elements, prediction_cost

CONVOLUTIONS = (nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.ConvTranspose3d)
POOLS = (nn.AvgPool2d, nn.AvgPool3d)


def test_the_estimate_counts_every_feature_map(spec_and_patch: tuple[NetworkSpec, tuple[int, ...]]) -> None:
    spec, patch = spec_and_patch
    network = build_network(spec, n_channels=2, n_outputs=7).eval()
    counts: list[int] = []
    for module in network.modules():
        # a shortcut counts once: its average alone, or the convolution behind it
        children = [*module.children()] if isinstance(module, nn.Sequential) else []
        alone = len(children) == 1 and isinstance(children[0], POOLS)
        if isinstance(module, CONVOLUTIONS) or alone:
            module.register_forward_hook(lambda _module, _inputs, output: counts.append(output[0].numel()))
    with torch.no_grad():
        network(torch.zeros(1, 2, *patch))
    assert feature_map_elements(spec, patch, n_label_entries=7) == sum(counts)


@pytest.mark.parametrize(
    ("patch", "blocks", "expected"),
    [((128, 128, 128), (1, 3, 4, 6, 6, 6), 557_420_544), ((512, 512), (1, 3, 4, 6, 6, 6, 6), 129_531_904)],
)
def test_residual_encoders_count_as_published(patch: tuple[int, ...], blocks: tuple[int, ...], expected: int) -> None:
    dimensions, stages = len(patch), len(blocks)
    spec = NetworkSpec(
        name="residual_encoder_unet",
        features_per_stage=[min(32 * 2**stage, 320 if dimensions == 3 else 512) for stage in range(stages)],
        strides=[[1] * dimensions, *[[2] * dimensions] * (stages - 1)],
        kernel_sizes=[[3] * dimensions] * stages,
        blocks_per_stage=list(blocks),
        blocks_per_stage_decoder=[1] * (stages - 1),
    )
    assert feature_map_elements(spec, patch, n_label_entries=3) == expected


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


def test_the_cost_of_a_prediction_counts_the_multiplications_of_every_layer(
    spec_and_patch: tuple[NetworkSpec, tuple[int, ...]], make_plan: Callable[..., Plan]
) -> None:
    """In training mode, in which all heads are computed: the arithmetic counts them too."""
    spec, patch = spec_and_patch
    network = build_network(spec, n_channels=2, n_outputs=7).train()
    done: list[int] = []

    def count(module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        looked_at = inputs[0] if isinstance(module, CONVOLUTIONS[2:]) else output
        done.append(module.weight.numel() * looked_at[0, 0].numel())

    for module in network.modules():
        if isinstance(module, CONVOLUTIONS):
            module.register_forward_hook(count)
    with torch.no_grad():
        network(torch.zeros(1, 2, *patch))
    small = make_plan().configuration("small")
    facts = {"patch_size": list(patch), "spacing_mm": [1.0] * len(patch), "network": spec.model_dump()}
    one = small.with_changes(**facts, median_shape_voxels=[float(n) for n in patch], mirror_axes=[])
    numbers = {"n_channels": 2, "n_outputs": 7, "n_folds": 1, "n_slices": 9}
    slices = 9 if len(patch) == 2 else 1
    assert prediction_cost(one, **numbers) == sum(done) * slices
    more = one.with_changes(mirror_axes=[0, 1], median_shape_voxels=[2.0 * patch[0], *map(float, patch[1:])])
    assert prediction_cost(more, **{**numbers, "n_folds": 5}) == sum(done) * slices * 4 * 5 * 3
