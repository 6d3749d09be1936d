"""What fits into a device's memory is computed, and fits by the same arithmetic."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
import torch

from autoseg.core.errors import DeviceError
from autoseg.core.plan import Plan
from autoseg.core.recipe import RECIPES
from autoseg.nets.device import enough_memory
from autoseg.pipeline.fitting import RESERVE, step_memory, what_fits

MakePlan = Callable[..., Plan]


def needed(plan: Plan, batch_size: int, patch_size: list[int] | None = None) -> float:
    memory = step_memory(
        plan, "small", RECIPES["default"], precision="bf16", batch_size=batch_size, patch_size=patch_size
    )
    return memory.total


def advice(plan: Plan, free_gb: float) -> str:
    return what_fits(plan, "small", RECIPES["default"], precision="bf16", free_gb=free_gb)


def test_fewer_samples_are_proposed_first(make_plan: MakePlan) -> None:
    plan = make_plan(patch_size=(64, 96, 64), batch_size=8, features=(32, 64, 128))
    free_gb = needed(plan, 5) / RESERVE + 0.01
    text = advice(plan, free_gb)
    assert f"needs about {needed(plan, 8):.1f} GB where {free_gb:.1f} GB are free" in text
    assert "batch_size 5 would fit" in text


def test_then_a_smaller_patch_that_the_network_can_take(make_plan: MakePlan) -> None:
    plan = make_plan(patch_size=(64, 96, 64), batch_size=8, features=(32, 64, 128))
    free_gb = needed(plan, 1)
    text = advice(plan, free_gb)
    found = re.search(r"batch_size 2 with patch_size \[(\d+), (\d+), (\d+)\] would fit", text)
    assert found is not None
    patch = [int(size) for size in found.groups()]
    assert needed(plan, 2, patch) <= RESERVE * free_gb
    assert all(size % 4 == 0 for size in patch)
    axis = max(range(3), key=lambda a: patch[a] / 20)
    larger = [size + 4 * (a == axis) for a, size in enumerate(patch)]
    assert needed(plan, 2, larger) > RESERVE * free_gb  # not smaller than it must be
    assert f"--gpu_memory_gb {RESERVE * free_gb:.1f}" in text


def test_what_fits_already_is_not_shrunk(make_plan: MakePlan) -> None:
    plan = make_plan(patch_size=(64, 96, 64), batch_size=8, features=(32, 64, 128))
    assert advice(plan, 100.0).endswith("which should do; see what else uses the device")


def test_too_little_for_anything_is_told(make_plan: MakePlan) -> None:
    assert "too little for any patch" in advice(make_plan(), 1e-6)


def test_the_advice_is_computed_only_when_the_memory_is_exhausted() -> None:
    with enough_memory(lambda: pytest.fail("nothing has happened")):
        pass
    found = pytest.raises(DeviceError, match=r"does not suffice .*; batch_size 3 would fit")
    with found, enough_memory(lambda: "batch_size 3 would fit"):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB. GPU 0 has")
