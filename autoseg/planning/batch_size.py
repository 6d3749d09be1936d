"""What memory is left after the patch is spent on the batch."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from autoseg.planning.budget import Budget


def batch_size(patch_size: Sequence[int], *, elements: int, dataset_voxels: float, budget: Budget) -> tuple[int, str]:
    """Batch size and the reason (reference rule 3.6).

    Args:
        patch_size: voxels per axis.
        elements: feature map elements of one patch.
        dataset_voxels: voxels of all training images at full resolution.
        budget: what the memory pays for.
    """
    dimensions = len(patch_size)
    fits = round(budget.elements(dimensions) / elements * budget.reference_batch(dimensions))
    share = round(dataset_voxels * budget.max_dataset_share / prod(patch_size))
    size = max(min(fits, share), budget.min_batch)
    reason = (
        f"memory holds {fits}; {budget.max_dataset_share:.0%} of all voxels of the data set are {share} "
        f"patches; the smaller, but at least {budget.min_batch}"
    )
    return size, reason
