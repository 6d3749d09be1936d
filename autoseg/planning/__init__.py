"""Fingerprint, memory budget -> Plan. Every rule has a file of its own; this page is their order."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from math import inf, prod

import numpy as np
from numpy.typing import NDArray

from autoseg.core.dataset import DatasetJson
from autoseg.core.errors import DataError, Problem, UsageError
from autoseg.core.fingerprint import Fingerprint, Intensities
from autoseg.core.plan import Configuration, Plan, Told
from autoseg.core.records import nearest
from autoseg.planning.batch_size import batch_size
from autoseg.planning.budget import Budget
from autoseg.planning.explain import explain
from autoseg.planning.mirroring import LEFT_RIGHT, mirroring
from autoseg.planning.normalization import check_normalization
from autoseg.planning.normalization import normalization as choose_normalization
from autoseg.planning.patch_size import patch_and_network
from autoseg.planning.target_spacing import resampled_shape, target_spacing

__all__ = ["CONFIGURATIONS", "PLANNERS", "budget_for", "check_normalization", "explain", "plan"]

RESIDUAL = Budget(
    network="residual_encoder_unet",
    encoder_blocks=(1, 3, 4, 6),
    decoder_blocks=1,
    patch_share_2d=1.0,
    max_dataset_share=1.0,
    reference_3d=680e6,
    reference_2d=135e6,
)
PLANNERS: dict[str, Budget] = {
    "default": Budget(),
    "resenc_m": RESIDUAL,
    "resenc_l": replace(RESIDUAL, reference_3d=2100e6, reference_2d=380e6, reference_memory_gb=24.0, memory_gb=24.0),
    "resenc_xl": replace(RESIDUAL, reference_3d=3600e6, reference_2d=560e6, reference_memory_gb=40.0, memory_gb=40.0),
    # half the features per stage: a quarter of the arithmetic, for machines without a graphics card
    "small": Budget(base_features=16),
}
CONFIGURATIONS = ("2d", "3d_lowres", "3d_fullres", "3d_cascade_fullres")
LOWRES_BELOW = 0.25  # of the median image seen by a patch: less lacks context, so a coarser plan is added
LOWRES_STEP = 1.03
LOWRES_WORTHWHILE = 2.0


def plan(
    fingerprint: Fingerprint,
    declaration: DatasetJson,
    *,
    dataset: str,
    planner: str = "default",
    gpu_memory_gb: float | None = None,
    spacing_mm: Sequence[float] | None = None,
    normalization: Sequence[str] = (),
) -> Plan:
    """Decide everything about a data set: one configuration per way to look at it.

    Args:
        fingerprint: what was measured.
        declaration: dataset.json.
        dataset: name of the data set, noted in the plan.
        planner: a key of PLANNERS.
        gpu_memory_gb: memory to plan for; None is what the planner was made for.
        spacing_mm: overrides the target spacing, (z, y, x).
        normalization: overrides the scheme of every channel (see normalization.py).

    Raises:
        UsageError: unknown planner or scheme, or a spacing or memory that is not positive.
        DataError: the fingerprint has not the channels of dataset.json.
    """
    budget = budget_for(planner, gpu_memory_gb, spacing_mm)
    target, why_spacing = target_spacing(fingerprint)
    if spacing_mm is not None:
        target, why_spacing = np.array(spacing_mm, dtype=np.float64), "given by the user"
    coarsest = int(np.argmax(target))
    forward = (coarsest, *(axis for axis in range(3) if axis != coarsest))
    shapes = [
        resampled_shape(shape, np.array(spacing), target)
        for shape, spacing in zip(fingerprint.shapes_after_crop, fingerprint.spacings, strict=True)
    ]
    median = np.median(np.array(shapes), axis=0)[list(forward)]
    spacing = target[list(forward)]
    # nnU-Net's fingerprint files, which name no cases, may sample them; numTraining may be wrong
    n_cases = len(fingerprint.cases) or declaration.numTraining or len(shapes)
    build = _Builder(fingerprint, declaration, forward, budget, normalization)
    configurations: dict[str, Configuration] = {}
    if median[0] != 1:
        full = build(spacing, median, n_cases * prod(median), why_spacing)
        low = _lowres(build, full, median, n_cases)
        share = prod(full.patch_size) / prod(median)
        why = f"a patch sees {share:.0%} of the median image; below {LOWRES_BELOW:.0%} some patches lack structures"
        full = full.with_changes(batch_dice=low is not None, reasons={**full.reasons, "batch_dice": why})
        configurations = {"3d_fullres": full}
        if low is not None:
            why = f"a patch of 3d_fullres sees {share:.0%} of the median image, less than {LOWRES_BELOW:.0%}"
            reasons = {**full.reasons, "previous_stage": why}
            cascade = full.with_changes(inherits_from="3d_fullres", previous_stage="3d_lowres", reasons=reasons)
            configurations = {"3d_lowres": low, "3d_fullres": full, "3d_cascade_fullres": cascade}
    slices = build(spacing[1:], median[1:], n_cases * prod(median), why_spacing)
    configurations = {"2d": slices.with_changes(batch_dice=True), **configurations}
    return Plan(
        planner=planner,
        dataset=dataset,
        transpose_forward=forward,
        channel_names=list(declaration.channel_names.values()),
        labels={n: list(v) if isinstance(v, list) else v for n, v in declaration.labels.items()},
        regions_class_order=list(declaration.scheme.regions_class_order),
        file_ending=declaration.file_ending,
        intensities=_intensities(fingerprint, len(declaration.channel_names)),
        configurations=configurations,
        reasons={
            "transpose_forward": f"target spacing {_by_axis(target)} mm (z, y, x): axis {coarsest} is the coarsest"
        },
        fingerprint_key=fingerprint.key,
        told=Told(
            gpu_memory_gb=gpu_memory_gb,
            spacing_mm=None if spacing_mm is None else (spacing_mm[0], spacing_mm[1], spacing_mm[2]),
            normalization=tuple(normalization),
        ),
    ).marked()


def budget_for(planner: str, gpu_memory_gb: float | None, spacing_mm: Sequence[float] | None) -> Budget:
    """The budget of a planner, scaled to the memory; also where the planning options of a call are checked.

    Raises:
        UsageError: unknown planner, or a spacing or memory that is not positive.
    """
    if planner not in PLANNERS:
        raise UsageError(f"no planner '{planner}'; {nearest(planner, [*PLANNERS])}")
    if gpu_memory_gb is not None and not 0 < gpu_memory_gb < inf:
        raise UsageError(f"--gpu_memory_gb is {gpu_memory_gb}; give a positive number")
    if spacing_mm is not None and (len(spacing_mm) != 3 or not all(0 < s < inf for s in spacing_mm)):
        raise UsageError(f"--spacing is {spacing_mm}; give three positive numbers: z y x in mm")
    budget = PLANNERS[planner]
    return budget if gpu_memory_gb is None else replace(budget, memory_gb=gpu_memory_gb)


def _intensities(fingerprint: Fingerprint, n_channels: int) -> list[Intensities]:
    known = fingerprint.foreground_intensity_properties_per_channel
    if set(known) != {str(channel) for channel in range(n_channels)}:
        found = f"has intensities of channels {', '.join(known)} where dataset.json declares {n_channels}"
        todo = "extract the fingerprint of this data set"
        raise DataError(Problem(case="", file="fingerprint", found=found, next=todo))
    return [known[str(channel)] for channel in range(n_channels)]


class _Builder:
    """One configuration from a spacing and a median shape (both transposed)."""

    def __init__(
        self,
        fingerprint: Fingerprint,
        declaration: DatasetJson,
        forward: tuple[int, ...],
        budget: Budget,
        schemes: Sequence[str],
    ) -> None:
        self.budget = budget
        self.n_label_entries = len(declaration.labels)
        self.told_norm = bool(schemes)
        self.relative_size = fingerprint.median_relative_size_after_cropping
        self.norm = choose_normalization(
            list(declaration.channel_names.values()),
            relative_size_after_crop=self.relative_size,
            wanted=schemes,
        )
        self.mirroring = mirroring(declaration.scheme, fingerprint)
        self.left_right = forward.index(LEFT_RIGHT)

    def __call__(
        self, spacing: NDArray[np.float64], median: NDArray[np.float64], voxels: float, why_spacing: str
    ) -> Configuration:
        shape, network, elements, why_patch = patch_and_network(
            list(spacing), list(median), budget=self.budget, n_label_entries=self.n_label_entries
        )
        batch, why_batch = batch_size(
            shape.patch_size, elements=elements, dataset_voxels=float(voxels), budget=self.budget
        )
        schemes, use_mask, why_norm = self.norm
        may_mirror, pairs, why_mirror = self.mirroring
        dimensions = len(spacing)
        left_right = self.left_right - (3 - dimensions)  # a 2d patch lacks the first transposed axis
        return Configuration(
            patch_size=list(shape.patch_size),
            batch_size=batch,
            spacing_mm=[float(s) for s in spacing],
            median_shape_voxels=[float(n) for n in median],
            normalization=schemes,
            use_mask_for_norm=use_mask,
            batch_dice=False,
            network=network,
            mirror_axes=[axis for axis in range(dimensions) if may_mirror or axis != left_right],
            mirror_label_pairs=pairs if left_right >= 0 else [],
            reasons={
                "spacing_mm": why_spacing,
                "patch_size": why_patch,
                "network": f"spacing {_by_axis(spacing)} mm and patch {_by_axis(shape.patch_size)}",
                "batch_size": why_batch,
                "normalization": why_norm,
                "use_mask_for_norm": "given by the user"
                if self.told_norm
                else f"the nonzero region is {self.relative_size:.0%} of the median image",
                "batch_dice": "a 3d_lowres sees enough of the image" if dimensions == 3 else "always on in 2d",
                "mirror_axes": why_mirror,
            },
        )


def _by_axis(values: Iterable[float]) -> str:
    return " x ".join(f"{value:.4g}" for value in values)


def _lowres(build: _Builder, full: Configuration, median: NDArray[np.float64], n_cases: int) -> Configuration | None:
    """The coarser configuration for images much larger than a patch (rule 3.7); None when not worthwhile.

    Spacing grows in small steps, the finer axes first, until a patch sees a quarter of the median image.
    """
    fine = np.array(full.spacing_mm)
    coarse, low, voxels = fine.copy(), full, float(prod(median))
    why = "enlarged until a patch sees a quarter of the median image"
    while prod(low.patch_size) / voxels < LOWRES_BELOW:
        finer = coarse.max() / coarse > 2
        coarse[finer if finer.any() else slice(None)] *= LOWRES_STEP
        shape = fine / coarse * median
        voxels = float(prod(shape))
        rounded = np.array([max(1, round(n)) for n in shape], dtype=np.float64)
        low = build(coarse, rounded, voxels * n_cases, why)
    return low if low is not full and prod(median) / voxels >= LOWRES_WORTHWHILE else None
