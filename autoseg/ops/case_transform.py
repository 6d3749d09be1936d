"""What a case undergoes before a network sees it, and the way back: transpose, crop, normalise, resample."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from autoseg.core.plan import Configuration, Plan
from autoseg.ops.crop import bounding_box, crop, nonzero_mask, paste
from autoseg.ops.normalise import normalise
from autoseg.ops.resample import resample_image, separate_axis
from autoseg.ops.resample_labels import resample_labels

Shape = tuple[int, int, int]
Spacing = tuple[float, float, float]


@dataclass(frozen=True, kw_only=True)
class Grids:
    """The voxel grids a case passes through. All but `shape` are in transposed order."""

    shape: Shape  # canonical image as read
    box: tuple[tuple[int, int], ...]  # nonzero region, (start, stop) per axis
    spacing_mm: Spacing
    target_spacing_mm: Spacing
    target_shape: Shape  # what the network sees
    transpose: Shape

    @property
    def cropped_shape(self) -> Shape:
        """Shape of the nonzero region."""
        return tuple(stop - start for start, stop in self.box)  # type: ignore[return-value]

    @property
    def separate_axis(self) -> int | None:
        """Axis along which the nearest voxel is taken when the image is resampled, if there is one."""
        return separate_axis(self.spacing_mm, self.target_spacing_mm)

    @property
    def transposed_shape(self) -> Shape:
        """Shape of the whole image."""
        return tuple(self.shape[axis] for axis in self.transpose)  # type: ignore[return-value]


@dataclass(frozen=True, kw_only=True)
class PreparedCase:
    """A case on the network's grid, and the way back.

    image is float32 (C, *target_shape); label is int16 (*target_shape), -1 where the image is empty, or None.
    """

    image: NDArray[np.float32]
    label: NDArray[np.int16] | None
    grids: Grids


def prepare(
    image: NDArray[np.float32],
    label: NDArray[np.int16] | None,
    *,
    spacing_mm: Spacing,
    plan: Plan,
    configuration: Configuration,
    device: str = "cpu",
) -> PreparedCase:
    """Bring a canonical case to the grid and intensities that the configuration's network was planned for.

    Args:
        image: float32 (C, Z, Y, X), canonical orientation.
        label: int16 (Z, Y, X), values inside, or None.
        spacing_mm: (z, y, x) of the image.
        plan: the order of the axes and the intensities of the data set.
        configuration: target spacing and normalisation.
        device: where image and label are resampled.
    """
    forward = plan.transpose_forward
    grids, mask = case_grids(image, spacing_mm=spacing_mm, plan=plan, configuration=configuration)
    image = image.transpose(0, *(1 + axis for axis in forward))
    normalised = normalise(
        crop(image, grids.box),
        schemes=configuration.normalization,
        use_mask=configuration.use_mask_for_norm,
        intensities=plan.intensities,
        mask=mask,
    )
    cropped_label = None
    if label is not None:
        cropped_label = crop(label.transpose(forward), grids.box).copy()
        cropped_label[(cropped_label == 0) & ~mask] = -1
    resampled = resample_image(
        normalised, new_shape=grids.target_shape, separate_axis=grids.separate_axis, device=device
    )
    del normalised  # resampling the labels is where most memory is needed
    return PreparedCase(
        image=resampled,
        label=None if cropped_label is None else _resample_cropped(cropped_label, grids, device),
        grids=grids,
    )


def case_grids(
    image: NDArray[np.float32], *, spacing_mm: Spacing, plan: Plan, configuration: Configuration
) -> tuple[Grids, NDArray[np.bool_]]:
    """The grids that a canonical image (C, Z, Y, X) passes through, and its nonzero mask on the cropped one."""
    forward = plan.transpose_forward
    shape: Shape = image.shape[1:]
    mask = nonzero_mask(image.transpose(0, *(1 + axis for axis in forward)))
    box = bounding_box(mask)
    mask = crop(mask, box)
    current: Spacing = tuple(spacing_mm[axis] for axis in forward)  # type: ignore[assignment]
    target: Spacing = (current[0], *configuration.spacing_mm)[-3:]  # type: ignore[assignment]
    new_shape: Shape = tuple(
        max(1, round(old / new * n)) for old, new, n in zip(current, target, mask.shape, strict=True)
    )
    grids = Grids(
        shape=shape,
        box=box,
        spacing_mm=current,
        target_spacing_mm=target,
        target_shape=new_shape,
        transpose=forward,
    )
    return grids, mask


def prepare_segmentation(labels: NDArray[np.int16], grids: Grids, *, device: str = "cpu") -> NDArray[np.int16]:
    """The segmentation of an earlier stage on the network's grid.

    Canonical (Z, Y, X), values inside -> (*target_shape); what lies outside the nonzero region is cut off.
    """
    return _resample_cropped(crop(labels.transpose(grids.transpose), grids.box), grids, device)


def _resample_cropped(labels: NDArray[np.int16], grids: Grids, device: str) -> NDArray[np.int16]:
    return resample_labels(labels, new_shape=grids.target_shape, separate_axis=grids.separate_axis, device=device)


def restore_labels(cropped: NDArray, grids: Grids) -> NDArray:
    """Undo crop and transposition: (*cropped_shape) -> canonical (Z, Y, X), background around the crop."""
    backward = tuple(grids.transpose.index(axis) for axis in range(3))
    whole: NDArray = paste(cropped, box=grids.box, shape=grids.transposed_shape, fill=0).transpose(backward)
    return whole
