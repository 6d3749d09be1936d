"""What a network costs, counted from its numbers; no network is built."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from autoseg.core.plan import NetworkSpec


def feature_map_elements(spec: NetworkSpec, patch_size: Sequence[int], *, n_label_entries: int) -> int:
    """Elements of all feature maps of a plain U-Net for one patch: the planner's measure of memory.

    Counted are the output of every convolution of the encoder, of every transposed convolution and
    convolution of the decoder, and the segmentation map at full resolution (deep supervision outputs are left
    out, as in nnU-Net's planner, so that the same reference values hold).

    Args:
        spec: the network.
        patch_size: voxels per axis, a multiple of the product of the strides.
        n_label_entries: entries of `labels` in dataset.json, background and ignore included.
    """
    voxels, size = [], list(patch_size)
    for strides in spec.strides:
        size = [length // stride for length, stride in zip(size, strides, strict=True)]
        voxels.append(prod(size))
    encoder = sum(
        blocks * features * count
        for blocks, features, count in zip(spec.blocks_per_stage, spec.features_per_stage, voxels, strict=True)
    )
    decoder = sum(
        (blocks + 1) * features * count
        for blocks, features, count in zip(
            spec.blocks_per_stage_decoder, spec.features_per_stage[:-1], voxels[:-1], strict=True
        )
    )
    return encoder + decoder + n_label_entries * voxels[0]
