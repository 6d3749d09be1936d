"""Copies of an image are found whatever was done to them; other images are not taken for copies."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from autoseg.fingerprinting.duplicates import GRID, leaks, signature
from autoseg.io.images import read_volume


def scan(seed: int, shape: tuple[int, int, int] = (30, 47, 20)) -> NDArray[np.float32]:
    smooth = gaussian_filter(np.random.default_rng(seed).normal(size=shape), 4)
    return (1000 * smooth / smooth.std()).astype(np.float32)[None]


@pytest.mark.parametrize("shape", [(30, 47, 20), (1, 16, 5), (16, 16, 16), (2, 3, 40)])
def test_a_signature_is_the_means_of_boxes(shape: tuple[int, int, int]) -> None:
    image = scan(0, shape)
    boxes = np.empty((GRID,) * 3)
    for index in np.ndindex(boxes.shape):
        box = []
        for i, n in zip(index, shape, strict=True):
            start = min(i * n // GRID, n - 1)
            box.append(slice(start, max(start + 1, (i + 1) * n // GRID)))
        boxes[index] = image[0][tuple(box)].mean(dtype=np.float64)
    expected = boxes.ravel() - boxes.mean()
    np.testing.assert_allclose(signature(image), expected / np.linalg.norm(expected), atol=1e-6)


@pytest.mark.parametrize("change", ["none", "noise", "rounded", "scaled", "lossy"])
def test_a_copy_in_another_group_is_told(change: str) -> None:
    image = scan(1)
    noise = np.random.default_rng(9).normal(size=image.shape).astype(np.float32)
    copy = {
        "none": image,
        "noise": image + 0.1 * image.std() * noise,
        "rounded": np.rint(image / 100) * 100,
        "scaled": image * 0.25 + 77,
        "lossy": gaussian_filter(image, (0, 0.6, 0.6, 0.6)),
    }[change]
    signatures = {"a": signature(image), "b": signature(scan(2)), "c": signature(copy)}
    (problem,) = leaks(signatures, {})
    assert problem.case == "a"
    assert "nearly the same image as c" in problem.found
    assert leaks(signatures, {"a": "patient", "c": "patient"}) == []
    assert len(leaks(signatures, {"a": "patient", "b": "patient"})) == 1


def test_very_many_copies_are_told_in_a_few_lines() -> None:
    same = signature(scan(1))
    told = leaks({f"case {i}": same for i in range(10)}, {})
    assert len(told) == 21
    assert told[-1].found.startswith("25 more pairs")


def test_images_without_contrast_resemble_nothing() -> None:
    flat = np.full((1, 5, 6, 7), 3, dtype=np.float32)
    assert leaks({"a": signature(flat), "b": signature(flat)}, {}) == []
    assert leaks({}, {}) == []


def test_real_scans_of_different_people_are_different(real_data: Path) -> None:
    files = sorted((real_data / "Dataset004_Hippocampus" / "imagesTr").glob("*.nii.gz"))[:40]
    files += sorted((real_data / "Dataset801_SpinalCordGM" / "imagesTr").glob("*.nii.gz"))
    signatures = {}
    for path in files:
        voxels, geometry = read_volume(path, case=path.name)
        signatures[path.name] = signature(geometry.orientation.apply(voxels).astype(np.float32)[None])
    assert len(signatures) == 46
    assert leaks(signatures, {}) == []
