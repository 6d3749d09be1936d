"""The data sets both programs work on, made once from real volumes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import SimpleITK as sitk

HIPPOCAMPUS, SPINAL, CT = "Dataset004_Hippocampus", "Dataset801_SpinalCordGM", "Dataset803_ResampledCT"
# (image, labels) below single_cases/totalsegmentator_tests; the voxels of each new volume along x, y, z. The peer of
# this comparison needs at least 256 x 256 x 150 to show its cost; different shapes give different spacings.
SOURCES = [
    ("aorta_ct.nii.gz", "aorta_ct_seg_aorta.nii.gz"),
    ("example_ct.nii.gz", "example_seg_fast_force_split.nii.gz"),
    ("pulmonary_ct.nii.gz", "pulmonary_ct_seg_pulmonary_artery.nii.gz"),
]
SHAPES = [(256, 256, 150), (288, 264, 160)]


def make_hippocampus(data: Path, raw: Path, *, n_cases: int | None) -> None:
    """The first cases of the set, or all, by links."""
    source, target = data / HIPPOCAMPUS, raw / HIPPOCAMPUS
    if target.exists():
        return
    declaration = json.loads((source / "dataset.json").read_text())
    ending = declaration["file_ending"]
    cases = sorted(path.name[: -len(ending)] for path in (source / "labelsTr").glob(f"*{ending}"))[:n_cases]
    for folder, suffix in (("imagesTr", "_0000"), ("labelsTr", "")):
        (target / folder).mkdir(parents=True)
        for case in cases:
            (target / folder / f"{case}{suffix}{ending}").symlink_to(source / folder / f"{case}{suffix}{ending}")
    (target / "dataset.json").write_text(json.dumps({**declaration, "numTraining": len(cases)}))


def make_spinal(data: Path, raw: Path) -> None:
    """The whole set, by a link."""
    if not (raw / SPINAL).exists():
        raw.mkdir(parents=True, exist_ok=True)
        (raw / SPINAL).symlink_to(data / SPINAL)


def make_ct(data: Path, raw: Path) -> None:
    """Six CT volumes of at least 256 x 256 x 150 voxels, resampled from three real ones; three labels."""
    target = raw / CT
    if (target / "dataset.json").exists():
        return
    for folder in ("imagesTr", "labelsTr"):
        (target / folder).mkdir(parents=True, exist_ok=True)
    top = data / "single_cases" / "totalsegmentator_tests"
    for i, (image, labels) in enumerate(SOURCES):
        for j, shape in enumerate(SHAPES):
            case = f"ct_{i}{j}"
            volume, truth = sitk.ReadImage(top / image), sitk.ReadImage(top / labels)
            values = sitk.GetArrayFromImage(truth)
            folded = sitk.GetImageFromArray(np.where(values > 0, (values - 1) % 3 + 1, 0).astype(np.uint8))
            folded.CopyInformation(truth)
            volume, folded = _resized(volume, shape, sitk.sitkLinear), _resized(folded, shape, sitk.sitkNearestNeighbor)
            sitk.WriteImage(sitk.Cast(volume, sitk.sitkInt16), target / "imagesTr" / f"{case}_0000.nii.gz")
            sitk.WriteImage(folded, target / "labelsTr" / f"{case}.nii.gz")
    declaration = {
        "channel_names": {"0": "CT"},
        "labels": {"background": 0, "first": 1, "second": 2, "third": 3},
        "numTraining": len(SOURCES) * len(SHAPES),
        "file_ending": ".nii.gz",
    }
    (target / "dataset.json").write_text(json.dumps(declaration))


def _resized(image: sitk.Image, shape: tuple[int, int, int], interpolator: int) -> sitk.Image:
    """The same extent on a grid of `shape` (x, y, z)."""
    extents = [n * s for n, s in zip(image.GetSize(), image.GetSpacing(), strict=True)]
    spacing = [extent / n for extent, n in zip(extents, shape, strict=True)]
    return sitk.Resample(
        image, shape, sitk.Transform(), interpolator, image.GetOrigin(), spacing, image.GetDirection(), 0
    )
