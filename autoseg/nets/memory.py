"""What a training step holds in memory, by arithmetic over the network's numbers; no network is built."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from autoseg.core.plan import NetworkSpec
from autoseg.nets.cost import feature_map_elements, kernels

ELEMENT_BYTES = {"float32": 4, "bf16": 2, "fp16": 2}


@dataclass(frozen=True, kw_only=True)
class TrainingMemory:
    """Gigabytes (1e9 bytes) of one training step, by what they hold.

    activations: what the backward pass needs of every layer; loss: logits, probabilities and targets of all outputs;
    transient: gradients of the largest feature maps; parameters: weights, and their copies in lower precision;
    gradients and optimizer: as many float32 numbers as there are weights, once and once per moment.
    """

    activations: float
    loss: float
    transient: float
    parameters: float
    gradients: float
    optimizer: float

    @property
    def total(self) -> float:
        """Everything together."""
        return sum(vars(self).values())


def count_parameters(spec: NetworkSpec, *, n_channels: int, n_outputs: int) -> int:
    """Weights of a plain or residual encoder U-Net."""
    layers = kernels(spec, n_channels=n_channels, n_outputs=n_outputs)
    return sum(layer.weights + layer.others for layer in layers)


def training_memory(
    spec: NetworkSpec,
    patch_size: Sequence[int],
    *,
    batch_size: int,
    n_channels: int,
    n_outputs: int,
    precision: str,
    moments: int = 1,
    averaged: bool = False,
) -> TrainingMemory:
    """Memory of one training step.

    Every convolution keeps its output for the norm behind it and the norm's output for the next layer; a transposed
    convolution's output lives on in the concatenation with its skip, twice as large: two maps for each that
    `feature_map_elements` counts.

    Args:
        spec: the network.
        patch_size: voxels per axis.
        batch_size: samples per step.
        n_channels: of the image.
        n_outputs: channels of the logits.
        precision: a key of ELEMENT_BYTES, in which the network computes; weights and loss are float32.
        moments: numbers that the optimizer keeps per weight (SGD with momentum 1, AdamW 2).
        averaged: whether a moving average of the weights is kept.
    """
    element, patch = ELEMENT_BYTES[precision], prod(patch_size)
    maps = feature_map_elements(spec, patch_size, n_label_entries=0)
    scale, voxels_of_outputs = 1, 0
    for strides in spec.strides[:-1] or spec.strides:
        scale *= prod(strides)
        voxels_of_outputs += patch // scale
    # logits; log-probabilities, probabilities and their gradient in float32; who belongs to which class
    per_logit = element + 3 * 4 + 2
    weights = count_parameters(spec, n_channels=n_channels, n_outputs=n_outputs)
    return TrainingMemory(
        activations=batch_size * (2 * element * maps + (4 + element) * n_channels * patch) / 1e9,
        loss=batch_size * voxels_of_outputs * (per_logit * n_outputs + 8) / 1e9,
        transient=batch_size * 4 * element * spec.features_per_stage[0] * patch / 1e9,
        parameters=weights * (4 + (2 if element == 2 else 0) + (4 if averaged else 0)) / 1e9,
        gradients=weights * 4 / 1e9,
        optimizer=weights * 4 * moments / 1e9,
    )


def inference_memory_gb(
    spec: NetworkSpec, patch_size: Sequence[int], *, n_channels: int, n_outputs: int, precision: str
) -> float:
    """Gigabytes (1e9 bytes) that one tile takes while a network looks at it; weights are not counted.

    Nothing is kept for a backward pass but the skip connections. At full resolution the decoder holds the
    concatenation with its skip (twice a map) and a convolution's input and output; the answer is added up over mirrored
    copies in float32, beside the last one. The tile is there three times: as it is, mirrored, in the networks' layout.

    Args:
        spec: the network.
        patch_size: voxels per axis.
        n_channels: of the image.
        n_outputs: channels of the logits.
        precision: a key of ELEMENT_BYTES, in which the network computes.
    """
    element, size = ELEMENT_BYTES[precision], list(patch_size)
    skips = 0
    for features, strides in zip(spec.features_per_stage, spec.strides, strict=True):
        size = [length // stride for length, stride in zip(size, strides, strict=True)]
        skips += features * prod(size)
    largest = spec.features_per_stage[0] * prod(patch_size)
    answers = (element + 3 * 4) * n_outputs * prod(patch_size)
    return (element * (skips + 4 * largest) + 3 * 4 * n_channels * prod(patch_size) + answers) / 1e9
