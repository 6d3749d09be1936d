"""What a training step needs of a device, and what would fit on one that has less: by arithmetic."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from autoseg.core.plan import Plan
from autoseg.core.recipe import Recipe
from autoseg.nets.memory import TrainingMemory, training_memory

MOMENTS = {"sgd": 1, "adamw": 2, "muon": 1}  # numbers per weight that an optimizer keeps
SMALLEST_BATCH = 2
RESERVE = 0.9  # of the free memory: an allocator leaves gaps


def step_memory(
    plan: Plan, name: str, recipe: Recipe, *, precision: str, batch_size: int, patch_size: Sequence[int] | None = None
) -> TrainingMemory:
    """What a step of a configuration holds in memory, with its own patch size unless another is given."""
    configuration = plan.configuration(name)
    return training_memory(
        configuration.network,
        patch_size or configuration.patch_size,
        batch_size=batch_size,
        n_channels=plan.input_channels(name),
        n_outputs=plan.scheme.n_outputs,
        precision=precision,
        moments=MOMENTS.get(recipe.optimizer, 2),
        averaged=recipe.weight_average > 0,
    )


def what_fits(plan: Plan, name: str, recipe: Recipe, *, precision: str, free_gb: float) -> str:
    """What to change in the plan so that a step fits into `free_gb`: fewer samples, or else a smaller patch too."""
    configuration = plan.configuration(name)

    def need_gb(batch_size: int, patch_size: Sequence[int]) -> float:
        return step_memory(plan, name, recipe, precision=precision, batch_size=batch_size, patch_size=patch_size).total

    patch = list(configuration.patch_size)
    planned = configuration.batch_size
    need = f"a step of batch_size {planned} needs about {need_gb(planned, patch):.1f} GB"
    need += f" where {free_gb:.1f} GB are free"
    if need_gb(planned, patch) <= RESERVE * free_gb:
        return f"{need}, which should do; see what else uses the device"
    batch = planned - 1
    while batch >= SMALLEST_BATCH and need_gb(batch, patch) > RESERVE * free_gb:
        batch -= 1
    if batch >= SMALLEST_BATCH:
        return f"{need}; batch_size {batch} would fit: change it in the plan file"
    batch = min(SMALLEST_BATCH, planned)
    steps = [prod(strides[axis] for strides in configuration.network.strides) for axis in range(len(patch))]
    while need_gb(batch, patch) > RESERVE * free_gb:
        shrinkable = [axis for axis, (size, step) in enumerate(zip(patch, steps, strict=True)) if size > step]
        if not shrinkable:
            return f"{need}, too little for any patch of this network; train on another device"
        axis = max(shrinkable, key=lambda a: patch[a] / configuration.median_shape_voxels[a])
        patch[axis] -= steps[axis]
    return (
        f"{need}; batch_size {batch} with patch_size {patch} would fit: change both in the plan file, or let the "
        f"planner choose with autoseg_plan --gpu_memory_gb {RESERVE * free_gb:.1f}"
    )
