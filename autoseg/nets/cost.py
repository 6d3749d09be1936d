"""What a network costs, counted from its numbers; no network is built."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from autoseg.core.plan import NetworkSpec


def feature_map_elements(spec: NetworkSpec, patch_size: Sequence[int], *, n_label_entries: int) -> int:
    """Elements of all feature maps of a U-Net for one patch: the planner's measure of memory.

    Counted are the output of every convolution of the encoder, of every shortcut past a residual block that changes
    shape, of every transposed convolution and convolution of the decoder, and the segmentation map at full resolution
    (deep supervision outputs are left out, as in nnU-Net's planners, so that the same reference values hold; reference
    rules 3.4).

    Args:
        spec: the network; one of a name that is not known here is counted like a plain U-Net.
        patch_size: voxels per axis, a multiple of the product of the strides.
        n_label_entries: entries of `labels` in dataset.json, background and ignore included.
    """
    voxels, size = [], list(patch_size)
    for strides in spec.strides:
        size = [length // stride for length, stride in zip(size, strides, strict=True)]
        voxels.append(prod(size))
    maps = [features * count for features, count in zip(spec.features_per_stage, voxels, strict=True)]
    encoder = sum(convolutions * each for convolutions, each in zip(_encoder_maps(spec), maps, strict=True))
    decoder = sum((n + 1) * each for n, each in zip(spec.blocks_per_stage_decoder, maps[:-1], strict=True))
    return encoder + decoder + n_label_entries * voxels[0]


def _encoder_maps(spec: NetworkSpec) -> list[int]:
    """Feature maps per stage of the encoder."""
    if spec.name != "residual_encoder_unet":
        return spec.blocks_per_stage
    # Two convolutions per block, a stem, and a shortcut of its own where the first block changes the shape.
    narrower = [spec.features_per_stage[0], *spec.features_per_stage]
    return [
        2 * blocks + (stage == 0) + (before != after or any(stride != 1 for stride in strides))
        for stage, (blocks, before, after, strides) in enumerate(
            zip(spec.blocks_per_stage, narrower, spec.features_per_stage, spec.strides, strict=False)
        )
    ]
