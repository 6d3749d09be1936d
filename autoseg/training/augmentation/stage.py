"""Mistakes, made at random, in the segmentation that a cascade's second stage sees as input.

Otherwise that network would trust it blindly. What is drawn and how often: nnU-Net's cascade (reference rules, section
5, step 12).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from autoseg.ops.components import component_sizes
from autoseg.training.augmentation.draws import generator_for

MORPHOLOGY_P, MORPHOLOGY_LABEL_P, RADII = 0.4, 0.5, (1, 8)  # voxels, both included
DROP_P, DROP_LABEL_P, LARGEST_DROPPED = 0.2, 0.5, 0.15  # of the patch
STREAM = 0xCA5  # random numbers of their own: other changes of a sample stay what they are


@torch.no_grad()
def perturb(channels: Tensor, *, seed: int, step: int, first_sample: int = 0) -> Tensor:
    """Grow, shrink, open or close labels, and drop parts of them.

    Args:
        channels: float32 (B, n_labels, *space), one-hot.
        seed: of the run.
        step: training step.
        first_sample: number of this batch's first sample within the step.

    Returns:
        A new tensor of the same kind. A voxel that a label gained is taken from the others; what it lost belongs to
        none.
    """
    masks = channels > 0.5
    random = [
        generator_for(seed=seed, step=step, sample=first_sample + sample, stream=STREAM) for sample in range(len(masks))
    ]
    # whoever comes first gives way to those after it; one order for the step, so that samples can be changed together
    order = np.random.default_rng([seed, step, STREAM]).permutation(masks.shape[1])
    changed = [rng.random() < MORPHOLOGY_P for rng in random]
    dropped = [rng.random() < DROP_P for rng in random]
    for label in order:
        chosen = [i for i, rng in enumerate(random) if changed[i] and rng.random() < MORPHOLOGY_LABEL_P]
        if chosen:
            _change_shape(masks, chosen, label, [random[i] for i in chosen])
    for label in range(masks.shape[1]):
        for sample, rng in enumerate(random):
            if dropped[sample] and rng.random() < DROP_LABEL_P:
                masks[sample, label] = _without_a_part(masks[sample, label], rng.random())
    return masks.to(channels.dtype)


def _change_shape(masks: Tensor, samples: Sequence[int], label: int, random: Sequence[np.random.Generator]) -> None:
    """One of four operations, each with a radius of its own, on a label of some samples; in place."""
    operations = [rng.choice(["grow", "shrink", "open", "close"]) for rng in random]
    radii = [int(rng.integers(RADII[0], RADII[1], endpoint=True)) for rng in random]
    old = masks[list(samples), label]
    # shrinking is growing what is outside; opening begins with it, closing ends with it
    outward = [operation in ("grow", "close") for operation in operations]
    new = _grow_or_shrink(old, radii, outward)
    again = [i for i, operation in enumerate(operations) if operation in ("open", "close")]
    if again:
        new[again] = _grow_or_shrink(new[again], [radii[i] for i in again], [not outward[i] for i in again])
    gained = new & ~old
    masks[list(samples)] &= ~gained[:, None]
    masks[list(samples), label] = new


def _grow_or_shrink(masks: Tensor, radii: Sequence[int], outward: Sequence[bool]) -> Tensor:
    """Dilate (outward) or erode bool masks (n, *space) with a ball of each one's radius."""
    flipped = ~torch.tensor(outward, device=masks.device).reshape(-1, *[1] * (masks.ndim - 1))
    return grow(masks ^ flipped, radii) ^ flipped


def grow(masks: Tensor, radii: Sequence[int]) -> Tensor:
    """All voxels within a radius (in voxels, per mask) of bool masks (n, *space); nothing comes from outside.

    The squared Euclidean distance, exact up to the largest radius, as a minimum along one axis after the other.
    """
    longest = max(radii)
    far = (longest + 1) ** 2
    squared = torch.where(masks, 0, far).to(torch.int16)
    for axis in range(1, masks.ndim):
        nearest = squared.clone()
        size = squared.shape[axis]
        for offset in range(1, min(longest, size - 1) + 1):
            low, high = squared.narrow(axis, 0, size - offset), squared.narrow(axis, offset, size - offset)
            for target, source in ((0, high), (offset, low)):
                part = nearest.narrow(axis, target, size - offset)
                torch.minimum(part, source + offset**2, out=part)
        squared = nearest
    limits = torch.tensor([radius**2 for radius in radii], dtype=torch.int16, device=masks.device)
    return squared <= limits.reshape(-1, *[1] * (masks.ndim - 1))


def _without_a_part(mask: Tensor, which: float) -> Tensor:
    """A mask (*space) without one of its small connected parts; `which`, from 0 to below 1, chooses it."""
    volume = mask.reshape(-1, *mask.shape[-2:])  # cc3d numbers the parts of volumes
    numbered, sizes = component_sizes(volume.cpu().numpy())
    small = np.flatnonzero(sizes < LARGEST_DROPPED * mask.numel())
    small = small[small > 0]
    if not small.size:
        return mask
    part = torch.from_numpy(numbered == small[int(which * small.size)])
    return mask & ~part.to(mask.device).reshape(mask.shape)
