"""The batch takes what memory is left, but not the whole data set."""

from __future__ import annotations

import pytest

from autoseg.planning.batch_size import batch_size
from autoseg.planning.budget import Budget


@pytest.mark.parametrize(
    ("patch", "elements", "voxels", "expected"),
    [
        ((128, 128, 128), 560e6, 1e12, 2),
        ((128, 128, 128), 280e6, 1e12, 4),
        ((128, 128, 128), 5600e6, 1e12, 2),  # never less than two
        ((40, 56, 40), 60e6, 16_000_000, 9),  # 5 % of the voxels are 8.9 patches
        ((40, 56, 40), 60e6, 100_000, 2),
        ((512, 512), 85e6, 1e12, 12),
        ((56, 40), 1e6, 16_380_000, 366),
    ],
)
def test_the_smaller_of_memory_and_data_but_two(
    patch: tuple[int, ...], elements: float, voxels: float, expected: int
) -> None:
    size, reason = batch_size(patch, elements=int(elements), dataset_voxels=voxels, budget=Budget())
    assert size == expected
    assert "patches" in reason


def test_memory_scales_the_batch() -> None:
    facts = {"elements": 560_000_000, "dataset_voxels": 1e12}
    sizes = [batch_size((128,) * 3, **facts, budget=Budget(memory_gb=gb))[0] for gb in (4, 8, 16, 40)]
    assert sizes == [2, 2, 4, 10]
