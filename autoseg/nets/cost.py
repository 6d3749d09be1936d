"""What a network costs, counted from its numbers; no network is built."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod

from autoseg.core.plan import Configuration, NetworkSpec
from autoseg.ops.tiling import tile_starts


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


@dataclass(frozen=True, kw_only=True)
class Kernel:
    """A convolution: its weights, its biases and its norm's numbers, and the stage whose voxels it looks at."""

    stage: int
    weights: int
    others: int


def kernels(spec: NetworkSpec, *, n_channels: int, n_outputs: int) -> Iterator[Kernel]:
    """Every convolution of a plain or residual encoder U-Net."""
    residual = spec.name == "residual_encoder_unet"
    features, sizes = spec.features_per_stage, [prod(kernel) for kernel in spec.kernel_sizes]

    def conv(n_in: int, n_out: int, stage: int) -> Kernel:
        return Kernel(stage=stage, weights=n_in * n_out * sizes[stage], others=3 * n_out)  # bias, scale, shift

    n_in = n_channels
    for stage, (n_out, blocks) in enumerate(zip(features, spec.blocks_per_stage, strict=True)):
        if residual and stage == 0:
            yield conv(n_in, n_out, stage)
            n_in = n_out
        for _ in range(blocks):
            yield conv(n_in, n_out, stage)
            if residual:
                yield conv(n_out, n_out, stage)
                if n_in != n_out:
                    yield Kernel(stage=stage, weights=n_in * n_out, others=2 * n_out)
            n_in = n_out
    for stage, blocks in enumerate(spec.blocks_per_stage_decoder):
        here, below = features[stage], features[stage + 1]
        yield Kernel(stage=stage + 1, weights=below * here * prod(spec.strides[stage + 1]), others=here)
        yield conv(2 * here, here, stage)
        for _ in range(blocks - 1):
            yield conv(here, here, stage)
        yield Kernel(stage=stage, weights=here * n_outputs, others=n_outputs)
    if len(features) == 1:
        yield Kernel(stage=0, weights=features[0] * n_outputs, others=n_outputs)


def prediction_cost(
    configuration: Configuration, *, n_channels: int, n_outputs: int, n_folds: int, n_slices: int
) -> float:
    """Multiplications of predicting a case of median size with all tiles, mirrored copies and folds.

    Heads at coarser stages, which a prediction does not need, are counted with the rest: they are next to nothing.
    `n_slices` is how often a 2d configuration does it.
    """
    spec, patch = configuration.network, configuration.patch_size
    voxels, size = [], list(patch)
    for strides in spec.strides:
        size = [length // stride for length, stride in zip(size, strides, strict=True)]
        voxels.append(prod(size))
    shape = [max(round(n), p) for n, p in zip(configuration.median_shape_voxels, patch, strict=True)]
    tiles = prod(len(tile_starts(n, p, step=0.5)) for n, p in zip(shape, patch, strict=True))
    one = sum(k.weights * voxels[k.stage] for k in kernels(spec, n_channels=n_channels, n_outputs=n_outputs))
    times = n_slices if len(patch) == 2 else 1
    return float(one * tiles * times * 2 ** len(configuration.mirror_axes) * n_folds)


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
