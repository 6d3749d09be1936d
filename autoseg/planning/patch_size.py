"""The largest patch whose network fits the memory."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np

from autoseg.core.plan import NetworkSpec
from autoseg.nets.cost import feature_map_elements
from autoseg.planning.budget import Budget
from autoseg.planning.topology import MIN_EDGE, Topology, topology

MAX_FEATURES = {2: 512, 3: 320}


def network_for(shape: Topology, budget: Budget) -> NetworkSpec:
    """The budget's kind of network for a topology: features double per stage up to a cap."""
    stages, cap = len(shape.strides), MAX_FEATURES[len(shape.patch_size)]
    last = len(budget.encoder_blocks) - 1
    return NetworkSpec(
        name=budget.network,
        features_per_stage=[min(cap, budget.base_features * 2**stage) for stage in range(stages)],
        strides=[list(stride) for stride in shape.strides],
        kernel_sizes=[list(kernel) for kernel in shape.kernel_sizes],
        blocks_per_stage=[budget.encoder_blocks[min(stage, last)] for stage in range(stages)],
        blocks_per_stage_decoder=[budget.decoder_blocks] * (stages - 1),
    )


def initial_patch(spacing_mm: Sequence[float], median_shape: Sequence[float]) -> list[float]:
    """A cube (square) in millimetres of 256^3 (2048^2) voxels, no larger than the median image."""
    dimensions = len(spacing_mm)
    inverse = 1.0 / np.array(spacing_mm)
    voxels = 256**3 if dimensions == 3 else 2048**2
    cube = [round(float(n)) for n in inverse * (voxels / prod(inverse)) ** (1 / dimensions)]
    return [min(n, m) for n, m in zip(cube, median_shape, strict=True)]


def patch_and_network(
    spacing_mm: Sequence[float], median_shape: Sequence[float], *, budget: Budget, n_label_entries: int
) -> tuple[Topology, NetworkSpec, int, str]:
    """Shrink the initial patch until its network fits the budget, or the bottleneck is all that is left.

    Source: reference rule 3.3, which knows no such end.

    Returns:
        (topology with the patch, network, its feature map elements, the reason).
    """
    dimensions = len(spacing_mm)
    start = initial_patch(spacing_mm, median_shape)
    shape = topology(spacing_mm, start)
    limit = budget.patch_elements(dimensions)
    steps = 0
    while (elements := _elements(shape, n_label_entries, budget)) > limit and max(shape.patch_size) > MIN_EDGE:
        shape = _smaller(shape, spacing_mm, median_shape)
        steps += 1
    reason = (
        f"started from {'x'.join(f'{n:g}' for n in start)} (at most the median image), shrunk {steps} times "
        f"along the axis largest against the median image, each size rounded up to what the strides divide; "
        f"{elements:.3g} feature map elements where memory holds {limit:.3g}"
    )
    return shape, network_for(shape, budget), elements, reason


def _elements(shape: Topology, n_label_entries: int, budget: Budget) -> int:
    network = network_for(shape, budget)
    return feature_map_elements(network, shape.patch_size, n_label_entries=n_label_entries)


def _smaller(shape: Topology, spacing_mm: Sequence[float], median_shape: Sequence[float]) -> Topology:
    """One step down along the axis that is largest against the median image.

    The step is the divisor that the axis will have then, since the topology may lose a stage.
    """
    patch = list(shape.patch_size)
    share = np.array(patch) / np.array(median_shape)
    share[np.array(patch) == 1] = 0  # nothing is left to take away
    axis = int(np.argsort(share)[-1])
    tentative = list(patch)
    tentative[axis] -= shape.divisor[axis]
    patch[axis] -= topology(spacing_mm, tentative).divisor[axis]
    return topology(spacing_mm, patch)
