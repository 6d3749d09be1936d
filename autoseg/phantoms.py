"""Synthetic abdominal CT data sets, small enough to train on two CPU cores: what `autoseg_demo` runs on."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from autoseg.core.errors import UsageError
from autoseg.core.files import whole_file, write_json
from autoseg.phantom_anatomy import LABELS, draw_abdomen, smooth_field

if TYPE_CHECKING:
    import SimpleITK as sitk

log = logging.getLogger(__name__)

# (z, y, x): 24 x 30 x 36 voxels around an upper abdomen, a few minutes of training for five folds.
FIELD_OF_VIEW_MM = np.array((208.0, 240.0, 288.0))
VOXEL_MM = {"demo": np.array((8.5, 8.0, 8.0)), "tiny": np.array((10.4, 10.0, 10.3))}
# Relative to VOXEL_MM. Slices more than three times as thick as the pixels are wide count as anisotropic.
THICK_SLICES = np.array((1.9, 0.6, 0.6))
# Drawn this much finer along each axis, then averaged: partial volume, and no ties between two labels.
FINER = 3
NOISE_HU, TEXTURE_HU, BLUR_MM = 15.0, 4.0, 3.2


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """How a case is acquired and stored: axes in ITK's letters (LPS: identity direction), thick slices."""

    axes: str = "LPS"
    thick: bool = False


# By position among the training and among the test cases; the others are plain.
SPECIAL = {1: Protocol(axes="RAS"), 2: Protocol(thick=True), 5: Protocol(axes="PIR")}


def write_phantoms(folder: Path, *, n_train: int = 10, n_test: int = 3, seed: int = 0, size: str = "demo") -> None:
    """Write a raw data set (nnU-Net v2's layout) of CT phantoms: liver with lesion, spleen, kidneys, aorta.

    Each case is a patient of its own size, anatomy, densities, spacing and field of view. The second case of
    imagesTr and of imagesTs is stored as RAS, the third has thick slices, the sixth is stored as PIR. Equal
    arguments give equal files; a training case does not depend on how many others there are. dataset.json is
    written last: where it is, the data set is complete.

    Args:
        folder: gets dataset.json, imagesTr/, labelsTr/ and, with test cases, imagesTs/ and labelsTs/.
        n_train: number of training cases.
        n_test: number of test cases; their truth is written too.
        seed: decides everything random.
        size: "demo", about 24 x 30 x 36 voxels of 8 mm, or "tiny", about 20 x 24 x 28 voxels of 10 mm.

    Raises:
        UsageError: an unknown size, or a number of cases that makes no sense.
    """
    if size not in VOXEL_MM:
        raise UsageError(f"there is no phantom size '{size}'; give one of {', '.join(VOXEL_MM)}")
    if n_train < 1 or n_test < 0:
        raise UsageError(f"{n_train} training and {n_test} test cases make no data set; give at least 1 and 0")
    for part, count, first in (("Tr", n_train, 1), ("Ts", n_test, n_train + 1)):
        for position in range(count):
            rng = np.random.default_rng((seed, part == "Ts", position))
            image, labels = _scan(SPECIAL.get(position, Protocol()), voxel_mm=VOXEL_MM[size], rng=rng)
            case = f"phantom_{first + position:02d}"
            _write(image, folder / f"images{part}" / f"{case}_0000.nii.gz")
            _write(labels, folder / f"labels{part}" / f"{case}.nii.gz")
    declaration = {
        "channel_names": {"0": "CT"},
        "labels": LABELS,
        "numTraining": n_train,
        "file_ending": ".nii.gz",
    }
    write_json(folder / "dataset.json", declaration)
    log.info("wrote %d training and %d test phantoms to %s", n_train, n_test, folder)


def _scan(
    protocol: Protocol, *, voxel_mm: NDArray[np.float64], rng: np.random.Generator
) -> tuple[sitk.Image, sitk.Image]:
    """Invent a patient and scan it: an int16 image in HU and uint8 labels on one grid."""
    import SimpleITK as sitk

    scale = rng.uniform(0.94, 1.04)
    field_mm = FIELD_OF_VIEW_MM * scale * rng.uniform(0.98, 1.04, size=3)
    across, along = rng.uniform(0.93, 1.07, size=2)
    spacing_mm = np.round(voxel_mm * (along, across, across) * (THICK_SLICES if protocol.thick else 1.0), 2)
    shape = np.round(field_mm / spacing_mm).astype(int)
    centre_mm = rng.uniform(-6, 6, size=3) * (0.5, 1, 1)
    z_mm, y_mm, x_mm = (
        centre + (np.arange(n * FINER) - (n * FINER - 1) / 2) * mm / FINER
        for n, mm, centre in zip(shape, spacing_mm, centre_mm, strict=True)
    )
    fine_hu, fine_labels = draw_abdomen(z_mm, y_mm, x_mm, rng=rng, scale=scale)
    hu = _acquired(_averaged(fine_hu), spacing_mm=spacing_mm, rng=rng)
    shares = [_averaged(fine_labels == value) for value in LABELS.values()]
    labels = np.argmax(shares, axis=0).astype(np.uint8)
    origin_mm = np.round(rng.uniform((-200, -250, -900), (-120, -100, -300)), 1)
    images = sitk.GetImageFromArray(hu), sitk.GetImageFromArray(labels)
    for image in images:
        image.SetSpacing(spacing_mm[::-1].tolist())
        image.SetOrigin(origin_mm.tolist())
    return sitk.DICOMOrient(images[0], protocol.axes), sitk.DICOMOrient(images[1], protocol.axes)


def _averaged(fine: NDArray[Any]) -> NDArray[np.float32]:
    """Mean over blocks of FINER voxels along each axis, float32."""
    total = fine.astype(np.float32)
    for axis in range(3):
        ends = np.moveaxis(total, axis, 0)
        total = np.moveaxis(np.add.reduce([ends[start::FINER] for start in range(FINER)]), 0, axis)
    mean: NDArray[np.float32] = total / np.float32(FINER**3)
    return mean


def _acquired(
    hu: NDArray[np.float32], *, spacing_mm: NDArray[np.float64], rng: np.random.Generator
) -> NDArray[np.int16]:
    """Add what a scanner adds: blur in the plane, uneven tissue, noise; limited to what CT stores."""
    _, y_mm, x_mm = spacing_mm
    blurred = ndimage.gaussian_filter(hu, (0.0, BLUR_MM / y_mm, BLUR_MM / x_mm), mode="nearest")
    axes = tuple(np.arange(n) * mm for n, mm in zip(hu.shape, spacing_mm, strict=True))
    texture = TEXTURE_HU * smooth_field(axes, rng=rng, wavelength_mm=60.0)
    noise = rng.normal(0.0, NOISE_HU * rng.uniform(0.9, 1.15), size=hu.shape)
    stored: NDArray[np.int16] = np.clip(np.rint(blurred + texture + noise), -1024, 3071).astype(np.int16)
    return stored


def _write(image: sitk.Image, path: Path) -> None:
    import SimpleITK as sitk

    with whole_file(path) as temporary:
        sitk.WriteImage(image, str(temporary), useCompression=True)
