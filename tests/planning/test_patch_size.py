"""The patch is the largest that fits: never above the budget, never above the padded median image."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoseg.core.plan import NetworkSpec
from autoseg.planning.budget import Budget
from autoseg.planning.patch_size import initial_patch, network_for, patch_and_network
from autoseg.planning.topology import MIN_EDGE, topology


def brute_force_elements(network: NetworkSpec, patch: tuple[int, ...], n_labels: int) -> int:
    """Feature map elements counted map by map, with the sizes that convolutions really give."""
    total, sizes = 0, [list(patch)]
    for stride in network.strides:
        sizes.append([(n - 1) // s + 1 for n, s in zip(sizes[-1], stride, strict=True)])
    maps = []
    for stage, features in enumerate(network.features_per_stage):
        voxels = 1
        for n in sizes[stage + 1]:
            voxels *= n
        maps.append(features * voxels)
        total += network.blocks_per_stage[stage] * maps[stage]
    for stage, blocks in enumerate(network.blocks_per_stage_decoder):
        total += (1 + blocks) * maps[stage]
    return total + n_labels * (maps[0] // network.features_per_stage[0])


@settings(max_examples=80, deadline=None)
@given(st.data(), st.integers(2, 3), st.sampled_from([0.02, 0.5, 4.0, 8.0, 40.0]), st.integers(2, 100))
def test_a_plan_fits_its_budget(data: st.DataObject, dimensions: int, memory_gb: float, n_labels: int) -> None:
    per_axis = {"min_size": dimensions, "max_size": dimensions}
    spacing = data.draw(st.lists(st.floats(0.1, 10), **per_axis))
    median = data.draw(st.lists(st.sampled_from([1.0, 3.0, 10.0, 35.5, 60.0, 200.0, 511.5, 900.0]), **per_axis))
    budget = Budget(memory_gb=memory_gb)
    shape, network, elements, reason = patch_and_network(spacing, median, budget=budget, n_label_entries=n_labels)
    limit = budget.elements(dimensions) * budget.reference_batch(dimensions) / 2
    assert elements <= limit or max(shape.patch_size) <= MIN_EDGE
    assert elements == brute_force_elements(network, shape.patch_size, n_labels)
    for size, stride, whole in zip(shape.patch_size, shape.divisor, median, strict=True):
        assert size >= 1
        assert size % stride == 0
        assert size < whole + stride  # no larger than the median image, padded
    assert f"{elements:.3g}" in reason


@pytest.mark.parametrize("memory_gb", [1e-4, 1e-9])
@pytest.mark.parametrize("median", [(60.0, 200.0, 200.0), (2.0, 9.0, 300.0), (512.0, 512.0)])
def test_with_hardly_any_memory_the_smallest_patch_remains(memory_gb: float, median: tuple[float, ...]) -> None:
    spacing, budget = [1.0] * len(median), Budget(memory_gb=memory_gb)
    shape, network, elements, _ = patch_and_network(spacing, median, budget=budget, n_label_entries=2)
    limit = budget.elements(len(median)) * budget.reference_batch(len(median)) / 2
    assert min(shape.patch_size) >= 1
    assert max(shape.patch_size) <= MIN_EDGE or elements <= limit
    assert max(shape.patch_size) <= MIN_EDGE or memory_gb > 1e-9
    assert len(network.features_per_stage) == len(shape.strides)


def test_the_next_larger_patch_would_not_fit() -> None:
    spacing, median, budget = [1.0] * 3, [300.0] * 3, Budget()
    shape, *_ = patch_and_network(spacing, median, budget=budget, n_label_entries=3)
    assert shape.patch_size == (128, 128, 128)
    larger = topology(spacing, (160, 128, 128))
    assert brute_force_elements(network_for(larger, budget), larger.patch_size, 3) > budget.elements(3)


def test_the_first_patch_is_a_cube_in_millimetres_within_the_image() -> None:
    assert initial_patch([1.0, 1.0, 1.0], [400.0] * 3) == [256, 256, 256]
    assert initial_patch([4.0, 1.0, 1.0], [1000.0] * 3) == [102, 406, 406]
    assert initial_patch([4.0, 1.0, 1.0], [50.5, 300.0, 1000.0]) == [50.5, 300.0, 406]
    assert initial_patch([1.0, 1.0], [3000.0, 3000.0]) == [2048, 2048]


@pytest.mark.parametrize(("dimensions", "cap"), [(2, 512), (3, 320)])
def test_features_double_up_to_a_cap(dimensions: int, cap: int) -> None:
    network = network_for(topology([1.0] * dimensions, [512] * dimensions), Budget())
    assert network.features_per_stage == [32, 64, 128, 256, *[cap] * (len(network.strides) - 4)]
    assert len(network.strides) == 8
