"""A small raw data set on disk."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk

from autoseg.core.dataset import Dataset, read_dataset
from autoseg.core.workspace import Workspace

WriteCase = Callable[..., None]


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(raw=tmp_path / "raw", preprocessed=tmp_path / "preprocessed", results=tmp_path / "results")


@pytest.fixture
def write_case(workspace: Workspace) -> WriteCase:
    """write_case(id, images (C, Z, Y, X), label, spacing=(x, y, z), direction=...): the files of one case."""
    folder = workspace.raw / "Dataset007_Toy"

    def store(array: np.ndarray, path: Path, spacing: tuple[float, ...], direction: np.ndarray) -> None:
        image = sitk.GetImageFromArray(array)
        image.SetSpacing(spacing)
        image.SetDirection(direction.astype(float).ravel())
        path.parent.mkdir(parents=True, exist_ok=True)
        sitk.WriteImage(image, str(path))

    def write(
        case: str,
        images: np.ndarray,
        label: np.ndarray,
        *,
        spacing: tuple[float, ...] = (1.0, 1.0, 1.0),
        direction: np.ndarray | None = None,
    ) -> None:
        direction = np.eye(3) if direction is None else direction
        for channel, image in enumerate(images):
            path = folder / "imagesTr" / f"{case}_{channel:04d}.nii.gz"
            store(image.astype(np.float32), path, spacing, direction)
        store(label.astype(np.uint8), folder / "labelsTr" / f"{case}.nii.gz", spacing, direction)

    return write


@pytest.fixture
def toy(workspace: Workspace, write_case: WriteCase) -> Callable[..., Dataset]:
    """Writes cases of random voxels, differing in size, and reads the data set: toy(n_cases, labels=...)."""

    def make(n_cases: int = 4, *, labels: dict[str, Any] | None = None, n_channels: int = 2) -> Dataset:
        random = np.random.default_rng(5)
        for i in range(n_cases):
            shape = (5 + i, 6, 7)
            images = random.normal(100 * i, 10, size=(n_channels, *shape)).astype(np.float32)
            label = (random.random(shape) < 0.1 * (i + 1)).astype(np.uint8)
            label.flat[0] = 1
            write_case(f"case_{i}", images, label, spacing=(1.0 + i, 1.5, 2.0))
        folder = workspace.raw / "Dataset007_Toy"
        declaration = {
            "channel_names": {str(i): f"c{i}" for i in range(n_channels)},
            "labels": labels or {"background": 0, "blob": 1},
            "numTraining": n_cases,
            "file_ending": ".nii.gz",
        }
        (folder / "dataset.json").write_text(json.dumps(declaration))
        return read_dataset(folder)

    return make
