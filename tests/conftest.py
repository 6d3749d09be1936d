"""What every test may ask for: the real data (when it is there) and small plans made by hand."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path

import pytest

from autoseg.core.fingerprint import Intensities
from autoseg.core.plan import Configuration, NetworkSpec, Plan

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder with the real data sets: $AUTOSEG_TEST_DATA, else ../shared/data beside the repository."""
    folder = Path(os.environ.get("AUTOSEG_TEST_DATA", REPOSITORY.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}; set AUTOSEG_TEST_DATA to run this test")
    return folder


@pytest.fixture
def reference_areas_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Surface areas once per spacing: surface-distance computes them anew for each pair, longer than all the rest."""
    from surface_distance import lookup_tables

    name = "create_table_neighbour_code_to_surface_area"
    monkeypatch.setattr(lookup_tables, name, cache(getattr(lookup_tables, name)))


@pytest.fixture(scope="session")
def make_plan() -> Callable[..., Plan]:
    """Builds a plan with one configuration, "small", whose network has two stages; what matters can be given."""
    return _plan


def _plan(
    *,
    patch_size: Sequence[int] = (8, 8, 8),
    spacing_mm: Sequence[float] | None = None,
    transpose: Sequence[int] = (0, 1, 2),
    labels: Mapping[str, int | list[int]] | None = None,
    regions_class_order: Sequence[int] = (),
    normalization: Sequence[str] = ("none",),
    use_mask: bool = False,
    mirror_axes: Sequence[int] = (),
    mirror_label_pairs: Sequence[tuple[str, str]] = (),
    batch_size: int = 2,
    batch_dice: bool = False,
    features: Sequence[int] = (4, 8),
) -> Plan:
    axes, stages, channels = len(patch_size), len(features), len(normalization)
    network = NetworkSpec(
        features_per_stage=list(features),
        strides=[[1] * axes, *([[2] * axes] * (stages - 1))],
        kernel_sizes=[[3] * axes] * stages,
        blocks_per_stage=[1] * stages,
        blocks_per_stage_decoder=[1] * (stages - 1),
    )
    configuration = Configuration(
        patch_size=list(patch_size),
        batch_size=batch_size,
        spacing_mm=list(spacing_mm or [1.0] * axes),
        median_shape_voxels=[20.0] * axes,
        normalization=list(normalization),
        use_mask_for_norm=[use_mask] * channels,
        batch_dice=batch_dice,
        network=network,
        mirror_axes=list(mirror_axes),
        mirror_label_pairs=list(mirror_label_pairs),
    )
    intensities = Intensities(
        mean=2.0, median=2.0, std=1.5, min=-10.0, max=10.0, percentile_00_5=-1.0, percentile_99_5=4.0
    )
    return Plan(
        planner="hand",
        dataset="Dataset900_Toy",
        transpose_forward=tuple(transpose),
        channel_names=[f"channel {i}" for i in range(channels)],
        labels=dict(labels or {"background": 0, "blob": 1}),
        regions_class_order=list(regions_class_order),
        file_ending=".nii.gz",
        intensities=[intensities] * channels,
        configurations={"small": configuration},
    )
